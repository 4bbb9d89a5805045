//! Standard input and output to the SSH server of a slice, through holmd. A few frames are on their way, never
//! more: each side waits for the other.
//!
//! ```text
//!   stdin ──thread──▶ AHEAD frames ──▶ holmd ──▶ agent ──▶ the slice
//!   stdout ◀──thread── AHEAD frames ◀──────────────────────┘
//! ```

use super::Session;
use crate::Failure;
use crate::args::Target;
use holm_proto::Bytes;
use holm_proto::v1::ConnectFrame;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const FRAME: usize = 64 * 1024;
const AHEAD: usize = 4;

pub(super) async fn run(session: &Session, target: &Target, recordings: bool) -> Result<(), Failure> {
    let slice = session.slice(&target.slice, &target.project)?;
    let mut client = session.slices().await?;
    let (send, receive) = mpsc::channel(AHEAD);
    let first = ConnectFrame { slice: Some(slice), recordings, ..Default::default() };
    send.send(first).await.map_err(|_| Failure::new("the connection ended before it began"))?;
    let mut from = session.ask(client.connect(ReceiverStream::new(receive))).await?;
    // When there is no more to say, `send` goes with the thread: the slice hears that, and may still have much
    // to say itself. The thread may wait for a terminal for ever, and is not waited for.
    let (mut input, mut output) =
        plain_ends().map_err(|e| Failure::new(format!("no input or output: {e}")))?;
    std::thread::spawn(move || up(&mut input, &send));
    let (print, printed) = mpsc::channel(AHEAD);
    let down = tokio::task::spawn_blocking(move || down(&mut output, printed));
    let ended = loop {
        match from.message().await {
            Ok(Some(frame)) => {
                if print.send(frame.data).await.is_err() {
                    // Nobody reads any more: ssh is done with it.
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(status) => break Err(status.into()),
        }
    };
    drop(print);
    // What has come is written, also where the end was not a good one.
    let written = down.await.map_err(|e| Failure::of(&e))?;
    ended.and(written.or_else(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::new(format!("cannot write to standard output: {e}"))),
    }))
}

/// Standard input and output as they are: the library's own look for ends of lines, in what is not lines.
fn plain_ends() -> io::Result<(File, File)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    Ok((input.into(), io::stdout().as_fd().try_clone_to_owned()?.into()))
}

fn up(input: &mut impl Read, send: &mpsc::Sender<ConnectFrame>) {
    let mut buffer = vec![0; FRAME];
    loop {
        let count = match input.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let data = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        if send.blocking_send(ConnectFrame { data, ..Default::default() }).is_err() {
            return;
        }
    }
}

fn down(output: &mut impl Write, mut frames: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(data) = frames.blocking_recv() {
        output.write_all(&data)?;
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_goes_up_and_then_the_end() {
        let data: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let (send, mut receive) = mpsc::channel(AHEAD);
        let sent = data.clone();
        let thread = std::thread::spawn(move || up(&mut sent.as_slice(), &send));
        let mut got = Vec::new();
        while let Some(frame) = receive.blocking_recv() {
            assert!(frame.slice.is_none() && frame.data.len() <= FRAME);
            got.extend(frame.data);
        }
        thread.join().unwrap();
        assert_eq!(got, data);
    }
}
