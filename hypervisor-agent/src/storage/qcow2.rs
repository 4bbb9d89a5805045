//! As much of qcow2's header as tells an encrypted volume from anything else.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

const MAGIC: &[u8] = b"QFI\xfb";
const LUKS_MAGIC: &[u8] = b"LUKS\xba\xbe";
/// `crypt_method` of a file that is encrypted with LUKS.
const CRYPT_LUKS: u32 = 2;
/// The header extension that says where the LUKS header lies.
const EXTENSION_LUKS: u32 = 0x0537_be77;
const EXTENSION_END: u32 = 0;
/// Incompatible features that QEMU sets in the images that Holm has it make: that it was not closed, that it is corrupt. A
/// header asks for others only where somebody wrote it who had the file open: as for data in another file.
const FEATURES: u64 = 0b11;
/// The header and its extensions lie in the first cluster, of 64 KiB where `qemu-img` makes it.
const HEADER_BYTES: u64 = 64 * 1024;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Size of the disk in it.
    pub bytes: u64,
    /// Where its LUKS header lies, key slots included; absent where it is not encrypted with LUKS.
    pub luks: Option<Area>,
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Reads the header of a file.
pub fn read(path: &Path) -> io::Result<Header> {
    let mut bytes = Vec::new();
    File::open(path)?.take(HEADER_BYTES).read_to_end(&mut bytes)?;
    parse(&bytes).map_err(io::Error::other)
}

/// Refuses a file in which the LUKS header is not where it should be, or not whole.
pub fn check_luks(path: &Path, area: Area) -> io::Result<()> {
    let file = File::open(path)?;
    let mut magic = [0; LUKS_MAGIC.len()];
    file.read_exact_at(&mut magic, area.offset)?;
    let end = area.offset.checked_add(area.bytes);
    if magic == LUKS_MAGIC && end.is_some_and(|end| file.metadata().is_ok_and(|data| end <= data.len())) {
        Ok(())
    } else {
        Err(io::Error::other("its LUKS header is damaged"))
    }
}

fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
    const SHORT: &str = "its header is cut off";
    let u32_at = |at: usize| -> Result<u32, &'static str> {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
        Ok(u32::from_be_bytes(*field))
    };
    let u64_at = |at: usize| -> Result<u64, &'static str> {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
        Ok(u64::from_be_bytes(*field))
    };
    if !bytes.starts_with(MAGIC) {
        return Err("it does not begin as qcow2 does");
    }
    if u32_at(4)? != 3 {
        return Err("it is not version 3 of qcow2");
    }
    if u64_at(72)? & !FEATURES != 0 {
        return Err("it asks for features that no volume has");
    }
    let encrypted = u32_at(32)? == CRYPT_LUKS;
    let mut at = usize::try_from(u32_at(100)?).map_err(|_| SHORT)?;
    let mut luks = None;
    while encrypted && luks.is_none() {
        let (kind, length) =
            (u32_at(at)?, usize::try_from(u32_at(at.saturating_add(4))?).map_err(|_| SHORT)?);
        match kind {
            EXTENSION_LUKS => luks = Some(Area { offset: u64_at(at + 8)?, bytes: u64_at(at + 16)? }),
            EXTENSION_END => break,
            // Extensions are padded to 8 bytes; each moves on by at least its own 8.
            _ => {
                at = length
                    .checked_next_multiple_of(8)
                    .and_then(|data| at.checked_add(8 + data))
                    .ok_or(SHORT)?
            }
        }
    }
    Ok(Header { bytes: u64_at(24)?, luks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(crypt: u32, extensions: &[(u32, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(5u64 << 30).to_be_bytes());
        bytes[32..36].copy_from_slice(&crypt.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        for (kind, data) in extensions {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0; 8]);
        bytes
    }

    #[test]
    fn the_luks_pointer_is_found_behind_other_extensions() {
        let pointer = [0x1_0000u64.to_be_bytes(), 0x20_0000u64.to_be_bytes()].concat();
        let bytes = header(CRYPT_LUKS, &[(0xe279_2aca, b"raw"), (EXTENSION_LUKS, &pointer)]);
        let luks = Some(Area { offset: 0x1_0000, bytes: 0x20_0000 });
        assert_eq!(parse(&bytes), Ok(Header { bytes: 5 << 30, luks }));
        // Without the method the pointer means nothing; without the pointer the method means nothing.
        assert_eq!(parse(&header(0, &[(EXTENSION_LUKS, &pointer)])).unwrap().luks, None);
        assert_eq!(parse(&header(1, &[(EXTENSION_LUKS, &pointer)])).unwrap().luks, None);
        assert_eq!(parse(&header(CRYPT_LUKS, &[])).unwrap().luks, None);
    }

    #[test]
    fn what_no_volume_asks_for_is_refused() {
        let pointer = [0x1_0000u64.to_be_bytes(), 0x20_0000u64.to_be_bytes()].concat();
        let good = header(CRYPT_LUKS, &[(EXTENSION_LUKS, &pointer)]);
        for bit in 0..64 {
            let mut bytes = good.clone();
            bytes[72..80].copy_from_slice(&(1u64 << bit).to_be_bytes());
            assert_eq!(parse(&bytes).is_ok(), bit < 2, "feature {bit}");
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_refused() {
        let pointer = [0x1_0000u64.to_be_bytes(), 0x20_0000u64.to_be_bytes()].concat();
        let bytes = header(CRYPT_LUKS, &[(EXTENSION_LUKS, &pointer)]);
        for end in 0..bytes.len() - 8 {
            assert!(parse(&bytes[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), whole: bool) {
            if whole && bytes.len() >= 40 {
                bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
                bytes[32..36].copy_from_slice(&CRYPT_LUKS.to_be_bytes());
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn any_extensions_end_in_an_answer(kind: u32, length: u32, from in 0u32..200) {
            let mut bytes = header(CRYPT_LUKS, &[]);
            bytes[100..104].copy_from_slice(&from.to_be_bytes());
            bytes[104..108].copy_from_slice(&kind.to_be_bytes());
            bytes[108..112].copy_from_slice(&length.to_be_bytes());
            let _ = parse(&bytes);
        }
    }
}
