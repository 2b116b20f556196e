//! What an address space costs: Portolan on the in-memory machine beside the running kernel's own calls, in one run, as a table. The kernel's figures
//! are net of an empty system call, so that both sides show the work alone. `cargo bench --bench space`.

mod outer;
mod table;

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use portolan::addr::VirtAddr;
use portolan::machine::{Machine, Settings};
use portolan::paging::{Access, X86_64};
use portolan::platform::CpuId;
use portolan::sim::Sim;
use portolan::space::{MapRequest, Mm, MmConfig, MmUser, Prot};
use table::{Table, measure};

const PAGE: u64 = 4096;
const MEMORY: usize = (1 << 30) + (128 << 20);
/// Pages that are mapped when the cost of a page is measured.
const PAGES: u64 = 4096;
/// Pages that each thread faults in when the gain of a second thread is measured.
const SCALING_PAGES: u64 = 16 * 1024;
const MADV_DONTNEED: u32 = 4;
/// MREMAP_MAYMOVE | MREMAP_FIXED.
const MOVE: u32 = 3;
/// What a page-table page translates.
const HUGE: u64 = 2 << 20;
/// Bytes that are moved as one.
const MOVED: u64 = 1 << 30;

fn machine() -> Machine<Sim<X86_64>> {
    Machine::new(Sim::new(MEMORY, 2), Settings::default()).expect("a machine")
}

fn space(machine: &Machine<Sim<X86_64>>) -> MmUser<Sim<X86_64>> {
    Mm::new(machine, MmConfig::new::<X86_64>()).expect("a space")
}

fn anonymous(mm: &MmUser<Sim<X86_64>>, pages: u64) -> VirtAddr {
    let request = MapRequest::anonymous(pages * PAGE, Prot::READ | Prot::WRITE);
    mm.mmap(&request).expect("a mapping")
}

fn touch(mm: &MmUser<Sim<X86_64>>, start: VirtAddr, pages: u64) {
    for page in 0..pages {
        let at = VirtAddr::new(start.get() + page * PAGE);
        mm.handle_fault(at, Access::Write).expect("a page");
    }
}

fn map_unmap(mm: &MmUser<Sim<X86_64>>) -> f64 {
    measure(20_000, |turns| {
        for _ in 0..turns {
            let at = anonymous(mm, 1);
            mm.munmap(black_box(at), PAGE).expect("unmapped");
        }
    })
}

fn map_touch_unmap(mm: &MmUser<Sim<X86_64>>) -> f64 {
    measure(20_000, |turns| {
        for _ in 0..turns {
            let at = anonymous(mm, 1);
            touch(mm, at, 1);
            mm.munmap(at, PAGE).expect("unmapped");
        }
    })
}

fn protect_split_merge(mm: &MmUser<Sim<X86_64>>) -> f64 {
    let at = anonymous(mm, 3);
    touch(mm, at, 3);
    let middle = VirtAddr::new(at.get() + PAGE);
    let cost = measure(20_000, |turns| {
        for _ in 0..turns {
            mm.mprotect(middle, PAGE, Prot::READ.bits()).expect("split");
            mm.mprotect(middle, PAGE, (Prot::READ | Prot::WRITE).bits())
                .expect("merged");
        }
    });
    mm.munmap(at, 3 * PAGE).expect("unmapped");
    cost
}

fn fault(mm: &MmUser<Sim<X86_64>>) -> f64 {
    measure(PAGES, |pages| {
        let at = anonymous(mm, pages);
        let start = Instant::now();
        touch(mm, at, pages);
        let spent = start.elapsed();
        mm.munmap(at, pages * PAGE).expect("unmapped");
        table::Timed(spent)
    })
}

fn unmap_page(mm: &MmUser<Sim<X86_64>>) -> f64 {
    measure(PAGES, |pages| {
        let at = anonymous(mm, pages);
        touch(mm, at, pages);
        let start = Instant::now();
        mm.munmap(at, pages * PAGE).expect("unmapped");
        table::Timed(start.elapsed())
    })
}

fn drop_page(mm: &MmUser<Sim<X86_64>>) -> f64 {
    let at = anonymous(mm, PAGES);
    let cost = measure(PAGES, |pages| {
        touch(mm, at, pages);
        let start = Instant::now();
        mm.madvise(at, pages * PAGE, MADV_DONTNEED)
            .expect("dropped");
        table::Timed(start.elapsed())
    });
    mm.munmap(at, PAGES * PAGE).expect("unmapped");
    cost
}

fn exit_page(machine: &Machine<Sim<X86_64>>) -> f64 {
    measure(PAGES, |pages| {
        let mm = space(machine);
        let at = anonymous(&mm, pages);
        touch(&mm, at, pages);
        let start = Instant::now();
        drop(mm);
        table::Timed(start.elapsed())
    })
}

fn fork_exit_page(mm: &MmUser<Sim<X86_64>>) -> f64 {
    let at = anonymous(mm, PAGES);
    touch(mm, at, PAGES);
    let cost = measure(PAGES, |_| drop(black_box(mm.fork().expect("a child"))));
    mm.munmap(at, PAGES * PAGE).expect("unmapped");
    cost
}

/// Moves `bytes` of memory, touched in every page, to places where it is aligned alike, there and back. Nanoseconds for one move.
fn move_aligned(machine: &Machine<Sim<X86_64>>, bytes: u64) -> f64 {
    let mm = space(machine);
    let (mut at, mut to) = (
        VirtAddr::new(1 << 40),
        VirtAddr::new((1 << 40) + (5 << 30) + HUGE),
    );
    let request = MapRequest::anonymous(bytes, Prot::READ | Prot::WRITE);
    mm.mmap(&request.fixed(at)).expect("a mapping");
    touch(&mm, at, bytes / PAGE);
    measure(64, |turns| {
        for _ in 0..turns {
            mm.mremap(at, bytes, bytes, MOVE, to).expect("moved");
            (at, to) = (to, at);
        }
    })
}

/// How many times as much two threads fault in one space as one does, each in page-table pages of its own. The best of several runs: whatever else
/// runs on the machine only takes away from it.
fn scaling(machine: &Machine<Sim<X86_64>>) -> f64 {
    let mm = space(machine);
    let area = |cpu: u16| VirtAddr::new(0x10_0000_0000 + (u64::from(cpu) << 32));
    let fault_in = |cpu: u16| {
        Sim::<X86_64>::set_cpu(CpuId(cpu));
        let start = Instant::now();
        touch(&mm, area(cpu), SCALING_PAGES);
        start.elapsed().as_secs_f64()
    };
    let drop_all = || {
        for cpu in 0..2 {
            mm.madvise(area(cpu), SCALING_PAGES * PAGE, MADV_DONTNEED)
                .expect("dropped");
        }
    };
    for cpu in 0..2 {
        let request = MapRequest::anonymous(SCALING_PAGES * PAGE, Prot::READ | Prot::WRITE);
        mm.mmap(&request.fixed(area(cpu))).expect("a mapping");
    }
    let (mut alone, mut both) = (f64::MAX, f64::MAX);
    for _ in 0..40 {
        alone = alone.min(fault_in(0));
        drop_all();
        let together = Barrier::new(2);
        let slower = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                together.wait();
                fault_in(1)
            });
            together.wait();
            fault_in(0).max(other.join().expect("no panic"))
        });
        both = both.min(slower);
        drop_all();
    }
    2.0 * alone / both
}

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    // First, while this process is small: a fork here must not pay for the machine's memory.
    let theirs = outer::measure_all(PAGES);
    let machine = machine();
    let mm = space(&machine);
    // Neighbours, so that no call works at the edge of an empty space.
    let _low = anonymous(&mm, 1);
    let mut table = Table::new("address space, ns", &["portolan", "linux"]);
    table.row(
        "map + unmap of a page",
        &[map_unmap(&mm), theirs.map_unmap],
        Some(0.35),
    );
    table.row(
        "map + touch + unmap",
        &[map_touch_unmap(&mm), theirs.map_touch_unmap],
        None,
    );
    table.row(
        "protect, split and merge back",
        &[protect_split_merge(&mm), theirs.protect],
        None,
    );
    table.row(
        "anonymous fault, zeroed",
        &[fault(&mm), theirs.fault],
        Some(0.35),
    );
    table.row(
        "unmap, a touched page",
        &[unmap_page(&mm), theirs.unmap_page],
        None,
    );
    table.row(
        "DONTNEED, a touched page",
        &[drop_page(&mm), theirs.drop_page],
        None,
    );
    table.row(
        "exit, a touched page",
        &[exit_page(&machine), theirs.exit_page],
        None,
    );
    table.row(
        "fork and exit, a page",
        &[fork_exit_page(&mm), theirs.fork_exit_page],
        Some(0.3),
    );
    table.row(
        "move 1 GiB, aligned to 2 MiB",
        &[move_aligned(&machine, MOVED), theirs.move_aligned],
        None,
    );
    table.print();
    println!(
        "two threads that fault in one space: {:.2} times one (target 1.80)",
        scaling(&machine)
    );
}
