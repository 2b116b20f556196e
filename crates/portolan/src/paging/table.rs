//! The tree of page-table pages of one space: lock-free descent, creation on the way down, and the lock of each page-table page.
//! Not for ranges (`cursor`), nor for giving frames or page-table pages back (`flush`).

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, Format, Leaf, LeafFlags};
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::phys::{FrameKind, OutOfMemory, PageRef, Phys};
use crate::platform::Platform;

/// The entries of a page-table page.
pub(super) type Cells<'a> = &'a [AtomicU64];

/// The highest level whose page-table pages count as such to the reader of `VmPTE`: Linux counts PTE, PMD and PUD pages.
const COUNTED_LEVELS: u8 = 3;

/// The entries of the page-table page in this frame. Whether the frame still is one is the caller's to know (see [`PageTable`]).
#[inline(always)]
pub(super) fn cells<P: Platform>(phys: &Phys<P>, table: Pfn) -> Cells<'_> {
    let count = P::Format::GRANULE.bytes() as usize / size_of::<AtomicU64>();
    // SAFETY: frames are granule-aligned memory that stays while the platform lives, which `phys` owns; every bit pattern is an
    // `AtomicU64`; and the bytes of a frame are only ever accessed as by atomics, whatever the frame is used for.
    unsafe { core::slice::from_raw_parts(phys.ptr(table).cast(), count) }
}

/// The tree of page-table pages of one space. `mm->pgd` and what hangs from it.
///
/// # Who may call what
/// Nothing here checks that a page-table page that a descent found is still one. That holds while one of these does:
/// - the caller is pinned to the machine's epoch domain;
/// - the caller holds the space's mmap lock, and only goes where a mapping is attached or, holding it for writing, anywhere;
/// - the caller keeps a mapping that covers the address from being removed (truncation does, by the lock on the file's mappings).
///
/// A space makes its own table, and only the library can reach it.
#[derive(Debug)]
pub struct PageTable<P: Platform> {
    root: Pfn,
    /// Page-table pages that count for [`PageTable::table_bytes`].
    tables: AtomicU64,
    /// Changes whenever a page-table page is moved to another place in the tree.
    moves: AtomicU64,
    /// Owns the root; below it each table entry owns the frame it points at.
    owner: PageRef<P>,
}

impl<P: Platform> PageTable<P> {
    const ROOT_LEVEL: u8 = P::Format::LEVELS - 1;

    /// An empty tree: a root and nothing else. `pgd_alloc`.
    ///
    /// # Errors
    /// No frame for the root.
    pub(crate) fn new(phys: &Phys<P>) -> Result<Self, OutOfMemory> {
        let owner = phys.alloc_zeroed(FrameKind::Table)?;
        Ok(Self {
            root: owner.pfn(),
            tables: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            owner,
        })
    }

    /// The frame of the root, which a CPU is given to walk from.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// Bytes of page-table pages, counted as Linux counts them: without the root and without level 3 of a five-level tree.
    /// `mm_pgtables_bytes`.
    pub fn table_bytes(&self) -> u64 {
        self.tables.load(Ordering::Relaxed) * P::Format::GRANULE.bytes()
    }

    /// What a walk for `addr` ends at, and at which level. An address beyond the format's is absent at the root.
    pub fn lookup(&self, addr: VirtAddr) -> (u8, Entry) {
        if !is_translated::<P::Format>(addr) {
            return (Self::ROOT_LEVEL, Entry::Absent);
        }
        let phys = self.owner.phys();
        let mut table = self.root;
        let mut level = Self::ROOT_LEVEL;
        loop {
            let index = P::Format::index(level, addr.get());
            let raw = cells(phys, table)[index].load(Ordering::Acquire);
            match P::Format::decode(level, raw) {
                Entry::Table(next) if level != 0 => (table, level) = (next, level - 1),
                entry => return (level, entry),
            }
        }
    }

    /// The level-0 table that translates `addr`, if there is one. Takes no lock.
    #[inline]
    pub fn leaf<'a>(&'a self, phys: &'a Phys<P>, addr: VirtAddr) -> Option<TableRef<'a, P>> {
        if !is_translated::<P::Format>(addr) {
            return None;
        }
        let mut table = self.root;
        for level in (1..P::Format::LEVELS).rev() {
            let index = P::Format::index(level, addr.get());
            let raw = cells(phys, table)[index].load(Ordering::Acquire);
            table = P::Format::table_at(level, raw)?;
        }
        Some(TableRef::new(phys, table, 0, addr.get()))
    }

    /// The level-0 table that translates `addr`, locked, if there is one. Unlike [`PageTable::leaf`] followed by a lock, this cannot return a
    /// table that `mremap` has meanwhile moved to other addresses, so its entries are those of `addr`.
    #[inline]
    pub fn locked_leaf<'a>(
        &'a self,
        phys: &'a Phys<P>,
        addr: VirtAddr,
    ) -> Option<LockedTable<'a, P>> {
        loop {
            let moves = self.moves.load(Ordering::Acquire);
            let locked = self.leaf(phys, addr)?.lock();
            if self.moves.load(Ordering::Acquire) == moves {
                return Some(locked);
            }
        }
    }

    /// How often page-table pages were moved so far. Who reads entries without a lock reads this before and after.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// A page-table page is out of its old place and not yet in its new one.
    pub(super) fn note_move(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
    }

    /// The table at `level` that translates `addr`; where there is none, the level of the entry that is absent. That has then been looked at
    /// under its lock: whoever links a table there later sees what the caller did before.
    pub(super) fn reach<'a>(
        &'a self,
        phys: &'a Phys<P>,
        addr: VirtAddr,
        level: u8,
    ) -> Result<TableRef<'a, P>, u8> {
        let mut table = self.top(phys);
        while table.level() > level {
            let index = P::Format::index(table.level(), addr.get());
            let mut next = table.child(index, addr.get());
            if next.is_none() {
                drop(table.lock());
                next = table.child(index, addr.get());
            }
            table = next.ok_or(table.level())?;
        }
        Ok(table)
    }

    /// The level-0 table that translates `addr`, made with what is missing above it if need be. As [`PageTable::table_or_create`].
    ///
    /// # Errors
    /// No frame for a page-table page. What was linked before stays, empty.
    #[inline]
    pub fn leaf_or_create<'a>(
        &'a self,
        phys: &'a Phys<P>,
        addr: VirtAddr,
        attached: impl Fn() -> bool,
    ) -> Result<Option<TableRef<'a, P>>, OutOfMemory> {
        self.table_or_create(phys, addr, 0, attached)
    }

    /// The table at `level` that translates `addr`, made with what is missing above it if need be.
    ///
    /// A page-table page is linked under the lock of the one above it, and only if `attached` says there that the mapping the caller acts for
    /// still stands. So what unmaps it either sees the new page or makes `attached` say no. `None`: it said no, or a large page is mapped there.
    ///
    /// # Errors
    /// No frame for a page-table page. What was linked before stays, empty.
    #[inline]
    pub fn table_or_create<'a>(
        &'a self,
        phys: &'a Phys<P>,
        addr: VirtAddr,
        level: u8,
        attached: impl Fn() -> bool,
    ) -> Result<Option<TableRef<'a, P>>, OutOfMemory> {
        if !is_translated::<P::Format>(addr) {
            return Ok(None);
        }
        let mut table = self.root;
        for upper in (level + 1..P::Format::LEVELS).rev() {
            let index = P::Format::index(upper, addr.get());
            let raw = cells(phys, table)[index].load(Ordering::Acquire);
            table = match P::Format::table_at(upper, raw) {
                Some(next) => next,
                None => match self.link(
                    TableRef::new(phys, table, upper, addr.get()),
                    index,
                    &attached,
                )? {
                    Some(next) => next,
                    None => return Ok(None),
                },
            };
        }
        Ok(Some(TableRef::new(phys, table, level, addr.get())))
    }

    /// Makes a page-table page for one entry, unless another was quicker. `__pte_alloc` and its kin.
    #[cold]
    fn link(
        &self,
        above: TableRef<'_, P>,
        index: usize,
        attached: &impl Fn() -> bool,
    ) -> Result<Option<Pfn>, OutOfMemory> {
        let new = above.phys.alloc_zeroed(FrameKind::Table)?;
        let mut locked = above.lock();
        if !attached() {
            return Ok(None);
        }
        match locked.get(index) {
            Entry::Absent => {}
            Entry::Table(other) => return Ok(Some(other)),
            _ => return Ok(None),
        }
        let table = new.into_raw();
        locked.set(index, Entry::Table(table));
        self.count(above.level - 1, 1);
        Ok(Some(table))
    }

    /// Counts page-table pages of a level in or out.
    fn count(&self, level: u8, by: i64) {
        if level < COUNTED_LEVELS {
            self.tables.fetch_add(by as u64, Ordering::Relaxed);
        }
    }

    /// The root as a table that can be locked.
    pub(super) fn top<'a>(&self, phys: &'a Phys<P>) -> TableRef<'a, P> {
        TableRef::new(phys, self.root, Self::ROOT_LEVEL, 0)
    }

    /// Takes over the reference that the unlinked entry of a page-table page of `level` owned.
    ///
    /// # Safety
    /// `table` came out of a table entry at `level + 1` of this tree, under its lock, and was put there by [`PageTable::link`].
    pub(super) unsafe fn take_unlinked(&self, phys: &Phys<P>, table: Pfn, level: u8) -> PageRef<P> {
        self.count(level, -1);
        // SAFETY: the entry owned the reference that `link` gave it, and it is gone.
        unsafe { phys.from_raw(table) }
    }

    /// Frees all page-table pages below one that nothing walks any more.
    fn free_below(&self, table: Pfn, level: u8) {
        if level == 0 {
            return;
        }
        let phys = self.owner.phys();
        for cell in cells(phys, table) {
            if let Some(next) = P::Format::table_at(level, cell.load(Ordering::Relaxed)) {
                self.free_below(next, level - 1);
                // SAFETY: an entry of this tree, which is being dropped, so nothing looks at the entry again.
                drop(unsafe { self.take_unlinked(phys, next, level - 1) });
            }
        }
    }
}

impl<P: Platform> Drop for PageTable<P> {
    /// Frees every page-table page. The frames of entries that are still present are leaked, since a TLB may reach them: clear first.
    fn drop(&mut self) {
        self.free_below(self.root, Self::ROOT_LEVEL);
        debug_assert_eq!(
            self.tables.load(Ordering::Relaxed),
            0,
            "page-table pages were miscounted"
        );
    }
}

#[inline(always)]
fn is_translated<F: Format>(addr: VirtAddr) -> bool {
    addr.get() >> F::VA_BITS == 0
}

/// A page-table page that a descent came to, not locked. See [`PageTable`] for how long it may be kept.
#[derive(Debug)]
pub struct TableRef<'a, P: Platform> {
    pub(super) phys: &'a Phys<P>,
    pub(super) cells: Cells<'a>,
    frame: Pfn,
    base: u64,
    level: u8,
}

impl<P: Platform> Clone for TableRef<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for TableRef<'_, P> {}

impl<'a, P: Platform> TableRef<'a, P> {
    /// The page-table page of `level` in a frame, which translates `addr`.
    #[inline(always)]
    pub(super) fn new(phys: &'a Phys<P>, table: Pfn, level: u8, addr: u64) -> Self {
        let shift = P::Format::level_shift(level + 1);
        Self {
            phys,
            cells: cells(phys, table),
            frame: table,
            base: addr >> shift << shift,
            level,
        }
    }

    /// The table one level down that an entry points at; `addr` is an address it translates.
    #[inline(always)]
    pub(super) fn child(self, index: usize, addr: u64) -> Option<TableRef<'a, P>> {
        let raw = self.cell(index).load(Ordering::Acquire);
        let next = P::Format::table_at(self.level, raw)?;
        Some(TableRef::new(self.phys, next, self.level - 1, addr))
    }

    /// Waits for the lock of this page-table page and takes it. `pte_lockptr`, `spin_lock`.
    #[inline]
    pub fn lock(self) -> LockedTable<'a, P> {
        let cell = &self.cells[0];
        while cell.fetch_or(P::Format::LOCK_BIT, Ordering::Acquire) & P::Format::LOCK_BIT != 0 {
            self.wait();
        }
        LockedTable { table: self }
    }

    #[cold]
    fn wait(self) {
        let mut turn = 0u32;
        while self.cells[0].load(Ordering::Relaxed) & P::Format::LOCK_BIT != 0 {
            self.phys.platform().relax(turn);
            turn = turn.saturating_add(1);
        }
    }

    /// An entry as it is now, without the lock: it may be another a moment later. `ptep_get_lockless`.
    #[inline]
    pub fn peek(self, index: usize) -> Entry {
        P::Format::decode(self.level, self.cell(index).load(Ordering::Acquire))
    }

    /// Its level.
    #[inline(always)]
    pub(super) fn level(self) -> u8 {
        self.level
    }

    /// Its frame.
    pub(super) fn frame(self) -> Pfn {
        self.frame
    }

    /// What the table covers.
    #[inline]
    pub fn covers(self) -> VirtRange {
        let shift = P::Format::level_shift(self.level + 1);
        let end = VirtAddr::new(self.base + (1 << shift));
        VirtRange::new(VirtAddr::new(self.base), end).expect("a table ends after it starts")
    }

    #[inline(always)]
    pub(super) fn cell(self, index: usize) -> &'a AtomicU64 {
        &self.cells[index & (self.cells.len() - 1)]
    }
}

/// A page-table page whose lock is held; dropping it lets go. Indices beyond the last entry wrap.
#[derive(Debug)]
pub struct LockedTable<'a, P: Platform> {
    table: TableRef<'a, P>,
}

impl<'a, P: Platform> LockedTable<'a, P> {
    /// The table, as it is without the lock.
    #[inline]
    pub(super) fn table(&self) -> TableRef<'a, P> {
        self.table
    }

    /// What the table covers.
    #[inline]
    pub fn covers(&self) -> VirtRange {
        self.table.covers()
    }

    /// How many entries there are.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.table.cells.len()
    }

    /// An entry. Only a hardware walker can change it while the lock is held, and only its accessed and dirty state.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Entry {
        P::Format::decode(
            self.table.level,
            self.table.cell(index).load(Ordering::Relaxed),
        )
    }

    /// Writes an entry with a plain store. `set_pte`.
    ///
    /// A new entry takes over one reference to its frame, unless it is special. What it replaces must be no present entry, or one whose
    /// reference goes over to the new one and whose accessed and dirty state may be lost; else use [`LockedTable::update`] or a
    /// [`super::FlushBatch`]. If the new entry allows less, the caller flushes.
    #[inline(always)]
    pub fn set(&mut self, index: usize, entry: Entry) {
        let raw = P::Format::encode(self.table.level, entry);
        self.store(index, raw);
    }

    /// Puts `new` where `expected` is, if it still is: the walker's updates included. `pte_same` and `set_pte` in one step. References as with
    /// [`LockedTable::set`].
    #[inline]
    pub fn compare_set(&mut self, index: usize, expected: Entry, new: Entry) -> bool {
        let level = self.table.level;
        let cell = self.table.cell(index);
        let raw = cell.load(Ordering::Relaxed);
        if P::Format::decode(level, raw) != expected {
            return false;
        }
        let new = P::Format::encode(level, new) | raw & P::Format::LOCK_BIT;
        self.replace_raw(index, raw, new)
    }

    /// Changes a present leaf, with no update of the walker lost; `change` may be asked again when the walker was quicker. The new entry
    /// must keep the frame. Returns the old and the new leaf, `None` if none is present or `change` says `None`.
    #[inline]
    pub fn update(
        &mut self,
        index: usize,
        mut change: impl FnMut(Leaf) -> Option<Leaf>,
    ) -> Option<(Leaf, Leaf)> {
        let level = self.table.level;
        loop {
            let raw = self.table.cell(index).load(Ordering::Relaxed);
            let old = P::Format::leaf_at(level, raw)?;
            let new = change(old)?;
            debug_assert_eq!(old.frame, new.frame, "an update may not change the frame");
            let encoded = P::Format::encode(level, Entry::Present(new)) | raw & P::Format::LOCK_BIT;
            if self.replace_raw(index, raw, encoded) {
                return Some((old, new));
            }
        }
    }

    /// Adds `flags` to a present leaf, with no update of the walker lost; returns the leaf as it was before.
    /// `ptep_set_access_flags`.
    #[inline]
    pub fn raise(&mut self, index: usize, flags: LeafFlags) -> Option<Leaf> {
        let raise = |leaf: Leaf| {
            Some(Leaf {
                flags: leaf.flags | flags,
                ..leaf
            })
        };
        self.update(index, raise).map(|(old, _)| old)
    }

    /// Takes WRITE from a present leaf; returns the flags it had before. The caller flushes. `ptep_set_wrprotect`.
    #[inline]
    pub fn protect_write(&mut self, index: usize) -> Option<LeafFlags> {
        loop {
            let raw = self.table.cell(index).load(Ordering::Relaxed);
            let old = P::Format::leaf_at(self.table.level, raw)?;
            if self.replace_raw(index, raw, P::Format::without(raw, LeafFlags::WRITE)) {
                return Some(old.flags);
            }
        }
    }

    /// Empties an entry and returns what the walker last wrote there; the reference of a leaf is the caller's now.
    #[inline]
    pub(super) fn take(&mut self, index: usize) -> u64 {
        let cell = self.table.cell(index);
        let kept = if index == 0 { P::Format::LOCK_BIT } else { 0 };
        let raw = cell.load(Ordering::Relaxed);
        if P::Format::walker_may_change(raw) {
            return cell.swap(kept, Ordering::AcqRel) & !P::Format::LOCK_BIT;
        }
        cell.store(kept, Ordering::Release);
        raw & !P::Format::LOCK_BIT
    }

    /// Copies the entries of `part` into the table of a forked child, whose lock is held too and where they are absent: absent ones are
    /// skipped, present ones lose ACCESSED and, if they are shared, DIRTY; private ones lose WRITE on both sides. `each` is told
    /// every present leaf, and takes the reference that the new entry owns if it is not special. Returns the hull of what must be flushed
    /// because it lost WRITE here. `copy_pte_range`.
    #[inline]
    pub fn copy_to(
        &mut self,
        child: &mut LockedTable<'_, P>,
        part: VirtRange,
        sharing: Sharing,
        mut each: impl FnMut(&Leaf),
    ) -> Option<VirtRange> {
        let granule = P::Format::GRANULE;
        let (lost, first) = match sharing {
            Sharing::CopyOnWrite => (
                LeafFlags::ACCESSED | LeafFlags::WRITE,
                P::Format::index(0, part.start().get()),
            ),
            Sharing::Shared => (
                LeafFlags::ACCESSED | LeafFlags::DIRTY,
                P::Format::index(0, part.start().get()),
            ),
        };
        let mut tightened = None;
        let last = (first + part.pages(granule) as usize).min(self.len());
        for index in first..last {
            let mut raw = self.table.cell(index).load(Ordering::Relaxed) & !P::Format::LOCK_BIT;
            if raw == 0 {
                continue;
            }
            if let Some(leaf) = P::Format::leaf_at(0, raw) {
                if sharing == Sharing::CopyOnWrite && leaf.flags.contains(LeafFlags::WRITE) {
                    raw = self.write_protect_raw(index);
                    tightened = Some((tightened.map_or(index, |(first, _)| first), index + 1));
                }
                each(&leaf);
                raw = P::Format::without(raw, lost);
            }
            child.store(index, raw);
        }
        let (from, to) = tightened?;
        let at =
            |index: usize| VirtAddr::new(self.table.base + ((index as u64) << granule.shift()));
        VirtRange::new(at(from), at(to))
    }

    /// Takes WRITE from an entry that has it, and returns what stood there last.
    #[inline(always)]
    fn write_protect_raw(&mut self, index: usize) -> u64 {
        loop {
            let raw = self.table.cell(index).load(Ordering::Relaxed);
            if self.replace_raw(index, raw, P::Format::without(raw, LeafFlags::WRITE)) {
                return raw & !P::Format::LOCK_BIT;
            }
        }
    }

    /// Puts `new` where `old` was just read; false if the walker has changed it since. Both with the lock bit where it belongs.
    #[inline(always)]
    fn replace_raw(&mut self, index: usize, old: u64, new: u64) -> bool {
        let cell = self.table.cell(index);
        if P::Format::walker_may_change(old) {
            return cell
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        }
        cell.store(new, Ordering::Release);
        true
    }

    /// Stores a word, the lock bit kept.
    #[inline(always)]
    pub(super) fn store(&mut self, index: usize, raw: u64) {
        let kept = if index == 0 { P::Format::LOCK_BIT } else { 0 };
        // Release: what is in the frame, or in the new table, comes before whoever walks to it.
        self.table.cell(index).store(raw | kept, Ordering::Release);
    }
}

/// How a forked child gets a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Private memory: both sides must fault before they write.
    CopyOnWrite,
    /// Shared memory: both go on as before.
    Shared,
}

impl<P: Platform> Drop for LockedTable<'_, P> {
    #[inline]
    fn drop(&mut self) {
        let cell = &self.table.cells[0];
        let raw = cell.load(Ordering::Relaxed);
        if P::Format::walker_may_change(raw) {
            cell.fetch_and(!P::Format::LOCK_BIT, Ordering::Release);
        } else {
            // Nobody else writes here: walkers have no reason to, and those who wait for the lock only set the bit that is set.
            cell.store(raw & !P::Format::LOCK_BIT, Ordering::Release);
        }
    }
}
