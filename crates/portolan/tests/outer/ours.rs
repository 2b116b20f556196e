//! The library's side: the same on the in-memory machine, loads and stores through a software CPU whose TLB forgets nothing by itself.

use std::sync::{Arc, Mutex};

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::machine::{Machine, Settings};
use portolan::object::{Backing, Cache, Commit, File, FileIdentity, FileMode, FileSpec, VmFlags};
use portolan::paging::X86_64;
use portolan::platform::CpuId;
use portolan::sim::{Cpu, Sim, Space};
use portolan::space::{AreaName, FaultError, MapRequest, Mm, MmConfig, MmUser, Prot, Signal};
use std::sync::atomic::Ordering;

use super::ops::{ARENA, BASE, Op, PAGE};

type S = Sim<X86_64>;

/// Which kind of file stands behind the mappings.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Backed,
    Shared,
}

struct Bytes(Mutex<Vec<u8>>);

impl Backing for Bytes {
    fn read_page(&self, index: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.0.lock().unwrap();
        let start = (index as usize * buf.len()).min(bytes.len());
        let end = (start + buf.len()).min(bytes.len());
        buf.fill(0);
        buf[..end - start].copy_from_slice(&bytes[start..end]);
        Ok(())
    }

    fn write_page(&self, index: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut bytes = self.0.lock().unwrap();
        let start = index as usize * PAGE as usize;
        if bytes.len() < start + buf.len() {
            bytes.resize(start + buf.len(), 0);
        }
        bytes[start..start + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn punch_hole(&self, pages: std::ops::Range<u64>) -> Result<(), Errno> {
        let mut bytes = self.0.lock().unwrap();
        let len = bytes.len();
        let at = |page: u64| ((page * PAGE) as usize).min(len);
        bytes[at(pages.start)..at(pages.end)].fill(0);
        Ok(())
    }
}

pub struct Ours {
    machine: Machine<S>,
    files: [Option<Arc<File<S>>>; 4],
    lines: Vec<String>,
}

/// What the library does with a sequence, a line a step. Panics where an invariant breaks.
pub fn run(ops: &[Op], kind: Kind) -> Vec<String> {
    let machine =
        Machine::new(Sim::<X86_64>::new(16 << 20, 2), Settings::default()).expect("a machine");
    let free = machine.phys().free_frames();
    // So that a charge given back twice shows: the count of promised pages never goes below zero.
    let other = Mm::new(&machine, MmConfig::new::<X86_64>()).expect("a space");
    other
        .mmap(&MapRequest::anonymous(
            1000 * PAGE,
            Prot::READ | Prot::WRITE,
        ))
        .expect("a mapping");
    let file = |cache: &Arc<Cache<S>>, mode, name: &str| {
        let identity = FileIdentity {
            major: 0,
            minor: 1,
            inode: 1,
        };
        let spec = FileSpec {
            cache: Some(cache.clone()),
            mode,
            identity,
            path: name.as_bytes().to_vec(),
            operations: None,
        };
        File::new(&machine, spec).expect("a file")
    };
    let cache = |byte| match kind {
        Kind::Backed => {
            let bytes = super::content(byte);
            let size = bytes.len() as u64;
            Cache::new(&machine, Arc::new(Bytes(Mutex::new(bytes))), size).expect("a cache")
        }
        Kind::Shared => {
            let cache = Cache::anonymous_shared(&machine, 0, Commit::Unreserved).expect("a cache");
            cache.write(0, &super::content(byte)).expect("content");
            cache
        }
    };
    let (one, three) = (cache(1), cache(3));
    let both = FileMode::READ | FileMode::WRITE;
    let files = [
        None,
        Some(file(&one, both, "1")),
        Some(file(&one, FileMode::READ, "1")),
        Some(file(&three, both, "3")),
    ];
    drop((one, three));
    let mm = Mm::new(&machine, MmConfig::new::<X86_64>()).expect("a space");
    // SAFETY: two calls that answer numbers, one in a local of the type it wants.
    let (limit, root) = unsafe {
        let mut limit: libc::rlimit = core::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit);
        (limit.rlim_cur, libc::geteuid() == 0)
    };
    mm.limits().memlock.store(limit, Ordering::Relaxed);
    mm.limits().may_lock_any.store(root, Ordering::Relaxed);
    let mut ours = Ours {
        machine,
        files,
        lines: Vec::new(),
    };
    ours.all(mm, ops);
    let Ours {
        machine,
        files,
        lines,
    } = ours;
    drop(files);
    machine.quiesce();
    assert_eq!(
        machine.committed_pages(),
        1000,
        "charges and what was given back differ"
    );
    drop(other);
    machine.quiesce();
    assert_eq!(machine.phys().free_frames(), free, "frames are missing");
    assert_eq!(machine.committed_pages(), 0, "memory stays promised");
    assert_eq!(
        machine.platform().tlb_counts().stale,
        0,
        "an access through a translation of a freed frame"
    );
    lines
}

impl Ours {
    fn all(&mut self, mm: MmUser<S>, ops: &[Op]) {
        mm.activate(CpuId(0));
        let mut held = Vec::new();
        for (n, op) in ops.iter().enumerate() {
            match op {
                Op::ForkInto => {
                    let child = mm.fork().expect("a fork");
                    self.lines.push(format!("forked{}", maps(&child)));
                    self.all(child, &ops[n + 1..]);
                    break;
                }
                Op::ForkHold => {
                    held.push(mm.fork().expect("a fork"));
                    self.lines.push(format!("hold{}", maps(&mm)));
                }
                Op::ForkShow => {
                    let child = mm.fork().expect("a fork");
                    child.activate(CpuId(0));
                    self.lines
                        .push(format!("child {}{}", self.dump(&child), maps(&child)));
                    child.check().expect("a sound child");
                }
                op => {
                    let line = format!("{}{}", self.step(&mm, op), maps(&mm));
                    self.lines.push(line);
                    mm.check().expect("a sound space");
                }
            }
        }
        self.lines
            .push(format!("end {}{}", self.dump(&mm), maps(&mm)));
        mm.check().expect("a sound space");
        for child in held {
            child.activate(CpuId(0));
            self.lines
                .push(format!("held {}{}", self.dump(&child), maps(&child)));
            child.check().expect("a sound child");
        }
    }

    fn access<T>(
        &self,
        mm: &MmUser<S>,
        mut access: impl FnMut(Cpu<'_, X86_64>, Space) -> Result<T, portolan::sim::PageFault>,
    ) -> Result<T, i32> {
        let cpu = Cpu::new(self.machine.phys(), CpuId(0));
        let space = Space {
            root: mm.root(),
            asid: mm.asid(),
        };
        cpu.retry(
            |cpu| access(*cpu, space),
            |fault| match mm.handle_fault(fault.addr, fault.access) {
                Ok(_) => Ok(()),
                Err(FaultError::Signal(fault)) => {
                    let signal = if fault.signal == Signal::Bus { 7 } else { 11 };
                    Err(signal * 100 + fault.code.si_code())
                }
                Err(FaultError::OutOfMemory) => panic!("out of memory"),
            },
        )
    }

    fn load(&self, mm: &MmUser<S>, at: u64) -> Result<u8, i32> {
        self.access(mm, |cpu, space| {
            let mut byte = [0];
            cpu.load(space, VirtAddr::new(at), &mut byte)?;
            Ok(byte[0])
        })
    }

    fn store(&self, mm: &MmUser<S>, at: u64, value: u8) -> Result<(), i32> {
        self.access(mm, |cpu, space| {
            cpu.store(space, VirtAddr::new(at), &[value])
        })
    }

    fn dump(&self, mm: &MmUser<S>) -> String {
        super::dump_with(|at| self.load(mm, at))
    }

    fn step(&mut self, mm: &MmUser<S>, op: &Op) -> String {
        let at = |addr: u64| VirtAddr::new(BASE + addr);
        let shown = |result: Result<u64, Errno>| match result {
            Ok(at) => super::place(at),
            Err(error) => format!("errno {}", error.raw()),
        };
        let unit = |result: Result<(), Errno>| shown(result.map(|()| 0));
        match *op {
            Op::Mmap {
                addr,
                len,
                prot,
                flags,
                file,
                offset,
            } => {
                let file = self.files[file as usize].clone();
                let result = mm
                    .mmap(&MapRequest {
                        addr: at(addr),
                        len,
                        prot,
                        flags,
                        file,
                        offset,
                    })
                    .map(|at| at.get());
                if let Ok(at) = result
                    && super::is_outside(at)
                {
                    let _ = mm.munmap(VirtAddr::new(at), len);
                }
                shown(result)
            }
            Op::Munmap { addr, len } => unit(mm.munmap(at(addr), len)),
            Op::Mprotect { addr, len, prot } => unit(mm.mprotect(at(addr), len, prot)),
            Op::Mremap {
                addr,
                old,
                new,
                flags,
                to,
                back,
            } => {
                let result = mm
                    .mremap(at(addr), old, new, flags, at(to))
                    .map(|at| at.get());
                let mut text = shown(result);
                if let Ok(from) = result
                    && super::is_outside(from)
                {
                    let moved = mm.mremap(VirtAddr::new(from), new, new, 3, at(back));
                    text += &format!(" back {}", shown(moved.map(|at| at.get())));
                    if moved.is_err() {
                        let _ = mm.munmap(VirtAddr::new(from), new);
                    }
                }
                text
            }
            Op::Madvise { addr, len, advice } => unit(mm.madvise(at(addr), len, advice)),
            Op::Msync { addr, len, flags } => unit(mm.msync(at(addr), len, flags)),
            Op::Load { addr } => format!("{:?}", self.load(mm, BASE + addr)),
            Op::Store { addr, value } => format!("{:?}", self.store(mm, BASE + addr, value)),
            Op::Fill { page, pages, value } => {
                let all = (page..page + pages)
                    .map(|page| self.store(mm, BASE + page * PAGE, value).err().unwrap_or(0));
                format!("{:?}", all.collect::<Vec<_>>())
            }
            Op::Truncate { file, size } => unit(self.cache(file).truncate(size)),
            Op::Pwrite {
                file,
                offset,
                value,
            } => shown(self.cache(file).write(offset, &[value]).map(|n| n as u64)),
            Op::Dump => self.dump(mm),
            Op::ForkShow | Op::ForkInto | Op::ForkHold => String::new(),
        }
    }

    fn cache(&self, file: u8) -> &Arc<Cache<S>> {
        self.files[file as usize]
            .as_ref()
            .and_then(|file| file.cache())
            .expect("a file")
    }
}

fn maps(mm: &MmUser<S>) -> String {
    let mut shown = String::new();
    mm.for_each_area(|area| {
        let (start, end) = (area.range.start().get(), area.range.end().get());
        if end <= BASE - ARENA * PAGE || start >= BASE + 2 * ARENA * PAGE {
            return;
        }
        let flag = |flag, letter| {
            if area.flags.contains(flag) {
                letter
            } else {
                '-'
            }
        };
        let shared = if area.flags.contains(VmFlags::MAYSHARE) {
            's'
        } else {
            'p'
        };
        let perms: String = [
            flag(VmFlags::READ, 'r'),
            flag(VmFlags::WRITE, 'w'),
            flag(VmFlags::EXEC, 'x'),
            shared,
        ]
        .iter()
        .collect();
        let name = match area.name {
            AreaName::Path(b"/dev/zero (deleted)", _) | AreaName::Path(b"/dev/zero", _) => "z",
            AreaName::Path(path, _) => std::str::from_utf8(path).unwrap(),
            _ => "",
        };
        shown += &super::line(start, end, &perms, area.offset, name);
    });
    shown
}
