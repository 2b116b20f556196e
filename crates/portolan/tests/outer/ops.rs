//! What both sides are told to do, and how sequences of it are made up.

/// Pages that the calls are about.
pub const ARENA: u64 = 64;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Where the arena lies, on both sides.
pub const BASE: u64 = 0x10_0000_0000;

/// One step. Addresses and lengths are in bytes, addresses from the arena's start.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `file`: 0 none, 1 opened for both, 2 for reading, 3 the other file. `addr` is absolute when `at` is false.
    Mmap {
        addr: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: u8,
        offset: u64,
    },
    Munmap {
        addr: u64,
        len: u64,
    },
    Mprotect {
        addr: u64,
        len: u64,
        prot: u32,
    },
    /// With `back`, what ended outside the arena is moved there.
    Mremap {
        addr: u64,
        old: u64,
        new: u64,
        flags: u32,
        to: u64,
        back: u64,
    },
    Madvise {
        addr: u64,
        len: u64,
        advice: u32,
    },
    Msync {
        addr: u64,
        len: u64,
        flags: u32,
    },
    Load {
        addr: u64,
    },
    Store {
        addr: u64,
        value: u8,
    },
    /// Stores to so many pages in a row.
    Fill {
        page: u64,
        pages: u64,
        value: u8,
    },
    Truncate {
        file: u8,
        size: u64,
    },
    Pwrite {
        file: u8,
        offset: u64,
        value: u8,
    },
    /// Every byte that differs in the arena, first of each page.
    Dump,
    /// A child shows what it has, and ends.
    ForkShow,
    /// The child goes on; the parent shows what it has when the child has ended.
    ForkInto,
    /// The child waits, and shows what it has at the end.
    ForkHold,
}

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An address in the arena.
    fn addr(&mut self) -> u64 {
        let page = if self.one_in(3) {
            self.below(ARENA)
        } else {
            8 + self.below(20)
        };
        page * PAGE
            + if self.one_in(60) {
                self.pick(&[1, 8, 4095])
            } else {
                0
            }
    }

    fn len(&mut self) -> u64 {
        if self.one_in(60) {
            return self.pick(&[
                0,
                1,
                4095,
                4097,
                u64::MAX,
                u64::MAX - 4095,
                1 << 47,
                1 << 46,
            ]);
        }
        PAGE * if self.one_in(6) {
            1 + self.below(24)
        } else {
            1 + self.below(5)
        }
    }

    fn prot(&mut self) -> u32 {
        self.pick(&[3, 3, 3, 3, 1, 1, 0, 2, 5, 7, 4])
    }

    fn op(&mut self) -> Op {
        let (addr, len) = (self.addr(), self.len());
        match self.below(100) {
            0..20 => self.mmap(addr, len),
            20..29 => Op::Munmap { addr, len },
            29..41 => {
                let grows = if self.one_in(12) {
                    self.pick(&[0x0100_0000, 0x0200_0000, 0x0300_0000, 8, 0x10])
                } else {
                    0
                };
                let len = if len == 1 << 47 { 0 } else { len };
                Op::Mprotect {
                    addr,
                    len,
                    prot: self.prot() | grows,
                }
            }
            41..54 => self.mremap(addr, len),
            54..64 => Op::Madvise {
                addr,
                len: if len == 1 << 47 { 0 } else { len },
                advice: self.pick(&[
                    0, 1, 2, 3, 4, 4, 4, 8, 8, 9, 9, 10, 11, 16, 17, 18, 19, 22, 23, 22, 23, 24,
                ]),
            },
            64..66 => Op::Msync {
                addr,
                len,
                flags: self.pick(&[0, 1, 2, 4, 5, 6, 4]),
            },
            66..70 => Op::Load { addr },
            70..78 => Op::Store {
                addr,
                value: self.next() as u8,
            },
            78..86 => Op::Fill {
                page: addr / PAGE,
                pages: 1 + self.below(8),
                value: self.next() as u8,
            },
            86..89 => Op::Truncate {
                file: self.pick(&[1, 1, 3]),
                size: self.below(10) * PAGE + self.pick(&[0, 0, 1, 2000]),
            },
            89..91 => Op::Pwrite {
                file: self.pick(&[1, 1, 3]),
                offset: self.below(10) * PAGE + self.below(PAGE),
                value: self.next() as u8,
            },
            91..96 => Op::Dump,
            96 => Op::ForkShow,
            97 => Op::ForkInto,
            _ => Op::ForkHold,
        }
    }

    fn mmap(&mut self, addr: u64, len: u64) -> Op {
        let place = self.pick(&[0x10, 0x10, 0x10, 0x10, 0x10, 0x100000, 0]);
        let file = self.pick(&[0, 0, 0, 0, 0, 1, 1, 1, 2, 3]);
        let kind = if self.one_in(40) {
            self.pick(&[0, 3, 8])
        } else if self.one_in(3) {
            1
        } else {
            2
        };
        let extra = match self.below(24) {
            0 => 0x4000,
            1 => 0x8000,
            2 => 0x18000,
            3 => 0x2000,
            4..=6 => 0x100,
            7 => 0x20000,
            8 => 0x800,
            _ => 0,
        };
        let anonymous = if file == 0 { 0x20 } else { 0 };
        let offset = self.below(8) * PAGE + if self.one_in(60) { 100 } else { 0 };
        Op::Mmap {
            addr,
            len,
            prot: self.prot(),
            flags: place | kind | extra | anonymous,
            file,
            offset,
        }
    }

    fn mremap(&mut self, addr: u64, len: u64) -> Op {
        let old = if self.one_in(12) { 0 } else { len };
        let new = if self.one_in(2) { old } else { self.len() };
        let flags = self.pick(&[0, 1, 1, 3, 3, 3, 5, 7, 7, 2, 4]);
        let flags = if self.one_in(60) { flags | 8 } else { flags };
        Op::Mremap {
            addr,
            old,
            new,
            flags,
            to: self.addr(),
            back: self.below(ARENA - 8) * PAGE,
        }
    }
}

/// The sequence of a seed.
pub fn sequence(seed: u64) -> Vec<Op> {
    let mut random = Random(seed);
    let length = 4 + random.below(44);
    let mut forks = 0;
    let mut ops = Vec::new();
    while (ops.len() as u64) < length {
        let op = random.op();
        if matches!(op, Op::ForkShow | Op::ForkInto | Op::ForkHold) {
            forks += 1;
            if forks > 3 {
                continue;
            }
        }
        ops.push(op);
    }
    ops
}
