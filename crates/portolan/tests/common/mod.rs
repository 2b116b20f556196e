//! A machine and a space to test on, over any format, with what every test ends with: all frames are free again.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::sync::Mutex;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::machine::{Machine, Settings};
use portolan::object::{Backing, Cache, File, FileIdentity, FileMode, FileSpec};
use portolan::paging::{Access, Format};
use portolan::sim::Sim;
use portolan::space::{FaultError, MapRequest, Mm, MmConfig, MmUser, Prot};

/// Memory of a test machine.
pub const MEMORY: usize = 64 << 20;

/// A machine that knows how many frames it started with.
pub struct World<F: Format> {
    pub machine: Machine<Sim<F>>,
    free: u64,
}

impl<F: Format> World<F> {
    pub fn new() -> Self {
        Self::with_memory(MEMORY)
    }

    pub fn with_memory(bytes: usize) -> Self {
        Self::with_machine(
            Machine::new(Sim::new(bytes, 2), Settings::default()).expect("a machine"),
        )
    }

    pub fn with_machine(machine: Machine<Sim<F>>) -> Self {
        let free = machine.phys().free_frames();
        Self { machine, free }
    }

    pub fn space(&self) -> MmUser<Sim<F>> {
        Mm::new(&self.machine, MmConfig::new::<F>()).expect("a space")
    }

    /// A file with these bytes, open for reading and writing.
    pub fn file(&self, bytes: &[u8]) -> Arc<File<Sim<F>>> {
        self.file_opened(bytes, FileMode::READ | FileMode::WRITE)
    }

    pub fn file_opened(&self, bytes: &[u8], mode: FileMode) -> Arc<File<Sim<F>>> {
        let backing = Arc::new(Bytes(Mutex::new(bytes.to_vec())));
        let cache = Cache::new(&self.machine, backing, bytes.len() as u64).expect("a cache");
        self.open(cache, mode)
    }

    /// An opening of a file.
    pub fn open(&self, cache: Arc<Cache<Sim<F>>>, mode: FileMode) -> Arc<File<Sim<F>>> {
        let identity = FileIdentity {
            major: 8,
            minor: 1,
            inode: 42,
        };
        let spec = FileSpec {
            cache: Some(cache),
            mode,
            identity,
            path: b"/test/file".to_vec(),
            operations: None,
        };
        File::new(&self.machine, spec).expect("a file")
    }

    /// Every frame came back. Everything made on the machine must have been dropped.
    pub fn finish(self) {
        self.machine.quiesce();
        assert_eq!(
            self.machine.phys().free_frames(),
            self.free,
            "frames are missing"
        );
    }
}

/// A file's content in a vector.
pub struct Bytes(pub Mutex<Vec<u8>>);

impl Backing for Bytes {
    fn read_page(&self, index: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.0.lock().unwrap();
        let start = (index as usize * buf.len()).min(bytes.len());
        let end = (start + buf.len()).min(bytes.len());
        buf.fill(0);
        buf[..end - start].copy_from_slice(&bytes[start..end]);
        Ok(())
    }

    fn write_page(&self, index: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut bytes = self.0.lock().unwrap();
        let start = index as usize * buf.len();
        let end = (start + buf.len()).min(bytes.len());
        if start < end {
            bytes[start..end].copy_from_slice(&buf[..end - start]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
}

/// The size of a page in bytes.
pub fn page<F: Format>() -> u64 {
    F::GRANULE.bytes()
}

/// Private anonymous read-write memory of `pages` pages.
pub fn anonymous<F: Format>(mm: &MmUser<Sim<F>>, pages: u64) -> VirtAddr {
    mm.mmap(&MapRequest::anonymous(
        pages * page::<F>(),
        Prot::READ | Prot::WRITE,
    ))
    .expect("a mapping")
}

/// `at` and `pages` pages after it.
pub fn plus<F: Format>(at: VirtAddr, pages: u64) -> VirtAddr {
    VirtAddr::new(at.get() + pages * page::<F>())
}

/// Writes one byte as a program would.
pub fn poke<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr, value: u8) {
    mm.copy_to_user(at, &[value]).expect("writable");
}

/// Reads one byte as a program would.
pub fn peek<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr) -> u8 {
    let mut byte = [0];
    mm.copy_from_user(at, &mut byte).expect("readable");
    byte[0]
}

/// The si_code of the signal that an access brings.
pub fn signal_code<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr, access: Access) -> Option<i32> {
    match mm.handle_fault(at, access) {
        Err(FaultError::Signal(fault)) => Some(fault.code.si_code()),
        _ => None,
    }
}

/// The lines of `/proc/PID/maps`, addresses relative to `base` in pages, without the file's identity.
pub fn map_lines<F: Format>(mm: &MmUser<Sim<F>>, base: VirtAddr) -> Vec<String> {
    let mut lines = Vec::new();
    mm.for_each_area(|area| {
        let place = |at: VirtAddr| at.get().wrapping_sub(base.get()) as i64 / page::<F>() as i64;
        lines.push(format!(
            "{}..{} {:?} +{}",
            place(area.range.start()),
            place(area.range.end()),
            area.flags & (portolan::object::VmFlags::ACCESS | portolan::object::VmFlags::SHARED),
            area.offset / page::<F>()
        ));
    });
    lines
}

/// Runs a generic test over every page-table format.
#[macro_export]
macro_rules! over_formats {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            #[test]
            fn x86_64() { super::generic::$test::<portolan::paging::X86_64>(); }
            #[test]
            fn x86_64_la57() { super::generic::$test::<portolan::paging::X86_64La57>(); }
            #[test]
            fn aarch64_4k() { super::generic::$test::<portolan::paging::Aarch64<portolan::paging::Granule4K>>(); }
            #[test]
            fn aarch64_16k() { super::generic::$test::<portolan::paging::Aarch64<portolan::paging::Granule16K>>(); }
            #[test]
            fn aarch64_64k() { super::generic::$test::<portolan::paging::Aarch64<portolan::paging::Granule64K>>(); }
            #[test]
            fn aarch64_soft_4k() { super::generic::$test::<portolan::paging::Aarch64Soft<portolan::paging::Granule4K>>(); }
            #[test]
            fn aarch64_soft_64k() { super::generic::$test::<portolan::paging::Aarch64Soft<portolan::paging::Granule64K>>(); }
        })*
    };
}
