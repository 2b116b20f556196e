//! The CPUs that run on a space, as flushes need to know them. Not for the scheduling of anything.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::platform::{CpuId, CpuSet, MAX_CPUS};

/// The CPUs that may hold translations of a space. `mm_cpumask`.
///
/// A flush reads it after the entries have changed, not before: a CPU that is added in between either is seen by the flush or walks the
/// tables after the change.
#[derive(Debug)]
pub struct ActiveCpus([AtomicU64; MAX_CPUS / 64]);

impl ActiveCpus {
    /// No CPU.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_CPUS / 64])
    }

    /// Adds a CPU, before its first walk. A number of [`MAX_CPUS`] or above is ignored.
    pub fn insert(&self, cpu: CpuId) {
        if let Some(word) = self.0.get(cpu.0 as usize / 64) {
            word.fetch_or(1 << (cpu.0 % 64), Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    /// Takes a CPU out that has dropped its translations and walks no more.
    pub fn remove(&self, cpu: CpuId) {
        if let Some(word) = self.0.get(cpu.0 as usize / 64) {
            word.fetch_and(!(1 << (cpu.0 % 64)), Ordering::SeqCst);
        }
    }

    /// Those that must be reached now so that none is left which walked before this call.
    pub fn snapshot(&self) -> CpuSet {
        fence(Ordering::SeqCst);
        let mut words = [0; MAX_CPUS / 64];
        for (word, cpus) in words.iter_mut().zip(&self.0) {
            *word = cpus.load(Ordering::Relaxed);
        }
        CpuSet::from_words(words)
    }
}

impl Default for ActiveCpus {
    fn default() -> Self {
        Self::new()
    }
}
