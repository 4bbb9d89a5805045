//! The program's line to the host, and what the image's scripts say to it, run here with a directory of their own for
//! `/run/holm`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests say what they expect")]

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, IoSlice, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Nothing here takes as long.
const LIMIT: Duration = Duration::from_secs(30);

struct Guest {
    directory: tempfile::TempDir,
}

/// The program as it runs, and the host's end of its port.
struct Runs {
    program: Child,
    port: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Guest {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file of the image with this directory for `/run/holm`.
    fn file(&self, name: &str) -> PathBuf {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/guest-image/files/usr/lib/holm");
        let text = fs::read_to_string(from.join(name)).unwrap();
        let text = text.replace("/run/holm", self.path().to_str().unwrap());
        let path = self.path().join(format!("{name}.here"));
        fs::write(&path, text.replace("/usr/lib/openssh", self.path().to_str().unwrap())).unwrap();
        path
    }

    fn run(&self) -> Runs {
        let (port, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holm-guest"));
        command.arg("--line").arg(self.path()).arg("ida").stdin(Stdio::from(OwnedFd::from(theirs)));
        let program = command.spawn().unwrap();
        port.set_read_timeout(Some(LIMIT)).unwrap();
        let lines = BufReader::new(port.try_clone().unwrap());
        let mut runs = Runs { program, port, lines };
        assert_eq!(runs.hear(), boot());
        runs
    }

    fn script(&self, name: &str, environment: &[(&str, &str)]) {
        let mut ran = Command::new("sh");
        ran.arg(self.file(name)).env_clear().envs(environment.iter().copied());
        let ran = ran_with_path(&mut ran).output().unwrap();
        assert!(ran.status.success(), "{name}: {ran:?}");
    }
}

fn boot() -> Value {
    json!({ "event": "boot" })
}

fn ran_with_path(command: &mut Command) -> &mut Command {
    command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null())
}

impl Runs {
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }

    /// The next claim: the run of the machine, its number, and what.
    fn claim(&mut self) -> (String, u64, Value) {
        let claim = self.hear();
        assert_eq!(claim["event"], "claim", "{claim}");
        (claim["boot"].as_str().unwrap().to_owned(), claim["seq"].as_u64().unwrap(), claim["what"].clone())
    }

    fn say(&mut self, line: &str) {
        self.port.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

const LOGIN: [(&str, &str); 3] = [("PAM_SERVICE", "sshd"), ("PAM_TYPE", "open_session"), ("PAM_USER", "ida")];

#[test]
fn what_happens_in_a_guest_is_claimed() {
    let guest = Guest::new();
    // Before its program runs nobody is held up.
    guest.script("session", &LOGIN);
    let mut runs = guest.run();
    let session = json!({ "user": "ida", "service": "sshd" });
    guest.script("session", &LOGIN);
    let (boot, first, login) = runs.claim();
    assert_eq!((first, login), (1, json!({ "login": session })));
    // By her door she is she.
    guest.script("session", &[LOGIN[0], ("PAM_TYPE", "close_session"), ("PAM_USER", "_ida")]);
    assert_eq!(runs.claim(), (boot.clone(), 2, json!({ "logout": session })));
    guest.script("session", &[("PAM_SERVICE", "su-l"), LOGIN[1], ("PAM_RUSER", "ida"), ("PAM_USER", "_apt")]);
    let sudo = json!({ "sudo": { "user": "ida", "target": "unknown", "service": "su-l" } });
    assert_eq!(runs.claim(), (boot.clone(), 3, sudo));
    let job = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_USER", "ida"), ("SLURM_JOB_PARTITION", "batch")];
    let more =
        [("SLURM_JOB_GPUS", "0,3"), ("SLURM_JOB_CPUS_PER_NODE", "4(x2)"), ("SLURM_JOB_NAME", "patient-42")];
    guest.script("prolog", &[job.as_slice(), &more].concat());
    let start = |cpus: u32, gpus: u32| json!({ "job-start": { "job": 7, "user": "ida", "partition": "batch", "cpus": cpus, "gpus": gpus } });
    assert_eq!(runs.claim(), (boot.clone(), 4, start(4, 2)));
    guest.script("prolog", &job);
    assert_eq!(runs.claim().2, start(0, 0));
    guest.script("epilog", &[job.as_slice(), &[("SLURM_JOB_EXIT_CODE2", "1:15")]].concat());
    assert_eq!(
        runs.claim().2,
        json!({ "job-end": { "job": 7, "user": "ida", "exit_code": 1, "signal": 15 } })
    );
    guest.script("epilog", &job);
    assert_eq!(runs.claim().2, json!({ "job-end": { "job": 7, "user": "ida" } }));
    // Of what a member's own program says, only how much she copied, and only of herself.
    let server = "#!/bin/sh\nprintf 'open \"/a\" flags READ\\r\\nclose \"/a b\" bytes read 5000000000 written 0\\r\\n' >&2\n\
        printf 'forced close \"/c\" bytes read 0 written 17\\r\\nclose \"/d\" bytes read 3 written 4\\r\\n' >&2\necho through\n";
    let path = guest.path().join("sftp-server");
    fs::write(&path, server).unwrap();
    Command::new("chmod").arg("755").arg(&path).status().unwrap();
    let mut sftp = Command::new("sh");
    let ran = ran_with_path(sftp.arg(guest.file("sftp"))).output().unwrap();
    assert_eq!(ran.stdout, b"through\n", "{ran:?}");
    let transfer = json!({ "transfer": {
        "files_out": 2, "bytes_out": 5_000_000_003_u64, "files_in": 2, "bytes_in": 21, "user": "ida" } });
    assert_eq!(runs.claim(), (boot.clone(), 8, transfer));
    // Where the level allows no copying out, that somebody tried.
    let server = "#!/bin/sh\nprintf 'open \"/a\" flags READ\\r\\nRefusing denylisted read request\\r\\n' >&2\n\
        printf 'close \"/a\" bytes read 0 written 0\\r\\n' >&2\n";
    fs::write(&path, server).unwrap();
    ran_with_path(Command::new("sh").arg(guest.file("sftp")).arg("in")).output().unwrap();
    assert_eq!(runs.claim().2, json!({ "refused": { "what": "copy-out", "user": "ida" } }));
    runs.claim();
    for forged in ["login user=frida service=sshd", "nonsense", "transfer"] {
        logger(&guest, forged);
    }
    logger(&guest, "transfer user=frida files_out=0 bytes_out=0 files_in=0 bytes_in=0");
    // `transfer` alone is a claim without its fields: the host takes it for none, and its number for missing.
    assert_eq!(runs.claim(), (boot.clone(), 11, json!({ "transfer": { "user": "ida" } })));
    let none = json!({ "transfer": {
        "user": "ida", "files_out": 0, "bytes_out": 0, "files_in": 0, "bytes_in": 0 } });
    assert_eq!(runs.claim(), (boot, 12, none));
}

fn logger(guest: &Guest, text: &str) {
    let socket = guest.path().join("transfers");
    let ran = Command::new("logger").arg("--socket").arg(socket).args(["--tag", "holm", "--", text]).status();
    assert!(ran.unwrap().success());
}

#[test]
fn that_a_job_starts_and_ends_is_written_down_for_what_counts_them() {
    let guest = Guest::new();
    let jobs = guest.path().join("jobs");
    let job = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_USER", "ida"), ("SLURM_JOB_UID", "10001")];
    let more = [("SLURM_JOB_GPUS", "0,3"), ("SLURM_JOB_CPUS_PER_NODE", "4(x2)")];
    // Before its program runs nobody is held up.
    guest.script("prolog", &job);
    guest.script("epilog", &job);
    fs::create_dir(&jobs).unwrap();
    guest.script("prolog", &[job.as_slice(), &more].concat());
    assert_eq!(fs::read_to_string(jobs.join("7")).unwrap(), "10001 4 0,3\n");
    guest.script("epilog", &job);
    let over = fs::read_dir(&jobs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(matches!(over.collect::<Vec<_>>().as_slice(), [name] if name.starts_with("7.over.")));
    // One that Slurm begins again.
    guest.script("prolog", &job);
    assert_eq!(fs::read_to_string(jobs.join("7")).unwrap(), "10001 0 \n");
    assert_eq!(fs::read_dir(&jobs).unwrap().count(), 2);
}

#[test]
fn claims_are_said_again_until_they_are_acknowledged_also_by_the_next_run_of_the_program() {
    let guest = Guest::new();
    let mut runs = guest.run();
    let next = |runs: &mut Runs, seq: u64| {
        let (boot, number, _) = runs.claim();
        assert_eq!(number, seq);
        boot
    };
    for seq in 1..=3 {
        guest.script("session", &LOGIN);
        next(&mut runs, seq);
    }
    runs.say("status");
    assert_eq!(runs.hear(), boot());
    let mut run = String::new();
    (1..=3).for_each(|seq| run = next(&mut runs, seq));
    // Another run's number, nonsense, and more than there is.
    let other = "0".repeat(32);
    for line in [format!("ack {other} 3"), format!("ack {run} x"), "ack".to_owned(), format!("ack {run} -1")]
    {
        runs.say(&line);
    }
    runs.say(&format!("ack {run} 2"));
    runs.say("status");
    assert_eq!(runs.hear(), boot());
    next(&mut runs, 3);
    drop(runs);
    // The next one says what was not acknowledged, and leaves out a number: something may be lost.
    let mut runs = guest.run();
    runs.say("status");
    let mut seen = Vec::new();
    guest.script("session", &LOGIN);
    while seen.last() != Some(&5) {
        seen.extend(runs.hear()["seq"].as_u64());
    }
    assert!(seen.starts_with(&[3]) && !seen.contains(&4), "{seen:?}");
    runs.say(&format!("ack {run} 5"));
    // It has heard that when it has said all the rest.
    runs.say("status");
    while runs.hear() != boot() {}
    drop(runs);
    let mut runs = guest.run();
    guest.script("session", &LOGIN);
    while runs.hear()["seq"] != 7 {}
}

#[test]
fn of_more_than_it_keeps_the_oldest_go_and_so_many_are_said_at_a_time() {
    let guest = Guest::new();
    let mut runs = guest.run();
    // All of it lies there before it reads any.
    let pid = rustix::process::Pid::from_child(&runs.program);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let many = "for n in $(seq 1100); do echo login user=ida service=sshd; done 1<>\"$0\"";
    let said = guest.path().join("say");
    assert!(Command::new("sh").args(["-c", many]).arg(said).status().unwrap().success());
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let seqs: Vec<u64> = (0..32).map(|_| runs.claim().1).collect();
    assert!(seqs.iter().copied().eq(101..133), "{seqs:?}");
    // The rest waits in the machine.
    let run = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    runs.say(&format!("ack {} 132", run.trim().replace('-', "")));
    assert_eq!(runs.claim().1, 133);
}

/// Datagrams of a member's own making, as many as there are, to where her programs claim.
fn members(guest: &Guest, count: usize, say: &str, descriptors: usize) {
    let (socket, path) = (UnixDatagram::unbound().unwrap(), guest.path().join("transfers"));
    let address = SocketAddrUnix::new(path).unwrap();
    let own = socket.try_clone().unwrap();
    let along = vec![own.as_fd(); descriptors];
    for _ in 0..count {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut messages = SendAncillaryBuffer::new(&mut room);
        if !along.is_empty() {
            assert!(messages.push(SendAncillaryMessage::ScmRights(&along)));
        }
        let said = format!("holm: {say}");
        let said = [IoSlice::new(said.as_bytes())];
        sendmsg_addr(&socket, &address, &said, &mut messages, SendFlags::empty()).unwrap();
    }
}

#[test]
fn a_member_who_sends_descriptors_along_closes_nobodys_mouth() {
    let guest = Guest::new();
    let mut runs = guest.run();
    members(&guest, 1500, "nonsense", 3);
    guest.script("session", &LOGIN);
    assert!(runs.claim().2.get("login").is_some());
    let open = fs::read_dir(format!("/proc/{}/fd", runs.program.id())).unwrap().count();
    assert!(open < 20, "{open}");
}

#[test]
fn a_member_who_says_much_pushes_out_nothing_that_is_said_of_others() {
    let guest = Guest::new();
    let mut runs = guest.run();
    guest.script("session", &LOGIN);
    members(&guest, 3000, "transfer files_out=1 bytes_out=1 files_in=0 bytes_in=0", 0);
    guest.script("session", &[LOGIN[0], ("PAM_TYPE", "close_session"), LOGIN[2]]);
    let (mut transfers, mut last) = (0, 0);
    let (run, first, login) = runs.claim();
    assert!(first == 1 && login.get("login").is_some());
    loop {
        let (_, seq, what) = runs.claim();
        // Said again until it is acknowledged.
        if seq > last {
            transfers += u32::from(what.get("transfer").is_some());
            if what.get("logout").is_some() {
                break;
            }
        }
        last = last.max(seq);
        runs.say(&format!("ack {run} {seq}"));
    }
    assert!((60..80).contains(&transfers), "{transfers}");
    let kept = fs::metadata(guest.path().join("claims")).unwrap().len();
    assert!(kept < 1024 * 1024, "{kept}");
}

#[test]
fn one_that_is_called_wrongly_does_nothing() {
    let place = tempfile::tempdir().unwrap();
    for arguments in [&["--line"][..], &["--help"], &["--line", "a", "b", "c"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holm-guest"));
        let ran = command.args(arguments).current_dir(place.path()).stdin(Stdio::null()).output().unwrap();
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}
