//! What the views need of the areas of a space, read under its mmap lock.

use super::layout::Layout;
use super::mm::Mm;
use super::vma::{Name, Vma};
use crate::addr::{VirtAddr, VirtRange};
use crate::object::{File, VmFlags};
use crate::paging::Format;
use crate::platform::Platform;

/// The name that a view shows for an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AreaName<'a> {
    /// None: plain anonymous memory.
    None,
    /// `[heap]`, `[stack]`, `[vdso]`, ...
    Special(&'a str),
    /// Given by PR_SET_VMA_ANON_NAME.
    Anonymous(&'a str),
    /// The same for shared anonymous memory.
    AnonymousShared(&'a str),
    /// A file's path, as bytes.
    Path(&'a [u8], Linked),
}

/// Whether a file still has a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Linked {
    /// It has.
    Yes,
    /// The last one was removed: " (deleted)".
    No,
}

impl Linked {
    fn of<P: Platform>(file: &File<P>) -> Self {
        if file.operations().has_no_name() {
            Linked::No
        } else {
            Linked::Yes
        }
    }
}

/// One area, as the views show it.
#[derive(Clone, Copy, Debug)]
pub struct Area<'a> {
    /// Where it lies.
    pub range: VirtRange,
    /// VM_* flags.
    pub flags: VmFlags,
    /// Offset in the file in bytes, 0 without one.
    pub offset: u64,
    /// Device of the file.
    pub major: u32,
    /// Device of the file.
    pub minor: u32,
    /// Inode of the file.
    pub inode: u64,
    /// What it is called.
    pub name: AreaName<'a>,
}

impl<P: Platform> Mm<P> {
    /// Shows every area, ascending, under the mmap lock for reading.
    pub fn for_each_area(&self, mut show: impl FnMut(&Area<'_>)) {
        let state = self.state.read();
        let places = Places::of(&state.layout);
        for vma in state.vmas.iter() {
            show(&describe(vma, places.name_of(vma)));
        }
    }
}

/// Which area is looked for at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Find {
    /// The one that covers it.
    Covering,
    /// The one that covers it, or else the next one.
    CoveringOrNext,
}

impl<P: Platform> Mm<P> {
    /// Shows the area at `addr` to `work`, under the mmap lock for reading. One that `wanted` does not accept is as if it were not there.
    /// `query_matching_vma`.
    pub fn with_area<R>(
        &self,
        addr: VirtAddr,
        find: Find,
        wanted: impl Fn(&Vma<P>) -> bool,
        work: impl FnOnce(&Area<'_>, &Vma<P>) -> R,
    ) -> Option<R> {
        let state = self.state.read();
        let mut at = addr;
        let vma = loop {
            let vma = state.vmas.find(at.get())?;
            if find == Find::Covering && !vma.range().contains(addr) {
                return None;
            }
            if wanted(vma) {
                break vma;
            }
            at = vma.range().end();
        };
        let name = Places::of(&state.layout).name_of(vma);
        Some(work(&describe(vma, name), vma))
    }
}

/// Where the areas lie that are named after their place.
pub(super) struct Places<'a>(&'a Layout);

impl<'a> Places<'a> {
    /// Those of a space.
    pub fn of(layout: &'a Layout) -> Self {
        Self(layout)
    }

    /// The name that an area has by its place. `vma_is_initial_heap`, `vma_is_initial_stack`.
    pub fn name_of<P: Platform>(&self, vma: &Vma<P>) -> AreaName<'static> {
        let (start, end) = (vma.range().start().get(), vma.range().end().get());
        let Layout {
            brk,
            start_brk,
            start_stack,
            ..
        } = *self.0;
        if start_brk != 0 && start < brk && end > start_brk {
            AreaName::Special("[heap]")
        } else if start_stack != 0 && start <= start_stack && end >= start_stack {
            AreaName::Special("[stack]")
        } else {
            AreaName::None
        }
    }
}

pub(super) fn describe<'a, P: Platform>(vma: &'a Vma<P>, place: AreaName<'a>) -> Area<'a> {
    let granule = P::Format::GRANULE;
    let (range, flags) = (vma.range(), vma.flags());
    let special = match vma.name() {
        Some(Name::Special(name)) => Some(AreaName::Special(name)),
        Some(Name::Anonymous(name)) if vma.is_shared() => Some(AreaName::AnonymousShared(name)),
        Some(Name::Anonymous(name)) => Some(AreaName::Anonymous(name)),
        None => None,
    };
    match (vma.file(), special) {
        (None, special) | (Some(_), special @ Some(AreaName::Special(_))) => {
            let name = special.unwrap_or(place);
            Area {
                range,
                flags,
                offset: 0,
                major: 0,
                minor: 0,
                inode: 0,
                name,
            }
        }
        (Some(file), special) => {
            let identity = file.identity();
            let name = special.unwrap_or(AreaName::Path(file.path(), Linked::of(file)));
            let offset = vma.pgoff() << granule.shift();
            Area {
                range,
                flags,
                offset,
                major: identity.major,
                minor: identity.minor,
                inode: identity.inode,
                name,
            }
        }
    }
}
