//! One suite for every format: what the bits say, and what trees of them do on the in-memory machine.

/// Runs each of the named generic functions over every format.
macro_rules! every_format {
    ($($test:ident),* $(,)?) => {
        mod x86_64 { $(#[test] fn $test() { super::$test::<crate::paging::X86_64>(); })* }
        mod x86_64_la57 { $(#[test] fn $test() { super::$test::<crate::paging::X86_64La57>(); })* }
        mod aarch64_4k { $(#[test] fn $test() { super::$test::<crate::paging::Aarch64<crate::paging::Granule4K>>(); })* }
        mod aarch64_16k { $(#[test] fn $test() { super::$test::<crate::paging::Aarch64<crate::paging::Granule16K>>(); })* }
        mod aarch64_64k { $(#[test] fn $test() { super::$test::<crate::paging::Aarch64<crate::paging::Granule64K>>(); })* }
        mod aarch64_4k_soft { $(#[test] fn $test() { super::$test::<crate::paging::Aarch64Soft<crate::paging::Granule4K>>(); })* }
        mod aarch64_16k_soft { $(#[test] fn $test() { super::$test::<crate::paging::Aarch64Soft<crate::paging::Granule16K>>(); })* }
        mod aarch64_64k_soft { $(#[test] fn $test() { super::$test::<crate::paging::Aarch64Soft<crate::paging::Granule64K>>(); })* }
    };
}

#[cfg(feature = "sim")]
mod batch;
mod bits;
#[cfg(feature = "sim")]
mod race;
#[cfg(feature = "sim")]
mod tree;
#[cfg(feature = "sim")]
mod world;
