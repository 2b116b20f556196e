//! The differential tester: sequences of memory calls, accesses, file operations, forks and limits, done on Linux for real and on the library, and
//! what both saw compared after every step.
//!
//! | module | what it is |
//! |---|---|
//! | [`calls`] | the table of calls: arguments, chance, and how each side does it |
//! | [`generate`] | how sequences are made up |
//! | [`linux`], [`ours`] | the two sides |
//! | [`trace`], [`smaps`], [`compare`] | what they saw, as words, and where it differs |
//! | [`shrink`], [`cprogram`] | a short sequence of a long one, and the C program of a sequence |
//! | [`run`], [`coverage`] | a run of many sequences, and what it reached |

pub mod arena;
pub mod arg;
pub mod calls;
pub mod compare;
pub mod coverage;
pub mod cprogram;
pub mod files;
pub mod generate;
pub mod later;
pub mod linux;
pub mod op;
pub mod ours;
pub mod random;
pub mod run;
pub mod shrink;
pub mod smaps;
pub mod trace;
