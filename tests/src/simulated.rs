//! A site on a simulated DGX-2: the shipped binaries, and everything but the hardware.

use crate::ground::Ground;
use crate::site::{OPERATOR, Plan, Site};
use crate::{Outcome, demand};
use std::net::TcpListener;
use std::path::PathBuf;

/// A site of its own for one test; its files go with it.
/// (Bindings are dropped last to first: the daemons end before their files go.)
pub struct Simulated {
    /// Whatever it writes.
    pub _files: tempfile::TempDir,
    /// What runs.
    pub site: Site,
}

impl Simulated {
    /// Opened, every GPU clean.
    pub fn open() -> Outcome<Self> {
        let files = tempfile::tempdir()?;
        let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let mut ports = [0; 2];
        for (port, listener) in ports.iter_mut().zip(&listeners) {
            *port = listener.local_addr()?.port();
        }
        drop(listeners);
        let home = files.path().join("people");
        std::fs::create_dir_all(&home)?;
        let plan = Plan {
            ground: Ground::Here,
            binaries: binaries()?,
            root: files.path().join("site"),
            home,
            ports,
            agent_config: None,
        };
        let site = Site::open(plan)?;
        site.all_clean(OPERATOR)?;
        Ok(Self { _files: files, site })
    }
}

/// Tests lie in `target/PROFILE/deps`, the binaries in `target/PROFILE`.
fn binaries() -> Outcome<PathBuf> {
    let test = std::env::current_exe()?;
    let dir = test.parent().and_then(|deps| deps.parent()).ok_or("the test lies nowhere")?;
    demand(
        dir.join("holmd").exists(),
        "there is no holmd: run `cargo build --bins` first, as tests/run does",
    )?;
    Ok(dir.to_owned())
}
