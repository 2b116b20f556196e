//! What of a space goes into a core dump: which bytes of which area, by its flags and what is asked for. Not for the file's format (`view`).

use super::mm::MmUser;
use super::show::{Area, Places, describe};
use super::vma::{Name, Vma};
use crate::addr::VirtAddr;
use crate::object::{File, VmFlags};
use crate::paging::{Entry, Format};
use crate::phys::PageRef;
use crate::platform::Platform;

bitflags::bitflags! {
    /// `/proc/PID/coredump_filter`: what a core dump holds besides the vDSO. `MMF_DUMP_*`, from bit 0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CoreFilter: u32 {
        /// Private mappings without a file.
        const ANON_PRIVATE = 1 << 0;
        /// Shared mappings without a file.
        const ANON_SHARED = 1 << 1;
        /// Private mappings of files.
        const MAPPED_PRIVATE = 1 << 2;
        /// Shared mappings of files.
        const MAPPED_SHARED = 1 << 3;
        /// Of a mapping of the start of a file that is not dumped and may be a program, the first page.
        const ELF_HEADERS = 1 << 4;
        /// Private huge pages of the pool.
        const HUGETLB_PRIVATE = 1 << 5;
        /// Shared huge pages of the pool.
        const HUGETLB_SHARED = 1 << 6;
        /// Private memory of persistent devices.
        const DAX_PRIVATE = 1 << 7;
        /// Shared memory of persistent devices.
        const DAX_SHARED = 1 << 8;
    }
}

impl Default for CoreFilter {
    /// Memory without a file, private huge pages, and headers: 0x33.
    fn default() -> Self {
        Self::ANON_PRIVATE | Self::ANON_SHARED | Self::ELF_HEADERS | Self::HUGETLB_PRIVATE
    }
}

/// How much of an area a core dump holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CorePart {
    /// Nothing but that it is there.
    Nothing,
    /// Its first page, if it starts as an ELF file does.
    ElfHeader,
    /// All of it.
    Whole,
}

impl CoreFilter {
    /// How much of an area a dump holds. `fs/coredump.c: vma_dump_size`.
    fn part_of<P: Platform>(self, vma: &Vma<P>) -> CorePart {
        let whole_if = |wanted| match wanted {
            true => CorePart::Whole,
            false => CorePart::Nothing,
        };
        let flags = vma.flags();
        // The vDSO and its data are dumped whatever their flags say.
        if matches!(vma.name(), Some(Name::Special(_))) {
            return CorePart::Whole;
        }
        if flags.intersects(VmFlags::DONTDUMP | VmFlags::IO) {
            return CorePart::Nothing;
        }
        if flags.contains(VmFlags::SHARED) {
            let kind = match vma.file() {
                Some(file) if !has_no_name(file) => Self::MAPPED_SHARED,
                _ => Self::ANON_SHARED,
            };
            return whole_if(self.contains(kind));
        }
        if vma.has_anon() && self.contains(Self::ANON_PRIVATE) {
            return CorePart::Whole;
        }
        let at_start = vma.pgoff() == 0 && flags.contains(VmFlags::READ);
        match vma.file() {
            None => CorePart::Nothing,
            Some(_) if self.contains(Self::MAPPED_PRIVATE) => CorePart::Whole,
            Some(_) if at_start && self.contains(Self::ELF_HEADERS) => CorePart::ElfHeader,
            Some(_) => CorePart::Nothing,
        }
    }
}

/// Whether no name leads to a file any more: memory that programs share, as far as a dump goes. `i_nlink == 0`.
fn has_no_name<P: Platform>(file: &File<P>) -> bool {
    file.operations().has_no_name() || file.path().ends_with(b" (deleted)")
}

impl<P: Platform> MmUser<P> {
    /// Shows every area, ascending, and how much of it a core dump holds, under the mmap lock for reading.
    pub fn for_each_core_area(
        &self,
        filter: CoreFilter,
        mut show: impl FnMut(&Area<'_>, CorePart),
    ) {
        let state = self.state.read();
        let places = Places::of(&state.layout);
        for vma in state.vmas.iter() {
            show(&describe(vma, places.name_of(vma)), filter.part_of(vma));
        }
    }

    /// The page at `at`, as a core dump reads it: whatever its area allows, and without making one that is not there. `None`: it is not there, and reads
    /// as zeros; so does a page of a file that cannot be read. May read a file. `mm/gup.c: get_dump_page`.
    pub fn core_page(&self, at: VirtAddr) -> Option<PageRef<P>> {
        let (file, index) = {
            let state = self.state.read();
            let vma = state.vmas.get(at.get())?;
            if vma.flags().intersects(VmFlags::IO | VmFlags::PFNMAP) {
                return None;
            }
            if let Some(table) = self.table.locked_leaf(self.machine.phys(), at) {
                match table.get(P::Format::index(0, at.get())) {
                    Entry::Present(leaf) => {
                        self.normal_page(&leaf)?;
                        return self.machine.phys().get(leaf.frame);
                    }
                    Entry::Absent => {}
                    _ => return None,
                }
            }
            match vma.file() {
                Some(file) if !vma.is_anonymous() => (file.clone(), vma.page_index(at)),
                _ => return None,
            }
        };
        let cache = file.cache()?;
        match cache.is_shmem() {
            true => cache.lookup(index),
            false => cache.page(index).ok(),
        }
    }
}
