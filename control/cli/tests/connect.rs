//! Connections to a slice: the tunnel against an echo, and the system's ssh against the system's sshd.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

mod common;

use common::Holmd;
use holm_proto::ids::RequestId;
use holm_proto::v1;
use holm_proto::v1::slice_service_server::SliceService;
use holm_proto::v1::{
    ConnectFrame, DecideSliceRequest, DeletionCertificate, HoldSliceRequest, ListSlicesRequest,
    ListSlicesResponse, RequestSliceRequest, SignSshKeyRequest, Slice, SliceRef, SshCertificate,
};
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
            )
            .unwrap();
        let host_key = std::fs::read_to_string(self.sshd.as_ref().unwrap().join("host.pub")).unwrap();
        Ok(Response::new(SshCertificate {
            certificate: signed.text,
            user: self.user.clone(),
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
                if send.send(Ok(ConnectFrame { slice: None, data: buffer[..count].to_vec() })).await.is_err()
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
    holmd.pretend("olga", Pretended { app: holmd.app(), user: "olga".to_owned(), sshd: None });
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

#[test]
fn ssh_and_scp_find_their_way() {
    let id = |what: &str| {
        let said = Command::new("id").arg(what).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    };
    // sshd lets in nobody but whom it can become.
    if !Path::new(SSHD).exists() || id("-u") != "0" {
        eprintln!("not run: it needs sshd, and to be root");
        return;
    }
    std::fs::create_dir_all("/run/sshd").unwrap();
    let holmd = Holmd::with_people();
    let dir = holmd.dir.path().join("sshd");
    std::fs::create_dir(&dir).unwrap();
    sshd(&dir, holmd.app().authority.ssh_ca());
    holmd.pretend("olga", Pretended { app: holmd.app(), user: id("-un"), sshd: Some(dir.clone()) });

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
