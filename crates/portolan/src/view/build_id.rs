//! The build id of an ELF file: what tells two builds of a program apart. Read from the notes that its program headers name. `lib/buildid.c`.

/// The most bytes a build id has. `BUILD_ID_SIZE_MAX`.
const MOST: usize = 20;
const MAGIC: [u8; 4] = *b"\x7fELF";
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
/// Program headers that are looked at. `MAX_PHDR_CNT`.
const MOST_HEADERS: u16 = 256;
/// Bytes of notes that are looked at in one header: more than any linker writes, so that a hostile file costs little.
const MOST_NOTES: u64 = 1 << 20;

/// A build id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BuildId {
    bytes: [u8; MOST],
    len: usize,
}

impl BuildId {
    /// Its bytes, 1 to 20.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The build id of a file; `read` fills a buffer from an offset on, all of it or not. `None`: not an ELF file of a 32- or 64-bit little-endian
    /// machine, or without an id.
    pub(super) fn of(read: impl Fn(u64, &mut [u8]) -> Option<()>) -> Option<Self> {
        let mut header = [0; 64];
        read(0, &mut header[..52])?;
        let wide = match (&header[..4], header[4]) {
            (magic, 1) if *magic == MAGIC => false,
            (magic, 2) if *magic == MAGIC => true,
            _ => return None,
        };
        if wide {
            read(0, &mut header)?;
        }
        let (table, entry) = match wide {
            true => (u64_at(&header, 32), 56),
            false => (u64::from(u32_at(&header, 28)), 32),
        };
        let count = u16_at(&header, if wide { 56 } else { 44 });
        (0..count.min(MOST_HEADERS)).find_map(|n| {
            let mut program = [0; 56];
            let at = table.checked_add(u64::from(n) * entry)?;
            read(at, &mut program[..entry as usize])?;
            if u32_at(&program, 0) != PT_NOTE {
                return None;
            }
            let (offset, size) = match wide {
                true => (u64_at(&program, 8), u64_at(&program, 32)),
                false => (
                    u64::from(u32_at(&program, 4)),
                    u64::from(u32_at(&program, 16)),
                ),
            };
            Self::in_notes(&read, offset, offset.checked_add(size.min(MOST_NOTES))?)
        })
    }

    fn in_notes(read: &impl Fn(u64, &mut [u8]) -> Option<()>, at: u64, end: u64) -> Option<Self> {
        let mut at = at;
        while at.checked_add(12)? <= end {
            let mut note = [0; 16];
            read(at, &mut note[..12])?;
            let (name, desc) = (u32_at(&note, 0), u32_at(&note, 4));
            let aligned = |len: u32| (u64::from(len) + 3) & !3;
            let desc_at = at.checked_add(12)?.checked_add(aligned(name))?;
            let next = desc_at.checked_add(aligned(desc))?;
            let fits = next <= end && desc != 0 && desc as usize <= MOST;
            if u32_at(&note, 8) == NT_GNU_BUILD_ID && name == 4 && fits {
                read(at + 12, &mut note[12..])?;
                if note[12..] == *b"GNU\0" {
                    let (mut bytes, len) = ([0; MOST], desc as usize);
                    read(desc_at, &mut bytes[..len])?;
                    return Some(Self { bytes, len });
                }
            }
            at = next;
        }
        None
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn of(file: &[u8]) -> Option<BuildId> {
        BuildId::of(|at, into| {
            let at = usize::try_from(at).ok()?;
            let part = file.get(at..at.checked_add(into.len())?)?;
            into.copy_from_slice(part);
            Some(())
        })
    }

    /// A 64-bit file with one header for notes: another note, then an id.
    fn file() -> Vec<u8> {
        let mut file = alloc::vec![0; 64];
        file[..5].copy_from_slice(b"\x7fELF\x02");
        file[32] = 64;
        file[56] = 1;
        let mut header = [0; 56];
        header[0] = 4;
        header[8] = 120;
        header[32] = 20 + 36;
        file.extend_from_slice(&header);
        file.extend_from_slice(b"\x02\0\0\0\x01\0\0\0\x03\0\0\0x\0\0\0\x07\0\0\0");
        file.extend_from_slice(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0");
        file.extend((1..=20).collect::<Vec<u8>>());
        file
    }

    #[test]
    fn the_note_of_a_linker_is_found_behind_others() {
        let id = of(&file()).expect("an id");
        assert_eq!(id.as_bytes(), (1..=20).collect::<Vec<u8>>());
    }

    #[test]
    fn damaged_files_have_none() {
        let whole = file();
        (0..whole.len()).for_each(|len| assert_eq!(of(&whole[..len]), None, "cut at {len}"));
        for (at, value) in [(0, 0), (4, 3), (64, 1), (72, 255), (140, 255), (144, 255)] {
            let mut file = whole.clone();
            file[at] = value;
            assert_eq!(of(&file), None, "byte {at}");
        }
        let mut endless = whole.clone();
        endless[96..104].fill(0xff);
        assert!(of(&endless).is_some(), "a size beyond the file is cut");
    }
}
