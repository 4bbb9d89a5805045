//! Waiting, for scripts: until a slice or a host is in a state.

use super::{Session, host, watch};
use crate::args::Wait;
use crate::progress::Spinner;
use crate::{Exit, Failure, view};
use holm_proto::v1::{DeviceKind, DeviceState, Host, SliceState};
use std::time::Duration;
use tokio::time::Instant;

/// How long holmd may be gone while a host is waited for, and how often it is asked.
const GONE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &Session, args: Wait) -> Result<(), Failure> {
    match (&args.host, &args.slice) {
        (Some(name), _) => {
            let wanted = HostState::parse(&args.state)?;
            let limited = for_host(session, name, wanted);
            match args.timeout {
                Some(limit) => tokio::time::timeout(limit, limited).await.unwrap_or_else(|_| {
                    let what = format!("the time is up, and `{name}` is not {}", args.state);
                    Err(Failure { exit: Exit::TimedOut, ..Failure::new(what) }
                        .hint(format!("holm host show {name}")))
                }),
                None => limited.await,
            }
        }
        (None, Some(slice)) => {
            let (slice, wanted) = (session.slice(slice, &args.project)?, parse(&args.state)?);
            let spinner = Spinner::new(&session.output);
            let last = watch::follow(session, &slice, args.timeout, &spinner, |now| {
                let label = view::label(now);
                match verdict(wanted, view::state(now)) {
                    Verdict::Reached => Ok(true),
                    Verdict::NotYet => Ok(false),
                    Verdict::Never => {
                        let word = view::word(view::state(now));
                        let why =
                            if now.reason.is_empty() { String::new() } else { format!(": {}", now.reason) };
                        Err(Failure::new(format!("`{label}` is {word}, and will not be {}{why}", args.state))
                            .hint(format!("holm slice explain {label}")))
                    }
                }
            })
            .await?;
            drop(spinner);
            let sentence = format!("{} is {}", view::label(&last), view::word(view::state(&last)));
            session.output.done(&sentence, &view::slice_json(&last))
        }
        (None, None) => {
            Err(Failure::usage("what for? name a slice, or a host with --host").hint("holm wait --help"))
        }
    }
}

/// The way up, the way down. Whoever waits for a place on a way is content with one further along.
const UP: [SliceState; 6] = [
    SliceState::Requested,
    SliceState::Approved,
    SliceState::Placed,
    SliceState::Preparing,
    SliceState::Booting,
    SliceState::Ready,
];
const DOWN: [SliceState; 5] = [
    SliceState::Keeping,
    SliceState::Kept,
    SliceState::Closing,
    SliceState::Destroying,
    SliceState::Destroyed,
];
const REST: [SliceState; 2] = [SliceState::Stopping, SliceState::Stopped];
const ELSEWHERE: [SliceState; 3] = [SliceState::Failed, SliceState::Rejected, SliceState::Withdrawn];

fn parse(text: &str) -> Result<SliceState, Failure> {
    let all = || UP.into_iter().chain(REST).chain(ELSEWHERE).chain(DOWN);
    all().find(|state| view::word(*state) == text).ok_or_else(|| {
        let words: Vec<&str> = all().map(view::word).collect();
        Failure::usage(format!("`{text}` is no state of a slice: there are {}", words.join(", ")))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Reached,
    NotYet,
    Never,
}

fn verdict(wanted: SliceState, now: SliceState) -> Verdict {
    let on = |way: &[SliceState], state| way.iter().position(|s| *s == state);
    if wanted == now {
        return Verdict::Reached;
    }
    // A state that this holm does not know is not the end of anything.
    if now == SliceState::Unspecified {
        return Verdict::NotYet;
    }
    for way in [UP.as_slice(), &REST, &DOWN] {
        if let (Some(wanted), Some(now)) = (on(way, wanted), on(way, now)) {
            return if now > wanted { Verdict::Reached } else { Verdict::NotYet };
        }
    }
    let may_come = match wanted {
        _ if on(&DOWN, wanted).is_some() => !matches!(now, SliceState::Rejected | SliceState::Withdrawn),
        _ if on(&REST, wanted).is_some() => now == SliceState::Failed || on(&UP, now).is_some(),
        SliceState::Failed => on(&UP, now).is_some(),
        SliceState::Rejected => now == SliceState::Requested,
        SliceState::Withdrawn => matches!(now, SliceState::Requested | SliceState::Approved),
        // The way up, from beside it or from the way down.
        _ => false,
    };
    if may_come { Verdict::NotYet } else { Verdict::Never }
}

/// What a host can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostState {
    Online,
    Clean,
    Free,
    Quarantined,
}

impl HostState {
    const ALL: [Self; 4] = [Self::Online, Self::Clean, Self::Free, Self::Quarantined];

    fn parse(text: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|state| state.word() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::word).join(", ");
            Failure::usage(format!("`{text}` is no state of a host: there are {words}"))
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Clean => "clean",
            Self::Free => "free",
            Self::Quarantined => "quarantined",
        }
    }
}

async fn for_host(session: &Session, name: &str, wanted: HostState) -> Result<(), Failure> {
    let spinner = Spinner::new(&session.output);
    let silent = session.silent();
    let mut client = None;
    let mut lost: Option<Instant> = None;
    let last = loop {
        let asked = async {
            let client = match &mut client {
                Some(client) => client,
                None => client.insert(silent.hosts().await?),
            };
            host::get(&silent, client, name).await
        };
        match asked.await {
            Ok(now) => {
                lost = None;
                let (reached, going_on) = host_verdict(wanted, &now)?;
                if reached {
                    break now;
                }
                spinner.says(&going_on);
            }
            Err(failure) => {
                client = None;
                if !failure.is_lost() || lost.get_or_insert_with(Instant::now).elapsed() > GONE {
                    return Err(failure);
                }
                spinner.says("holmd is gone; trying again");
            }
        }
        tokio::time::sleep(AGAIN).await;
    };
    drop(spinner);
    let sentence = match wanted {
        HostState::Online => format!("{} is online", last.name),
        HostState::Clean => format!("no GPU of {} waits to be cleaned", last.name),
        HostState::Free => format!("every GPU of {} is clean and free", last.name),
        HostState::Quarantined => format!("a GPU of {} is in quarantine", last.name),
    };
    session.output.done(&sentence, &view::gpus_json(&last, wanted.word()))
}

/// Whether it is reached, and how far it is. What cannot become so by waiting is a failure.
fn host_verdict(wanted: HostState, now: &Host) -> Result<(bool, String), Failure> {
    if !now.online || wanted == HostState::Online {
        return Ok((now.online, format!("{} is offline", now.name)));
    }
    let gpus: Vec<_> =
        now.devices.iter().filter(|d| d.pci.as_ref().is_some_and(|p| p.kind() == DeviceKind::Gpu)).collect();
    let quarantined = gpus.iter().find(|d| view::device_state(d) == DeviceState::Quarantined);
    if wanted == HostState::Quarantined {
        return Ok((quarantined.is_some(), "no GPU is in quarantine".to_owned()));
    }
    if let Some(device) = quarantined {
        let address = device.pci.as_ref().map(|p| p.address.as_str()).unwrap_or_default();
        let (host, reason) = (&now.name, &device.reason);
        return Err(Failure::new(format!("{address} of `{host}` is quarantined: {reason}"))
            .hint(format!("holm host release-device {host} {address} --reason \"…\"")));
    }
    let count = |state| gpus.iter().filter(|d| view::device_state(d) == state).count();
    if wanted == HostState::Clean {
        let dirty = count(DeviceState::Dirty) + count(DeviceState::Sanitising);
        return Ok((dirty == 0, format!("{dirty} of {} GPUs wait to be cleaned", gpus.len())));
    }
    let free = count(DeviceState::Free);
    Ok((!gpus.is_empty() && free == gpus.len(), format!("{free} of {} GPUs are free", gpus.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_proto::v1::{Device, PciDevice};

    #[test]
    fn who_waits_is_told_when_it_cannot_come() {
        insta::assert_snapshot!({
            let all: Vec<SliceState> = UP.into_iter().chain(ELSEWHERE).chain(DOWN).collect();
            let mut text = String::from("wanted ↓ now →  ");
            text.extend(all.iter().map(|s| format!(" {:<4.4}", view::word(*s))));
            for wanted in &all {
                text.push_str(&format!("\n{:<16}", view::word(*wanted)));
                text.extend(all.iter().map(|now| {
                    let word = match verdict(*wanted, *now) {
                        Verdict::Reached => "yes",
                        Verdict::NotYet => "...",
                        Verdict::Never => "no",
                    };
                    format!(" {word:<4}")
                }));
            }
            text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
        });
    }

    #[test]
    fn a_host_is_free_when_every_gpu_is() {
        let gpu = |state| {
            let mut pci = PciDevice { address: "0000:34:00.0".to_owned(), ..PciDevice::default() };
            pci.set_kind(DeviceKind::Gpu);
            let mut device = Device { pci: Some(pci), ..Device::default() };
            device.set_state(state);
            device
        };
        let host = |online, devices| Host { name: "dgx".to_owned(), online, devices, ..Host::default() };
        let free = |host: &Host| host_verdict(HostState::Free, host).map(|(reached, _)| reached);
        assert!(!free(&host(true, Vec::new())).unwrap());
        assert!(!free(&host(false, vec![gpu(DeviceState::Free)])).unwrap());
        assert!(!free(&host(true, vec![gpu(DeviceState::Free), gpu(DeviceState::Sanitising)])).unwrap());
        assert!(free(&host(true, vec![gpu(DeviceState::Free); 16])).unwrap());
        let clean = |devices| host_verdict(HostState::Clean, &host(true, devices)).unwrap().0;
        assert!(clean(vec![gpu(DeviceState::Free), gpu(DeviceState::Assigned)]));
        assert!(!clean(vec![gpu(DeviceState::Free), gpu(DeviceState::Dirty)]));
        assert!(!clean(vec![gpu(DeviceState::Sanitising)]));
        let caught = |devices| host_verdict(HostState::Quarantined, &host(true, devices)).unwrap().0;
        assert!(caught(vec![gpu(DeviceState::Free), gpu(DeviceState::Quarantined)]));
        assert!(!caught(vec![gpu(DeviceState::Free)]));
        let refused = free(&host(true, vec![gpu(DeviceState::Quarantined)])).unwrap_err();
        assert!(refused.hint.unwrap().contains("release-device"));
    }
}
