//! What the frames in use hold, counted one by one when somebody asks, so that nobody pays for it otherwise. Not for who holds them.

use super::{FrameKind, Phys};
use crate::platform::Platform;

/// Frames by what they hold: `NR_ANON_MAPPED`, `NR_FILE_PAGES`, ...
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Census {
    /// Anonymous memory.
    pub anon: u64,
    /// Pages of files.
    pub cache: u64,
    /// Pages of shared anonymous memory.
    pub shmem: u64,
    /// Those of either that somebody besides the object refers to: that are mapped, or being read or written at this moment.
    pub mapped: u64,
    /// Page-table pages.
    pub tables: u64,
}

impl<P: Platform> Phys<P> {
    /// Looks at every frame: exact while nobody allocates, frees or maps. Takes no lock.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for page in self.pages.iter() {
            let refs = page.refs();
            let (count, has_owner) = match page.kind() {
                _ if refs == 0 => continue,
                FrameKind::Anon => (&mut census.anon, false),
                FrameKind::Table => (&mut census.tables, false),
                FrameKind::Cache => (&mut census.cache, true),
                FrameKind::Shmem => (&mut census.shmem, true),
                _ => continue,
            };
            *count += 1;
            census.mapped += u64::from(has_owner && refs > 1);
        }
        census
    }
}
