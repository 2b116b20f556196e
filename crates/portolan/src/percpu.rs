//! One value for each CPU, each on cache lines of its own: counters that a hot path writes without meeting another CPU.
//! Not for data that must be read exactly while it changes: a sum is exact only when the writers rest.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, Ordering};

use crate::phys::{FailPoint, OutOfMemory};
use crate::platform::{CpuId, Padded};

/// One `T` for each CPU of a machine. `DEFINE_PER_CPU`.
#[derive(Debug)]
pub struct PerCpu<T>(Vec<Padded<T>>);

impl<T: Default> PerCpu<T> {
    /// One default value for each of `cpus` CPUs.
    ///
    /// # Errors
    /// The heap is exhausted.
    pub fn new(cpus: usize, fail: &FailPoint) -> Result<Self, OutOfMemory> {
        fail.check()?;
        let mut values = Vec::new();
        values.try_reserve_exact(cpus).map_err(|_| OutOfMemory)?;
        values.resize_with(cpus, Padded::default);
        Ok(Self(values))
    }
}

impl<T> PerCpu<T> {
    /// The value of one CPU; a number beyond the last CPU wraps, since it is only a hint.
    pub fn of(&self, cpu: CpuId) -> &T {
        let at = cpu.0 as usize;
        match self.0.get(at) {
            Some(value) => &value.0,
            None => &self.0[at % self.0.len()].0,
        }
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

/// A sum that every CPU adds to without sharing a cache line. `struct percpu_counter`.
#[derive(Debug)]
pub struct Counter(PerCpu<AtomicI64>);

impl Counter {
    /// A counter at zero.
    ///
    /// # Errors
    /// The heap is exhausted.
    pub fn new(cpus: usize, fail: &FailPoint) -> Result<Self, OutOfMemory> {
        Ok(Self(PerCpu::new(cpus, fail)?))
    }

    /// Adds `by` from `cpu`.
    pub fn add(&self, cpu: CpuId, by: i64) {
        self.0.of(cpu).fetch_add(by, Ordering::Relaxed);
    }

    /// The sum; never below zero for a quantity that never is.
    pub fn sum(&self) -> i64 {
        self.0.iter().map(|part| part.load(Ordering::Relaxed)).sum()
    }
}
