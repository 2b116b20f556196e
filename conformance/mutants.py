#!/usr/bin/env python3
"""Breaks the library in ten ways, one at a time, in a copy, and sees that `portolan conform` notices each.

usage: conformance/mutants.py [--ops N] [--work DIR] [NAME]...

Each mutant is a replacement of one piece of text by another; one that is not found (the source has moved on) is an error, not a pass.
Prints a table; the exit status is 0 when every mutant was caught.
"""
import argparse, os, pathlib, shutil, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPACE = "crates/portolan/src/space/"

# name, file, text, replacement
MUTANTS = [
    ("a split does not shift the page offset", SPACE + "vma.rs",
     "pgoff: self.pgoff.wrapping_add(skipped),", "pgoff: self.pgoff.wrapping_add(skipped.min(0)),"),
    ("fork does not flush the parent's TLB", SPACE + "fork.rs",
     "batch.note(range);", "let _ = range;"),
    ("fork does not write-protect the parent", "crates/portolan/src/paging/table.rs",
     "raw = self.write_protect_raw(index);", "let _ = Self::write_protect_raw;"),
    ("munmap of a sealed mapping: EACCES", SPACE + "unmap.rs",
     "self.split_at(state, range.start());\n        }\n        Err(Errno::EPERM)",
     "self.split_at(state, range.start());\n        }\n        Err(Errno::EACCES)"),
    ("mprotect loses VM_ACCOUNT", SPACE + "protect.rs",
     "true => (pages, 0, flags | VmFlags::ACCOUNT),", "true => (0, 0, flags),"),
    ("a merge ignores the page offset", SPACE + "edit.rs",
     "&& low.pgoff_end() == high.pgoff", ""),
    ("munlock does not clear the count", SPACE + "lock.rs",
     "state.counts.sub(old, pages);", "state.counts.sub(old & !VmFlags::LOCKED, pages);"),
    ("copy-on-write reuses a shared page", SPACE + "cow.rs",
     "if page.kind() == FrameKind::Anon && page.count() == 2 {", "if page.kind() == FrameKind::Anon && page.count() >= 2 {"),
    ("truncation forgets private copies", SPACE + "rmap.rs",
     "let copies_too = reason.takes_private_copies();", "let copies_too = reason.takes_private_copies() && false;"),
    ("mprotect does not stop at a hole", SPACE + "protect.rs",
     "            let vma = state.vmas.get(at.get()).ok_or(Errno::ENOMEM)?;\n            let part",
     "            let next = state.vmas.find(at.get());\n"
     "            let Some(vma) = next.filter(|vma| vma.range().start() < range.end()) else {\n                break;\n            };\n"
     "            at = at.max(vma.range().start());\n            let part"),
]

# Quick to build: the machine code need not be good, but the calls must be many.
PROFILE = {
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_PROFILE_RELEASE_DEBUG": "false",
}


def copy_tree(work):
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, files.decode().split("\0")):
        source, target = ROOT / name, work / name
        if not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)


def build(work):
    command = ["cargo", "build", "-q", "--release", "-p", "portolan-cli"]
    result = subprocess.run(command, cwd=work, env={**os.environ, **PROFILE}, capture_output=True, text=True)
    return result.returncode == 0, result.stderr


def conform(work, ops):
    command = [str(work / "target/release/portolan"), "conform", "--ops", str(ops), "--save", str(work / "found")]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        return None, "no end after 900 s"
    lines = result.stdout.splitlines()
    found = next((line for line in lines if line.startswith("MISMATCH")), "")
    return result.returncode, found.removeprefix("MISMATCH ") or (lines or [result.stderr])[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", type=int, default=100_000, help="operations for each mutant")
    parser.add_argument("--work", type=pathlib.Path, help="where the copy is kept, to build faster the next time")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only mutants with this in their names")
    options = parser.parse_args()
    work = options.work or pathlib.Path(tempfile.mkdtemp(prefix="mutants"))
    work.mkdir(parents=True, exist_ok=True)
    copy_tree(work)
    chosen = [m for m in MUTANTS if not options.names or any(name in m[0] for name in options.names)]
    rows, bad = [], 0
    for name, file, text, replacement in [("none: nothing is broken", None, "", "")] + chosen:
        started = time.monotonic()
        if file is not None:
            original = (work / file).read_text()
            if original.count(text) != 1:
                rows.append((name, "NOT APPLIED", f"the text occurs {original.count(text)} times in {file}", 0))
                bad += 1
                continue
            (work / file).write_text(original.replace(text, replacement))
        try:
            good, errors = build(work)
            status, found = conform(work, options.ops) if good else (None, errors.strip().splitlines()[0])
        finally:
            if file is not None:
                (work / file).write_text(original)
        wanted = 0 if file is None else 1
        verdict = ("clean" if file is None else "caught") if status == wanted else "NOT BUILT" if not good else "FAILED"
        bad += status != wanted
        rows.append((name, verdict, found, time.monotonic() - started))
        print(f"{name:<45} {verdict:<11} {rows[-1][3]:6.0f} s  {found}", flush=True)
    if options.work is None:
        shutil.rmtree(work)
    print(f"\n{len(rows)} runs, {bad} not as wanted")
    for name, verdict, found, _ in rows:
        if verdict not in ("caught", "clean"):
            print(f"  {name}: {verdict}: {found}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
