//! What holmd wants of one host, as a whole, each time.

use crate::domain::records::{NewDisks, OtherVolume, Person, Slice, SliceState, VolumeKind};
use crate::domain::{State, image};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64, HEXLOWER};
use holm_policies::{Obligation, Pack};
use holm_proto::guest::TOLD_DIGITS;
use holm_proto::ids::Name;
use holm_proto::v1;
use newtype_uuid::GenericUuid;

/// The keys that sign people's SSH certificates, OpenSSH form.
#[derive(Debug, Clone, Copy)]
pub struct Trusted<'a> {
    /// For slices whose level allows all.
    pub whole: &'a str,
    /// For those whose level allows a terminal alone.
    pub terminal: &'a str,
    /// For those where what a terminal shows is recorded.
    pub recorded: &'a str,
}

/// A key that signs nothing, for its other half is nobody's: what it is, is the hash of these words.
fn nobody() -> String {
    let hash = digest(&SHA256, b"holm: a key that nobody has");
    let mut blob = Vec::new();
    for part in [b"ssh-ed25519".as_slice(), hash.as_ref()] {
        blob.extend(u32::try_from(part.len()).unwrap_or_default().to_be_bytes());
        blob.extend(part);
    }
    format!("ssh-ed25519 {}", BASE64.encode(&blob))
}

/// Everything intended of this host. `generation` is left for the sender to fill in.
pub fn intended(state: &State, pack: &Pack, host: &Name, trusted: Trusted<'_>) -> v1::Intended {
    let image = image::current(state).map(|image| image.id.clone()).unwrap_or_default();
    let slices = state
        .slices
        .values()
        .filter_map(|s| {
            let placement = s.placement.as_ref().filter(|p| &p.host == host)?;
            // What was released may be another slice's by now.
            let has = s.holds_devices();
            let terminal_only = pack.demands(&s.level, Obligation::TerminalOnly);
            let recorded = pack.demands(&s.level, Obligation::RecordedTerminals);
            Some(v1::IntendedSlice {
                slice_id: s.id.into_untyped_uuid().to_string(),
                generation: s.generation,
                goal: goal(s)?.into(),
                project: state.projects.get(&s.project)?.name.to_string(),
                name: s.name.to_string(),
                level: s.level.clone(),
                level_name: s.level_name.clone(),
                vcpus: s.vcpus,
                memory_mib: s.memory_mib,
                disk_gib: s.wanted_gib().0,
                devices: placement.devices.iter().filter(|_| has).map(ToString::to_string).collect(),
                partition: placement.partition,
                volume_id: s.volume.into_untyped_uuid().to_string(),
                users: users(state, s, false),
                readers: users(state, s, true),
                volume_used: s.used,
                volumes: s.others.iter().map(|other| volume(s, other)).collect(),
                ssh_ca: if terminal_only { nobody() } else { trusted.whole.to_owned() },
                ssh_terminal_ca: match terminal_only {
                    true if recorded => nobody(),
                    true => trusted.terminal.to_owned(),
                    false => String::new(),
                },
                ssh_recorded_ca: if recorded { trusted.recorded.to_owned() } else { String::new() },
                scheduler: Some(scheduler(s)),
                image: image.clone(),
                terminal_only,
                change: s.due_change().map(|change| v1::DiskChange {
                    number: change.number,
                    rekey: matches!(change.what, NewDisks::Rekeyed { .. }),
                }),
                retired: s.retired.iter().map(|old| old.id.into_untyped_uuid().to_string()).collect(),
                nodes: placement
                    .nodes
                    .iter()
                    .filter(|_| has)
                    .map(|n| v1::NumaShare { node: n.node, cpus: n.cpus.clone(), memory_mib: n.memory_mib })
                    .collect(),
            })
        })
        .collect();
    let runs = state
        .runs
        .values()
        .filter(|r| &r.host == host)
        .map(|r| v1::SanitiseRun {
            run_id: r.id.into_untyped_uuid().to_string(),
            devices: r.devices.iter().map(ToString::to_string).collect(),
        })
        .collect();
    v1::Intended { generation: 0, slices, runs, jobs: super::jobs::intended(state, host) }
}

/// Its classes of jobs, and whether jobs begin, as its guest is told of them.
pub fn scheduler(slice: &Slice) -> v1::GuestScheduler {
    let classes: Vec<v1::JobClass> = slice.classes().iter().map(Into::into).collect();
    let drain = slice.drain.is_some();
    let class = |c: &v1::JobClass| format!("{} {} {:?} {}\n", c.name, c.priority, c.gpus, c.wall_minutes);
    let text: String = classes.iter().map(class).chain([format!("{drain}\n")]).collect();
    let mut of = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
    of.truncate(TOLD_DIGITS);
    v1::GuestScheduler { classes, drain, of }
}

fn volume(slice: &Slice, other: &OtherVolume) -> v1::IntendedVolume {
    let kind = match other.kind {
        VolumeKind::Data => v1::VolumeKind::Data,
        VolumeKind::Scratch => v1::VolumeKind::Scratch,
        VolumeKind::Root => v1::VolumeKind::Unspecified,
    };
    let size_gib = if other.kind == VolumeKind::Data { slice.wanted_gib().1 } else { other.size_gib };
    v1::IntendedVolume {
        volume_id: other.id.into_untyped_uuid().to_string(),
        kind: kind.into(),
        size_gib,
        used: slice.worked && other.kind == VolumeKind::Data,
    }
}

fn goal(slice: &Slice) -> Option<v1::Goal> {
    match slice.state {
        // Before its key is made and in the log, an agent hears nothing of it.
        SliceState::Placed if slice.key_fingerprint.is_empty() => None,
        SliceState::Placed | SliceState::Preparing | SliceState::Booting | SliceState::Ready => {
            Some(v1::Goal::Run)
        }
        // What failed stays as it is until it is closed; the agent tries no generation twice.
        SliceState::Failed => Some(v1::Goal::Run),
        SliceState::Stopping | SliceState::Stopped | SliceState::Keeping | SliceState::Kept => {
            Some(v1::Goal::Kept)
        }
        // Its disk is there.
        SliceState::Approved => slice.home().map(|_| v1::Goal::Kept),
        SliceState::Closing | SliceState::Destroying => {
            slice.detached.is_none().then_some(v1::Goal::Destroyed)
        }
        SliceState::Requested | SliceState::Rejected | SliceState::Withdrawn | SliceState::Destroyed => None,
    }
}

/// Those who only read, or the others.
fn users(state: &State, slice: &Slice, read_only: bool) -> Vec<v1::GuestUser> {
    let Some(project) = state.projects.get(&slice.project) else { return Vec::new() };
    let those = project.members.iter().filter(|name| project.readers.contains(*name) == read_only);
    let user = |p: &Person| v1::GuestUser { name: p.name.to_string(), uid: p.uid, read_only };
    those.filter_map(|name| state.people.get(name)).map(user).collect()
}
