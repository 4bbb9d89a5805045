//! Connections to a slice: the tunnel against an echo, and the system's ssh against the system's sshd.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

mod common;

use common::Holmd;
use holm_control::identity::SshReach;
use holm_proto::ids::RequestId;
use holm_proto::v1::slice_service_server::SliceService;
use holm_proto::v1::{
    ConnectFrame, DecideSliceRequest, DeletionCertificate, HoldSliceRequest, ListSlicesRequest,
    ListSlicesResponse, RequestSliceRequest, SignSshKeyRequest, Slice, SliceRef, SshCertificate,
};
use holm_proto::{Bytes, v1};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const SSHD: &str = "/usr/sbin/sshd";

/// A slice of which there is nothing but its end of connections.
struct Pretended {
    app: Arc<holm_control::app::App>,
    user: String,
    /// Of its sshd; none for an echo.
    sshd: Option<PathBuf>,
    /// What its level allows.
    reach: SshReach,
}

#[tonic::async_trait]
impl SliceService for Pretended {
    type WatchSliceStream = ReceiverStream<Result<Slice, Status>>;
    type ConnectStream = ReceiverStream<Result<ConnectFrame, Status>>;

    async fn sign_ssh_key(&self, r: Request<SignSshKeyRequest>) -> Result<Response<SshCertificate>, Status> {
        let signed = self
            .app
            .authority
            .ssh_certificate(
                &r.get_ref().public_key,
                &self.user.parse().unwrap(),
                RequestId::new_v4(),
                jiff::Timestamp::now(),
                self.reach,
            )
            .unwrap();
        let host_key = std::fs::read_to_string(self.sshd.as_ref().unwrap().join("host.pub")).unwrap();
        Ok(Response::new(SshCertificate {
            certificate: signed.text,
            user: signed.account,
            host_key,
            expires: None,
        }))
    }

    async fn connect(
        &self,
        r: Request<Streaming<ConnectFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut frames = r.into_inner();
        let first = frames.message().await?.unwrap();
        assert_eq!(first.slice, Some(SliceRef { project: "heart".to_owned(), name: "main".to_owned() }));
        let (ours, theirs) = UnixStream::pair()?;
        match &self.sshd {
            Some(dir) => {
                let theirs = theirs.into_std()?;
                theirs.set_nonblocking(false)?;
                let (input, output) = (OwnedFd::from(theirs.try_clone()?), OwnedFd::from(theirs));
                Command::new(SSHD)
                    .args(["-i", "-e", "-f"])
                    .arg(dir.join("config"))
                    .stdin(input)
                    .stdout(output)
                    .stderr(std::fs::File::create(dir.join("log"))?)
                    .spawn()?;
            }
            None => {
                // Echoes all, and ends only when it has heard the end.
                let (mut read, mut write) = theirs.into_split();
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    let _ = read.read_to_end(&mut all).await;
                    let _ = write.write_all(&all).await;
                });
            }
        }
        let (mut read, mut write) = ours.into_split();
        let (send, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                if write.write_all(&frame.data).await.is_err() {
                    return;
                }
            }
            let _ = write.shutdown().await;
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; 32 * 1024];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                if send
                    .send(Ok(ConnectFrame {
                        data: Bytes::copy_from_slice(&buffer[..count]),
                        ..Default::default()
                    }))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn request_slice(&self, _: Request<RequestSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn get_slice(&self, _: Request<SliceRef>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn explain_slice(&self, _: Request<SliceRef>) -> Result<Response<v1::Explanation>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn list_queue(
        &self,
        _: Request<v1::ListQueueRequest>,
    ) -> Result<Response<v1::ListQueueResponse>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn list_slices(
        &self,
        _: Request<ListSlicesRequest>,
    ) -> Result<Response<ListSlicesResponse>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn approve_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn reject_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn withdraw_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn extend_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn close_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn stop_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn start_slice(&self, _: Request<v1::StartSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn resize_slice(&self, _: Request<v1::ResizeSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn grow_slice(&self, _: Request<v1::GrowSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn set_scheduler(&self, _: Request<v1::SetSchedulerRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn drain_slice(&self, _: Request<v1::DrainSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn get_usage(&self, _: Request<v1::GetUsageRequest>) -> Result<Response<v1::Usage>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn list_usage(
        &self,
        _: Request<v1::ListUsageRequest>,
    ) -> Result<Response<v1::ListUsageResponse>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn rekey_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn reencrypt_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn hold_slice(&self, _: Request<HoldSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn release_slice(&self, _: Request<DecideSliceRequest>) -> Result<Response<Slice>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn watch_slice(&self, _: Request<SliceRef>) -> Result<Response<Self::WatchSliceStream>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
    async fn get_certificate(&self, _: Request<SliceRef>) -> Result<Response<DeletionCertificate>, Status> {
        Err(Status::unimplemented("not pretended"))
    }
}

#[test]
fn a_tunnel_says_all_hears_all_and_ends() {
    let holmd = Holmd::with_people();
    holmd.pretend(
        "olga",
        Pretended { app: holmd.app(), user: "olga".to_owned(), sshd: None, reach: SshReach::Whole },
    );
    let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut tunnel = holmd
        .command("olga", &["slice", "tunnel", "heart/main"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = tunnel.stdin.take().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let output = tunnel.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == data, "{} of {} bytes came back", output.stdout.len(), data.len());
}

/// An sshd as a slice's is set up, for whoever runs this test.
fn sshd(dir: &Path, ca: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(dir.join("host"))
        .status();
    assert!(made.unwrap().success());
    std::fs::rename(dir.join("host.pub"), dir.join("host.pub.all")).unwrap();
    let public = std::fs::read_to_string(dir.join("host.pub.all")).unwrap();
    std::fs::write(dir.join("host.pub"), public).unwrap();
    std::fs::write(dir.join("ca.pub"), format!("{ca}\n")).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    std::fs::write(
        dir.join("config"),
        format!(
            "HostKey {}\nTrustedUserCAKeys {}\nAuthenticationMethods publickey\nAuthorizedKeysFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nDisableForwarding yes\n\
             StrictModes no\nPermitRootLogin yes\nPidFile none\nSubsystem sftp internal-sftp\n",
            at("host"),
            at("ca.pub")
        ),
    )
    .unwrap();
}

/// Who runs this test; none where no sshd can run, which lets in nobody but whom it can become.
fn may_run_sshd() -> Option<String> {
    let id = |what: &str| {
        let said = Command::new("id").arg(what).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    };
    if !Path::new(SSHD).exists() || id("-u") != "0" {
        eprintln!("not run: it needs sshd, and to be root");
        return None;
    }
    std::fs::create_dir_all("/run/sshd").unwrap();
    Some(id("-un"))
}

#[test]
fn ssh_and_scp_find_their_way() {
    let Some(user) = may_run_sshd() else { return };
    let holmd = Holmd::with_people();
    let dir = holmd.dir.path().join("sshd");
    std::fs::create_dir(&dir).unwrap();
    sshd(&dir, holmd.app().authority.ssh_ca());
    holmd.pretend(
        "olga",
        Pretended { app: holmd.app(), user, sshd: Some(dir.clone()), reach: SshReach::Whole },
    );

    let run = holmd.dir.path().join("a run'time %dir");
    std::fs::create_dir(&run).unwrap();
    let holm = |arguments: &[&str]| {
        let output = holmd.command("olga", arguments).env("XDG_RUNTIME_DIR", &run).output().unwrap();
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        (output.status.code(), format!("{}\n{log}", common::text(&output)))
    };
    let (code, said) = holm(&["ssh", "heart/main", "--", "echo", "in the slice;", "exit", "7"]);
    assert!(code == Some(7) && said.contains("in the slice"), "{code:?}: {said}");
    let (code, said) = holm(&["slice", "ssh", "main", "--project", "heart", "--", "true"]);
    assert!(code == Some(0), "{code:?}: {said}");
    let (from, to) = (holmd.dir.path().join("from:here"), holmd.dir.path().join("to here"));
    std::fs::write(&from, "data").unwrap();
    let (from, there) = (from.to_str().unwrap(), to.to_str().unwrap());
    let (code, said) = holm(&["slice", "copy", from, &format!("heart/main:{there}")]);
    assert!(code == Some(0), "{code:?}: {said}");
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "data");
    let back = holmd.dir.path().join("back");
    let (code, said) = holm(&["slice", "copy", &format!("heart/main:{there}"), back.to_str().unwrap()]);
    assert!(code == Some(0), "{code:?}: {said}");
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "data");
    // The keys are gone.
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0);
    // A host that is another is not talked to.
    std::fs::copy(dir.join("ca.pub"), dir.join("host.pub")).unwrap();
    let (code, said) = holm(&["ssh", "heart/main", "--", "true"]);
    assert!(code == Some(255) && said.contains("verification failed"), "{code:?}: {said}");
    let (code, _) = holm(&["slice", "copy", "a", "b"]);
    assert_eq!(code, Some(2));
}

/// Slurm's commands, which say what lies beside them, and keep what they were told.
const SLURM: &str = r#"#!/bin/sh
here=$(dirname "$0")
name=$(basename "$0")
printf '%s\n' "$name" >>"$here/asked"
printf '[%s]' "$@" >"$here/$name.told"
for word in "$@"; do
  case $word in
    --Format=*) mark=${word#*:}; mark=${mark%%,*} ;;
    --delimiter=*) mark=${word#*=} ;;
    /dev/stdin) script=$word ;;
  esac
done
[ "$name" != sbatch ] || cat ${script:+"$script"} >"$here/script"
[ ! -e "$here/$name.err" ] || cat "$here/$name.err" >&2
[ ! -e "$here/$name.says" ] || sed "s/|/${mark:-|}/g" "$here/$name.says"
[ ! -e "$here/$name.next" ] || mv "$here/$name.next" "$here/$name.says"
exit "$(cat "$here/$name.code" 2>/dev/null || echo 0)"
"#;

/// A slice with such a Slurm, and what is done there.
struct Slurm {
    holmd: Holmd,
    bin: PathBuf,
    run: PathBuf,
    user: String,
}

impl Slurm {
    fn new() -> Option<Self> {
        Self::with(SshReach::Whole, |_| "DisableForwarding no\nAllowTcpForwarding local\n".to_owned())
    }

    /// With a certificate of this reach, and more for sshd.
    fn with(reach: SshReach, more: impl Fn(&Path) -> String) -> Option<Self> {
        let user = may_run_sshd()?;
        let holmd = Holmd::with_people();
        let (dir, bin) = (holmd.dir.path().join("sshd"), holmd.dir.path().join("bin"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(&bin).unwrap();
        let authority = &holmd.app().authority;
        // Neither lets in who comes with the other's.
        let trusted = match reach {
            SshReach::Whole => authority.ssh_ca(),
            SshReach::Terminal => authority.ssh_terminal_ca(),
            SshReach::Recorded | SshReach::Recordings => authority.ssh_recorded_ca(),
        };
        sshd(&dir, trusted);
        let config = dir.join("config");
        let path = format!("SetEnv PATH={}:/usr/bin:/bin\n", bin.display());
        // As a slice's includes it: what comes first counts.
        let (first, own) = (more(&bin), std::fs::read_to_string(&config).unwrap());
        // Of a subsystem there is no second.
        let own = if first.contains("Subsystem") { own.replace("Subsystem", "# Subsystem") } else { own };
        let text = first + &own + &path;
        std::fs::write(&config, text).unwrap();
        for name in ["sbatch", "squeue", "sacct", "scancel", "jobstat"] {
            std::fs::write(bin.join(name), SLURM).unwrap();
            common::mode(&bin.join(name), 0o755);
        }
        let run = holmd.dir.path().join("a run'time %dir");
        std::fs::create_dir(&run).unwrap();
        holmd.pretend("olga", Pretended { app: holmd.app(), user: user.clone(), sshd: Some(dir), reach });
        Some(Self { holmd, bin, run, user })
    }

    fn says(&self, file: &str, text: &str) {
        std::fs::write(self.bin.join(file), text).unwrap();
    }

    fn told(&self, file: &str) -> String {
        std::fs::read_to_string(self.bin.join(file)).unwrap()
    }

    /// Exit code, standard output, standard error.
    fn job(&self, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
        let all: Vec<&str> = ["job"].iter().chain(arguments).copied().collect();
        let mut command = self.holmd.command("olga", &all);
        command.env("XDG_RUNTIME_DIR", &self.run).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // Who does not read it may be gone by then.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        assert_eq!(std::fs::read_dir(&self.run).unwrap().count(), 0, "the keys are gone");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// As `squeue` says it.
    fn queued(&self, id: &str, state: &str, reason: &str, exit: &str, name: &str) -> String {
        let user = &self.user;
        format!(
            "{id}|{user}|{state}|{reason}|cpu=1,gres/gpu=2|1:05|2-00:00:00|1795770325|1795770326|N/A|{exit}|normal|{name}|/root|/root/o-%j|\n"
        )
    }

    /// As `sacct` says it, with the name of the file.
    fn accounted(&self, id: &str, state: &str, user: &str, output: &Path) -> String {
        let output = output.display();
        format!(
            "{id}|{user}|{state}|None|gres/gpu=2|gres/gpu=2|65|2880|1795770325|1795770326|1795770391|0:0|normal|train|/root|{output}|\n"
        )
    }
}

#[test]
fn a_job_is_submitted_as_it_is_written() {
    let Some(slurm) = Slurm::new() else { return };
    slurm.says("sbatch.says", "17\n");
    let script = "#!/bin/sh\necho \"$@\" '$HOME' `id`\n";
    let (code, out, err) =
        slurm.job(&["submit", "heart/main", "-", "--name", "'; rm -rf ~; '", "--quiet"], script);
    assert!(code == Some(0) && out == "17\n", "{code:?} {out} {err}");
    assert_eq!(slurm.told("sbatch.told"), "[--parsable][--job-name='; rm -rf ~; ']");
    assert_eq!(slurm.told("script"), script);
    // With arguments, from a file, and as JSON.
    let file = slurm.bin.join("a $(b) 'c'.sh");
    std::fs::write(&file, script).unwrap();
    let arguments = [
        "submit",
        "heart/main",
        file.to_str().unwrap(),
        "--gpus",
        "2",
        "--time",
        "1h",
        "--format",
        "json",
        "--",
        "a b",
        "$(id)",
        "*",
    ];
    let (code, out, err) = slurm.job(&arguments, "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(code == Some(0) && json["job"] == "17", "{code:?} {out} {err}");
    assert_eq!(
        slurm.told("sbatch.told"),
        "[--parsable][--job-name=a $(b) 'c'.sh][--gres=gpu:2][--time=0-01:00:00][/dev/stdin][a b][$(id)][*]"
    );
    assert_eq!(slurm.told("script"), script);
    // What Slurm refuses is an error in its words.
    slurm.says("sbatch.err", "sbatch: error: Batch job submission failed: Invalid qos specification\n");
    slurm.says("sbatch.code", "1");
    let (code, out, err) = slurm.job(&["submit", "heart/main", "-", "--qos", "no"], script);
    assert!(
        code == Some(1) && out.is_empty() && err.starts_with("error: Slurm: Invalid qos"),
        "{code:?} {out} {err}"
    );
    // What is no script does not get that far.
    std::fs::remove_file(slurm.bin.join("asked")).unwrap();
    let (code, _, err) = slurm.job(&["submit", "heart/main", "-"], "#!/bin/sh\r\ntrue\r\n");
    assert!(code == Some(2) && err.contains("Windows"), "{code:?} {err}");
    assert!(!slurm.bin.join("asked").exists());
}

#[test]
fn whoever_waits_for_a_job_ends_as_it_does() {
    let Some(slurm) = Slurm::new() else { return };
    slurm.says("sbatch.says", "17\n");
    slurm.says("squeue.says", &slurm.queued("17", "PENDING", "Priority", "0:0", "train"));
    slurm.says("squeue.next", &slurm.queued("17", "FAILED", "NonZeroExitCode", "7:0", "train"));
    let (code, out, err) = slurm.job(&["submit", "heart/main", "-", "--wait"], "#!/bin/sh\nexit 7\n");
    assert_eq!((code, out.as_str()), (Some(7), "job 17 ended with 7\n"), "{err}");
    let expected =
        "job 17 is submitted\njob 17 is pending: others are before it\njob 17 is failed: exit code 7\n";
    assert_eq!(err, expected);
}

#[test]
fn jobs_are_listed_and_shown_whatever_they_are_called() {
    let Some(slurm) = Slurm::new() else { return };
    let name = "x\n9\u{1b}[2J";
    slurm.says("squeue.says", &slurm.queued("17_[4-9%2]", "PENDING", "JobArrayTaskLimit", "0:0", name));
    let (code, out, err) = slurm.job(&["list", "heart/main"], "");
    assert!(code == Some(0) && out.lines().count() == 2, "{code:?} {out} {err}");
    assert!(out.contains("17_[4-9%2]  x\\n9\\u{1b}[2J"), "{out}");
    assert!(slurm.told("squeue.told").ends_with(&format!("[--user={}]", slurm.user)));
    slurm.says("sacct.says", &slurm.accounted("12", "COMPLETED", &slurm.user, Path::new("/root/o-12")));
    let (code, out, err) =
        slurm.job(&["list", "heart/main", "--since", "2d", "--all-users", "--format", "json"], "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(code == Some(0) && json.as_array().unwrap().len() == 2, "{code:?} {out} {err}");
    assert!(slurm.told("sacct.told").ends_with("[--allusers]"));
    slurm.says("squeue.says", "");
    slurm.says("squeue.err", "slurm_load_jobs error: Invalid job id specified\n");
    slurm.says("squeue.code", "1");
    let (code, out, err) = slurm.job(&["show", "heart/main", "12"], "");
    assert!(
        code == Some(0) && out.starts_with("12  completed\n") && out.contains("/root/o-12"),
        "{code:?} {out} {err}"
    );
    slurm.says("sacct.says", "");
    let (code, _, err) = slurm.job(&["show", "heart/main", "13"], "");
    assert!(code == Some(1) && err.contains("there is no job 13 in heart/main"), "{code:?} {err}");
    slurm.says("squeue.err", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n");
    let (code, _, err) = slurm.job(&["show", "heart/main", "13"], "");
    assert!(code == Some(1) && err.contains("Unable to contact"), "{code:?} {err}");
}

#[test]
fn a_job_s_output_is_read_while_it_is_written() {
    let Some(slurm) = Slurm::new() else { return };
    let output = slurm.bin.join("o 'x'");
    let accounted = |state: &str| slurm.accounted("17", state, &slurm.user, &output);
    slurm.says("sacct.says", &accounted("RUNNING"));
    let (code, out, err) = slurm.job(&["logs", "heart/main", "17"], "");
    assert!(code == Some(0) && out.is_empty() && err.contains("has written nothing"), "{code:?} {out} {err}");
    std::fs::write(&output, "one\ntwo\nthree\n").unwrap();
    assert_eq!(slurm.job(&["logs", "heart/main", "17"], "").1, "one\ntwo\nthree\n");
    assert_eq!(slurm.job(&["logs", "heart/main", "17", "--lines", "2"], "").1, "two\nthree\n");
    // Until it ends.
    slurm.says("squeue.says", &slurm.queued("17", "RUNNING", "None", "0:0", "train"));
    slurm.says("squeue.next", &slurm.queued("17", "COMPLETED", "None", "0:0", "train"));
    let (code, out, err) = slurm.job(&["logs", "heart/main", "17", "--lines", "1", "--follow"], "");
    assert!(code == Some(0) && out == "three\n", "{code:?} {out} {err}");
    // Another's is not read, and an array has no one output.
    slurm.says("squeue.says", "");
    slurm.says("sacct.says", &slurm.accounted("17", "RUNNING", "bo", &output));
    let (code, out, err) = slurm.job(&["logs", "heart/main", "17"], "");
    assert!(code == Some(1) && out.is_empty() && err.contains("bo's"), "{code:?} {out} {err}");
    slurm.says("sacct.says", &[accounted("RUNNING"), accounted("RUNNING")].concat());
    let (code, _, err) = slurm.job(&["logs", "heart/main", "17"], "");
    assert!(code == Some(2) && err.contains("array of 2 tasks"), "{code:?} {err}");
}

#[test]
fn only_one_s_own_jobs_are_cancelled() {
    let Some(slurm) = Slurm::new() else { return };
    slurm.says("squeue.says", &slurm.queued("17_[4-9%2]", "PENDING", "Priority", "0:0", "train"));
    let (code, out, err) = slurm.job(&["cancel", "heart/main", "17_5"], "");
    assert!(code == Some(0) && out == "job 17_5 is cancelled\n", "{code:?} {out} {err}");
    assert_eq!(slurm.told("scancel.told"), "[17_5]");
    let (code, _, err) = slurm.job(&["cancel", "heart/main", "--mine"], "");
    assert!(code == Some(2) && err.contains("--mine --yes"), "{code:?} {err}");
    let (code, _, err) = slurm.job(&["cancel", "heart/main", "--mine", "--yes"], "");
    assert!(code == Some(0), "{code:?} {err}");
    assert_eq!(slurm.told("scancel.told"), "[17]");
    std::fs::remove_file(slurm.bin.join("scancel.told")).unwrap();
    slurm.says("squeue.next", &slurm.queued("12", "RUNNING", "None", "0:0", "x").replace(&slurm.user, "bo"));
    let (code, _, err) = slurm.job(&["cancel", "heart/main", "12"], "");
    assert!(code == Some(1) && err.contains("job 12 is bo's"), "{code:?} {err}");
    slurm.says("scancel.code", "1");
    slurm.says("scancel.err", "scancel: error: Kill job error on job id 17: Access/permission denied\n");
    slurm.says("squeue.says", &slurm.queued("17", "RUNNING", "None", "0:0", "x"));
    let (code, _, err) = slurm.job(&["cancel", "heart/main", "17"], "");
    assert!(code == Some(1) && err.contains("Access/permission denied"), "{code:?} {err}");
}

#[test]
fn what_a_job_uses_is_as_its_slice_draws_it() {
    let Some(slurm) = Slurm::new() else { return };
    slurm.says("jobstat.says", "Job 17 has run for 1 min.\n100 % ┤█\x1b[2J\n");
    let (code, out, err) = slurm.job(&["stat", "heart/main", "17"], "");
    assert!(
        code == Some(0) && out == "Job 17 has run for 1 min.\n100 % ┤█\\u{1b}[2J\n",
        "{code:?} {out} {err}"
    );
    assert_eq!(slurm.told("jobstat.told"), "[17][--format][text]");
    slurm.says("jobstat.says", r#"{"job":"17","points":[{"at":60,"cpu":0.5,"memory_mib":900,"gpu":null}]}"#);
    let (code, out, _) = slurm.job(&["stat", "heart/main", "17", "--format", "csv"], "");
    assert_eq!((code, out.as_str()), (Some(0), "at,gpu,cpu,memory_mib\n60,,0.5,900\n"));
    let (code, out, _) = slurm.job(&["stat", "heart/main", "17", "--format", "json"], "");
    assert!(code == Some(0) && out.contains("\"memory_mib\": 900"), "{out}");
    slurm.says("jobstat.says", "no numbers");
    let (code, _, err) = slurm.job(&["stat", "heart/main", "17", "--format", "json"], "");
    assert!(code == Some(1) && err.contains("is not understood"), "{code:?} {err}");
    slurm.says("jobstat.code", "1");
    slurm.says("jobstat.err", "no job 17 of yours\n");
    let (code, _, err) = slurm.job(&["stat", "heart/main", "17"], "");
    assert!(code == Some(1) && err.contains("no job 17 of yours"), "{code:?} {err}");
}

/// What a slice's image has for levels that allow a terminal alone.
const TERMINAL: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/guest-image/files/usr/lib/holm/terminal");

#[test]
fn where_a_level_allows_a_terminal_alone_nothing_else_is() {
    let forced = |bin: &Path| {
        for name in ["terminal", "sftp"] {
            std::fs::copy(Path::new(TERMINAL).with_file_name(name), bin.join(name)).unwrap();
        }
        // An sshd that is told as a slice's is, with its programs where this test has them.
        format!(
            "ForceCommand {0}/terminal\nSetEnv HOME=/nonexistent PATH={0}:/usr/bin:/bin\nSubsystem sftp /usr/lib/holm/sftp\n",
            bin.display()
        )
    };
    let Some(slurm) = Slurm::with(SshReach::Terminal, forced) else { return };
    let holm = |arguments: &[&str]| {
        let mut command = slurm.holmd.command("olga", arguments);
        let output = command.env("XDG_RUNTIME_DIR", &slurm.run).output().unwrap();
        (output.status.code(), common::text(&output))
    };
    let (code, said) = holm(&["ssh", "heart/main", "--", "echo", "ran"]);
    assert!(
        code == Some(1) && said.contains("no command without a terminal") && !said.contains("ran"),
        "{code:?} {said}"
    );
    let (code, said) = holm(&["ssh", "heart/main"]);
    assert!(code == Some(1) && said.contains("allows a terminal alone"), "{code:?} {said}");
    let (code, said) = holm(&["ssh", "heart/main", "--tty", "--", "tty; exit 7"]);
    assert!(code == Some(7) && said.contains("/dev/pts/"), "{code:?} {said}");
    let (code, said) = holm(&["ssh", "heart/main", "--forward", "8888:80"]);
    assert!(code == Some(1) && said.contains("no port is forwarded"), "{code:?} {said}");
    // In, and not out.
    let (from, to) = (slurm.bin.join("from"), slurm.bin.join("to"));
    std::fs::write(&from, "data").unwrap();
    let there = format!("heart/main:{}", to.display());
    let (code, said) = holm(&["slice", "copy", from.to_str().unwrap(), &there]);
    assert!(code == Some(0), "{code:?} {said}");
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "data");
    let back = slurm.bin.join("back");
    let (code, said) = holm(&["slice", "copy", &there, back.to_str().unwrap()]);
    assert!(code == Some(1) && said.contains("nothing is copied out"), "{code:?} {said}");
    assert_eq!(std::fs::read_to_string(&back).unwrap_or_default(), "");
    // Jobs, as anywhere.
    slurm.says("sbatch.says", "17\n");
    let script = "#!/bin/sh\nexit 0\n";
    let (code, out, err) =
        slurm.job(&["submit", "heart/main", "-", "--quiet", "--name", "a'b", "--", "x y", "$(id)"], script);
    assert!(code == Some(0) && out == "17\n", "{code:?} {out} {err}");
    assert_eq!(slurm.told("sbatch.told"), "[--parsable][--job-name=a'b][/dev/stdin][x y][$(id)]");
    assert_eq!(slurm.told("script"), script);
    slurm.says("squeue.says", &slurm.queued("17", "RUNNING", "None", "0:0", "train"));
    slurm.says("sacct.says", &slurm.accounted("17", "RUNNING", &slurm.user, Path::new("/root/o-17")));
    for arguments in [
        &["list", "heart/main", "--since", "2d"][..],
        &["list", "heart/main", "--all-users"],
        &["show", "heart/main", "17"],
        &["cancel", "heart/main", "17"],
    ] {
        let (code, out, err) = slurm.job(arguments, "");
        assert!(code == Some(0) && out.contains("17"), "{arguments:?} {code:?} {out} {err}");
    }
    let (code, _, err) = slurm.job(&["logs", "heart/main", "17"], "");
    assert!(code == Some(1) && err.contains("nothing is copied out"), "{code:?} {err}");
}

/// Of what is asked for by hand, only what `holm job` asks for gets as far as Slurm.
#[test]
fn what_looks_like_a_job_is_none() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["sbatch", "squeue", "sacct", "scancel", "jobstat"] {
        std::fs::write(dir.path().join(name), "#!/bin/sh\necho \"reached $#\"\n").unwrap();
        common::mode(&dir.path().join(name), 0o755);
    }
    let ask = |asked: &str| {
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let mut command = Command::new(TERMINAL);
        command.env_clear().env("PATH", path).env("LOGNAME", "ida").env("SSH_ORIGINAL_COMMAND", asked);
        let output = command.current_dir(dir.path()).stdin(Stdio::null()).output().unwrap();
        (output.status.success(), common::text(&output))
    };
    for good in [
        "'scancel' '17' '18_2'",
        "'jobstat' '18_2' '--format' 'json'",
        "'sbatch' '--parsable' '--job-name=; id'",
        "cat | 'sbatch' '--test-only' '/dev/stdin' '--wrap=x'",
        "'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'squeue' '--noheader' '--Format=JobArrayID:h0,Name:h0' '--user=ida'",
        "'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'sacct' '--parsable' '--delimiter=h0' '--format=JobID,User' '--jobs=17_3'",
    ] {
        let (ok, said) = ask(good);
        assert!(ok && said.starts_with("reached"), "{good}: {said}");
    }
    for bad in [
        "id",
        "'id'",
        "sbatch",
        "'sbatch'",
        "'sbatch' '--parsable' '--wrap=id'",
        "'sbatch' '--parsable' '/etc/passwd'",
        "'sbatch' '--parsable' '/dev/stdin'",
        "cat | 'sbatch' '--parsable'",
        "cat | 'cat' '/etc/passwd'",
        "'scancel'",
        "'scancel' '-u' 'ida'",
        "'scancel' '17'; id",
        "'scancel' '17' ",
        "'scancel' '17' $(id)",
        "'scancel' '17'\n'id'",
        "'scancel' '17'\\'$(id)'",
        "'scancel' '1'\\''7'",
        "'scancel' \"17\"",
        "'scancel' '17",
        "'jobstat' '17'",
        "'jobstat' '../17' '--format' 'json'",
        "'jobstat' '17' '--format' 'json' '18'",
        "cat | 'jobstat' '17' '--format' 'json'",
        "'squeue'",
        "'env' 'id'",
        "'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'id'",
        "'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'squeue' '--nodelist=/etc/passwd'",
        "'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'squeue' '--user=a b'",
        "cat | 'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'squeue'",
        "scp -f /etc/passwd",
        "scp -t x",
        "/usr/lib/openssh/sftp-server",
        "/usr/lib/holm/sftp; id",
        "'tail' '-c' '+1' '--' 'x' | 'head' '-c' '9'",
    ] {
        let (ok, said) = ask(bad);
        assert!(!ok && said.starts_with("holm: refused: ") && said.lines().count() == 1, "{bad}: {said}");
    }
}

#[test]
fn plain_ssh_reaches_a_slice_by_its_configuration() {
    let Some(slurm) = Slurm::new() else { return };
    // Its account is that of who runs this test, and not of who asks.
    let config = slurm.holmd.ok("olga", &["slice", "ssh-config", "heart/main"]);
    assert!(config.contains("    User olga\n"), "{config}");
    let file = slurm.bin.join("config");
    std::fs::write(&file, config.replace("User olga", &format!("User {}", slurm.user))).unwrap();
    let ssh = |arguments: &[&str]| {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(&file).args(arguments).stdin(Stdio::null()).env_remove("HOLM_CONFIG");
        command
    };
    let output = ssh(&["heart.main.holm", "echo in the slice; exit 7"]).output().unwrap();
    assert!(
        output.status.code() == Some(7) && output.stdout == b"in the slice\n",
        "{}",
        common::text(&output)
    );
    // What it needs lies in the profile, and is used again.
    let dir = slurm.holmd.profile("olga").join("ssh/heart.main");
    let certificate = || std::fs::read_to_string(dir.join("key-cert.pub")).unwrap();
    let before = certificate();
    slurm.holmd.ok("olga", &["slice", "ssh-cert", "heart/main"]);
    assert_eq!(certificate(), before);
    std::fs::remove_file(dir.join("key-cert.pub")).unwrap();
    slurm.holmd.ok("olga", &["slice", "ssh-cert", "heart/main"]);
    assert!(certificate() != before);
    // Ports there come here, none of here gets there.
    let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = format!("{here}:127.0.0.1:{}", there.local_addr().unwrap().port());
    let arguments = ["ssh", "heart/main", "--forward", &ports, "--", "echo up; cat"];
    let mut command = slurm.holmd.command("olga", &arguments);
    command.env("XDG_RUNTIME_DIR", &slurm.run).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut forwarding = command.spawn().unwrap();
    let mut up = [0; 3];
    // The command is run when the port is there.
    std::io::Read::read_exact(forwarding.stdout.as_mut().unwrap(), &mut up).unwrap();
    let mut connected = std::net::TcpStream::connect(("127.0.0.1", here)).unwrap();
    let (mut other, _) = there.accept().unwrap();
    other.write_all(b"hello").unwrap();
    let mut hello = [0; 5];
    std::io::Read::read_exact(&mut connected, &mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    drop((connected, other, forwarding.stdin.take()));
    assert!(forwarding.wait().unwrap().success());
    let back = ["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "heart.main.holm", "true"];
    assert_eq!(ssh(&back).output().unwrap().status.code(), Some(255));
}

/// What stands in for ssh: says what it was asked, and answers as a slice does.
const RECORDER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >>"$here/asked"
for last; do :; done
case $last in
  list) printf '20261128-180302-bo-AAAAAA\t1795889000\t17\topen\n20261128-180102-ida-x9ZkQ0\t1795888984\t4096\tdone\n\033]0;x\a\n' ;;
  "text 20261128-180102-ida-x9ZkQ0 0") printf 'shown \033[31m42\033[0m\r\n' ;;
  "play "*) echo played ;;
  *) echo 'holm: there is no recording' >&2; exit 1 ;;
esac
"#;

#[test]
fn recordings_are_listed_printed_and_played_each_with_a_reason() {
    let holmd = Holmd::with_people();
    let (dir, bin) = (holmd.dir.path().join("sshd"), holmd.dir.path().join("bin"));
    for dir in [&dir, &bin] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(dir.join("host.pub"), holmd.app().authority.ssh_ca()).unwrap();
    std::fs::write(bin.join("ssh"), RECORDER).unwrap();
    common::mode(&bin.join("ssh"), 0o755);
    holmd.pretend(
        "olga",
        Pretended { app: holmd.app(), user: "olga".to_owned(), sshd: Some(dir), reach: SshReach::Recordings },
    );
    let ask = |arguments: &[&str]| {
        let all: Vec<&str> = ["slice", "recordings", "heart/main"].iter().chain(arguments).copied().collect();
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let output = holmd.command("olga", &all).env("PATH", path).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = ask(&["--reason", "complaint 17", "--format", "json"]);
    assert!(code == Some(0), "{out} {err}");
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    let told: Vec<_> = listed.as_array().unwrap().iter().map(|one| (&one["user"], &one["open"])).collect();
    assert_eq!(told, [(&"ida".into(), &false.into()), (&"bo".into(), &true.into())]);
    let asked = std::fs::read_to_string(bin.join("asked")).unwrap();
    for wanted in ["User=holm_recordings", "'tunnel' '--recordings'", "IdentityAgent=none", "BatchMode=yes"] {
        assert!(asked.contains(wanted), "{wanted}: {asked}");
    }
    let one = "20261128-180102-ida-x9ZkQ0";
    let (code, out, _) = ask(&[one, "--reason", "complaint 17", "--text"]);
    assert_eq!((code, out.as_str()), (Some(0), "shown 42\n"));
    let (code, out, _) = ask(&[one, "--reason", "complaint 17", "--speed", "4"]);
    assert_eq!((code, out.as_str()), (Some(0), "played\n"));
    assert!(
        std::fs::read_to_string(bin.join("asked")).unwrap().trim_end().ends_with(&format!("play {one} 4"))
    );
    let (code, _, err) = ask(&["20261128-180102-bo-AAAAAA", "--reason", "complaint 17", "--text"]);
    assert!(code == Some(1) && err.contains("there is no recording"), "{err}");
    for bad in [&["--reason", " "][..], &["../../etc", "--reason", "x"], &[], &["--reason", "x", "--text"]] {
        let (code, _, err) = ask(bad);
        assert!(code == Some(2), "{bad:?}: {err}");
    }
}
