//! mbind, set_mempolicy_home_node and get_mempolicy, as far as one node goes.

use portolan::addr::Granule;
use portolan::errno::Errno;
use portolan::paging::Format;
use portolan::space::{NodeMask, PolicyMode};

use super::{Call, number, unit};
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};
use crate::trace::Sink;

const MODE: Names = &[
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
    ("MPOL_BIND|MPOL_F_STATIC_NODES", 0x8002),
    ("MPOL_BIND|MPOL_F_RELATIVE_NODES", 0x4002),
];
const MOVE: Names = &[
    ("MPOL_MF_STRICT", 1),
    ("MPOL_MF_MOVE", 2),
    ("MPOL_MF_MOVE_ALL", 4),
    ("0", 0),
];
const GET: Names = &[
    ("MPOL_F_NODE", 1),
    ("MPOL_F_ADDR", 2),
    ("MPOL_F_MEMS_ALLOWED", 4),
    ("0", 0),
];

/// `mbind`.
pub struct Mbind;

/// `get_mempolicy`.
pub struct GetMempolicy;

/// `set_mempolicy_home_node`.
pub struct SetHomeNode;

/// Words of a mask that is handed over; all but the first are 0.
const WORDS: usize = 64;

/// What the embedder makes of the arguments.
fn parse(a: &Args) -> Result<(PolicyMode, NodeMask), Errno> {
    let mode = PolicyMode::parse(a[2] as u32)?;
    let nodes = match a[4] {
        0 => NodeMask::EMPTY,
        most => NodeMask::parse(most, Granule::K4, |n| Ok(if n == 0 { a[3] } else { 0 }))?,
    };
    Ok((mode, nodes))
}

impl Call for Mbind {
    const NAME: &'static str = "mbind";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("mode", Kind::Choice(MODE)),
        arg("nodes", Kind::Number),
        arg("maxnode", Kind::Number),
        arg("flags", Kind::Flags(MOVE)),
    ];
    const WEIGHT: u64 = 12;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::EFAULT, libc::EPERM];

    fn generate(g: &mut Gen) -> Args {
        let mode = g
            .random
            .pick(&[0, 1, 2, 2, 3, 4, 5, 6, 0x8002, 0x4002, 7, 0xc002]);
        let nodes = match mode {
            0 | 4 if !g.random.one_in(8) => 0,
            _ => g.random.pick(&[1, 1, 1, 1, 0, 2, 3]),
        };
        let most = match nodes {
            0 => g.random.pick(&[0, 0, 1, 64]),
            _ => g.random.pick(&[64, 64, 2, 3, 1024, 40_000]),
        };
        // Without nodes MPOL_MF_MOVE makes Linux move pages from the node to itself, which dirties them for all who map them.
        let flags = match nodes & 1 {
            0 => g.random.pick(&[0, 0, 0, 1, 8]),
            _ => g.random.pick(&[0, 0, 0, 1, 2, 3, 4, 8]),
        };
        [g.addr(), g.length_or_hostile(), mode, nodes, most, flags]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        let mut words = [0u64; WORDS];
        words[0] = a[3];
        let at = match a[4] {
            0 => 0,
            _ => words.as_ptr() as u64,
        };
        sys(libc::SYS_mbind, [a[0], a[1], a[2], at, a[4], a[5]])
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let (at, len) = (world.at(a[0]), world.bytes(a[1]));
        let result =
            parse(a).and_then(|(mode, nodes)| space.mbind(at, len, mode, &nodes, a[5] as u32));
        unit(result)
    }

    fn c(a: &Args) -> String {
        let mask = match a[4] {
            0 => "NULL",
            _ => "nodes",
        };
        format!(
            "{{ unsigned long nodes[64] = {{{}}}; say(\"mbind\", syscall(SYS_mbind, {}, {:#x}UL, {:#x}, {mask}, {}UL, {:#x})); }}",
            a[3],
            crate::cprogram::address(a[0]),
            a[1],
            a[2],
            a[4],
            a[5]
        )
    }
}

impl Call for GetMempolicy {
    const NAME: &'static str = "get_mempolicy";
    const ARGS: &'static [Arg] = &[arg("addr", Kind::Addr), arg("flags", Kind::Flags(GET))];
    const WEIGHT: u64 = 8;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::EFAULT];

    fn generate(g: &mut Gen) -> Args {
        let flags = g.random.pick(&[2, 2, 2, 2, 3, 0, 1, 4, 6, 8]);
        let addr = match flags & 2 {
            0 if !g.random.one_in(4) => 0,
            _ => g.addr(),
        };
        [addr, flags, 0, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let mut told = [0u64; 2];
        let (mode, mask) = ((&raw mut told[0]) as u64, (&raw mut told[1]) as u64);
        let result = sys(libc::SYS_get_mempolicy, [mode, mask, 64, a[0], a[1], 0]);
        let told = core::hint::black_box(&told);
        if result == 0 {
            child.sink.push(told[0]);
            child.sink.push(told[1]);
        }
        result
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let told = space.get_mempolicy(None, world.at(a[0]), a[1] as u32);
        if let Ok((mode, nodes)) = &told {
            world.sink.push(u64::from(*mode));
            world.sink.push(nodes.first_word());
        }
        number(told.map(|_| 0))
    }

    fn c(a: &Args) -> String {
        format!(
            "{{ int mode = 0; unsigned long nodes = 0; say(\"get_mempolicy\", syscall(SYS_get_mempolicy, &mode, &nodes, 64L, {}, {:#x}UL)); \
             printf(\"  mode %#x nodes %#lx\\n\", mode, nodes); }}",
            crate::cprogram::address(a[0]),
            a[1]
        )
    }
}

impl Call for SetHomeNode {
    const NAME: &'static str = "set_mempolicy_home_node";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("node", Kind::Number),
        arg("flags", Kind::Number),
    ];
    const WEIGHT: u64 = 4;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOENT, libc::EOPNOTSUPP];

    fn generate(g: &mut Gen) -> Args {
        let node = g.random.pick(&[0, 0, 0, 0, 1, 5000]);
        let flags = u64::from(g.random.one_in(12));
        [g.addr(), g.length_or_hostile(), node, flags, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_set_mempolicy_home_node, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let (at, len) = (world.at(a[0]), world.bytes(a[1]));
        unit(space.set_mempolicy_home_node(at, len, a[2], a[3]))
    }

    fn c(a: &Args) -> String {
        format!(
            "say(\"set_mempolicy_home_node\", syscall(450, {}, {:#x}UL, {}UL, {}UL));",
            crate::cprogram::address(a[0]),
            a[1],
            a[2],
            a[3]
        )
    }
}
