//! NUMA policy on a machine with one node: which policies there can be, which of them an area or a task has, and the calls that move pages between nodes, all of
//! which find every page where it belongs. Not for choosing frames: there is one node to choose from.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering;

use super::fault::Rights;
use super::mm::{MmState, MmUser};
use super::vma::Vma;
use crate::addr::{Granule, VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Access, Cursor, Entry, Format, LeafFlags};
use crate::phys::heap;
use crate::platform::Platform;

/// `MPOL_MF_STRICT`.
const MF_STRICT: u32 = 1;
/// `MPOL_MF_MOVE`.
const MF_MOVE: u32 = 2;
/// `MPOL_MF_MOVE_ALL`.
const MF_MOVE_ALL: u32 = 4;

/// `MPOL_F_NODE`.
const F_NODE: u32 = 1;
/// `MPOL_F_ADDR`.
const F_ADDR: u32 = 2;
/// `MPOL_F_MEMS_ALLOWED`.
const F_MEMS_ALLOWED: u32 = 4;

/// `MPOL_F_NUMA_BALANCING`.
const NUMA_BALANCING: u32 = 1 << 13;
/// `MPOL_F_RELATIVE_NODES`.
const RELATIVE_NODES: u32 = 1 << 14;
/// `MPOL_F_STATIC_NODES`.
const STATIC_NODES: u32 = 1 << 15;
/// `MPOL_MODE_FLAGS`.
const MODE_FLAGS: u32 = NUMA_BALANCING | RELATIVE_NODES | STATIC_NODES;

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = (NodeMask::MOST / WORD_BITS) as usize;

/// `nodemask_t`: a set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeMask([u64; WORDS]);

impl NodeMask {
    /// How many nodes a mask can name. `MAX_NUMNODES`, for CONFIG_NODES_SHIFT of 10.
    pub const MOST: u64 = 1024;
    /// None.
    pub const EMPTY: NodeMask = NodeMask([0; WORDS]);
    /// The node that there is. `node_states[N_MEMORY]`.
    pub const ALL: NodeMask = {
        let mut words = [0; WORDS];
        words[0] = 1;
        NodeMask(words)
    };

    /// Reads the mask of a call from its 64-bit words, of which `word` gives the one at an index; `maxnode` is one more than how many bits count. Without a
    /// mask (a null pointer) a call has [`NodeMask::EMPTY`]. `get_nodes`.
    ///
    /// # Errors
    /// `EINVAL`: `maxnode` is 0 or beyond the bits of a page, or a node is named beyond [`NodeMask::MOST`]. What `word` answers.
    pub fn parse(
        maxnode: u64,
        granule: Granule,
        mut word: impl FnMut(u64) -> Result<u64, Errno>,
    ) -> Result<Self, Errno> {
        let bits = maxnode.checked_sub(1).ok_or(Errno::EINVAL)?;
        if bits > granule.bytes() * 8 {
            return Err(Errno::EINVAL);
        }
        let words = bits.div_ceil(WORD_BITS);
        for index in (WORDS as u64..words).rev() {
            if word(index)? != 0 {
                return Err(Errno::EINVAL);
            }
        }
        let mut mask = Self::EMPTY;
        for (index, slot) in (0..words).zip(&mut mask.0) {
            let known = bits - index * WORD_BITS;
            let kept = if known < WORD_BITS {
                (1 << known) - 1
            } else {
                u64::MAX
            };
            *slot = word(index)? & kept;
        }
        Ok(mask)
    }

    /// How many bytes `get_mempolicy` writes to a mask of `maxnode` nodes: the first 8 hold [`NodeMask::first_word`], the rest zeros. `copy_nodes_to_user`.
    ///
    /// # Errors
    /// `EINVAL`: fewer nodes than there are, or more than the bits of a page.
    pub fn written_bytes(maxnode: u64, granule: Granule) -> Result<u64, Errno> {
        let bits = maxnode.checked_sub(1).ok_or(Errno::EINVAL)?;
        let bytes = bits.div_ceil(WORD_BITS) * 8;
        match bytes <= granule.bytes() {
            true => Ok(bytes),
            false => Err(Errno::EINVAL),
        }
    }

    /// The nodes below 64, all that a machine with one node tells of a mask.
    pub fn first_word(&self) -> u64 {
        self.0[0]
    }

    /// Whether no node is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Whether the node that there is is in it.
    pub fn has_memory(&self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// What a policy does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Kind {
    Default = 0,
    Preferred = 1,
    Bind = 2,
    Interleave = 3,
    Local = 4,
    PreferredMany = 5,
    WeightedInterleave = 6,
}

/// The mode of a policy with its flags, as a call gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyMode {
    kind: Kind,
    flags: u32,
}

impl PolicyMode {
    /// MPOL_* with MPOL_F_* or'ed in. `sanitize_mpol_flags`.
    ///
    /// # Errors
    /// `EINVAL`: an unknown mode or flag, both kinds of node numbers, or balancing where it cannot be.
    pub fn parse(mode: u32) -> Result<Self, Errno> {
        let flags = mode & MODE_FLAGS;
        let kind = match mode & !MODE_FLAGS {
            0 => Kind::Default,
            1 => Kind::Preferred,
            2 => Kind::Bind,
            3 => Kind::Interleave,
            4 => Kind::Local,
            5 => Kind::PreferredMany,
            6 => Kind::WeightedInterleave,
            _ => return Err(Errno::EINVAL),
        };
        let numbers = STATIC_NODES | RELATIVE_NODES;
        let balances = flags & NUMA_BALANCING != 0;
        if flags & numbers == numbers
            || balances && !matches!(kind, Kind::Bind | Kind::PreferredMany)
        {
            return Err(Errno::EINVAL);
        }
        Ok(Self { kind, flags })
    }

    fn is_default(self) -> bool {
        self.kind == Kind::Default
    }
}

/// `struct mempolicy`: where memory is to come from. What has none has the default policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mempolicy {
    mode: PolicyMode,
    /// The nodes as they were asked for, where a flag says how to read them; else those of them that there are.
    nodes: NodeMask,
    home: bool,
}

impl Mempolicy {
    /// What `set_mempolicy` gives a task: a policy, or none for MPOL_DEFAULT. `mpol_new`, `mpol_set_nodemask`.
    ///
    /// # Errors
    /// `EINVAL`: a mode that takes no nodes with some, one that needs some without, or none of them exists.
    pub fn new(mode: PolicyMode, nodes: &NodeMask) -> Result<Option<Self>, Errno> {
        let numbers = mode.flags & (STATIC_NODES | RELATIVE_NODES);
        let local = PolicyMode {
            kind: Kind::Local,
            flags: mode.flags,
        };
        match (mode.kind, nodes.is_empty()) {
            (Kind::Default, true) => return Ok(None),
            (Kind::Preferred | Kind::Local, true) if numbers == 0 => {
                return Ok(Some(Self::over(local, NodeMask::EMPTY)));
            }
            (Kind::Default | Kind::Local, _) | (_, true) => return Err(Errno::EINVAL),
            _ => {}
        }
        // Relative numbers are taken modulo the number of nodes, so each is that of the one there is.
        if mode.flags & RELATIVE_NODES == 0 && !nodes.has_memory() {
            return Err(Errno::EINVAL);
        }
        let shown = match mode.flags {
            0 => NodeMask::ALL,
            _ => *nodes,
        };
        Ok(Some(Self::over(mode, shown)))
    }

    fn over(mode: PolicyMode, nodes: NodeMask) -> Self {
        Self {
            mode,
            nodes,
            home: false,
        }
    }

    /// MPOL_* with MPOL_F_* or'ed in.
    pub fn mode(&self) -> u32 {
        self.mode.kind as u32 | self.mode.flags
    }

    /// The nodes that `get_mempolicy` shows.
    pub fn nodes(&self) -> &NodeMask {
        &self.nodes
    }

    fn interleaves(&self) -> bool {
        matches!(self.mode.kind, Kind::Interleave | Kind::WeightedInterleave)
    }

    /// Whether it can have a home node.
    fn takes_home(&self) -> bool {
        matches!(self.mode.kind, Kind::Bind | Kind::PreferredMany)
    }
}

impl fmt::Display for Mempolicy {
    /// As `/proc/PID/numa_maps` names it: "bind:0", "prefer=relative:0", "local". `mpol_to_str`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.mode.kind {
            Kind::Default => "default",
            Kind::Preferred => "prefer",
            Kind::Bind => "bind",
            Kind::Interleave => "interleave",
            Kind::Local => "local",
            Kind::PreferredMany => "prefer (many)",
            Kind::WeightedInterleave => "weighted interleave",
        })?;
        let flags = self.mode.flags;
        let mut separator = "=";
        for (flag, name) in [
            (STATIC_NODES, "static"),
            (RELATIVE_NODES, "relative"),
            (NUMA_BALANCING, "balancing"),
        ] {
            if flags & flag != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        match self.mode.kind {
            Kind::Local => Ok(()),
            _ => f.write_str(":0"),
        }
    }
}

/// What becomes of the policy of one area.
enum Choice {
    /// It stays.
    Keep,
    /// This takes its place; `None` is the default.
    Take(Option<Arc<Mempolicy>>),
}

/// The one node is not among those that memory must lie on.
#[derive(Clone, Copy)]
struct WrongNode;

impl<P: Platform> MmUser<P> {
    /// `mbind`. `mm/mempolicy.c: do_mbind`. Gives every area of the range the policy; with MPOL_MF_STRICT alone only if all its pages lie on `nodes`.
    ///
    /// # Errors
    /// - `EINVAL`: an unknown flag, unaligned, a range that wraps, or as [`Mempolicy::new`]. `EPERM`: MPOL_MF_MOVE_ALL without CAP_SYS_NICE.
    /// - `EFAULT`: nothing is mapped, or for a policy other than the default there is a hole. `EIO`: MPOL_MF_STRICT and a page that is elsewhere. Nothing has changed.
    /// - `ENOMEM`: too many mappings, or no heap; the areas before have the policy.
    pub fn mbind(
        &self,
        addr: VirtAddr,
        len: u64,
        mode: PolicyMode,
        nodes: &NodeMask,
        flags: u32,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        if flags & !(MF_STRICT | MF_MOVE | MF_MOVE_ALL) != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & MF_MOVE_ALL != 0 && !self.limits.nice.load(Ordering::Relaxed) {
            return Err(Errno::EPERM);
        }
        let Some(range) = policy_range(addr, len, granule)? else {
            return Ok(());
        };
        let policy = match Mempolicy::new(mode, nodes)? {
            Some(policy) => Some(heap::try_arc(self.machine.fail_point(), policy)?),
            None => None,
        };
        let mut state = self.state.write();
        let strict = flags == MF_STRICT && !mode.is_default() && !nodes.has_memory();
        self.check_range(&state, range, mode, strict.then_some(WrongNode))?;
        self.change_policies(&mut state, range, |_| Ok(Choice::Take(policy.clone())))
    }

    /// `set_mempolicy_home_node`: where memory of the range's policies is tried first. `mm/mempolicy.c`. Areas without a policy are passed over.
    ///
    /// # Errors
    /// - `EINVAL`: a flag, unaligned, a node that there is not, a range that wraps. `ENOENT`: no area of the range has a policy.
    /// - `EOPNOTSUPP`: a policy that is neither MPOL_BIND nor MPOL_PREFERRED_MANY. `ENOMEM`: too many mappings, or no heap. What lies before is changed.
    pub fn set_mempolicy_home_node(
        &self,
        addr: VirtAddr,
        len: u64,
        node: u64,
        flags: u64,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        if flags != 0 || node != 0 {
            return Err(Errno::EINVAL);
        }
        let Some(range) = policy_range(addr, len, granule)? else {
            return Ok(());
        };
        let mut found = Err(Errno::ENOENT);
        let fail = self.machine.fail_point();
        self.change_policies(&mut self.state.write(), range, |old| {
            let Some(old) = old else {
                return Ok(Choice::Keep);
            };
            if !old.takes_home() {
                return Err(Errno::EOPNOTSUPP);
            }
            let new = Mempolicy {
                home: true,
                ..Mempolicy::clone(old)
            };
            let new = heap::try_arc(fail, new)?;
            found = Ok(());
            Ok(Choice::Take(Some(new)))
        })?;
        found
    }

    /// Gives each part of an area in `range` the policy that `choose` makes of its own. `mbind_range`.
    fn change_policies(
        &self,
        state: &mut MmState<P>,
        range: VirtRange,
        mut choose: impl FnMut(Option<&Arc<Mempolicy>>) -> Result<Choice, Errno>,
    ) -> Result<(), Errno> {
        let mut at = range.start();
        while at < range.end() {
            let Some(vma) = state.vmas.find(at.get()) else {
                break;
            };
            let rest = super::edit::range(at, range.end());
            let Some(part) = vma.range().intersection(rest) else {
                break;
            };
            if let Choice::Take(policy) = choose(vma.policy())?
                && policy.as_ref() != vma.policy()
            {
                let mut fields = vma.fields().cut(part);
                fields.policy = policy;
                self.modify(state, fields)?;
            }
            at = part.end();
        }
        Ok(())
    }

    /// Looks at what `range` holds, area by area: something must be mapped, all of it unless the default is asked for, and with `wrong` no page may be there.
    /// `queue_pages_range`.
    ///
    /// # Errors
    /// `EFAULT`: a hole. `EIO`: a page in an area before it.
    fn check_range(
        &self,
        state: &MmState<P>,
        range: VirtRange,
        mode: PolicyMode,
        wrong: Option<WrongNode>,
    ) -> Result<(), Errno> {
        let mut last = None;
        for vma in state
            .vmas
            .iter_range(range.start().get(), range.end().get())
        {
            let (start, end) = (vma.range().start(), vma.range().end());
            let gap_before = last.is_none() && start > range.start();
            let next = state.vmas.find(end.get());
            let gap_after = end < range.end() && next.is_none_or(|next| next.range().start() > end);
            if !mode.is_default() && (gap_before || gap_after) {
                return Err(Errno::EFAULT);
            }
            if wrong.is_some() && self.holds_pages(vma, range) {
                return Err(Errno::EIO);
            }
            last = Some(end);
        }
        last.map(|_| ()).ok_or(Errno::EFAULT)
    }

    /// Whether a page of the area is in memory within `range`. `queue_folios_pte_range`.
    fn holds_pages(&self, vma: &Vma<P>, range: VirtRange) -> bool {
        let Some(part) = vma.range().intersection(range) else {
            return false;
        };
        let mut tables = Cursor::reading(&self.table, self.machine.phys(), part);
        tables.any(|(piece, table)| {
            let first = P::Format::index(0, piece.start().get());
            let mut entries = first..first + piece.pages(P::Format::GRANULE) as usize;
            entries.any(|index| match table.peek(index) {
                Entry::Present(leaf) => !leaf.flags.contains(LeafFlags::SPECIAL),
                _ => false,
            })
        })
    }

    /// `get_mempolicy`: a mode and a mask, of the policy `task` or with MPOL_F_ADDR of the area at `addr`. With MPOL_F_NODE the mode is a node: that of the page
    /// there, which is brought in, or where the task's interleaving goes on. `mm/mempolicy.c: do_get_mempolicy`.
    ///
    /// # Errors
    /// - `EINVAL`: unknown or contradictory flags, an address without MPOL_F_ADDR, MPOL_F_NODE alone without interleaving.
    /// - `EFAULT`: nothing is mapped at `addr`, or its page cannot be read. `ENOMEM`: no frame for it.
    pub fn get_mempolicy(
        &self,
        task: Option<&Mempolicy>,
        addr: VirtAddr,
        flags: u32,
    ) -> Result<(u32, NodeMask), Errno> {
        if flags & !(F_NODE | F_ADDR | F_MEMS_ALLOWED) != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & F_MEMS_ALLOWED != 0 {
            return match flags {
                F_MEMS_ALLOWED => Ok((0, NodeMask::ALL)),
                _ => Err(Errno::EINVAL),
            };
        }
        let of_area = if flags & F_ADDR != 0 {
            let state = self.state.read();
            let vma = state.vmas.get(addr.get()).ok_or(Errno::EFAULT)?;
            vma.policy().cloned()
        } else if addr.get() != 0 {
            return Err(Errno::EINVAL);
        } else {
            None
        };
        let policy = match flags & F_ADDR {
            0 => task,
            _ => of_area.as_deref(),
        };
        let nodes = policy.map_or(NodeMask::EMPTY, |policy| policy.nodes);
        if flags & F_NODE == 0 {
            return Ok((policy.map_or(0, Mempolicy::mode), nodes));
        }
        // A page that is there and can be read is found without asking what its area allows (`get_user_pages_fast`).
        let is_there = || self.page_node(addr) == 0;
        if flags & F_ADDR != 0 && is_there() && self.translate(addr, Access::Read).is_some() {
            return Ok((0, nodes));
        }
        if flags & F_ADDR != 0 {
            self.with_remote(addr, Access::Read, Rights::Checked, |_| ())?;
        } else if !policy.is_some_and(Mempolicy::interleaves) {
            return Err(Errno::EINVAL);
        }
        Ok((0, nodes))
    }

    /// What the caller of `migrate_pages`, whose space this is, may ask for; the pages of any space are on the one node already, so none is left to move, and the
    /// call's result is 0. `mm/mempolicy.c: kernel_migrate_pages`.
    ///
    /// # Errors
    /// `EPERM`: a node that there is not, without CAP_SYS_NICE. `EINVAL`: no node that there is.
    pub fn check_migration(&self, to: &NodeMask) -> Result<(), Errno> {
        let beyond = !to.is_empty() && *to != NodeMask::ALL;
        if beyond && !self.limits.nice.load(Ordering::Relaxed) {
            return Err(Errno::EPERM);
        }
        match to.has_memory() {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        }
    }

    /// What the caller of `move_pages`, whose space this is, may ask for. `kernel_move_pages`.
    ///
    /// # Errors
    /// `EINVAL`: a flag that the call does not have. `EPERM`: MPOL_MF_MOVE_ALL without CAP_SYS_NICE.
    pub fn check_move_flags(&self, flags: u32) -> Result<(), Errno> {
        if flags & !(MF_MOVE | MF_MOVE_ALL) != 0 {
            return Err(Errno::EINVAL);
        }
        match flags & MF_MOVE_ALL != 0 && !self.limits.nice.load(Ordering::Relaxed) {
            true => Err(Errno::EPERM),
            false => Ok(()),
        }
    }

    /// The status that `move_pages` writes for one page which it was to move to `node`. `do_pages_move`.
    ///
    /// # Errors
    /// `ENODEV`, which ends the call: there is no such node.
    pub fn move_page(&self, at: VirtAddr, node: i32) -> Result<i32, Errno> {
        match node {
            0 => Ok(self.page_node(at)),
            _ => Err(Errno::ENODEV),
        }
    }

    /// The status that `move_pages` writes for one page: its node, 0, or an error below 0. EFAULT: nothing is mapped, or the zero page. ENOENT: no page is there.
    /// `do_pages_stat_array`.
    pub fn page_node(&self, at: VirtAddr) -> i32 {
        let state = self.state.read();
        let status = |error: Errno| -error.raw();
        let Some(vma) = state.vmas.get(at.get()) else {
            return status(Errno::EFAULT);
        };
        let _guard = self.machine.pin();
        let phys = self.machine.phys();
        let table = self.table.leaf(phys, at);
        let entry = table.map_or(Entry::Absent, |table| {
            table.peek(P::Format::index(0, at.get()))
        });
        match entry {
            Entry::Present(leaf) if leaf.frame == phys.zero_page() => status(Errno::EFAULT),
            Entry::Present(leaf) if leaf.flags.contains(LeafFlags::SPECIAL) => {
                status(Errno::ENOENT)
            }
            Entry::Present(_) if vma.flags().contains(VmFlags::PFNMAP) => status(Errno::ENOENT),
            Entry::Present(_) => 0,
            _ => status(Errno::ENOENT),
        }
    }
}

/// The whole pages of a call's range; `None` for an empty one. As in Linux, a length that overflows when it is rounded becomes 0.
fn policy_range(addr: VirtAddr, len: u64, granule: Granule) -> Result<Option<VirtRange>, Errno> {
    if !addr.is_aligned(granule) {
        return Err(Errno::EINVAL);
    }
    let len = granule.round_up(len).unwrap_or(0);
    let range = VirtRange::with_len(addr, len).ok_or(Errno::EINVAL)?;
    Ok((!range.is_empty()).then_some(range))
}
