//! Seals of memory files over every format: what each refuses, to calls on the file and to mappings.

mod common;

over_formats!(
    sealing_must_be_allowed_and_ends_with_the_last_seal,
    sizes_are_sealed_each_way,
    a_write_seal_stops_writers_and_waits_for_mappings,
    a_future_write_seal_lets_mappings_go_on,
);

mod generic {
    use super::common::*;
    use portolan::errno::Errno;
    use portolan::object::{Cache, Commit, File, FileMode, Seals};
    use portolan::paging::{Access, Format};
    use portolan::sim::Sim;
    use portolan::space::{Map, MapRequest, Prot};
    use std::sync::Arc;

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const MAPPED: FileMode = FileMode::READ.union(FileMode::WRITE);

    type Memory<F> = (Arc<Cache<Sim<F>>>, Arc<File<Sim<F>>>);

    /// A memory file of four pages that can be sealed, and an opening of it.
    fn memory<F: Format>(world: &World<F>) -> Memory<F> {
        let bytes = 4 * page::<F>();
        let cache = Cache::anonymous_shared(&world.machine, bytes, Commit::Unreserved).unwrap();
        cache.allow_sealing(Seals::empty());
        let file = world.open(cache.clone(), MAPPED);
        (cache, file)
    }

    pub fn sealing_must_be_allowed_and_ends_with_the_last_seal<F: Format>() {
        let world = World::<F>::new();
        let plain = Cache::anonymous_shared(&world.machine, 1, Commit::Unreserved).unwrap();
        assert_eq!(plain.add_seals(Seals::GROW.bits()), Err(Errno::EPERM));
        let file = world.file(&[1]);
        let cached = file.cache().unwrap();
        assert_eq!(cached.add_seals(Seals::GROW.bits()), Err(Errno::EINVAL));
        let (cache, opened) = memory(&world);
        assert_eq!(cache.add_seals(0x40), Err(Errno::EINVAL));
        assert_eq!(
            cache.add_seals((Seals::SHRINK | Seals::SEAL).bits()),
            Ok(())
        );
        assert_eq!(cache.seals(), Seals::SHRINK | Seals::SEAL);
        assert_eq!(cache.add_seals(Seals::GROW.bits()), Err(Errno::EPERM));
        drop((plain, file, cache, opened));
        world.finish();
    }

    pub fn sizes_are_sealed_each_way<F: Format>() {
        let world = World::<F>::new();
        let (cache, opened) = memory(&world);
        let size = cache.size();
        cache.add_seals(Seals::SHRINK.bits()).unwrap();
        assert_eq!(cache.truncate(size - 1), Err(Errno::EPERM));
        assert_eq!(cache.truncate(size + page::<F>()), Ok(()));
        cache.add_seals(Seals::GROW.bits()).unwrap();
        let size = cache.size();
        assert_eq!(cache.truncate(size + 1), Err(Errno::EPERM));
        assert_eq!(cache.truncate(size), Ok(()));
        assert_eq!(cache.write(size, &[1]), Err(Errno::EPERM));
        let across = vec![1; page::<F>() as usize + 1];
        let last = size - page::<F>();
        assert_eq!(
            cache.write(last, &across),
            Ok(page::<F>() as usize),
            "as far as the end, page by page"
        );
        assert_eq!(cache.write(size - 1, &[1, 2]), Ok(1));
        assert_eq!(cache.size(), size);
        assert_eq!(cache.punch_hole(0..1), Ok(()));
        drop((cache, opened));
        world.finish();
    }

    pub fn a_write_seal_stops_writers_and_waits_for_mappings<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let (cache, file) = memory(&world);
        let len = cache.size();
        let shared = |prot| MapRequest::file(file.clone(), len, prot, Map::SHARED);
        let at = mm.mmap(&shared(RW)).unwrap();
        poke(&mm, at, 7);
        let write = Seals::WRITE.bits();
        assert_eq!(cache.add_seals(write), Err(Errno::EBUSY));
        mm.mprotect(at, len, Prot::READ.bits()).unwrap();
        assert_eq!(
            cache.add_seals(write),
            Err(Errno::EBUSY),
            "it could become writable again"
        );
        mm.munmap(at, len).unwrap();
        assert_eq!(cache.add_seals(write), Ok(()));
        assert_eq!(cache.write(0, &[1]), Err(Errno::EPERM));
        assert_eq!(cache.punch_hole(0..1), Err(Errno::EPERM));
        assert_eq!(mm.mmap(&shared(RW)), Err(Errno::EPERM));
        let at = mm.mmap(&shared(Prot::READ)).unwrap();
        assert_eq!(peek(&mm, at), 7);
        assert_eq!(mm.mprotect(at, len, RW.bits()), Err(Errno::EACCES));
        let private = MapRequest::file(file.clone(), len, RW, Map::PRIVATE);
        let copy = mm.mmap(&private).unwrap();
        poke(&mm, copy, 9);
        assert_eq!((peek(&mm, at), peek(&mm, copy)), (7, 9));
        drop((mm, private, file, cache));
        world.finish();
    }

    pub fn a_future_write_seal_lets_mappings_go_on<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let (cache, file) = memory(&world);
        let len = cache.size();
        let request = MapRequest::file(file, len, RW, Map::SHARED);
        let at = mm.mmap(&request).unwrap();
        assert_eq!(cache.add_seals(Seals::FUTURE_WRITE.bits()), Ok(()));
        poke(&mm, at, 3);
        assert!(mm.handle_fault(plus::<F>(at, 1), Access::Write).is_ok());
        assert_eq!(mm.mmap(&request), Err(Errno::EPERM));
        assert_eq!(cache.write(0, &[1]), Err(Errno::EPERM));
        let child = mm.fork().unwrap();
        poke(&child, at, 4);
        assert_eq!(peek(&mm, at), 4);
        drop((child, mm, request, cache));
        world.finish();
    }
}
