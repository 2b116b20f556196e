//! No argument that a program can make up panics, hangs or leaks: every public call of a space with addresses, lengths and flags from the
//! corners of 64 bits. proptest prints and keeps the seed of what fails; `PROPTEST_CASES=100000` makes a long run.

mod common;

use common::{World, page};
use portolan::addr::VirtAddr;
use portolan::paging::{Aarch64, Access, Format, Granule64K, X86_64, X86_64La57};
use portolan::sim::Sim;
use portolan::space::{Advised, MapRequest, MmUser, NodeMask, Piece, PolicyMode, Prot, Rights};
use proptest::prelude::*;

/// Numbers that programs get wrong, and some near what is mapped.
fn hostile() -> impl Strategy<Value = u64> {
    let corners = [
        0,
        1,
        4095,
        4096,
        4097,
        0xffff,
        0x10000,
        0x10001,
        1 << 21,
        1 << 31,
        1 << 32,
        (1 << 46) + 1,
        1 << 47,
        (1 << 47) - 4096,
        (1 << 47) - 8192,
        1 << 48,
        (1 << 48) - 65536,
        1 << 55,
        1 << 56,
        1 << 62,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
        u64::MAX - 4095,
        u64::MAX - 4096,
        u64::MAX - 65535,
    ];
    prop_oneof![
        4 => proptest::sample::select(corners.to_vec()),
        4 => (0u64..64).prop_map(|n| 0x7000_0000_0000 + n * 4096),
        4 => (0u64..64).prop_map(|n| 0x7000_0000_0000 + n * 65536),
        2 => (0u64..40).prop_map(|n| n * 4096),
        1 => any::<u64>(),
    ]
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => Just(0x22u32), 2 => Just(0x32), 2 => Just(0x100022), 1 => Just(0x21), 1 => Just(0x31), 1 => Just(0x122), 1 => Just(0x8022),
        1 => Just(0x28), 2 => any::<u32>(),
    ]
}

#[derive(Clone, Debug)]
enum Call {
    Map {
        addr: u64,
        len: u64,
        prot: u32,
        flags: u32,
        offset: u64,
        file: bool,
    },
    Unmap(u64, u64),
    Protect(u64, u64, u32),
    Remap {
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    },
    Brk(u64),
    Advise(u64, u64, u32),
    Sync(u64, u64, u32),
    Fault(u64, u8),
    Copy(u64, u16, bool),
    Word(u64, bool),
    Translate(u64, u64),
    Lock(u64, u64, u32),
    Unlock(u64, u64),
    LockAll(u32),
    Seal(u64, u64, u64),
    Incore(u64, u64),
    RemapFile(u64, u64, u64, u64, u32),
    Bind(u64, u64, u32, u32),
    Policy(u64, u64, u32),
    Remote(u64, u64, u64, bool),
    Debug(u64, u16, bool),
    AdviseMany(u64, u64, u32),
    Fork,
}

fn call() -> impl Strategy<Value = Call> {
    let number = hostile;
    prop_oneof![
        4 => (number(), number(), any::<u32>(), flags(), number(), any::<bool>())
            .prop_map(|(addr, len, prot, flags, offset, file)| Call::Map { addr, len, prot, flags, offset, file }),
        3 => (number(), number()).prop_map(|(addr, len)| Call::Unmap(addr, len)),
        3 => (number(), number(), prop_oneof![0u32..8, any::<u32>()]).prop_map(|(a, l, p)| Call::Protect(a, l, p)),
        3 => (number(), number(), number(), prop_oneof![0u32..8, any::<u32>()], number())
            .prop_map(|(old, old_len, new_len, flags, new)| Call::Remap { old, old_len, new_len, flags, new }),
        1 => number().prop_map(Call::Brk),
        2 => (number(), number(), advice()).prop_map(|(a, l, advice)| Call::Advise(a, l, advice)),
        1 => (number(), number(), prop_oneof![0u32..8, any::<u32>()]).prop_map(|(a, l, flags)| Call::Sync(a, l, flags)),
        4 => (number(), 0u8..3).prop_map(|(addr, access)| Call::Fault(addr, access)),
        2 => (number(), any::<u16>(), any::<bool>()).prop_map(|(addr, len, write)| Call::Copy(addr, len, write)),
        1 => (number(), any::<bool>()).prop_map(|(addr, write)| Call::Word(addr, write)),
        1 => (number(), number()).prop_map(|(start, end)| Call::Translate(start, end)),
        2 => (number(), number(), 0u32..3).prop_map(|(a, l, flags)| Call::Lock(a, l, flags)),
        2 => (number(), number()).prop_map(|(a, l)| Call::Unlock(a, l)),
        1 => prop_oneof![0u32..9, any::<u32>()].prop_map(Call::LockAll),
        1 => (number(), number(), 0u64..2).prop_map(|(a, l, flags)| Call::Seal(a, l, flags)),
        1 => (number(), number()).prop_map(|(a, l)| Call::Incore(a, l)),
        1 => (number(), number(), 0u64..2, number(), any::<u32>())
            .prop_map(|(a, l, prot, pgoff, flags)| Call::RemapFile(a, l, prot, pgoff, flags)),
        2 => (number(), number(), prop_oneof![0u32..8, any::<u32>()], 0u32..9)
            .prop_map(|(a, l, mode, flags)| Call::Bind(a, l, mode, flags)),
        1 => (number(), number(), 0u32..9).prop_map(|(a, n, flags)| Call::Policy(a, n, flags)),
        2 => (number(), number(), number(), any::<bool>()).prop_map(|(a, b, l, write)| Call::Remote(a, b, l, write)),
        1 => (number(), any::<u16>(), any::<bool>()).prop_map(|(a, l, write)| Call::Debug(a, l, write)),
        1 => (number(), number(), advice()).prop_map(|(a, l, advice)| Call::AdviseMany(a, l, advice)),
        1 => Just(Call::Fork),
    ]
}

fn advice() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..26, 100u32..105, any::<u32>()]
}

/// Populating at a program's word is bounded by memory, but slow: keep the lengths of those calls small enough for a test.
fn bounded(flags: u32, len: u64) -> u64 {
    if flags & 0xa000 != 0 {
        len.min(1 << 20)
    } else {
        len
    }
}

fn make<F: Format>(world: &World<F>, mm: &MmUser<Sim<F>>, call: &Call) {
    let at = VirtAddr::new;
    match *call {
        Call::Map {
            addr,
            len,
            prot,
            flags,
            offset,
            file,
        } => {
            let file = file.then(|| world.file(&[1; 10_000]));
            let request = MapRequest {
                addr: at(addr),
                len: bounded(flags, len),
                prot,
                flags,
                file,
                offset,
            };
            let _ = mm.mmap(&request);
        }
        Call::Unmap(addr, len) => {
            let _ = mm.munmap(at(addr), len);
        }
        Call::Protect(addr, len, prot) => {
            let _ = mm.mprotect(at(addr), len, prot);
        }
        Call::Remap {
            old,
            old_len,
            new_len,
            flags,
            new,
        } => {
            let _ = mm.mremap(at(old), old_len, new_len, flags, at(new));
        }
        Call::Brk(addr) => {
            let _ = mm.brk(at(addr));
        }
        Call::Advise(addr, len, advice) if advice == 22 || advice == 23 => {
            let _ = mm.madvise(at(addr), len.min(1 << 20), advice);
        }
        Call::Advise(addr, len, advice) => {
            let _ = mm.madvise(at(addr), len, advice);
        }
        Call::Sync(addr, len, flags) => {
            let _ = mm.msync(at(addr), len, flags);
        }
        Call::Fault(addr, access) => {
            let access = [Access::Read, Access::Write, Access::Execute][access as usize];
            let _ = mm.handle_fault(at(addr), access);
            let _ = mm.translate(at(addr), access);
        }
        Call::Copy(addr, len, true) => {
            let _ = mm.copy_to_user(at(addr), &vec![3; len as usize]);
        }
        Call::Copy(addr, len, false) => {
            let _ = mm.copy_from_user(at(addr), &mut vec![0; len as usize]);
            let _ = mm.read_cstr(at(addr), &mut vec![0; len as usize]);
        }
        Call::Word(addr, true) => {
            let _ = mm.compare_exchange_u32(at(addr), 0, 1);
        }
        Call::Word(addr, false) => {
            let _ = mm.load_u32(at(addr));
        }
        Call::Translate(start, end) => {
            if let Some(range) = portolan::addr::VirtRange::new(at(start), at(end)) {
                mm.translate_present(range, |_, _| {});
            }
        }
        Call::Fork | Call::Remote(..) | Call::Debug(..) => make_other(mm, call),
        Call::Lock(addr, len, flags) => {
            let _ = mm.mlock(at(addr), len, flags);
        }
        Call::Unlock(addr, len) => {
            let _ = mm.munlock(at(addr), len);
        }
        Call::LockAll(0) => mm.munlockall(),
        Call::LockAll(flags) => {
            let _ = mm.mlockall(flags);
        }
        Call::Seal(addr, len, flags) => {
            let _ = mm.mseal(at(addr), len.min(1 << 16), flags);
        }
        Call::Incore(addr, len) => {
            let _ = mm.mincore(at(addr), len.min(1 << 30), |_| Ok(()));
        }
        Call::RemapFile(addr, len, prot, pgoff, flags) => {
            let _ = mm.remap_file_pages(at(addr), len.min(1 << 20), prot, pgoff, flags);
        }
        Call::Bind(addr, len, mode, flags) => {
            if let Ok(mode) = PolicyMode::parse(mode) {
                let _ = mm.mbind(at(addr), len, mode, &NodeMask::ALL, flags);
            }
        }
        Call::Policy(addr, number, flags) => {
            let _ = mm.get_mempolicy(None, at(addr), flags);
            let _ = mm.set_mempolicy_home_node(at(addr), number, 0, 0);
            let _ = NodeMask::parse(number, F::GRANULE, Ok);
            let _ = NodeMask::written_bytes(number, F::GRANULE);
            let _ = mm.page_node(at(addr));
        }
        Call::AdviseMany(addr, len, advice) => {
            let (addr, len) = (at(addr), bounded(0xa000, len));
            let pieces = [Piece { addr, len }, Piece { addr, len: 1 }];
            let _ = mm.process_madvise(&pieces, advice, Advised::Own);
        }
    }
}

/// Calls that reach into a space from outside, or make another.
fn make_other<F: Format>(mm: &MmUser<Sim<F>>, call: &Call) {
    let at = VirtAddr::new;
    match *call {
        Call::Remote(here, there, len, write) => {
            let piece = |addr| {
                let len = bounded(0xa000, len);
                [Piece {
                    addr: at(addr),
                    len,
                }]
            };
            let _ = match write {
                true => mm.process_vm_write(&piece(there), mm, &piece(here)),
                false => mm.process_vm_read(&piece(there), mm, &piece(here)),
            };
        }
        Call::Debug(addr, len, true) => {
            mm.write_remote(at(addr), &vec![4; len as usize], Rights::Forced);
        }
        Call::Debug(addr, len, false) => {
            mm.read_remote(at(addr), &mut vec![0; len as usize], Rights::Forced);
        }
        _ => {
            if let Ok(child) = mm.fork() {
                let _ = child.copy_to_user(at(0x7000_0000_0000), &[1]);
            }
        }
    }
}

fn run<F: Format>(calls: &[Call]) {
    let world = World::<F>::with_memory(16 << 20);
    let mm = world.space();
    mm.set_layout(|layout| (layout.start_brk, layout.brk) = (0x5000_0000, 0x5000_0000));
    let request = MapRequest::anonymous(32 * page::<F>(), Prot::READ | Prot::WRITE);
    let _ = mm.mmap(&request.fixed(at_base()));
    for call in calls {
        make(&world, &mm, call);
    }
    mm.check().expect("the space is consistent");
    let mut lines = 0;
    mm.for_each_area(|_| lines += 1);
    assert_eq!(lines, mm.map_count());
    drop(mm);
    world.machine.quiesce();
    assert_eq!(world.machine.committed_pages(), 0);
    world.finish();
}

fn at_base() -> VirtAddr {
    VirtAddr::new(0x7000_0000_0000)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn x86_64(calls in proptest::collection::vec(call(), 1..40)) {
        run::<X86_64>(&calls);
    }

    #[test]
    fn x86_64_la57(calls in proptest::collection::vec(call(), 1..40)) {
        run::<X86_64La57>(&calls);
    }

    #[test]
    fn aarch64_64k(calls in proptest::collection::vec(call(), 1..40)) {
        run::<Aarch64<Granule64K>>(&calls);
    }
}
