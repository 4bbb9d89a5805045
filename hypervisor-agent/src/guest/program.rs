//! The guest's own program and scripts, run here with a directory of their own for `/run/holm`: is what they say what the
//! agent understands?

use super::message::parse;
use crate::edge::GuestEvent;
use holm_proto::v1::{self, guest_claim::What};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
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
        let run = "import sys; text = open(sys.argv[1]).read(); exec(text[:text.rindex('main()')]); to_host = lambda: 0; \
            port = Port(); port.people = {os.getuid(): 'ida'}; port.say({'event': 'boot'}); port.answer()";
        let mut command = Command::new("python3");
        command.args(["-IS", "-c", run]).arg(self.file("guest")).stdin(Stdio::from(OwnedFd::from(theirs)));
        let program = command.spawn().unwrap();
        port.set_read_timeout(Some(LIMIT)).unwrap();
        let lines = BufReader::new(port.try_clone().unwrap());
        let mut runs = Runs { program, port, lines };
        assert_eq!(runs.hear(), GuestEvent::Boot);
        runs
    }

    fn script(&self, name: &str, environment: &[(&str, &str)]) {
        let mut ran = Command::new("sh");
        ran.arg(self.file(name)).env_clear().envs(environment.iter().copied());
        let ran = ran_with_path(&mut ran).output().unwrap();
        assert!(ran.status.success(), "{name}: {ran:?}");
    }
}

fn ran_with_path(command: &mut Command) -> &mut Command {
    command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null())
}

impl Runs {
    fn hear(&mut self) -> GuestEvent {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        parse(line.trim_end().as_bytes()).unwrap_or_else(|| panic!("{line:?}"))
    }

    fn claim(&mut self) -> (String, u64, What) {
        match self.hear() {
            GuestEvent::Claim { boot, claim } => (boot, claim.seq, claim.what.unwrap()),
            other => panic!("{other:?}"),
        }
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
fn what_happens_in_a_guest_is_claimed_in_words_that_are_understood() {
    let guest = Guest::new();
    // Before its program runs nobody is held up.
    guest.script("session", &LOGIN);
    let mut runs = guest.run();
    let session = |user: &str| v1::GuestSession { user: user.to_owned(), service: "sshd".to_owned() };
    guest.script("session", &LOGIN);
    let (boot, first, login) = runs.claim();
    assert_eq!((first, login), (1, What::Login(session("ida"))));
    guest.script("session", &[LOGIN[0], ("PAM_TYPE", "close_session"), LOGIN[2]]);
    assert_eq!(runs.claim(), (boot.clone(), 2, What::Logout(session("ida"))));
    guest.script("session", &[("PAM_SERVICE", "su-l"), LOGIN[1], ("PAM_RUSER", "ida"), ("PAM_USER", "_apt")]);
    let sudo = v1::GuestSudo { user: "ida".into(), target: "unknown".into(), service: "su-l".into() };
    assert_eq!(runs.claim(), (boot.clone(), 3, What::Sudo(sudo)));
    let job = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_USER", "ida"), ("SLURM_JOB_PARTITION", "batch")];
    let more =
        [("SLURM_JOB_GPUS", "0,3"), ("SLURM_JOB_CPUS_PER_NODE", "4(x2)"), ("SLURM_JOB_NAME", "patient-42")];
    guest.script("prolog", &[job.as_slice(), &more].concat());
    let start = v1::GuestJobStart { job: 7, user: "ida".into(), partition: "batch".into(), cpus: 4, gpus: 2 };
    assert_eq!(runs.claim(), (boot.clone(), 4, What::JobStart(start.clone())));
    guest.script("prolog", &job);
    assert_eq!(runs.claim().2, What::JobStart(v1::GuestJobStart { cpus: 0, gpus: 0, ..start }));
    guest.script("epilog", &[job.as_slice(), &[("SLURM_JOB_EXIT_CODE2", "1:15")]].concat());
    let end = v1::GuestJobEnd { job: 7, user: "ida".into(), exit_code: Some(1), signal: Some(15) };
    assert_eq!(runs.claim().2, What::JobEnd(end.clone()));
    guest.script("epilog", &job);
    assert_eq!(runs.claim().2, What::JobEnd(v1::GuestJobEnd { exit_code: None, signal: None, ..end }));
    // Of what a member's own program says, only how much she copied, and only of herself.
    let server = "#!/bin/sh\nprintf 'open \"/a\" flags READ\\r\\nclose \"/a b\" bytes read 5000000000 written 0\\r\\n' >&2\n\
        printf 'forced close \"/c\" bytes read 0 written 17\\r\\nclose \"/d\" bytes read 3 written 4\\r\\n' >&2\necho through\n";
    let path = guest.path().join("sftp-server");
    fs::write(&path, server).unwrap();
    Command::new("chmod").arg("755").arg(&path).status().unwrap();
    let mut sftp = Command::new("sh");
    let ran = ran_with_path(sftp.arg(guest.file("sftp"))).output().unwrap();
    assert_eq!(ran.stdout, b"through\n", "{ran:?}");
    let transfer = v1::GuestTransfer {
        user: "ida".into(),
        files_out: 2,
        bytes_out: 5_000_000_003,
        files_in: 2,
        bytes_in: 21,
    };
    assert_eq!(runs.claim(), (boot.clone(), 8, What::Transfer(transfer.clone())));
    for forged in ["login user=frida service=sshd", "nonsense", "transfer"] {
        logger(&guest, forged);
    }
    logger(&guest, "transfer user=frida files_out=0 bytes_out=0 files_in=0 bytes_in=0");
    // `transfer` alone is a claim without its fields: the host takes it for none, and its number for missing.
    let mut line = String::new();
    runs.lines.read_line(&mut line).unwrap();
    assert!(line.contains(r#""seq": 9"#) && parse(line.trim_end().as_bytes()).is_none(), "{line}");
    let none = v1::GuestTransfer { user: "ida".into(), ..Default::default() };
    assert_eq!(runs.claim(), (boot, 10, What::Transfer(none)));
}

fn logger(guest: &Guest, text: &str) {
    let socket = guest.path().join("transfers");
    let ran = Command::new("logger").arg("--socket").arg(socket).args(["--tag", "holm", "--", text]).status();
    assert!(ran.unwrap().success());
}

#[test]
fn claims_are_said_again_until_they_are_acknowledged_also_by_the_next_run_of_the_program() {
    let guest = Guest::new();
    let mut runs = guest.run();
    let boot = |runs: &mut Runs, seq: u64| {
        let (boot, number, _) = runs.claim();
        assert_eq!(number, seq);
        boot
    };
    for seq in 1..=3 {
        guest.script("session", &LOGIN);
        boot(&mut runs, seq);
    }
    runs.say("status");
    assert_eq!(runs.hear(), GuestEvent::Boot);
    let mut run = String::new();
    (1..=3).for_each(|seq| run = boot(&mut runs, seq));
    // Another run's number, nonsense, and more than there is.
    let other = "0".repeat(32);
    for line in [format!("ack {other} 3"), format!("ack {run} x"), "ack".to_owned(), format!("ack {run} -1")]
    {
        runs.say(&line);
    }
    runs.say(&format!("ack {run} 2"));
    runs.say("status");
    assert_eq!(runs.hear(), GuestEvent::Boot);
    boot(&mut runs, 3);
    drop(runs);
    // The next one says what was not acknowledged, and leaves out a number: something may be lost.
    let mut runs = guest.run();
    runs.say("status");
    let mut seen = Vec::new();
    guest.script("session", &LOGIN);
    while seen.last() != Some(&5) {
        if let GuestEvent::Claim { claim, .. } = runs.hear() {
            seen.push(claim.seq);
        }
    }
    assert!(seen.starts_with(&[3]) && !seen.contains(&4), "{seen:?}");
    runs.say(&format!("ack {run} 5"));
    drop(runs);
    let mut runs = guest.run();
    guest.script("session", &LOGIN);
    while boot_of(&mut runs) != 7 {}
}

fn boot_of(runs: &mut Runs) -> u64 {
    if let GuestEvent::Claim { claim, .. } = runs.hear() { claim.seq } else { 0 }
}

#[test]
fn of_more_than_it_keeps_the_oldest_go_and_so_many_are_said_at_a_time() {
    let guest = Guest::new();
    let mut runs = guest.run();
    let many = "for n in $(seq 1100); do echo login user=ida service=sshd; done 1<>\"$0\"";
    let said = guest.path().join("say");
    assert!(Command::new("sh").args(["-c", many]).arg(said).status().unwrap().success());
    let seqs: Vec<u64> = (0..32).map(|_| runs.claim().1).collect();
    let first = seqs[0];
    assert!(first <= 101 && seqs.iter().copied().eq(first..first + 32), "{seqs:?}");
    // The rest waits in the machine, and the first of it is gone by now.
    let run = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    runs.say(&format!("ack {} {}", run.trim().replace('-', ""), first + 31));
    let next = runs.claim().1;
    assert!((first + 32..=133).contains(&next), "{next}");
}

/// Datagrams of a member's own making, as many as there are, to where her programs claim.
fn members(guest: &Guest, count: usize, say: &str, descriptors: usize) {
    let send = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(sys.argv[1])\n\
        for _ in range(int(sys.argv[2])): socket.send_fds(s, [('holm: ' + sys.argv[3]).encode()], [0] * int(sys.argv[4]))";
    let mut command = Command::new("python3");
    command.args(["-IS", "-c", send]).arg(guest.path().join("transfers"));
    command.args([count.to_string().as_str(), say, descriptors.to_string().as_str()]).stdin(Stdio::null());
    assert!(command.status().unwrap().success());
}

#[test]
fn a_member_who_sends_descriptors_along_closes_nobodys_mouth() {
    let guest = Guest::new();
    let mut runs = guest.run();
    members(&guest, 1500, "nonsense", 3);
    guest.script("session", &LOGIN);
    assert!(matches!(runs.claim().2, What::Login(_)));
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
    assert!(first == 1 && matches!(login, What::Login(_)));
    loop {
        let (_, seq, what) = runs.claim();
        match what {
            // Said again until it is acknowledged.
            _ if seq <= last => {}
            What::Transfer(_) => transfers += 1,
            What::Logout(_) => break,
            _ => {}
        }
        last = last.max(seq);
        runs.say(&format!("ack {run} {seq}"));
    }
    assert!((60..80).contains(&transfers), "{transfers}");
    let kept = fs::metadata(guest.path().join("claims")).unwrap().len();
    assert!(kept < 1024 * 1024, "{kept}");
}
