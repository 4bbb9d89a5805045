//! A LUKS2 header, checked by its own checksums, and by what Holm puts into one.
//!
//! There are two copies, each a binary part of 4 KiB and a JSON part, each under one checksum (LUKS2 On-Disk Format
//! Specification 1.1). Whatever is not as Holm made it is refused before `cryptsetup` acts on it: a header may name a
//! cipher that encrypts nothing (CVE-2025-59054).

use aws_lc_rs::digest;
use holm_proto::ids::VolumeId;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Each copy's size, as `cryptsetup` makes it.
const COPY_BYTES: usize = 16 << 10;
/// Both copies.
pub const BYTES: usize = 2 * COPY_BYTES;
/// Where the data begins: before it lie header and key slots.
pub const DATA_OFFSET: u64 = 16 << 20;
/// Bytes that are encrypted as one.
pub const SECTOR_BYTES: u32 = 4096;
/// The cipher.
pub const CIPHER: &str = "aes-xts-plain64";
/// Two keys of AES-256, bits.
pub const KEY_BITS: u32 = 512;

const MAGICS: [&[u8]; 2] = [b"LUKS\xba\xbe", b"SKUL\xba\xbe"];
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// Why a header is not the one that a volume should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Neither copy is there.
    #[error("header damaged: there is none")]
    Missing,
    /// One copy is whole, as a change that is cut off leaves it.
    #[error("header damaged: one of its two copies is not whole, or older")]
    Torn,
    /// No copy is whole.
    #[error("header damaged: neither of its two copies is whole")]
    Damaged,
    /// It is whole, and another volume's.
    #[error("the header is another volume's")]
    Foreign,
    /// It is whole, and not as Holm makes them.
    #[error("the header is not as Holm makes them: {0}")]
    Unlike(&'static str),
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many keys open it.
    pub slots: usize,
}

/// Whether an area begins as LUKS does, in either copy.
pub fn is_luks(bytes: &[u8]) -> bool {
    MAGICS
        .iter()
        .zip([0, COPY_BYTES])
        .any(|(magic, at)| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic)))
}

/// Checks the head of a device: its first [`BYTES`] or more.
pub fn check(bytes: &[u8], volume: VolumeId) -> Result<Header, Fault> {
    if !is_luks(bytes) {
        return Err(Fault::Missing);
    }
    let copies = [(0, MAGICS[0]), (COPY_BYTES, MAGICS[1])]
        .map(|(at, magic)| bytes.get(at..at + COPY_BYTES).and_then(|copy| whole(copy, magic, at)));
    let [first, second] = match copies {
        [Some(first), Some(second)] => [first, second],
        [None, None] => return Err(Fault::Damaged),
        _ => return Err(Fault::Torn),
    };
    if first != second {
        return Err(Fault::Torn);
    }
    if first.uuid != volume.to_string().as_bytes() {
        return Err(Fault::Foreign);
    }
    as_made(first.json)
}

#[derive(PartialEq, Eq)]
struct Whole<'a> {
    sequence: &'a [u8],
    uuid: &'a [u8],
    json: &'a [u8],
}

/// A copy whose checksum is right and that lies where it says.
fn whole<'a>(copy: &'a [u8], magic: &[u8], at: usize) -> Option<Whole<'a>> {
    let number = |at: usize| Some(u64::from_be_bytes(*copy.get(at..)?.first_chunk()?));
    let text = |range: std::ops::Range<usize>| copy.get(range)?.split(|byte| *byte == 0).next();
    let version = copy.get(6..8)? == 2u16.to_be_bytes();
    let lies = number(8)? == COPY_BYTES as u64 && number(256)? == at as u64;
    if !copy.starts_with(magic) || !version || !lies || text(72..104)? != b"sha256" {
        return None;
    }
    let mut summed = copy.to_vec();
    summed.get_mut(CHECKSUM)?.fill(0);
    let sum = digest::digest(&digest::SHA256, &summed);
    (copy.get(CHECKSUM)?.get(..32)? == sum.as_ref()).then_some(Whole {
        sequence: copy.get(16..24)?,
        uuid: text(168..208)?,
        json: text(4096..COPY_BYTES)?,
    })
}

#[derive(Deserialize)]
struct Json {
    keyslots: BTreeMap<String, Slot>,
    tokens: BTreeMap<String, serde_json::Value>,
    segments: BTreeMap<String, Segment>,
    config: Config,
}

#[derive(Deserialize)]
struct Slot {
    #[serde(rename = "type")]
    kind: String,
    key_size: u32,
    area: Area,
}

#[derive(Deserialize)]
struct Area {
    encryption: String,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    iv_tweak: String,
    encryption: String,
    sector_size: u32,
    integrity: Option<serde_json::Value>,
    flags: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Config {
    flags: Option<serde_json::Value>,
    requirements: Option<serde_json::Value>,
}

fn as_made(json: &[u8]) -> Result<Header, Fault> {
    let json: Json = serde_json::from_slice(json).map_err(|_| Fault::Unlike("it cannot be read"))?;
    let must = |is: bool, what| if is { Ok(()) } else { Err(Fault::Unlike(what)) };
    let segments: Vec<&Segment> = json.segments.values().collect();
    let [segment] = segments.as_slice() else { return Err(Fault::Unlike("it has not one segment")) };
    must(segment.kind == "crypt" && segment.integrity.is_none(), "its segment is not of plain dm-crypt")?;
    must(segment.flags.is_none(), "its segment has flags")?;
    must(segment.encryption == CIPHER, "it has another cipher")?;
    must(segment.sector_size == SECTOR_BYTES, "it has another sector size")?;
    let lies =
        segment.offset == DATA_OFFSET.to_string() && segment.size == "dynamic" && segment.iv_tweak == "0";
    must(lies, "its data lies elsewhere")?;
    must(!json.keyslots.is_empty(), "it has no key slot")?;
    for slot in json.keyslots.values() {
        let plain = slot.kind == "luks2" && slot.area.encryption == CIPHER && slot.key_size == KEY_BITS / 8;
        must(plain, "a key slot has another cipher")?;
    }
    must(json.tokens.is_empty(), "it has tokens")?;
    must(json.config.flags.is_none(), "it has flags of its own")?;
    must(json.config.requirements.is_none(), "it is being encrypted anew")?;
    Ok(Header { slots: json.keyslots.len() })
}

#[cfg(test)]
mod tests {
    use super::{super::crypt, *};
    use crate::edge::Key;
    use std::{fs, path::Path, process::Command};

    fn id() -> VolumeId {
        "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap()
    }

    fn key(byte: u8) -> Key {
        Key::new(Box::new([byte; 32]))
    }

    /// A file that `cryptsetup` has made a header in, as on a device. It needs no dm-crypt for that.
    fn made(file: &Path) -> Vec<u8> {
        fs::write(file, "").unwrap();
        fs::File::options().write(true).open(file).unwrap().set_len(DATA_OFFSET + (1 << 20)).unwrap();
        crypt::format(file, id(), &key(7)).unwrap();
        let mut bytes = fs::read(file).unwrap();
        bytes.truncate(BYTES);
        bytes
    }

    #[test]
    fn what_cryptsetup_makes_is_whole_and_any_flipped_bit_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = made(file.path());
        assert_eq!(check(&bytes, id()), Ok(Header { slots: 1 }));
        let other = "6f9619ff-8b86-4d01-b42d-00cf4fc96400".parse().unwrap();
        assert_eq!(check(&bytes, other), Err(Fault::Foreign));
        // Every byte that says something, some of the padding, and all of the checksum.
        for at in (0..512).chain((512..COPY_BYTES).step_by(97)).chain(4096..4500) {
            for copy in [0, COPY_BYTES] {
                let mut flipped = bytes.clone();
                flipped[copy + at] ^= 0x10;
                // The checksum's field is longer than the checksum.
                let unused = CHECKSUM.contains(&at) && at >= CHECKSUM.start + 32;
                let expected = if unused { Ok(Header { slots: 1 }) } else { Err(Fault::Torn) };
                assert_eq!(check(&flipped, id()), expected, "{at} of {copy}");
                flipped[(copy + COPY_BYTES) % BYTES + 8] ^= 1;
                let expected = if unused { Fault::Torn } else { Fault::Damaged };
                assert_eq!(check(&flipped, id()), Err(expected), "{at} of {copy}, and the other");
            }
        }
        assert_eq!(check(&[0; BYTES], id()), Err(Fault::Missing));
        for end in [0, 6, 512, COPY_BYTES, BYTES - 1] {
            assert!(check(&bytes[..end], id()).is_err());
        }
    }

    #[test]
    fn an_older_copy_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = made(file.path());
        crypt::add_key(file.path(), &key(7), &key(8)).unwrap();
        let mut after = fs::read(file.path()).unwrap();
        after.truncate(BYTES);
        assert_eq!(check(&after, id()), Ok(Header { slots: 2 }));
        let torn = [&after[..COPY_BYTES], &before[COPY_BYTES..]].concat();
        assert_eq!(check(&torn, id()), Err(Fault::Torn));
    }

    /// Writes JSON into both copies, and the right checksums.
    fn with_json(bytes: &[u8], change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for copy in bytes.chunks_mut(COPY_BYTES) {
            let text = copy[4096..].split(|byte| *byte == 0).next().unwrap();
            let mut json = serde_json::from_slice(text).unwrap();
            change(&mut json);
            copy[4096..].fill(0);
            let text = json.to_string();
            copy[4096..4096 + text.len()].copy_from_slice(text.as_bytes());
            copy[CHECKSUM].fill(0);
            let sum = digest::digest(&digest::SHA256, copy);
            copy[CHECKSUM][..32].copy_from_slice(sum.as_ref());
        }
        bytes
    }

    #[test]
    fn a_whole_header_that_encrypts_otherwise_is_refused() {
        use serde_json::{Value, json};
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = made(file.path());
        assert_eq!(check(&with_json(&bytes, |_| ()), id()), Ok(Header { slots: 1 }));
        let changes: [(&str, &str, Value); 10] = [
            ("/segments/0/encryption", "cipher", json!("cipher_null-ecb")),
            ("/segments/0/type", "dm-crypt", json!("linear")),
            ("/segments/0/offset", "elsewhere", json!("33554432")),
            ("/segments/0/size", "elsewhere", json!("1048576")),
            ("/segments/0/sector_size", "sector", json!(512)),
            ("/segments", "not one", json!({})),
            ("/keyslots", "no key slot", json!({})),
            ("/keyslots/0/area/encryption", "cipher", json!("cipher_null-ecb")),
            ("/tokens", "tokens", json!({"0": {"type": "luks2-keyring"}})),
            ("/config", "flags", json!({"flags": ["allow-discards"]})),
        ];
        for (at, word, value) in changes {
            let changed = with_json(&bytes, |json| *json.pointer_mut(at).unwrap() = value.clone());
            let fault = check(&changed, id()).unwrap_err();
            assert!(fault.to_string().contains(word), "{at}: {fault}");
        }
        // And that is no header of another program's making: `cryptsetup` itself takes it.
        let null = with_json(&bytes, |json| {
            *json.pointer_mut("/segments/0/encryption").unwrap() = json!("cipher_null-ecb")
        });
        let mut all = fs::read(file.path()).unwrap();
        all[..BYTES].copy_from_slice(&null);
        fs::write(file.path(), all).unwrap();
        assert!(
            Command::new("cryptsetup").arg("luksDump").arg(file.path()).output().unwrap().status.success()
        );
    }
}
