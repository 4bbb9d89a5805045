//! Against swtpm, a TPM in software, and somebody between it and holmd.

use super::*;
use crate::keys::{Keyring, ProviderConfig, fingerprint};
use data_encoding::HEXLOWER;
use holm_proto::ids::{ProjectId, VolumeId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tss_esapi::Context;
use tss_esapi::handles::AuthHandle;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Auth;
use tss_esapi::traits::Marshall;

/// A TPM in software, with its state in a directory of its own.
pub(in crate::keys) struct Swtpm {
    state: tempfile::TempDir,
    port: u16,
    process: Option<Pid>,
}

impl Swtpm {
    pub(in crate::keys) fn new() -> Self {
        let mut new = Self { state: tempfile::tempdir().unwrap(), port: 0, process: None };
        // Whoever else looks for a port may find the same.
        let begun = (0..20).any(|_| {
            new.port = ports()[0].local_addr().unwrap().port();
            new.begins()
        });
        assert!(begun, "swtpm does not start");
        new
    }

    pub(in crate::keys) fn config(&self) -> ProviderConfig {
        ProviderConfig::Tpm2 { device: self.place() }
    }

    fn place(&self) -> String {
        at(self.port)
    }

    pub(in crate::keys) fn start(&mut self) {
        assert!(self.begins(), "swtpm does not start");
    }

    fn begins(&mut self) -> bool {
        let (state, pid) = (self.state.path(), self.state.path().join("pid"));
        // It goes into the background when it listens.
        let listens = Command::new("swtpm")
            .args(["socket", "--tpm2", "--daemon", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(format!("dir={}", state.display()))
            .args(["--server", &format!("type=tcp,port={}", self.port)])
            .args(["--ctrl", &format!("type=tcp,port={}", self.port + 1)])
            .arg("--pid")
            .arg(format!("file={}", pid.display()))
            .status();
        if !listens.expect("swtpm is missing: deploy/packages installs it").success() {
            return false;
        }
        let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        self.process = Pid::from_raw(pid);
        true
    }

    pub(in crate::keys) fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            let handle = pidfd_open(process, PidfdFlags::empty()).unwrap();
            pidfd_send_signal(&handle, Signal::KILL).unwrap();
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)).unwrap();
            assert_eq!(ended, 1, "swtpm does not end");
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A TPM in software, as tpm2-tss is told where it is.
fn at(port: u16) -> String {
    format!("swtpm:host=127.0.0.1,port={port}")
}

/// Two ports in a row, the second for what swtpm is told beside commands. Below those that the kernel gives to whoever
/// connects: one that was stopped finds its own again.
fn ports() -> [TcpListener; 2] {
    let pair = || {
        let first =
            20_000 + u16::from_be_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap()) % 12_000;
        let bound = |port| TcpListener::bind(("127.0.0.1", port)).ok();
        Some([bound(first)?, bound(first + 1)?])
    };
    (0..100).find_map(|_| pair()).unwrap()
}

/// A key directory, and a provider for it.
fn provider(device: &str) -> (tempfile::TempDir, Tpm2) {
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let tpm = Tpm2::new(dir.path(), device).unwrap();
    (dir, tpm)
}

fn said(failure: Result<impl Sized, KeyError>, unreachable: bool) -> String {
    let failure = failure.err().unwrap();
    assert_eq!(failure.unreachable, unreachable, "{}", failure.what);
    failure.what
}

#[test]
fn a_tpm_seals_and_no_other_opens() {
    let (one, other) = (Swtpm::new(), Swtpm::new());
    let (dir, mut tpm) = provider(&one.place());
    tpm.check().unwrap();
    assert_eq!(tpm.generation().unwrap(), 1);
    let key = random().unwrap();
    let sealed = tpm.wrap(&key, 1, b"what it is for").unwrap();
    assert_eq!(tpm.unwrap(&sealed, 1, b"what it is for").unwrap().expose_secret(), key.expose_secret());
    assert!(said(tpm.unwrap(&sealed, 1, b"something else"), false).contains("does not open"));
    assert_eq!(tpm.rotate().unwrap(), 2);
    assert!(said(tpm.unwrap(&sealed, 2, b"what it is for"), false).contains("does not open"));
    let kek = tpm.kek(1).unwrap();
    let bytes = fs::read(dir.path().join("tpm2.1")).unwrap();
    assert!(!bytes.windows(32).any(|w| w == kek.expose_secret()));
    // The same files with another TPM.
    let mut moved = Tpm2::new(dir.path(), &other.place()).unwrap();
    assert!(said(moved.check(), false).contains("another than the one that sealed"));
    assert!(said(moved.unwrap(&sealed, 1, b"what it is for"), false).contains("another than the one"));
    assert!(said(moved.rotate(), false).contains("another than the one that sealed"));
    tpm.retire(2).unwrap();
    assert!(!dir.path().join("tpm2.1").exists());
    assert!(said(tpm.unwrap(&sealed, 1, b"what it is for"), false).contains("not there"));
    tpm.check().unwrap();
}

#[test]
fn a_cleared_tpm_is_another_one() {
    let swtpm = Swtpm::new();
    let (_dir, mut provider) = provider(&swtpm.place());
    provider.check().unwrap();
    let mut tpm = Tpm::open(&Place::of(&swtpm.place()).unwrap()).unwrap();
    let by_lockout = |tpm: &mut Context| tpm.clear(AuthHandle::Lockout);
    tpm.context().execute_with_session(Some(AuthSession::Password), by_lockout).unwrap();
    drop(tpm);
    assert!(said(provider.check(), false).contains("was cleared since"));
}

#[test]
fn a_tpm_that_is_away_is_found_again() {
    let mut swtpm = Swtpm::new();
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let keys = Keyring::load(dir.path(), &swtpm.config(), None).unwrap();
    let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
    let print = keys.volume_key(p, v).unwrap().1;
    swtpm.stop();
    assert!(said(keys.open_volume_key(p, v), true).contains("cannot be reached"));
    assert!(said(keys.volume_key(p, VolumeId::new_v4()), true).contains("cannot be reached"));
    assert!(keys.health().borrow().down.is_some());
    swtpm.start();
    keys.check().unwrap();
    assert_eq!(fingerprint(&keys.open_volume_key(p, v).unwrap().unwrap()), print);
    let (_dir, mut other) = provider("/dev/nowhere");
    assert!(said(other.check(), true).contains("No such file"));
}

#[test]
fn what_is_no_tpm_is_said_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(100_000);
    for name in
        ["", "tpmrm0", "device:/dev/tpmrm0", "mssim:port=1", "tabrmd", "swtpm:port=x", "/dev/a\n", &long]
    {
        assert!(said(Tpm2::new(dir.path(), name), false).contains("whole path"), "{name}");
    }
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let (_dir, mut tpm) = provider(file.to_str().unwrap());
    assert!(said(tpm.check(), true).contains("it is no device"));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    for device in ["/dev/null", "/dev/zero"] {
        let (_dir, mut tpm) = provider(device);
        said(tpm.check(), true);
    }
}

#[test]
fn an_owner_with_a_password_is_named() {
    let swtpm = Swtpm::new();
    let (_dir, mut provider) = provider(&swtpm.place());
    let mut tpm = Tpm::open(&Place::of(&swtpm.place()).unwrap()).unwrap();
    let change = |tpm: &mut Context| {
        tpm.hierarchy_change_auth(AuthHandle::Owner, Auth::try_from(b"secret".as_slice())?)
    };
    tpm.context().execute_with_session(Some(AuthSession::Password), change).unwrap();
    drop(tpm);
    assert!(said(provider.check(), true).contains("tpm2_changeauth"));
}

#[test]
fn a_damaged_file_is_named_and_never_taken_for_another_key() {
    let swtpm = Swtpm::new();
    let (dir, mut tpm) = provider(&swtpm.place());
    tpm.check().unwrap();
    let path = dir.path().join("tpm2.1");
    let good = fs::read(&path).unwrap();
    let mut refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let failure = said(tpm.check(), false);
        assert!(failure.contains("tpm2.1") && failure.contains("is damaged"), "{what}: {failure}");
    };
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        refused(&bad, &format!("byte {at}"));
    }
    for short in (0..good.len()).step_by(7) {
        refused(&good[..short], &format!("{short} bytes"));
    }
    refused(&[good.as_slice(), b"x"].concat(), "longer");
    // Whoever changes it with its checksum is found out by the TPM.
    for at in (50..good.len() - CHECKSUM).step_by(5) {
        let mut bad = good[..good.len() - CHECKSUM].to_vec();
        bad[at] ^= 0x10;
        let checksum = digest(&SHA256, &bad);
        bad.extend_from_slice(checksum.as_ref());
        refused(&bad, &format!("byte {at}, checksum mended"));
    }
    fs::write(&path, &good).unwrap();
    tpm.check().unwrap();
    // A generation under another's name.
    tpm.rotate().unwrap();
    fs::copy(&path, dir.path().join("tpm2.2")).unwrap();
    assert!(said(tpm.check(), false).contains("tpm2.2"));
}

#[test]
fn lost_files_do_not_pass_for_a_new_holm() {
    let swtpm = Swtpm::new();
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let keys = Keyring::load(dir.path(), &swtpm.config(), None).unwrap();
    let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
    let print = keys.volume_key(p, v).unwrap().1;
    let path = dir.path().join("tpm2.1");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(said(keys.check(), false).contains("restore it from a copy"));
    assert!(!path.exists());
    fs::write(&path, bytes).unwrap();
    keys.check().unwrap();
    assert_eq!(fingerprint(&keys.open_volume_key(p, v).unwrap().unwrap()), print);
}

#[test]
fn keys_move_into_a_tpm_and_out_of_it() {
    let swtpm = Swtpm::new();
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let (file, tpm) = (ProviderConfig::default(), swtpm.config());
    let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
    let print = Keyring::load(dir.path(), &file, None).unwrap().volume_key(p, v).unwrap().1;
    let moved = |to: &ProviderConfig, from: &ProviderConfig| {
        // Twice: until somebody takes [former_keys] out, it stands there at each start.
        for _ in 0..2 {
            let keys = Keyring::load(dir.path(), to, Some(from)).unwrap();
            keys.check().unwrap();
            keys.finish(&|_| Vec::new(), &mut |_| {}).unwrap();
            assert_eq!(fingerprint(&keys.open_volume_key(p, v).unwrap().unwrap()), print);
        }
    };
    let there = |name: &str| dir.path().join(name).exists();
    moved(&tpm, &file);
    assert!(there("tpm2.1") && !there("kek"));
    Keyring::create(dir.path()).unwrap();
    moved(&file, &tpm);
    assert!(there("kek") && !there("tpm2.1"));
}

/// Sits between holmd and the TPM: writes down all that passes, and changes one byte of it, counted from 0.
struct Between {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
    change: Arc<Mutex<Option<usize>>>,
}

impl Between {
    fn new(tpm: &Swtpm) -> Self {
        let (seen, change) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
        let [listener, beside] = ports();
        let port = listener.local_addr().unwrap().port();
        let (tpm, all, at) = (tpm.port, Arc::clone(&seen), Arc::clone(&change));
        let reach = |port: u16| TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut server) = (client.unwrap(), reach(tpm));
                // One command, one answer, in turn; what the change breaks off is broken off on both sides.
                while pass(&mut client, &mut server, &all, &at) && pass(&mut server, &mut client, &all, &at) {
                }
            }
        });
        // What is said to swtpm as a program goes through as it is.
        std::thread::spawn(move || {
            for client in beside.incoming() {
                let (client, server) = (client.unwrap(), reach(tpm + 1));
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || copy(from, to));
                std::thread::spawn(move || copy(server, client));
            }
        });
        Self { port, seen, change }
    }

    fn place(&self) -> String {
        at(self.port)
    }

    /// What passed since the last time.
    fn seen(&self) -> Vec<u8> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Pass all on until one of them ends.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    // Whoever is cut off hears of it.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// Pass one message on.
fn pass(
    from: &mut TcpStream,
    to: &mut TcpStream,
    seen: &Mutex<Vec<u8>>,
    change: &Mutex<Option<usize>>,
) -> bool {
    let mut message = vec![0; 10];
    from.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    if from.read_exact(&mut message).is_err() {
        return false;
    }
    let size = u32::from_be_bytes(message[2..6].try_into().unwrap()) as usize;
    message.resize(size.clamp(10, 4096), 0);
    if from.read_exact(&mut message[10..]).is_err() {
        return false;
    }
    let mut seen = seen.lock().unwrap();
    let at = change.lock().unwrap().and_then(|at| at.checked_sub(seen.len()));
    seen.extend_from_slice(&message);
    // Sizes are left: a message that does not end is a TPM that does not answer, which is tried elsewhere.
    if let Some(byte) = at.filter(|at| !(2..6).contains(at)).and_then(|at| message.get_mut(at)) {
        *byte ^= 0x01;
    }
    drop(seen);
    to.write_all(&message).is_ok()
}

#[test]
fn who_listens_between_holmd_and_the_tpm_sees_no_key_and_changes_none() {
    let mut swtpm = Swtpm::new();
    let between = Between::new(&swtpm);
    let (_dir, mut tpm) = provider(&between.place());
    tpm.check().unwrap();
    let good = tpm.kek(1).unwrap();
    let seen = between.seen();
    // Sealed, opened twice.
    assert!(seen.len() > 3000, "{}", seen.len());
    // Salted with the root key, and not with nothing (TPM_RH_NULL): else who listens derives the session's key herself.
    let begun: Vec<_> = messages(&seen).into_iter().filter(|m| m[6..10] == [0, 0, 1, 0x76]).collect();
    assert!(begun.len() == 3 && begun.iter().all(|m| m[10] == 0x80), "{begun:x?}");
    assert!(!seen.windows(8).any(|w| good.expose_secret().windows(8).any(|k| k == w)));
    let once = {
        drop(tpm.kek(1).unwrap());
        between.seen().len()
    };
    let (mut refused, mut tried) = (0, 0);
    for at in (0..once).step_by(3) {
        *between.change.lock().unwrap() = Some(at);
        match tpm.kek(1) {
            Ok(key) => assert_eq!(key.expose_secret(), good.expose_secret(), "byte {at}"),
            Err(failure) => {
                refused += 1;
                // TPM_RC_OBJECT_MEMORY and its like: what was to be flushed, and was changed, is still there.
                if failure.what.contains("0x90") {
                    swtpm.stop();
                    swtpm.start();
                }
            }
        }
        tried += 1;
        between.seen();
    }
    // What is let pass says nothing of a key: how the root key was made, and what is flushed at the end.
    assert!(refused * 2 > tried, "{refused} of {tried}");
    *between.change.lock().unwrap() = None;
    swtpm.stop();
    swtpm.start();
    assert_eq!(tpm.kek(1).unwrap().expose_secret(), good.expose_secret());
}

#[test]
fn a_root_key_of_somebody_elses_is_sent_nothing() {
    // Who answers in the TPM's place has a root key of its own, and could read what is sealed for that.
    let (ours, theirs) = (Swtpm::new(), Swtpm::new());
    let (dir, mut tpm) = provider(&ours.place());
    tpm.check().unwrap();
    let between = Between::new(&theirs);
    let mut moved = Tpm2::new(dir.path(), &between.place()).unwrap();
    said(moved.rotate(), false);
    said(moved.check(), false);
    let asked: Vec<u32> = commands(&between.seen());
    assert!(!asked.is_empty() && asked.iter().all(|code| [0x131, 0x165].contains(code)), "{asked:x?}");
}

/// The codes of the commands in what passed.
fn commands(seen: &[u8]) -> Vec<u32> {
    let code = |message: &&[u8]| u32::from_be_bytes(message[6..10].try_into().unwrap());
    messages(seen).iter().map(code).filter(|code| *code >= 0x11F).collect()
}

/// Commands and answers.
fn messages(mut seen: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(size) = seen.get(2..6) {
        let (one, rest) = seen.split_at(u32::from_be_bytes(size.try_into().unwrap()) as usize);
        all.push(one);
        seen = rest;
    }
    all
}

#[test]
fn the_root_key_is_made_as_ever() {
    // ECC, SHA-256, its attributes, no policy, AES-128-CFB, no scheme, P-256, no KDF, an empty point.
    let template = "0023000b00030472000000060080004300100003001000000000";
    assert_eq!(HEXLOWER.encode(&session::root_template().unwrap().marshall().unwrap()), template);
}
