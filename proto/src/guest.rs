//! What a guest may claim to have seen: what agents and holmd alike take for something that can be meant.

use crate::fullness::DISKS;
use crate::ids::Name;
use crate::v1::guest_claim::What;
use crate::v1::{GuestClaim, GuestSession};

/// Claims in one message, at most.
pub const AT_ONCE: usize = 64;
/// Hexadecimal digits of what a guest calls one run of itself.
const BOOT_DIGITS: usize = 32;
/// The same of what it was told.
pub const TOLD_DIGITS: usize = 16;
/// The end of the year 9999, seconds since 1970: later can be shown by nothing.
const LATEST: u64 = 253_402_300_799;
const MOST_CPUS: u32 = 8192;
const MOST_GPUS: u32 = 64;
/// More than this was never carried.
const MOST_BYTES: u64 = 1 << 60;
const MOST_FILES: u64 = 1 << 40;
/// What a guest refuses by its level.
const REFUSED: [&str; 3] = ["command", "copy-out", "job-output"];

/// Of a recording's name: a time, whose it is, and six characters.
const MOST_OF_NAME: usize = 80;

/// What a recording of a terminal may be called.
pub fn is_recording(text: &str) -> bool {
    (1..=MOST_OF_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// What a guest calls one run of itself.
pub fn is_boot(text: &str) -> bool {
    text.len() == BOOT_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a guest may call what it was told, its people or its classes of jobs; nothing, where nobody told it.
pub fn is_told(text: &str) -> bool {
    text.is_empty()
        || text.len() == TOLD_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether it can be meant: each field in its range, each name one.
pub fn is_plausible(claim: &GuestClaim) -> bool {
    let name = |text: &str| text.parse::<Name>().is_ok();
    let session = |of: &GuestSession| name(&of.user) && name(&of.service);
    let what = match &claim.what {
        None => false,
        Some(What::Login(of) | What::Logout(of)) => session(of),
        Some(What::Sudo(of)) => name(&of.user) && name(&of.target) && name(&of.service),
        Some(What::JobStart(of)) => {
            let fits = of.cpus <= MOST_CPUS && of.gpus <= MOST_GPUS;
            of.job > 0 && name(&of.user) && name(&of.partition) && fits
        }
        Some(What::JobEnd(of)) => of.job > 0 && name(&of.user) && of.exit_code() <= 255 && of.signal() <= 127,
        Some(What::Mount(of)) => DISKS.contains(&of.disk.as_str()),
        Some(What::Transfer(of)) => {
            let sane = |files: u64, bytes: u64| files <= MOST_FILES && bytes <= MOST_BYTES;
            name(&of.user) && sane(of.files_out, of.bytes_out) && sane(of.files_in, of.bytes_in)
        }
        Some(What::Recorded(of)) => {
            let hash =
                of.sha256.len() == 64 && of.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            name(&of.user) && is_recording(&of.recording) && of.bytes <= MOST_BYTES && hash
        }
        Some(What::Refused(of)) => name(&of.user) && REFUSED.contains(&of.what.as_str()),
    };
    claim.seq > 0 && claim.time <= LATEST && what
}
