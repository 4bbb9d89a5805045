//! The way to a slice's SSH server: a vsock connection, which no network carries.

use crate::edge::{EdgeError, Result};
use holm_proto::ids::SliceId;
use std::{
    io::ErrorKind,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};
use vsock::VsockStream;

const PORT: u32 = 22;
/// The kernel gives up on one attempt after 2 s; an emulated guest may need more than one.
const LIMIT: Duration = Duration::from_secs(10);
/// Addresses below belong to the host and to nobody.
const FIRST_GUEST_CID: u32 = 3;

/// Connects to the SSH server of the guest at `cid`.
pub fn connect(slice: SliceId, cid: u32) -> Result<OwnedFd> {
    if cid < FIRST_GUEST_CID {
        return Err(EdgeError::new(format!(
            "slice `{slice}` has the vsock address {cid}, which is no guest's"
        )));
    }
    let end = Instant::now() + LIMIT;
    loop {
        match VsockStream::connect_with_cid_port(cid, PORT) {
            Ok(stream) => return Ok(stream.into()),
            Err(error) if error.kind() == ErrorKind::TimedOut && Instant::now() < end => {}
            Err(error) => {
                return Err(EdgeError::because(
                    format!("the SSH server of slice `{slice}` does not answer"),
                    error,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_no_guest() {
        let slice = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        for cid in 0..FIRST_GUEST_CID {
            assert!(connect(slice, cid).unwrap_err().chain().contains("no guest's"));
        }
    }
}
