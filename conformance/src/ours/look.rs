//! What the library's side looks at, in the words of a trace.

use portolan::addr::{VirtAddr, VirtRange};
use portolan::object::VmFlags;
use portolan::paging::{Access, Format};
use portolan::space::{Area, AreaName};
use portolan::view::{ShowFrames, read_pagemap, write_smaps};

use super::{Space, World};
use crate::arena::{ARENA_END, BASE, LOOKED_AT};
use crate::files::FILES;
use crate::smaps::{self, is_inside};
use crate::trace::{Hash, LOCKED_BITS, Name, PAGEMAP_BITS, Sink, Tag, area_words};

fn name_of(name: &AreaName<'_>) -> Name {
    match name {
        AreaName::None => Name::None,
        AreaName::Path(b"/memfd:one (deleted)", _) => Name::First,
        AreaName::Path(b"/memfd:two (deleted)", _) => Name::Second,
        AreaName::Path(b"/dev/zero" | b"/dev/zero (deleted)", _) => Name::Zero,
        AreaName::Special("[heap]") => Name::Heap,
        _ => Name::Other,
    }
}

fn words_of(area: &Area<'_>) -> [u64; 3] {
    let bits = [
        (VmFlags::READ, 1),
        (VmFlags::WRITE, 2),
        (VmFlags::EXEC, 4),
        (VmFlags::MAYSHARE, 8),
    ];
    let set = |(flag, bit): (VmFlags, u64)| if area.flags.contains(flag) { bit } else { 0 };
    let perms = bits.into_iter().map(set).sum();
    let (start, end) = (area.range.start().get(), area.range.end().get());
    area_words(start, end, perms, area.offset, name_of(&area.name))
}

impl<F: Format> World<F> {
    /// Where the arena ends, in this format.
    fn arena_end(&self) -> u64 {
        BASE + self.bytes(ARENA_END - BASE)
    }

    pub(super) fn look_at_maps(&mut self, space: &Space<F>) {
        let (end, sink) = (self.arena_end(), &mut self.sink);
        let at = sink.open(Tag::Maps);
        space.for_each_area(|area| {
            if is_inside(area.range.start().get(), end) {
                words_of(area).iter().for_each(|word| sink.push(*word));
            }
        });
        sink.close(at);
    }

    pub(super) fn look_at_counts(&mut self, space: &Space<F>) {
        let (counts, base) = (space.counts(), self.base);
        let sink = &mut self.sink;
        let at = sink.open(Tag::Counts);
        sink.push(counts.total.wrapping_sub(base.total));
        sink.push(counts.locked & LOCKED_BITS);
        sink.push(counts.data.wrapping_sub(base.data));
        sink.push(counts.stack);
        sink.push(counts.exec);
        sink.close(at);
        self.look_at_smaps(space);
    }

    fn look_at_smaps(&mut self, space: &Space<F>) {
        self.text.clear();
        write_smaps(space, &mut self.text).expect("a string takes all");
        let end = self.arena_end();
        let at = self.sink.open(Tag::Smaps);
        smaps::figures(self.text.as_bytes(), end, &mut self.sink);
        self.sink.close(at);
    }

    pub(super) fn look_at_pagemap(&mut self, space: &Space<F>) {
        let at = self.sink.open(Tag::Pagemap);
        for range in self.areas(space) {
            let mut words = [0; LOOKED_AT as usize * 8];
            let bytes = range.pages(F::GRANULE).min(LOOKED_AT) as usize * 8;
            let offset = (range.start().get() >> F::GRANULE.shift()) * 8;
            let read = read_pagemap(space, offset, &mut words[..bytes], ShowFrames::No);
            assert_eq!(read, Ok(bytes), "pagemap of an area");
            for word in words[..bytes].chunks_exact(8) {
                let word = u64::from_ne_bytes(word.try_into().expect("eight bytes"));
                self.sink.push(word & PAGEMAP_BITS);
            }
        }
        self.sink.close(at);
    }

    /// Where the areas lie that the sequence has made.
    fn areas(&self, space: &Space<F>) -> Vec<VirtRange> {
        let (mut areas, end) = (Vec::new(), self.arena_end());
        space.for_each_area(|area| {
            if is_inside(area.range.start().get(), end) {
                areas.push(area.range);
            }
        });
        areas
    }

    pub(super) fn look_at_memory(&mut self, space: &Space<F>) {
        let areas = self.areas(space);
        let page = F::GRANULE.bytes();
        let mut bytes = vec![0; page as usize];
        let at = self.sink.open(Tag::Memory);
        for range in areas {
            for n in 0..range.pages(F::GRANULE).min(LOOKED_AT) {
                let start = VirtAddr::new(range.start().get() + n * page);
                let (result, _) = self.access(space, start, Access::Read, |cpu, on| {
                    cpu.load(on, start, &mut bytes).map(|()| 0)
                });
                let word = match result {
                    0 => hash(&bytes),
                    signal => signal as u64,
                };
                self.sink.push(word);
            }
        }
        self.sink.close(at);
        self.look_at_files();
    }

    fn look_at_files(&mut self) {
        let page = F::GRANULE.bytes();
        let mut bytes = vec![0; page as usize];
        let at = self.sink.open(Tag::Files);
        for object in 0..self.objects.len() {
            let size = self.objects[object].size();
            self.sink.push(size);
            for n in 0..size.div_ceil(page).min(LOOKED_AT) {
                bytes.fill(0);
                let read = self.objects[object].read(n * page, &mut bytes);
                let word = match read {
                    Ok(_) => hash(&bytes),
                    Err(error) => -i64::from(error.raw()) as u64,
                };
                self.sink.push(word);
            }
        }
        self.sink.close(at);
        debug_assert!(FILES.len() > self.objects.len());
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hash = Hash::default();
    hash.bytes(bytes);
    hash.get()
}
