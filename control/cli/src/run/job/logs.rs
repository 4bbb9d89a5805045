//! What a job has written to its standard output, read there with the rights of whose it is.

use super::remote::{Remote, line};
use super::slurm::failure;
use super::{accounted, no_job, one};
use crate::Failure;
use crate::args::Logs;
use crate::run::Session;
use crate::text::plain;
use crate::view::Batch;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::sleep;

/// Read at once; what there is more of is read next.
const CHUNK: usize = 4 << 20;
const AGAIN: Duration = Duration::from_secs(2);
const RARELY: Duration = Duration::from_secs(30);

pub(super) async fn run(session: &Session, args: Logs) -> Result<(), Failure> {
    let slice = session.slice(&args.target.slice, &args.target.project)?;
    let remote = Remote::new(session, &slice).await?;
    if remote.is_terminal_only() {
        let label = &remote.label;
        return Err(Failure::new(format!(
            "the level of `{label}` allows a terminal alone: nothing is copied out"
        ))
        .hint(format!("holm ssh {label}, and read it there")));
    }
    let remote = remote.kept().await?;
    let mut job = look(&remote, &args.job, None).await?;
    let mut printer = Printer::new(io::stdout().is_terminal());
    let mut read: Option<u64> = None;
    loop {
        // What it wrote before it ended is there when it has.
        let ended = job.has_ended();
        let size = if job.has_begun() { size(&remote, &job).await? } else { None };
        if let Some(size) = size {
            let mut at = match (read, args.lines) {
                (Some(at), _) => at,
                (None, None) => 0,
                (None, Some(lines)) => {
                    printer.print(&last_lines(&remote, &job, size, lines).await?)?;
                    size
                }
            };
            loop {
                let chunk = from(&remote, &job, at).await?;
                printer.print(&chunk)?;
                at += chunk.len() as u64;
                if chunk.len() < CHUNK {
                    break;
                }
            }
            read = Some(at);
        }
        if ended || !args.follow {
            printer.end()?;
            let nothing = read.is_none();
            if nothing {
                let why = if job.has_begun() { "its file is not there" } else { "it has not begun" };
                session.output.remark(&format!("job {} has written nothing: {why}", job.id));
            }
            return Ok(());
        }
        sleep(if remote.is_kept() { AGAIN } else { RARELY }).await;
        job = look(&remote, &args.job, Some(&job.output)).await?;
    }
}

/// How the job is, where it is that of who asks; and its file, where that is not known from before.
async fn look(remote: &Remote<'_>, number: &str, before: Option<&str>) -> Result<Batch, Failure> {
    let jobs = one(remote, number).await?;
    let mut job = match jobs.as_slice() {
        [] => return Err(no_job(remote, number)),
        [job] => job.clone(),
        [first, ..] => {
            return Err(Failure::usage(format!("job {number} is an array of {} tasks", jobs.len()))
                .hint(format!("holm job logs {} {}", remote.label, first.id)));
        }
    };
    if job.user != remote.user() {
        return Err(Failure::new(format!(
            "job {number} is {}'s: nobody reads what another's wrote",
            job.user
        )));
    }
    if let Some(known) = before.filter(|known| !known.contains('%')) {
        known.clone_into(&mut job.output);
    } else if job.has_begun() && job.output.contains('%') {
        // Its accounting knows the name with the number in it.
        let known = accounted(remote, number).await?.into_iter().find(|known| known.id == job.id);
        job.output = known.map(|known| known.output).unwrap_or(job.output);
    }
    if !job.output.starts_with('/') {
        return Err(Failure::new(format!("Slurm does not say where job {number} writes")));
    }
    Ok(job)
}

/// Of its file; none where there is none yet.
async fn size(remote: &Remote<'_>, job: &Batch) -> Result<Option<u64>, Failure> {
    let said = remote.ask(&line(["stat", "-L", "-c", "%s %F", "--", &job.output]), None, 4096).await?;
    if said.code != 0 {
        let gone = said.err.contains("No such file");
        return if gone { Ok(None) } else { Err(unreadable(job, &said.err)) };
    }
    let text = String::from_utf8_lossy(&said.out);
    match text.trim().split_once(' ') {
        Some((size, kind)) if kind.starts_with("regular") => Ok(size.parse().ok()),
        _ => Err(Failure::new(format!("job {} does not write to a file: `{}`", job.id, job.output))),
    }
}

async fn from(remote: &Remote<'_>, job: &Batch, at: u64) -> Result<Vec<u8>, Failure> {
    let (begin, most) = (format!("+{}", at.saturating_add(1)), CHUNK.to_string());
    let tail = line(["tail", "-c", &begin, "--", &job.output]);
    let said = remote.ask(&format!("{tail} | {}", line(["head", "-c", &most])), None, CHUNK).await?;
    if said.out.is_empty() && !said.err.trim().is_empty() {
        return Err(unreadable(job, &said.err));
    }
    if said.code != 0 {
        return Err(failure(&said, &remote.label));
    }
    Ok(said.out)
}

/// Of the first `size` bytes.
async fn last_lines(remote: &Remote<'_>, job: &Batch, size: u64, lines: u32) -> Result<Vec<u8>, Failure> {
    let (size, lines, most) = (size.to_string(), lines.to_string(), CHUNK.to_string());
    let head = line(["head", "-c", &size, "--", &job.output]);
    let tail = line(["tail", "-n", &lines]);
    let said = remote.ask(&format!("{head} | {tail} | {}", line(["tail", "-c", &most])), None, CHUNK).await?;
    if said.out.is_empty() && !said.err.trim().is_empty() {
        return Err(unreadable(job, &said.err));
    }
    Ok(said.out)
}

fn unreadable(job: &Batch, err: &str) -> Failure {
    let why = err.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nobody says why");
    Failure::new(format!("`{}` cannot be read there: {}", job.output, plain(why)))
}

/// To a terminal only what moves no cursor and is no command to it; elsewhere every byte as it is.
struct Printer {
    escape: bool,
    /// Of a character that has not come as a whole.
    rest: Vec<u8>,
}

impl Printer {
    fn new(escape: bool) -> Self {
        Self { escape, rest: Vec::new() }
    }

    fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let shown = self.shown(bytes);
        put(&shown)
    }

    fn shown(&mut self, bytes: &[u8]) -> Vec<u8> {
        if !self.escape {
            return bytes.to_vec();
        }
        self.rest.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.rest);
        let mut out = String::new();
        for chunk in all.utf8_chunks() {
            out.push_str(chunk.valid());
            // What may be the beginning of a character waits for its end.
            let at_the_end = chunk.invalid().as_ptr_range().end == all.as_ptr_range().end;
            if at_the_end && !chunk.invalid().is_empty() && may_go_on(chunk.invalid()) {
                self.rest = chunk.invalid().to_vec();
            } else if !chunk.invalid().is_empty() {
                out.push('\u{fffd}');
            }
        }
        escaped(&out).into_bytes()
    }

    fn end(&mut self) -> Result<(), Failure> {
        if self.rest.is_empty() { Ok(()) } else { put("\u{fffd}\n".as_bytes()) }
    }
}

/// Whether more bytes could make a character of these.
fn may_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Lines and tabs stay; what begins a line anew, as a progress bar does, becomes a line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for part in text.replace("\r\n", "\n").replace('\r', "\n").split_inclusive(['\n', '\t']) {
        let end = part.chars().next_back().filter(|c| matches!(c, '\n' | '\t'));
        out.push_str(&plain(part.trim_end_matches(['\n', '\t'])));
        out.extend(end);
    }
    out
}

fn put(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::nobody_reads(),
        _ => Failure::new(format!("cannot write to standard output: {e}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        let mut printer = Printer::new(true);
        let shown = |printer: &mut Printer, bytes: &[u8]| String::from_utf8(printer.shown(bytes)).unwrap();
        assert_eq!(
            shown(&mut printer, b"\x1b]0;owned\x07a\tb\r\n10%\r20%\r"),
            "\\u{1b}]0;owned\\u{7}a\tb\n10%\n20%\n"
        );
        // Half a character, and the other half.
        assert_eq!(shown(&mut printer, b"f\xc3"), "f");
        assert_eq!(shown(&mut printer, b"\xb8l\xff"), "\u{f8}l\u{fffd}");
        assert_eq!(Printer::new(false).shown(b"\x1b[31m\xff"), b"\x1b[31m\xff");
    }

    proptest! {
        #[test]
        fn however_it_comes_the_letters_are_the_same(text in "[a-zø☃🦀\t]{0,40}", at in 0_usize..120) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            let mut printer = Printer::new(true);
            let mut shown = printer.shown(&bytes[..at]);
            shown.extend(printer.shown(&bytes[at..]));
            prop_assert_eq!(shown, bytes);
        }
    }
}
