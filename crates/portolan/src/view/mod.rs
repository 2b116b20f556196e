//! What people read of a space: the files of `/proc/PID`. Text only, in Linux's own format; who may read what is the embedder's.

mod maps;

pub use maps::{write_maps, write_vsyscall};
