//! What terminals of a slice showed, for officers: told by the slice itself over SSH, so that no host in between reads along.

use super::{Session, job::remote::Remote, ssh};
use crate::Failure;
use crate::args::Recordings;
use crate::output::put;
use crate::text::{plain, plain_lines};
use crate::view::{self, Recording};
use serde_json::Value;
use tokio::process::Command;

/// Of a list: some hundred bytes a recording.
const LIST_MAX: usize = 8 << 20;
/// Of one recording as text, at a time: what the slice sends.
const PIECE: usize = 16 << 20;

pub(super) async fn run(session: &Session, args: Recordings) -> Result<u8, Failure> {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("say why you look at it: it is in the log").hint("--reason TEXT"));
    }
    let slice = session.slice(&args.target.slice, &args.target.project)?;
    let label = format!("{}/{}", slice.project, slice.name);
    let prepared = ssh::Prepared::to_recordings(session, &slice, &args.reason).await?;
    let Some(recording) = args.recording else {
        let said = Remote::by(session, prepared, &label).ask("list", None, LIST_MAX).await?;
        let all = said_by(&label, said.code, &said.err).map(|()| view::parse_recordings(&said.out))?;
        let json: Value = all.iter().map(view::recording_json).collect();
        session.output.list(&view::recordings(&all, &session.clock), &json)?;
        if let Some(Recording { id, .. }) = all.last() {
            session.output.next(&format!("holm slice recordings {label} {id} --reason TEXT"))?;
        }
        return Ok(0);
    };
    if !holm_proto::guest::is_recording(&recording) {
        return Err(Failure::usage(format!("`{}` is no recording", plain(&recording)))
            .hint(format!("holm slice recordings {label} --reason TEXT")));
    }
    if args.text {
        let remote = Remote::by(session, prepared, &label);
        let mut from = 0;
        loop {
            let said = remote.ask(&format!("text {recording} {from}"), None, PIECE).await?;
            said_by(&label, said.code, &said.err)?;
            put(&plain_lines(&view::shown(&String::from_utf8_lossy(&said.out))))?;
            from += said.out.len();
            if said.out.len() < PIECE {
                return Ok(0);
            }
        }
    }
    let mut command = Command::new("ssh");
    command.args(prepared.options()).args(["-o", "ClearAllForwardings=yes", "-tt", "--", ssh::ALIAS]);
    command.arg(format!("play {recording} {}", args.speed.unwrap_or(1)));
    ssh::finish(command, "ssh").await
}

fn said_by(label: &str, code: u8, err: &str) -> Result<(), Failure> {
    // The last that it said: before it stands the banner.
    let why = err.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    match code {
        0 => Ok(()),
        _ => Err(Failure::new(format!(
            "{label} does not show it: {}",
            plain(why.trim_start_matches("holm: "))
        ))),
    }
}
