//! A sequence as a C program that a person can compile and run: it prints what Linux does.

use crate::arena::{ARENA_END, BASE, HEAP, PAGES, STACK, TASK_END};
use crate::arg::{Arg, Args, Kind, write_arg};
use crate::op::{Sequence, User};

const HEAD: &str = include_str!("cprogram.h.txt");

/// The program. It needs root where the sequence places a heap or becomes another user.
pub fn program(sequence: &Sequence) -> String {
    let constants = format!(
        "#define A {BASE:#x}UL\n#define ARENA_END {ARENA_END:#x}UL\n#define TASK_END {TASK_END:#x}UL\n#define HEAP {HEAP:#x}UL\n\
         #define ARENA_PAGES {PAGES}\n#define STACK_LIMIT {STACK}\n#define FILE_SIZE {}\n",
        crate::files::SIZE
    );
    let nobody = match sequence.user {
        User::Root => "",
        User::Nobody => "    become_nobody();\n",
    };
    let steps: String = sequence
        .ops
        .iter()
        .map(|op| format!("    {}\n", op.call.c(&op.args)))
        .collect();
    format!(
        "{constants}{HEAD}\nint main(void) {{\n    start();\n{nobody}{steps}    show();\n    memory();\n    release_held();\n    return 0;\n}}\n"
    )
}

/// An address in C.
pub fn address(value: u64) -> String {
    match write_arg(Kind::Addr, value) {
        text if text.starts_with('A') => text,
        text => format!("{text}UL"),
    }
}

/// A file in C.
pub fn file(value: u64) -> String {
    format!("fds[{}]", value.min(4))
}

/// An argument in C.
pub fn named(args: &[Arg], values: &Args, at: usize) -> String {
    let value = values[at];
    match args[at].kind {
        Kind::Addr => address(value),
        Kind::File => file(value),
        Kind::Len | Kind::Number => format!("{value:#x}UL"),
        kind => write_arg(kind, value),
    }
}

/// `say("name", syscall(SYS_name, ...));`
pub fn system_call(name: &str, args: &[Arg], values: &Args) -> String {
    let shown: String = (0..args.len())
        .map(|at| format!(", {}", named(args, values, at)))
        .collect();
    format!("say(\"{name}\", syscall(SYS_{name}{shown}));")
}
