//! What happens to a file behind its mappings: ftruncate, fallocate, pwrite, pread.

use portolan::paging::Format;

use super::{Call, number, unit};
use crate::arena::PAGE;
use crate::arg::{Arg, Args, Kind, arg};
use crate::cprogram;
use crate::files::WRITABLE;
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};
use crate::trace::{Hash, Sink};

/// `ftruncate`.
pub struct Ftruncate;

impl Call for Ftruncate {
    const NAME: &'static str = "ftruncate";
    const ARGS: &'static [Arg] = &[arg("file", Kind::File), arg("size", Kind::Len)];
    const WEIGHT: u64 = 28;
    const ERRNOS: &'static [i32] = &[libc::EINVAL];

    fn generate(g: &mut Gen) -> Args {
        let size = match g.random.below(50) {
            0 => u64::MAX,
            _ => g.random.below(10) * PAGE + g.random.pick(&[0, 0, 1, 2000]),
        };
        [g.random.pick(&WRITABLE), size, 0, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        sys(
            libc::SYS_ftruncate,
            [child.fd(a[0]) as u64, a[1], 0, 0, 0, 0],
        )
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, a: &Args) -> i64 {
        if (a[1] as i64) < 0 {
            return -i64::from(libc::EINVAL);
        }
        let size = world.bytes(a[1]);
        unit(world.cache(a[0]).truncate(size))
    }
}

/// `fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)`.
pub struct PunchHole;

impl Call for PunchHole {
    const NAME: &'static str = "punch_hole";
    const ARGS: &'static [Arg] = &[
        arg("file", Kind::File),
        arg("offset", Kind::Len),
        arg("len", Kind::Len),
    ];
    const WEIGHT: u64 = 16;

    fn generate(g: &mut Gen) -> Args {
        let offset = g.random.below(8) * PAGE + g.random.pick(&[0, 0, 0, 1, 2000]);
        let len = (1 + g.random.below(4)) * PAGE + g.random.pick(&[0, 0, 0, 1, 100]);
        [g.random.pick(&WRITABLE), offset, len, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let fd = child.fd(a[0]) as u64;
        sys(libc::SYS_fallocate, [fd, 3, a[1], a[2], 0, 0])
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, a: &Args) -> i64 {
        let (start, len) = (world.bytes(a[1]), world.bytes(a[2]));
        unit(world.cache(a[0]).punch_bytes(start, start + len))
    }

    fn c(a: &Args) -> String {
        let file = cprogram::file(a[0]);
        format!(
            "say(\"punch_hole\", syscall(SYS_fallocate, {file}, 3, {:#x}L, {:#x}L));",
            a[1], a[2]
        )
    }
}

const MOST: usize = 3 * PAGE as usize;

/// `pwrite` of so many equal bytes.
pub struct Pwrite;

impl Call for Pwrite {
    const NAME: &'static str = "pwrite";
    const ARGS: &'static [Arg] = &[
        arg("file", Kind::File),
        arg("offset", Kind::Len),
        arg("len", Kind::Len),
        arg("byte", Kind::Number),
    ];
    const WEIGHT: u64 = 28;

    fn generate(g: &mut Gen) -> Args {
        let len = match g.random.below(4) {
            0 => g.random.below(MOST as u64),
            1 => PAGE,
            _ => 1 + g.random.below(16),
        };
        let offset = g.random.below(10) * PAGE + g.random.pick(&[0, 0, 1, 2000, 4090]);
        [g.random.pick(&WRITABLE), offset, len, g.byte(), 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let bytes = [a[3] as u8; MOST];
        let fd = child.fd(a[0]) as u64;
        let len = a[2].min(MOST as u64);
        sys(
            libc::SYS_pwrite64,
            [fd, bytes.as_ptr() as u64, len, a[1], 0, 0],
        )
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, a: &Args) -> i64 {
        let len = a[2].min(MOST as u64) as usize;
        let bytes = [a[3] as u8; MOST];
        let offset = world.bytes(a[1]);
        number(
            world
                .cache(a[0])
                .write(offset, &bytes[..len])
                .map(|n| n as u64),
        )
    }

    fn c(a: &Args) -> String {
        let file = cprogram::file(a[0]);
        format!(
            "memset(buffer, {}, {len}); say(\"pwrite\", pwrite({file}, buffer, {len}, {:#x}));",
            a[3],
            a[1],
            len = a[2]
        )
    }
}

/// `pread`: the bytes are compared.
pub struct Pread;

impl Call for Pread {
    const NAME: &'static str = "pread";
    const ARGS: &'static [Arg] = &[
        arg("file", Kind::File),
        arg("offset", Kind::Len),
        arg("len", Kind::Len),
    ];
    const WEIGHT: u64 = 10;

    fn generate(g: &mut Gen) -> Args {
        let len = g.random.below(MOST as u64);
        let offset = g.random.below(10) * PAGE + g.random.pick(&[0, 0, 1, 2000]);
        [g.random.pick(&[1, 2, 3]), offset, len, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let mut bytes = [0u8; MOST];
        let fd = child.fd(a[0]) as u64;
        let len = a[2].min(MOST as u64);
        let result = sys(
            libc::SYS_pread64,
            [fd, bytes.as_mut_ptr() as u64, len, a[1], 0, 0],
        );
        child.sink.push(hash(&bytes));
        result
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, a: &Args) -> i64 {
        let mut bytes = [0u8; MOST];
        let len = a[2].min(MOST as u64) as usize;
        let offset = world.bytes(a[1]);
        let result = world.cache(a[0]).read(offset, &mut bytes[..len]);
        world.sink.push(hash(&bytes));
        number(result.map(|n| n as u64))
    }

    fn c(a: &Args) -> String {
        let file = cprogram::file(a[0]);
        format!(
            "say(\"pread\", pread({file}, buffer, {}, {:#x})); printf(\"  first byte %d\\n\", buffer[0]);",
            a[2], a[1]
        )
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hash = Hash::default();
    hash.bytes(bytes);
    hash.get()
}
