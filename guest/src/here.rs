//! What programs of this machine say, for the log: root's through a pipe, members' through a socket, where the kernel names
//! who it was. Whoever is root says of anybody what it likes; who is not, of herself how much she copied and what
//! her level refused her.

use crate::{
    claims::{AT_ONCE, Claims, What},
    failed::{Of as _, Outcome},
    files,
};
use rustix::{
    cmsg_space,
    fs::{FileType, Mode, OFlags},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
        SocketType, bind, recvmsg, socket_with, sockopt::set_socket_passcred,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

/// So many claims of hers a member makes at once, and then one in so long; of more their numbers are missing.
const HERS: f64 = 60.0;
const HERS_EVERY: Duration = Duration::from_secs(5);
/// What a member says, of herself alone.
const HERS_TO_SAY: [&str; 2] = ["transfer", "refused"];

/// Where they are heard.
#[derive(Debug)]
pub struct Here {
    pub root: OwnedFd,
    pub members: OwnedFd,
    /// Of members and kinds of claims, how much each may say yet, and since when.
    hers: BTreeMap<String, (f64, Instant)>,
}

impl Here {
    /// Where root's programs and members' find it, below `run`.
    pub fn new(run: &Path) -> Outcome<Self> {
        let (say, transfers) = (run.join("say"), run.join("transfers"));
        for left in [&say, &transfers] {
            files::remove(left).of(left.display())?;
        }
        rustix::fs::mknodat(rustix::fs::CWD, &say, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .of(say.display())?;
        // Open at both ends, it is never at its end.
        let root = rustix::fs::open(&say, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let members = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).of("a socket")?;
        // Before anybody can send: what is sent earlier comes without a name.
        set_socket_passcred(&members, true).of("a socket")?;
        let address = SocketAddrUnix::new(&transfers).of(transfers.display())?;
        bind(&members, &address).of(transfers.display())?;
        fs::set_permissions(&transfers, fs::Permissions::from_mode(0o666)).of(transfers.display())?;
        Ok(Self { root: root.of(say.display())?, members, hers: BTreeMap::new() })
    }

    /// Takes what was said since; `people` are those of whom it is known who they are.
    pub fn hear(&mut self, people: &BTreeMap<u32, String>, claims: &mut Claims) -> io::Result<()> {
        let mut bytes = vec![0; 65_536];
        match rustix::io::read(&self.root, &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            length => {
                let said = String::from_utf8_lossy(bytes.get(..length?).unwrap_or_default()).into_owned();
                said.lines().filter_map(What::parse).for_each(|what| claims.add(what));
            }
        }
        for _ in 0..AT_ONCE {
            match self.member()? {
                None => break,
                Some((uid, said)) => {
                    if let Some(member) = uid.and_then(|uid| people.get(&uid)) {
                        self.take(member, &said, claims);
                    }
                }
            }
        }
        Ok(())
    }

    /// The next thing that was sent, and by whom; `None`: nothing more.
    fn member(&self) -> io::Result<Option<(Option<u32>, String)>> {
        let mut bytes = [0; 512];
        // Room for who it is. For descriptors that she sends along there is none: they would stay open.
        let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmCredentials(1))];
        let mut sent_along = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let length = match recvmsg(&self.members, &mut [IoSliceMut::new(&mut bytes)], &mut sent_along, flags)
        {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            received => received?.bytes,
        };
        let mut uid = None;
        for message in sent_along.drain() {
            if let RecvAncillaryMessage::ScmCredentials(who) = message {
                uid = Some(who.uid.as_raw());
            }
        }
        let said = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
        Ok(Some((uid, said)))
    }

    fn take(&mut self, member: &str, said: &str, claims: &mut Claims) {
        // As `logger` has it, after what a system's log wants.
        let line = said.trim_matches(['\0', '\n']).split_once("holm: ").map_or("", |(_, line)| line);
        let Some(mut what) = What::parse(line).filter(|what| HERS_TO_SAY.contains(&what.kind.as_str()))
        else {
            return;
        };
        // What is refused is cheap to ask for: it takes nothing from what is said of copies.
        if !self.may(&format!("{member} {}", what.kind), Instant::now()) {
            claims.leave_out();
            return;
        }
        what.fields.insert("user".to_owned(), member.into());
        claims.add(what);
    }

    /// What one member says must not push out what is said of the others.
    fn may(&mut self, member: &str, now: Instant) -> bool {
        let (left, since) = self.hers.get(member).copied().unwrap_or((HERS, now));
        let left = (left + now.duration_since(since).as_secs_f64() / HERS_EVERY.as_secs_f64()).min(HERS);
        let may = left >= 1.0;
        self.hers.insert(member.to_owned(), (if may { left - 1.0 } else { left }, now));
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_an_allowance() {
        let place = tempfile::tempdir().unwrap();
        let mut here = Here::new(place.path()).unwrap();
        let start = Instant::now();
        let may = |here: &mut Here, who: &str, after: u64, times: usize| {
            (0..times).filter(|_| here.may(who, start + Duration::from_secs(after))).count()
        };
        assert_eq!(may(&mut here, "ida", 0, 100), 60);
        assert_eq!(may(&mut here, "frida", 0, 10), 10);
        assert_eq!(may(&mut here, "ida", 12, 100), 2);
        assert_eq!(may(&mut here, "ida", 100_000, 100), 60);
    }
}
