//! The ports over which guests speak, read without ever waiting.
//!
//! Nothing is read but when it is asked for, and then no more than a bounded piece: a guest that floods its
//! port fills a buffer of the kernel's and is held up there, at no cost to the host.

use super::{
    message::{Lines, parse},
    people, scheduler,
};
use crate::edge::{EdgeError, GuestEvent, Result};
use holm_proto::{
    ids::SliceId,
    v1::{GuestScheduler, GuestUser},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

/// The most that is read of one guest at a time.
const MAX_READ_BYTES: usize = 64 * 1024;
/// The most events that are kept of one reading: the newest.
const MAX_EVENTS: usize = 64;
/// Asks the guest to say its state again: what it said before the agent listened is lost.
const ASK: &[u8] = b"status\n";
/// Asks it to write down what it holds and to switch itself off.
const STOP: &[u8] = b"stop\n";
/// What has a guest make its file systems as large as its disks.
const GROW: &[u8] = b"grow\n";

/// The ports of all slices.
#[derive(Debug)]
pub struct Channels {
    directory: PathBuf,
    open: Mutex<BTreeMap<SliceId, Channel>>,
}

#[derive(Debug)]
struct Channel {
    stream: UnixStream,
    lines: Lines,
    /// A line has ended since it was opened: what came before may be the rest of one.
    whole: bool,
}

impl Channel {
    fn new(stream: UnixStream) -> Self {
        Self { stream, lines: Lines::default(), whole: false }
    }
}

impl Channels {
    /// The ports whose sockets lie in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, open: Mutex::default() }
    }

    /// Where QEMU listens for a slice.
    pub fn path(&self, slice: SliceId) -> PathBuf {
        self.directory.join(format!("{slice}.sock"))
    }

    /// What the guest said since it was asked last. A guest that does not run has said nothing.
    pub fn events(&self, slice: SliceId) -> Result<Vec<GuestEvent>> {
        let failed = |error| EdgeError::because(format!("cannot hear the guest of slice `{slice}`"), error);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channel = match open.remove(&slice) {
            Some(channel) => channel,
            None => match self.connect(slice).map_err(failed)? {
                Some(stream) => Channel::new(stream),
                None => return Ok(Vec::new()),
            },
        };
        let mut heard = Heard::default();
        let still_open = channel.read(&mut heard).map_err(failed)?;
        if still_open {
            open.insert(slice, channel);
        }
        let mut events = Vec::from(heard.events);
        if heard.lost > 0 {
            tracing::warn!(%slice, lines = heard.lost, "the guest says what is no event, or too much at once");
            events.push(GuestEvent::Lost(heard.lost));
        }
        Ok(events)
    }

    /// Asks the guest to stop; false where nobody listens, or takes nothing more now.
    pub fn ask_to_stop(&self, slice: SliceId) -> Result<bool> {
        self.ask(slice, STOP)
    }

    /// Tells the guest that its disks are larger; false where nobody listens, or takes nothing more now.
    pub fn ask_to_grow(&self, slice: SliceId) -> Result<bool> {
        self.ask(slice, GROW)
    }

    /// Tells the guest what of its claims is in the log; false where nobody listens, or takes nothing more now.
    pub fn acknowledge(&self, slice: SliceId, boot: &str, seq: u64) -> Result<bool> {
        self.ask(slice, format!("ack {boot} {seq}\n").as_bytes())
    }

    /// Tells the guest who has an account in it; false where nobody listens, or takes nothing more now.
    pub fn tell_people(&self, slice: SliceId, users: &[GuestUser]) -> Result<bool> {
        self.ask(slice, people::line(slice, users)?.as_bytes())
    }

    /// Tells the guest which classes of jobs it has; false where nobody listens, or takes nothing more now.
    pub fn tell_scheduler(&self, slice: SliceId, scheduler: &GuestScheduler) -> Result<bool> {
        self.ask(slice, format!("scheduler {}\n", scheduler::told(scheduler)).as_bytes())
    }

    fn ask(&self, slice: SliceId, what: &[u8]) -> Result<bool> {
        let failed = |error| EdgeError::because(format!("cannot ask the guest of slice `{slice}`"), error);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channel = match open.remove(&slice) {
            Some(channel) => channel,
            None => match self.connect(slice).map_err(failed)? {
                Some(stream) => Channel::new(stream),
                None => return Ok(false),
            },
        };
        match channel.stream.write(what) {
            Ok(written) => {
                // What follows half a line would be the rest of it: the next one begins anew.
                let whole = written == what.len();
                if whole {
                    open.insert(slice, channel);
                }
                Ok(whole)
            }
            Err(error) if ended(&error) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Lets go of a slice's port and removes its socket.
    pub fn forget(&self, slice: SliceId) -> Result<()> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&slice);
        match fs::remove_file(self.path(slice)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(EdgeError::because(format!("cannot remove the socket of slice `{slice}`"), error))
            }
            _ => Ok(()),
        }
    }

    /// Connects without waiting; `None` where nobody listens, or does not get round to it now.
    fn connect(&self, slice: SliceId) -> io::Result<Option<UnixStream>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect(&socket, &SocketAddrUnix::new(self.path(slice))?) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut stream = UnixStream::from(socket);
        match stream.write(ASK) {
            Ok(written) if written == ASK.len() => Ok(Some(stream)),
            Ok(_) => Ok(None),
            Err(error) if ended(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What one reading brought.
#[derive(Debug, Default)]
struct Heard {
    events: VecDeque<GuestEvent>,
    lost: u64,
}

impl Channel {
    /// Reads what is there, up to the bound; false when the other side has gone.
    fn read(&mut self, heard: &mut Heard) -> io::Result<bool> {
        let mut piece = [0; 4096];
        for _ in 0..MAX_READ_BYTES / piece.len() {
            let length = match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if ended(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            let whole = &mut self.whole;
            self.lines.push(piece.get(..length).unwrap_or_default(), |line| {
                match line.and_then(parse) {
                    Some(event) => {
                        if heard.events.len() == MAX_EVENTS {
                            heard.events.pop_front();
                            heard.lost += 1;
                        }
                        heard.events.push_back(event);
                    }
                    None => heard.lost += u64::from(*whole),
                }
                *whole = true;
            });
        }
        Ok(true)
    }
}

fn ended(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    struct Fixture {
        _directory: tempfile::TempDir,
        channels: Channels,
        slice: SliceId,
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let channels = Channels::new(directory.path().to_owned());
        Fixture {
            _directory: directory,
            channels,
            slice: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
        }
    }

    #[test]
    fn a_guest_is_asked_and_heard() {
        let Fixture { channels, slice, _directory } = fixture();
        assert_eq!(channels.events(slice).unwrap(), []);
        let guest = UnixListener::bind(channels.path(slice)).unwrap();
        assert_eq!(channels.events(slice).unwrap(), []);
        let (mut port, _) = guest.accept().unwrap();
        let mut asked = [0; ASK.len()];
        port.read_exact(&mut asked).unwrap();
        assert_eq!(asked, ASK);
        port.write_all(b"noise\n{\"event\":\"boot\"}\n{\"event\":\"fai").unwrap();
        assert_eq!(channels.events(slice).unwrap(), [GuestEvent::Boot]);
        port.write_all(b"led\",\"reason\":\"x\"}\n").unwrap();
        assert_eq!(channels.events(slice).unwrap(), [GuestEvent::Failed("x".into())]);
        assert_eq!(channels.events(slice).unwrap(), []);
        // But for the first line, which may be the rest of one, what is no event counts.
        port.write_all(b"{}\n{\"event\":\"boot\"}\nnoise\n").unwrap();
        assert_eq!(channels.events(slice).unwrap(), [GuestEvent::Boot, GuestEvent::Lost(2)]);
    }

    #[test]
    fn after_a_restart_it_is_asked_again() {
        let Fixture { channels, slice, _directory } = fixture();
        let guest = UnixListener::bind(channels.path(slice)).unwrap();
        for _ in 0..3 {
            assert_eq!(channels.events(slice).unwrap(), []);
            let (mut port, _) = guest.accept().unwrap();
            port.write_all(b"{\"event\":\"boot\"}\n{\"event\":\"half").unwrap();
            drop(port);
            // What was half said by the guest that ended is not put before what the next one says.
            assert_eq!(channels.events(slice).unwrap(), [GuestEvent::Boot]);
        }
    }

    #[test]
    fn a_flood_is_read_in_bounded_pieces() {
        let Fixture { channels, slice, _directory } = fixture();
        let guest = UnixListener::bind(channels.path(slice)).unwrap();
        channels.events(slice).unwrap();
        let (mut port, _) = guest.accept().unwrap();
        port.set_nonblocking(true).unwrap();
        let flood = b"{\"event\":\"boot\"}\n".repeat(10_000);
        let (mut sent, mut heard) = (0, 0);
        let mut rounds = 0;
        while sent < 2_000_000 {
            // The guest is stopped by its own unread bytes.
            while let Ok(written) = port.write(&flood) {
                sent += written;
            }
            let events = channels.events(slice).unwrap();
            let Some((GuestEvent::Lost(lost), kept)) = events.split_last() else {
                panic!("{}", events.len())
            };
            assert_eq!(kept.len(), MAX_EVENTS);
            heard += kept.len() as u64 + lost;
            rounds += 1;
        }
        assert!(rounds >= 2_000_000 / MAX_READ_BYTES / 4, "{rounds}");
        // None is uncounted, but for those that are still on their way.
        assert!(heard * 17 > 1_000_000 && heard * 17 <= sent as u64, "{heard} of {sent} bytes");
    }

    #[test]
    fn a_guest_hears_what_is_in_the_log() {
        let Fixture { channels, slice, _directory } = fixture();
        assert!(!channels.acknowledge(slice, "0f", 7).unwrap(), "nobody listens");
        let guest = UnixListener::bind(channels.path(slice)).unwrap();
        assert!(channels.acknowledge(slice, "0f", u64::MAX).unwrap());
        let (mut port, _) = guest.accept().unwrap();
        let mut said = [0; ASK.len() + "ack 0f 18446744073709551615\n".len()];
        port.read_exact(&mut said).unwrap();
        assert!(said.ends_with(b"\nack 0f 18446744073709551615\n"));
        // One that does not read is not waited for.
        while channels.acknowledge(slice, "0f", 1).unwrap() {}
    }

    #[test]
    fn a_guest_is_told_its_people_whole_or_anew() {
        let Fixture { channels, slice, _directory } = fixture();
        let users: Vec<GuestUser> = (0..1000)
            .map(|n| GuestUser { name: format!("user-{n}"), uid: 1000 + n, read_only: false })
            .collect();
        assert!(!channels.tell_people(slice, &users).unwrap(), "nobody listens");
        let guest = UnixListener::bind(channels.path(slice)).unwrap();
        assert!(channels.tell_people(slice, &users).unwrap());
        let (mut port, _) = guest.accept().unwrap();
        let mut said = vec![0; ASK.len() + people::line(slice, &users).unwrap().len()];
        port.read_exact(&mut said).unwrap();
        assert!(said.ends_with(people::line(slice, &users).unwrap().as_bytes()));
        // One that does not read is told until nothing fits; whoever connects then hears whole lines again.
        while channels.tell_people(slice, &users).unwrap() {}
        assert!(channels.ask_to_grow(slice).unwrap());
        let (mut port, _) = guest.accept().unwrap();
        let mut said = [0; ASK.len() + GROW.len()];
        port.read_exact(&mut said).unwrap();
        assert_eq!(said, [ASK, GROW].concat()[..]);
    }

    #[test]
    fn a_guest_is_asked_to_grow_and_to_stop() {
        let Fixture { channels, slice, _directory } = fixture();
        assert!(!channels.ask_to_stop(slice).unwrap(), "nobody listens");
        let guest = UnixListener::bind(channels.path(slice)).unwrap();
        assert!(channels.ask_to_grow(slice).unwrap());
        assert!(channels.ask_to_stop(slice).unwrap());
        let (mut port, _) = guest.accept().unwrap();
        let mut asked = [0; ASK.len() + GROW.len() + STOP.len()];
        port.read_exact(&mut asked).unwrap();
        assert_eq!(asked, [ASK, GROW, STOP].concat()[..]);
        drop(port);
        assert!(!channels.ask_to_stop(slice).unwrap(), "it has gone");
    }

    #[test]
    fn forgetting_removes_the_socket() {
        let Fixture { channels, slice, _directory } = fixture();
        let _guest = UnixListener::bind(channels.path(slice)).unwrap();
        channels.events(slice).unwrap();
        channels.forget(slice).unwrap();
        assert!(!channels.path(slice).exists());
        channels.forget(slice).unwrap();
        assert_eq!(channels.events(slice).unwrap(), []);
    }

    #[test]
    fn what_is_no_socket_is_an_error_or_silence() {
        let Fixture { channels, slice, _directory } = fixture();
        fs::write(channels.path(slice), "").unwrap();
        assert_eq!(channels.events(slice).unwrap(), []);
    }
}
