//! process_vm_readv and writev between this process and itself or a child that waits, and process_madvise on itself.

use portolan::paging::Format;
use portolan::space::{Advised, Piece};

use super::advise::ADVICE;
use super::{Call, number};
use crate::arena::{BASE, PAGE};
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};

const WHOSE: Names = &[("SELF", 0), ("HELD", 1)];
const TRANSFER: &[Arg] = &[
    arg("whose", Kind::Choice(WHOSE)),
    arg("local", Kind::Addr),
    arg("local_len", Kind::Len),
    arg("remote", Kind::Addr),
    arg("remote_len", Kind::Len),
];

fn transfer(g: &mut Gen) -> Args {
    let whose = g.random.below(2);
    let len = |g: &mut Gen| match g.random.below(8) {
        0 => 1 + g.random.below(100),
        1 => 0,
        _ => g.length().min(8 * PAGE),
    };
    let (local_len, remote_len) = (len(g), len(g));
    let remote = g.addr();
    // Bytes that are copied onto themselves arrive in an order that nobody promises: the low half takes from the high half.
    let local = match remote >= BASE + 32 * PAGE {
        true => BASE + g.random.below(24) * PAGE,
        false => BASE + (40 + g.random.below(14)) * PAGE,
    };
    let within = g.random.pick(&[0, 0, 0, 1, 4000]);
    [whose, local + within, local_len, remote, remote_len, 0]
}

fn linux(call: i64, child: &Child, a: &Args) -> i64 {
    let (local, remote) = ([a[1], a[2]], [a[3], a[4]]);
    let at = |piece: &[u64; 2]| piece.as_ptr() as u64;
    let process = child.process(a[0] == 1) as u64;
    sys(call, [process, at(&local), 1, at(&remote), 1, 0])
}

fn pieces<F: Format>(world: &World<F>, a: &Args) -> ([Piece; 1], [Piece; 1]) {
    let piece = |addr: u64, len: u64| Piece {
        addr: world.at(addr),
        len: world.bytes(len),
    };
    ([piece(a[1], a[2])], [piece(a[3], a[4])])
}

fn c(call: &str, a: &Args) -> String {
    let process = match a[0] {
        1 => "(holds ? held_process[0] : getpid())",
        _ => "getpid()",
    };
    let (local, remote) = (
        crate::cprogram::address(a[1]),
        crate::cprogram::address(a[3]),
    );
    format!(
        "{{ struct iovec l = {{(void *)({local}), {:#x}}}, r = {{(void *)({remote}), {:#x}}}; \
         say(\"{call}\", {call}({process}, &l, 1, &r, 1, 0)); }}",
        a[2], a[4]
    )
}

macro_rules! transfer_call {
    ($(#[$doc:meta])* $call:ident, $name:literal, $number:expr, $ours:ident) => {
        $(#[$doc])*
        pub struct $call;

        impl Call for $call {
            const NAME: &'static str = $name;
            const ARGS: &'static [Arg] = TRANSFER;
            const WEIGHT: u64 = 10;
            const ERRNOS: &'static [i32] = &[libc::EFAULT];

            fn generate(g: &mut Gen) -> Args {
                transfer(g)
            }

            fn linux(child: &mut Child, a: &Args) -> i64 {
                linux($number, child, a)
            }

            fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
                let (local, remote) = pieces(world, a);
                let whose = world.process(space, a[0] == 1);
                number(whose.$ours(&remote, space, &local))
            }

            fn c(a: &Args) -> String {
                c(Self::NAME, a)
            }
        }
    };
}

transfer_call! {
    /// `process_vm_readv`, of one piece each. HELD is this process where none waits.
    ProcessVmReadv, "process_vm_readv", libc::SYS_process_vm_readv, process_vm_read
}
transfer_call! {
    /// `process_vm_writev`, likewise.
    ProcessVmWritev, "process_vm_writev", libc::SYS_process_vm_writev, process_vm_write
}

/// `process_madvise` on itself, of two pieces.
pub struct ProcessMadvise;

impl Call for ProcessMadvise {
    const NAME: &'static str = "process_madvise";
    const ARGS: &'static [Arg] = &[
        arg("first", Kind::Addr),
        arg("first_len", Kind::Len),
        arg("second", Kind::Addr),
        arg("second_len", Kind::Len),
        arg("advice", Kind::Choice(ADVICE)),
    ];
    const WEIGHT: u64 = 12;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM];

    fn generate(g: &mut Gen) -> Args {
        let advice = g.random.pick(&[
            0, 1, 2, 3, 4, 4, 8, 9, 10, 11, 16, 17, 18, 19, 20, 22, 23, 24, 102, 103,
        ]);
        [g.addr(), g.length(), g.addr(), g.length(), advice, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        let this = sys(libc::SYS_getpid, [0; 6]) as u64;
        let fd = sys(libc::SYS_pidfd_open, [this, 0, 0, 0, 0, 0]) as u64;
        let pieces = [a[0], a[1], a[2], a[3]];
        let at = pieces.as_ptr() as u64;
        let result = sys(libc::SYS_process_madvise, [fd, at, 2, a[4], 0, 0]);
        sys(libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
        result
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let piece = |addr: u64, len: u64| Piece {
            addr: world.at(addr),
            len: world.bytes(len),
        };
        let pieces = [piece(a[0], a[1]), piece(a[2], a[3])];
        number(space.process_madvise(&pieces, a[4] as u32, Advised::Own))
    }

    fn c(a: &Args) -> String {
        let at = crate::cprogram::address;
        format!(
            "{{ struct iovec v[2] = {{{{(void *)({}), {:#x}}}, {{(void *)({}), {:#x}}}}}; int fd = syscall(SYS_pidfd_open, getpid(), 0); \
             say(\"process_madvise\", syscall(SYS_process_madvise, fd, v, 2, {}, 0)); close(fd); }}",
            at(a[0]),
            a[1],
            at(a[2]),
            a[3],
            a[4]
        )
    }
}
