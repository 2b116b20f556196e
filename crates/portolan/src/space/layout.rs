//! Where things lie in a space: the bounds of what may be mapped, the bases that placement starts from, the recorded places of code, data,
//! heap, stack and arguments, and the choice of an address for a new mapping (`get_unmapped_area`).

use super::edit::AreaIndex;
use super::flags::Map;
use super::mm::{Mm, MmState};
use crate::addr::{Granule, VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::paging::Format;
use crate::platform::Platform;
use core::sync::atomic::Ordering;

/// From which end of the space addresses are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// From below the stack downwards (`arch_get_unmapped_area_topdown`).
    TopDown,
    /// From a third of the space upwards (`MMF_TOPDOWN` clear: ADDR_COMPAT_LAYOUT or an unlimited stack).
    BottomUp,
}

/// The bounds and recorded places of a space, all byte addresses. The fields of `mm_struct` that PR_SET_MM can set, and the bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// End of what may be mapped by default: 2^47 less a page on x86-64. `DEFAULT_MAP_WINDOW`, `TASK_SIZE`.
    pub task_size: u64,
    /// End of what may be mapped when the hint lies above `task_size` (five-level tables). `TASK_SIZE_MAX`.
    pub task_size_max: u64,
    /// Where top-down placement starts.
    pub mmap_base: u64,
    /// Where bottom-up placement starts. `mmap_legacy_base`.
    pub mmap_legacy_base: u64,
    /// From which end.
    pub placement: Placement,
    /// Program text.
    pub start_code: u64,
    /// End of program text.
    pub end_code: u64,
    /// Initialised data.
    pub start_data: u64,
    /// End of initialised data.
    pub end_data: u64,
    /// Start of the heap.
    pub start_brk: u64,
    /// End of the heap; any byte, not page-aligned.
    pub brk: u64,
    /// The first stack pointer.
    pub start_stack: u64,
    /// Argument strings.
    pub arg_start: u64,
    /// End of argument strings.
    pub arg_end: u64,
    /// Environment strings.
    pub env_start: u64,
    /// End of environment strings.
    pub env_end: u64,
}

/// The smallest and the largest room left for the stack below the top.
const MIN_STACK_GAP: u64 = 128 << 20;

impl Layout {
    /// The layout of a fresh space of this format: no randomisation, top-down, room for an 8 MiB stack.
    pub fn new<F: Format>() -> Self {
        let page = F::GRANULE.bytes();
        let top = if F::USER_BITS >= 63 {
            1 << 62
        } else {
            1u64 << F::USER_BITS
        };
        let full = if F::VA_BITS == F::USER_BITS {
            top
        } else {
            top - page
        };
        let window = full.min(if F::VA_BITS == F::USER_BITS {
            1 << 48
        } else {
            (1 << 47) - page
        });
        let mut layout = Self {
            task_size: window,
            task_size_max: full,
            mmap_base: 0,
            mmap_legacy_base: 0,
            placement: Placement::TopDown,
            start_code: 0,
            end_code: 0,
            start_data: 0,
            end_data: 0,
            start_brk: 0,
            brk: 0,
            start_stack: 0,
            arg_start: 0,
            arg_end: 0,
            env_start: 0,
            env_end: 0,
        };
        layout.place_bases(F::GRANULE, 8 << 20, 0, 1 << 20, 0);
        layout
    }

    /// Limits the space to addresses below `end` (an embedder that needs some for itself), then places the bases anew.
    pub fn limit(&mut self, granule: Granule, end: u64) {
        self.task_size = self.task_size.min(granule.round_down(end));
        self.task_size_max = self.task_size_max.min(granule.round_down(end));
        self.place_bases(granule, 8 << 20, 0, 1 << 20, 0);
    }

    /// Places both bases. `arch_pick_mmap_layout`.
    ///
    /// `stack` is RLIMIT_STACK in bytes, `stack_random` the most the stack top may be shifted down, `guard` the stack guard gap, `random` the
    /// page-aligned shift of the bases (0 without randomisation).
    pub fn place_bases(
        &mut self,
        granule: Granule,
        stack: u64,
        stack_random: u64,
        guard: u64,
        random: u64,
    ) {
        let most = self.task_size / 6 * 5;
        let pad = stack_random.saturating_add(guard);
        let gap = stack
            .saturating_add(pad)
            .clamp(MIN_STACK_GAP.min(most), most);
        let random = random.min(self.task_size / 8);
        let base = self.task_size - gap - random;
        self.mmap_base = granule.round_up(base).unwrap_or(base);
        self.mmap_legacy_base = granule
            .round_up(self.task_size / 3 + random)
            .unwrap_or(self.task_size / 3);
    }
}

/// What is asked of placement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceRequest {
    /// Hint or fixed address, in bytes.
    pub addr: u64,
    /// Bytes, a whole number of pages, not 0.
    pub len: u64,
    pub map: Map,
}

impl<P: Platform> Mm<P> {
    /// Chooses where a mapping goes. `get_unmapped_area`.
    ///
    /// # Errors
    /// `ENOMEM`: no such gap, or longer than the space. `EINVAL`: fixed and unaligned. `EPERM`: below the minimum without the right.
    pub(crate) fn place(
        &self,
        state: &MmState<P>,
        request: PlaceRequest,
    ) -> Result<VirtAddr, Errno> {
        let layout = &state.layout;
        let end = if request.addr >= layout.task_size {
            layout.task_size_max
        } else {
            layout.task_size
        };
        if request.len > end {
            return Err(Errno::ENOMEM);
        }
        let at = match request.map.contains(Map::FIXED) {
            // Linux takes an address in the last page of all for the error that it would be as a result.
            true if request.addr > u64::MAX - 4095 => {
                return Err(Errno::from_raw(request.addr.wrapping_neg() as i32));
            }
            true => request.addr,
            false => self.find_gap(state, &request, end)?,
        };
        if at > layout.task_size_max - request.len {
            return Err(Errno::ENOMEM);
        }
        if !P::Format::GRANULE.is_aligned(at) {
            return Err(Errno::EINVAL);
        }
        if at < self.min_addr() && !self.limits.may_map_low.load(Ordering::Relaxed) {
            return Err(Errno::EPERM);
        }
        Ok(VirtAddr::new(at))
    }

    /// The lowest address that may be mapped, in bytes.
    pub(crate) fn min_addr(&self) -> u64 {
        self.machine
            .settings()
            .mmap_min_addr
            .load(Ordering::Relaxed)
    }

    /// The guard gap below a stack, in bytes.
    pub(crate) fn guard_gap(&self) -> u64 {
        P::Format::GRANULE.round_down(
            self.machine
                .settings()
                .stack_guard_gap
                .load(Ordering::Relaxed),
        )
    }

    /// A gap for `request` below `end`: the hint if it is free, else by placement.
    fn find_gap(&self, state: &MmState<P>, request: &PlaceRequest, end: u64) -> Result<u64, Errno> {
        let layout = &state.layout;
        if request.map.contains(Map::LOW_32BIT) {
            let window = 0x4000_0000u64..0x8000_0000u64.min(layout.task_size);
            if request.len <= window.end
                && let Some(hint) = self.usable_hint(state, request, window.end)
            {
                return Ok(hint);
            }
            return lowest(&state.vmas, window, request).ok_or(Errno::ENOMEM);
        }
        if let Some(hint) = self.usable_hint(state, request, end) {
            return Ok(hint);
        }
        let above = if request.map.contains(Map::ABOVE4G) {
            1 << 32
        } else {
            0
        };
        let low = P::Format::GRANULE.bytes().max(self.min_addr()).max(above);
        // A hint beyond the default window opens all of a five-level space.
        let beyond = end - layout.task_size;
        if layout.placement == Placement::TopDown {
            let window = low..layout.mmap_base + beyond;
            if let Some(at) = self.highest(state, window, request) {
                return Ok(at);
            }
        }
        lowest(
            &state.vmas,
            layout.mmap_legacy_base.max(above)..end,
            request,
        )
        .ok_or(Errno::ENOMEM)
    }

    /// The highest place in `window`. `vm_unmapped_area` from the top.
    ///
    /// As Linux passes over places: a gap that is long enough, but not with what the stack above it guards, moves the end of the window down to
    /// the guarded bytes, over everything that lies among them.
    fn highest(
        &self,
        state: &MmState<P>,
        mut window: core::ops::Range<u64>,
        request: &PlaceRequest,
    ) -> Option<u64> {
        loop {
            let page = P::Format::GRANULE.bytes();
            let at = state
                .vmas
                .highest_gap(window.clone(), request.len, page, 0)?;
            let end = at + request.len;
            if end.saturating_add(self.guard_gap()) <= state.lowest_stack {
                return Some(at);
            }
            match topmost_guard(&state.vmas, end, &window, request.len) {
                Some(guard) if guard < window.end => window.end = guard,
                _ => return Some(at),
            }
        }
    }

    /// The hint, rounded to a page, if that place is free with the gaps around it.
    fn usable_hint(&self, state: &MmState<P>, request: &PlaceRequest, end: u64) -> Option<u64> {
        let granule = P::Format::GRANULE;
        if request.addr == 0 {
            return None;
        }
        let hint = granule.round_up(request.addr)?;
        if hint > end - request.len || hint < self.min_addr() {
            return None;
        }
        let wanted = VirtRange::with_len(VirtAddr::new(hint), request.len)?;
        is_free(&state.vmas, wanted).then_some(hint)
    }
}

/// Whether `range` is free and the guard gap of what lies above is kept.
fn is_free<P: Platform>(vmas: &AreaIndex<P>, range: VirtRange) -> bool {
    vmas.find(range.start().get())
        .is_none_or(|next| range.end().get() <= next.guarded_start())
}

fn lowest<P: Platform>(
    vmas: &AreaIndex<P>,
    window: core::ops::Range<u64>,
    request: &PlaceRequest,
) -> Option<u64> {
    vmas.lowest_gap(window, request.len, P::Format::GRANULE.bytes(), 0)
}

/// Where the guard of the highest stack begins that Linux would have tried to map right below, between `from` and the end of the window.
fn topmost_guard<P: Platform>(
    vmas: &AreaIndex<P>,
    from: u64,
    window: &core::ops::Range<u64>,
    len: u64,
) -> Option<u64> {
    let mut guard = None;
    let mut below = vmas
        .get(from.saturating_sub(1))
        .map_or(from.saturating_sub(len), |vma| vma.range().end().get());
    for vma in vmas.iter_from(from) {
        let (start, end) = (vma.range().start().get(), vma.range().end().get());
        let room = start
            .min(window.end)
            .saturating_sub(below.max(window.start));
        if vma.guarded_start() != start && room >= len {
            guard = Some(vma.guarded_start());
        }
        if start >= window.end {
            break;
        }
        below = end;
    }
    guard
}
