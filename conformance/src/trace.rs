//! What a side saw, as words: for each step a result, then what was looked at, each in a section with a tag. Two sides that agree have equal words.

/// What a section holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Tag {
    /// The number of the step, the depth of forks, the result, and what belongs to it.
    Result = 1,
    /// Three words an area: start and rights, end and name, offset.
    Maps,
    /// Pages: total, locked, data, stack, executable.
    Counts,
    /// A word a page: a hash of its bytes, or the signal.
    Memory,
    /// For each object its size and a hash a page.
    Files,
    /// For each area the figures of smaps, [`crate::smaps::AREA_WORDS`] words.
    Smaps,
    /// A word a page.
    Pagemap,
}

impl Tag {
    /// All of them.
    pub const ALL: [Tag; 7] = [
        Tag::Result,
        Tag::Maps,
        Tag::Counts,
        Tag::Memory,
        Tag::Files,
        Tag::Smaps,
        Tag::Pagemap,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Tag::Result => "result",
            Tag::Maps => "maps",
            Tag::Counts => "counts",
            Tag::Memory => "memory",
            Tag::Files => "files",
            Tag::Smaps => "smaps",
            Tag::Pagemap => "pagemap",
        }
    }
}

/// The bits of a word of pagemap that are compared: exclusive, guard, file or shared, swapped, present.
pub const PAGEMAP_BITS: u64 = 1 << 56 | 1 << 58 | 1 << 61 | 1 << 62 | 1 << 63;

/// Linux counts the pages of each area that it locks in 32 bits: more are not compared.
pub const LOCKED_BITS: u64 = u32::MAX as u64;

/// Where a side writes what it saw.
pub trait Sink {
    /// One more word.
    fn push(&mut self, word: u64);
    /// How many words there are.
    fn here(&self) -> usize;
    /// Changes a word.
    fn set(&mut self, at: usize, word: u64);

    /// Starts a section; [`Sink::close`] ends it.
    fn open(&mut self, tag: Tag) -> usize {
        let at = self.here();
        self.push((tag as u64) << 56);
        at
    }

    /// Ends the section that began at `at`.
    fn close(&mut self, at: usize) {
        let tag = self.tag_at(at);
        let len = (self.here() - at - 1) as u64;
        self.set(at, tag << 56 | len);
    }

    /// The tag of the section that begins at `at`.
    fn tag_at(&self, at: usize) -> u64;
}

impl Sink for Vec<u64> {
    fn push(&mut self, word: u64) {
        Vec::push(self, word);
    }

    fn here(&self) -> usize {
        Vec::len(self)
    }

    fn set(&mut self, at: usize, word: u64) {
        self[at] = word;
    }

    fn tag_at(&self, at: usize) -> u64 {
        self[at] >> 56
    }
}

/// A section of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section<'a> {
    /// What it holds.
    pub tag: Tag,
    /// Its words.
    pub words: &'a [u64],
}

/// The sections of a trace, as far as they are whole.
pub fn sections(mut words: &[u64]) -> impl Iterator<Item = Section<'_>> {
    std::iter::from_fn(move || {
        let (&head, rest) = words.split_first()?;
        let tag = *Tag::ALL.iter().find(|&&tag| tag as u64 == head >> 56)?;
        let len = (head & u32::MAX as u64) as usize;
        let section = rest.get(..len)?;
        words = &rest[len..];
        Some(Section {
            tag,
            words: section,
        })
    })
}

/// A signal as a result: below every errno.
pub fn signal_word(signal: i32, code: i32) -> i64 {
    -(0x1_0000 + i64::from(signal) * 256 + i64::from(code & 0xff))
}

/// What an area is called, as a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Name {
    /// Nothing.
    None = 0,
    /// The first object.
    First = 1,
    /// The second.
    Second = 2,
    /// Shared anonymous memory.
    Zero = 3,
    /// The heap.
    Heap = 4,
    /// Anything else.
    Other = 5,
}

/// The words of an area. `perms`: read 1, write 2, execute 4, shared 8.
pub fn area_words(start: u64, end: u64, perms: u64, offset: u64, name: Name) -> [u64; 3] {
    [start | perms, end | name as u64, offset]
}

/// A hash of one page's words.
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Takes a word in.
    pub fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }

    /// Takes bytes in, eight at a time; what is missing at the end counts as zeros.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    /// The hash: positive as a signed number, so that no signal looks like it.
    pub fn get(self) -> u64 {
        self.0 >> 1
    }
}
