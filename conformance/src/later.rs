//! What a call asks for that happens when its result is written down: the same on both sides.

/// What is to be done when the section of the result is closed.
#[derive(Clone, Copy, Default, Debug)]
pub struct Later {
    /// Look at all memory and files.
    pub memory: bool,
    /// Look at the page counts.
    pub counts: bool,
    /// Look at the words of pagemap.
    pub pagemap: bool,
    /// Fork.
    pub fork: Option<Fork>,
}

/// Which fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fork {
    /// The child shows what it has.
    Show,
    /// The child goes on.
    Into,
    /// The child waits.
    Hold,
}
