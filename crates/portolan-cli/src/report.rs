//! What `--stats` shows. Not for: how it is laid out (`table`) or counted (the kernel).

use portolan_kernel::stats::{Report, SpaceSummary};

use crate::table::{Table, Value};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// The table of a program that is done.
pub fn table(report: &Report) -> Table {
    let mut table = Table::default();
    calls(&mut table, report);
    faults(&mut table, report);
    if let Some(space) = &report.space {
        events(&mut table, space);
        memory(&mut table, space);
    }
    table
}

fn calls(table: &mut Table, report: &Report) {
    table.section("system calls", &["count", "errors"]);
    for call in &report.calls {
        table.row(
            call.name,
            &[Value::Count(call.calls), Value::Count(call.errors)],
        );
    }
    if report.unknown_calls != 0 {
        table.row(
            "(not built)",
            &[
                Value::Count(report.unknown_calls),
                Value::Count(report.unknown_calls),
            ],
        );
    }
    let total = |pick: fn(&portolan_kernel::stats::CallCount) -> u64| {
        report.calls.iter().map(pick).sum::<u64>() + report.unknown_calls
    };
    table.row(
        "total",
        &[
            Value::Count(total(|call| call.calls)),
            Value::Count(total(|call| call.errors)),
        ],
    );
}

fn faults(table: &mut Table, report: &Report) {
    let faults = &report.faults;
    table.section("page faults", &["minor", "major"]);
    for (kind, name) in ["read", "write", "execute"].into_iter().enumerate() {
        table.row(
            name,
            &[
                Value::Count(faults.minor[kind]),
                Value::Count(faults.major[kind]),
            ],
        );
    }
    table.section("faults that failed", &["count"]);
    let failed = [
        ("SIGSEGV", faults.segv),
        ("SIGBUS", faults.bus),
        ("out of memory", faults.out_of_memory),
    ];
    for (name, count) in failed {
        table.row(name, &[Value::Count(count)]);
    }
    table.row("signals delivered", &[Value::Count(report.signals)]);
}

/// How the library served the faults, and the work that it did besides.
fn events(table: &mut Table, space: &SpaceSummary) {
    table.section("work in the address space", &["count"]);
    for (name, count) in space.events.iter() {
        table.row(&name.replace('_', " "), &[Value::Count(count)]);
    }
}

fn memory(table: &mut Table, space: &SpaceSummary) {
    let pages = |pages: u64| [Value::Bytes(pages.saturating_mul(PAGE))];
    table.section("memory", &["size"]);
    table.row("peak resident set", &pages(space.peak_rss));
    table.row("resident at the end", &pages(space.rss.total()));
    table.row("of that anonymous", &pages(space.rss.anon));
    table.row("of that from files", &pages(space.rss.file));
    table.row("of that shared", &pages(space.rss.shmem));
    table.row("peak address space", &pages(space.counts.peak));
    table.row("page tables", &[Value::Bytes(space.table_bytes)]);
    table.section("at the end", &["count"]);
    table.row("mappings", &[Value::Count(space.mappings)]);
}
