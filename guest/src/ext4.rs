//! What an ext4 file system says of itself.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// Its first superblock, which is written last of all when one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    blocks: u64,
    block_bytes: u64,
}

impl Superblock {
    /// That of a disk; `None` where a file system was never finished on it.
    pub fn read(disk: impl AsRef<Path>) -> io::Result<Option<Self>> {
        let mut file = File::open(disk)?;
        file.seek(SeekFrom::Start(1024))?;
        let mut bytes = Vec::new();
        file.take(1024).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    /// Magic number and revision: what was never written may read as noise.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if bytes.get(56..58)? != [0x53, 0xef] || number(76)? != 1 {
            return None;
        }
        let more = if number(96)? & INCOMPAT_64BIT != 0 { number(336)? } else { 0 };
        Some(Self {
            blocks: u64::from(number(4)?) | u64::from(more) << 32,
            block_bytes: 1024u64.checked_shl(number(24)?.min(6))?,
        })
    }

    /// Whether a disk of so many bytes has room for a block more.
    pub fn can_grow(self, bytes: u64) -> bool {
        bytes / self.block_bytes > self.blocks
    }
}

/// Numbers of blocks have 64 bits.
const INCOMPAT_64BIT: u32 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn what_mkfs_makes_is_read() {
        let place = tempfile::tempdir().unwrap();
        let disk = place.path().join("disk");
        let mkfs = |bytes: u64, options: &[&str]| {
            File::create(&disk).unwrap().set_len(bytes).unwrap();
            assert_eq!(Superblock::read(&disk).unwrap(), None);
            // Where it is on nobody's path but root's.
            let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
            let made =
                Command::new("mkfs.ext4").env("PATH", path).arg("-qF").args(options).arg(&disk).status();
            assert!(made.unwrap().success());
            Superblock::read(&disk).unwrap().unwrap()
        };
        for options in [&[][..], &["-b", "4096", "-O", "64bit"], &["-b", "1024", "-O", "^64bit,^has_journal"]]
        {
            let made = mkfs(32 << 20, options);
            assert_eq!(made.blocks * made.block_bytes, 32 << 20, "{options:?}");
            assert!(!made.can_grow(32 << 20) && made.can_grow(33 << 20));
        }
    }

    proptest! {
        #[test]
        fn noise_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..1024), valid in any::<bool>()) {
            let mut bytes = bytes;
            if valid && bytes.len() > 80 {
                bytes[56..58].copy_from_slice(&[0x53, 0xef]);
                bytes[76..80].copy_from_slice(&[1, 0, 0, 0]);
            }
            if let Some(found) = Superblock::parse(&bytes) {
                prop_assert!(valid && found.block_bytes.is_power_of_two() && found.block_bytes <= 65_536);
            }
        }
    }
}
