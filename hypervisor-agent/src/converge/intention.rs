//! What holmd wants, checked once where it comes in.

use super::jobs::WantedJob;
use crate::edge::{NumaShare, OtherVolume, VolumeKind};
use holm_proto::{
    ids::{JobId, PciAddress, RunId, SliceId, VolumeId},
    image, jobs, v1,
};
use std::collections::{BTreeMap, BTreeSet};

/// More devices no host has.
const MAX_DEVICES: usize = 64;
/// More nodes no host has.
const MAX_NODES: usize = 64;

/// More volumes that it had are not remembered.
const MAX_RETIRED: usize = 64;

/// The whole of it, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Intention {
    /// Newer ones are larger.
    pub generation: u64,
    /// Every slice this host is to have, or to be rid of.
    pub slices: BTreeMap<SliceId, Want>,
    /// Devices to be cleaned.
    pub runs: BTreeMap<RunId, Vec<PciAddress>>,
    /// What is to be done with volumes, and their backups.
    pub jobs: BTreeMap<JobId, WantedJob>,
}

/// What is wanted of one slice.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// Newer ones are larger.
    pub generation: u64,
    /// To be destroyed.
    pub destroyed: bool,
    /// Its machine is to be gone and its devices free, its disk to stay. Of the two neither: to run.
    pub closed: bool,
    /// What it is made of, or why that cannot be read.
    pub spec: Result<Spec, String>,
}

/// What a slice is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Shown on the guest's banner.
    pub project: String,
    /// As the pack names it.
    pub level: String,
    /// As people call it.
    pub level_name: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Where its memory and processors lie; empty: anywhere.
    pub nodes: Vec<NumaShare>,
    /// Its disk's size, GiB.
    pub disk_gib: u64,
    /// Its devices; none once they were released.
    pub devices: Vec<PciAddress>,
    /// Its fabric partition.
    pub partition: u32,
    /// Its disk.
    pub volume: VolumeId,
    /// Its disk holds data.
    pub used: bool,
    /// Its other disks, at most one of each kind.
    pub others: Vec<OtherVolume>,
    /// Root disks that it had before.
    pub retired: Vec<VolumeId>,
    /// Its disks are to be changed: the number of the change, and whether to another key.
    pub change: Option<(u64, bool)>,
    /// Its accounts.
    pub users: Vec<v1::GuestUser>,
    /// OpenSSH form of the key that signs people's certificates.
    pub ssh_ca: String,
    /// Its classes of jobs; `None`: as its image has them.
    pub scheduler: Option<v1::GuestScheduler>,
    /// What a root disk that is made now is over; empty: what the host is configured with.
    pub image: String,
    /// Its level allows a terminal over SSH and copying in, and nothing else.
    pub terminal_only: bool,
    /// OpenSSH form of the key that signs people's certificates then.
    pub ssh_terminal_ca: String,
    /// The same where what a terminal shows is recorded as well; empty: it is not.
    pub ssh_recorded_ca: String,
}

impl Intention {
    /// Checks what came. What has no readable id is left out, and named.
    pub fn read(message: v1::Intended) -> (Self, Vec<String>) {
        let mut unread = Vec::new();
        let mut intention = Self { generation: message.generation, ..Self::default() };
        for slice in message.slices {
            match slice.slice_id.parse() {
                Ok(id) => drop(intention.slices.insert(id, Want::read(slice))),
                Err(_) => unread.push(format!("a slice with the id `{}`", brief(&slice.slice_id))),
            }
        }
        for run in message.runs {
            match (run.run_id.parse(), devices(&run.devices)) {
                (Ok(id), Ok(devices)) => drop(intention.runs.insert(id, devices)),
                // Without a report of it holmd takes every device of it for not cleaned.
                (_, Err(why)) => unread.push(format!("the run `{}`: {why}", brief(&run.run_id))),
                (Err(_), _) => unread.push(format!("a run with the id `{}`", brief(&run.run_id))),
            }
        }
        for job in message.jobs {
            let id = brief(&job.job_id);
            match (job.job_id.parse(), WantedJob::read(job)) {
                (Ok(id), Ok(want)) => drop(intention.jobs.insert(id, want)),
                (_, Err(why)) => unread.push(format!("the job `{id}`: {why}")),
                (Err(_), _) => unread.push(format!("a job with the id `{id}`")),
            }
        }
        (intention, unread)
    }
}

/// One of those who only read.
fn reads(user: v1::GuestUser) -> v1::GuestUser {
    v1::GuestUser { read_only: true, ..user }
}

impl Want {
    fn read(mut slice: v1::IntendedSlice) -> Self {
        let goal = slice.goal();
        if goal != v1::Goal::Run {
            // Where it was to lie keeps nothing from being taken apart.
            slice.nodes.clear();
        }
        Self {
            generation: slice.generation,
            destroyed: goal == v1::Goal::Destroyed,
            closed: goal == v1::Goal::Kept,
            spec: match goal {
                v1::Goal::Unspecified => Err("holmd does not say what it is to become".to_owned()),
                v1::Goal::Run | v1::Goal::Kept | v1::Goal::Destroyed => Spec::read(slice),
            },
        }
    }

    /// It is to be taken apart, to its disk or to nothing.
    pub fn is_undoing(&self) -> bool {
        self.destroyed || self.closed
    }

    /// holmd has heard that none of its devices, and no partition, is its own any more.
    pub fn is_released(&self) -> bool {
        self.is_undoing() && self.spec.as_ref().is_ok_and(|spec| spec.devices.is_empty())
    }
}

impl Spec {
    fn read(slice: v1::IntendedSlice) -> Result<Self, String> {
        let released =
            slice.devices.is_empty() && matches!(slice.goal(), v1::Goal::Kept | v1::Goal::Destroyed);
        Ok(Self {
            nodes: nodes(&slice)?,
            others: others(&slice)?,
            retired: retired(&slice)?,
            change: slice.change.map(|change| (change.number, change.rekey)),
            devices: if released { Vec::new() } else { devices(&slice.devices)? },
            volume: slice
                .volume_id
                .parse()
                .map_err(|_| format!("its volume has the id `{}`", brief(&slice.volume_id)))?,
            project: slice.project,
            level: slice.level,
            level_name: slice.level_name,
            vcpus: slice.vcpus,
            memory_mib: slice.memory_mib,
            disk_gib: slice.disk_gib,
            used: slice.volume_used,
            partition: slice.partition,
            users: slice.users.into_iter().chain(slice.readers.into_iter().map(reads)).collect(),
            scheduler: slice.scheduler.filter(jobs::is_scheduler),
            image: match slice.image {
                id if id.is_empty() || image::is_digest(&id) => id,
                id => return Err(format!("its image has the id `{}`", brief(&id))),
            },
            ssh_ca: slice.ssh_ca,
            terminal_only: slice.terminal_only,
            ssh_terminal_ca: slice.ssh_terminal_ca,
            ssh_recorded_ca: slice.ssh_recorded_ca,
        })
    }
}

/// Checks its other volumes: each with an id of its own, of another kind, and a size.
fn others(slice: &v1::IntendedSlice) -> Result<Vec<OtherVolume>, String> {
    let mut ids = BTreeSet::from([slice.volume_id.clone()]);
    let mut kinds = BTreeSet::new();
    let read = |one: &v1::IntendedVolume| {
        let id = brief(&one.volume_id);
        let kind = match one.kind() {
            v1::VolumeKind::Data => VolumeKind::Data,
            v1::VolumeKind::Scratch => VolumeKind::Scratch,
            v1::VolumeKind::Unspecified => return Err(format!("its volume `{id}` is of no kind")),
        };
        let volume = one.volume_id.parse().map_err(|_| format!("a volume of it has the id `{id}`"))?;
        if !ids.insert(one.volume_id.clone()) || !kinds.insert(kind) {
            return Err(format!("its volume `{id}` is one too many"));
        }
        if one.size_gib == 0 {
            return Err(format!("its volume `{id}` has no size"));
        }
        Ok(OtherVolume { volume, kind, size_gib: one.size_gib, used: one.used })
    };
    slice.volumes.iter().map(read).collect()
}

/// Checks the root volumes it had before: none of them is one that it has.
fn retired(slice: &v1::IntendedSlice) -> Result<Vec<VolumeId>, String> {
    if slice.retired.len() > MAX_RETIRED {
        return Err(format!("it names {} volumes that it had", slice.retired.len()));
    }
    let has = |id: &String| *id == slice.volume_id || slice.volumes.iter().any(|one| one.volume_id == *id);
    let read = |id: &String| match id.parse() {
        Ok(volume) if !has(id) => Ok(volume),
        _ => Err(format!("a volume that it had has the id `{}`", brief(id))),
    };
    slice.retired.iter().map(read).collect()
}

fn devices(texts: &[String]) -> Result<Vec<PciAddress>, String> {
    if texts.is_empty() || texts.len() > MAX_DEVICES {
        return Err(format!("it names {} devices", texts.len()));
    }
    let devices: Result<Vec<PciAddress>, _> = texts.iter().map(|text| text.parse()).collect();
    let devices = devices.map_err(|error: holm_proto::ids::NotAPciAddress| error.to_string())?;
    let different: BTreeSet<&PciAddress> = devices.iter().collect();
    if different.len() == devices.len() { Ok(devices) } else { Err("it names a device twice".to_owned()) }
}

/// Checks where it is to lie: every processor once, and all of its memory. Of processors it may have been given more
/// or fewer than it has virtual ones, and of a node processors or memory alone.
fn nodes(slice: &v1::IntendedSlice) -> Result<Vec<NumaShare>, String> {
    if slice.nodes.is_empty() {
        return Ok(Vec::new());
    }
    if slice.nodes.len() > MAX_NODES {
        return Err(format!("it names {} nodes", slice.nodes.len()));
    }
    let (mut numbers, mut cpus, mut memory_mib) = (BTreeSet::new(), BTreeSet::new(), 0u64);
    for share in &slice.nodes {
        let node = share.node;
        if !numbers.insert(node) {
            return Err(format!("it names node `{node}` twice"));
        }
        if share.cpus.is_empty() && share.memory_mib == 0 {
            return Err(format!("its share of node `{node}` has no processors and no memory"));
        }
        if let Some(cpu) = share.cpus.iter().find(|cpu| !cpus.insert(**cpu)) {
            return Err(format!("it names processor `{cpu}` twice"));
        }
        memory_mib = memory_mib.saturating_add(share.memory_mib);
    }
    if cpus.is_empty() {
        return Err("its shares have no processors".to_owned());
    }
    if memory_mib != slice.memory_mib {
        return Err(format!("it has {} MiB, and its shares have {memory_mib} MiB", slice.memory_mib));
    }
    let share = |share: &v1::NumaShare| NumaShare {
        node: share.node,
        cpus: share.cpus.clone(),
        memory_mib: share.memory_mib,
    };
    Ok(slice.nodes.iter().map(share).collect())
}

fn brief(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slice() -> v1::IntendedSlice {
        v1::IntendedSlice {
            slice_id: "0190163d-8694-739b-aea5-966c26f8ad91".to_owned(),
            generation: 1,
            goal: v1::Goal::Run.into(),
            volume_id: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".to_owned(),
            devices: vec!["0000:34:00.0".to_owned()],
            ..Default::default()
        }
    }

    fn spec(slice: v1::IntendedSlice) -> Result<Spec, String> {
        let (intention, unread) = Intention::read(v1::Intended { slices: vec![slice], ..Default::default() });
        assert!(unread.is_empty());
        intention.slices.into_values().next().unwrap().spec
    }

    #[test]
    fn a_slice_that_makes_no_sense_is_named_and_not_guessed() {
        assert!(spec(slice()).is_ok());
        for bad in [
            v1::IntendedSlice { devices: Vec::new(), ..slice() },
            v1::IntendedSlice { devices: vec!["34:00.0".to_owned()], ..slice() },
            v1::IntendedSlice { devices: vec!["0000:34:00.0".to_owned(); 2], ..slice() },
            v1::IntendedSlice { volume_id: "../x".to_owned(), ..slice() },
            v1::IntendedSlice { goal: 0, ..slice() },
            v1::IntendedSlice { goal: 99, ..slice() },
        ] {
            assert!(spec(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn other_volumes_are_each_of_a_kind_or_refused() {
        let (data, scratch) =
            ("6f9619ff-8b86-4d01-b42d-00cf4fc964f1", "6f9619ff-8b86-4d01-b42d-00cf4fc964f2");
        let one = |id: &str, kind: v1::VolumeKind, size_gib| v1::IntendedVolume {
            volume_id: id.to_owned(),
            kind: kind.into(),
            size_gib,
            used: false,
        };
        let with = |volumes| spec(v1::IntendedSlice { volumes, ..slice() }).map(|spec| spec.others.len());
        let (d, s, u) = (v1::VolumeKind::Data, v1::VolumeKind::Scratch, v1::VolumeKind::Unspecified);
        assert_eq!(with(vec![one(data, d, 1), one(scratch, s, 1)]), Ok(2));
        for (bad, word) in [
            (vec![one(data, d, 1), one(scratch, d, 1)], "one too many"),
            (vec![one(data, d, 1), one(data, s, 1)], "one too many"),
            (vec![one(&slice().volume_id, d, 1)], "one too many"),
            (vec![one(data, u, 1)], "of no kind"),
            (vec![one(data, d, 0)], "no size"),
            (vec![one("../x", d, 1)], "the id `../x`"),
        ] {
            let error = with(bad).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn shares_are_whole_or_refused() {
        let share = |node, cpus: &[u32], memory_mib| v1::NumaShare { node, cpus: cpus.to_vec(), memory_mib };
        let with = |nodes: Vec<v1::NumaShare>| {
            spec(v1::IntendedSlice { vcpus: 4, memory_mib: 3072, nodes, ..slice() })
        };
        assert_eq!(with(Vec::new()).unwrap().nodes, []);
        assert_eq!(with(vec![share(0, &[2, 3, 6], 3072)]).unwrap().nodes.len(), 1);
        assert_eq!(with(vec![share(0, &[2, 3], 1024), share(1, &[], 2048)]).unwrap().nodes.len(), 2);
        let nodes = with(vec![share(0, &[2, 3], 1024), share(1, &[6, 7], 2048)]).unwrap().nodes;
        assert_eq!((nodes[1].node, nodes[1].cpus.as_slice(), nodes[1].memory_mib), (1, &[6, 7][..], 2048));
        for (bad, word) in [
            (vec![share(0, &[2, 3], 1024), share(0, &[6, 7], 2048)], "node `0` twice"),
            (vec![share(0, &[2, 3], 1024), share(1, &[2, 7], 2048)], "processor `2` twice"),
            (vec![share(0, &[2, 2], 1024), share(1, &[6, 7], 2048)], "processor `2` twice"),
            (vec![share(0, &[2, 3, 6, 7], 3072), share(1, &[], 0)], "no processors and no memory"),
            (vec![share(0, &[], 1024), share(1, &[], 2048)], "no processors"),
            (vec![share(0, &[2, 3, 6, 7], 3071)], "3072 MiB, and its shares have 3071"),
            (vec![share(0, &[2, 3], u64::MAX), share(1, &[6, 7], 3073)], "3072 MiB"),
        ] {
            let error = with(bad).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn where_it_was_to_lie_keeps_nothing_from_being_taken_apart() {
        let nodes = vec![v1::NumaShare::default()];
        assert!(spec(v1::IntendedSlice { nodes: nodes.clone(), ..slice() }).is_err());
        for goal in [v1::Goal::Kept, v1::Goal::Destroyed] {
            let nodes = nodes.clone();
            assert!(spec(v1::IntendedSlice { nodes, goal: goal.into(), ..slice() }).is_ok());
        }
    }

    #[test]
    fn only_what_is_taken_apart_may_have_no_devices() {
        for (goal, released) in [
            (v1::Goal::Run, false),
            (v1::Goal::Kept, true),
            (v1::Goal::Destroyed, true),
            (v1::Goal::Unspecified, false),
        ] {
            let want = Want::read(v1::IntendedSlice { devices: Vec::new(), goal: goal.into(), ..slice() });
            assert_eq!((want.is_released(), want.spec.is_ok()), (released, released), "{goal:?}");
            assert!(!Want::read(v1::IntendedSlice { goal: goal.into(), ..slice() }).is_released());
        }
    }

    #[test]
    fn what_has_no_id_is_left_out() {
        let message = v1::Intended {
            generation: 4,
            slices: vec![v1::IntendedSlice { slice_id: "x".to_owned(), ..slice() }, slice()],
            runs: vec![
                v1::SanitiseRun { run_id: "x".to_owned(), devices: vec!["0000:34:00.0".to_owned()] },
                v1::SanitiseRun { run_id: slice().slice_id, devices: Vec::new() },
            ],
            ..Default::default()
        };
        let (intention, unread) = Intention::read(message);
        assert_eq!((intention.slices.len(), intention.runs.len(), unread.len()), (1, 0, 3));
    }

    proptest! {
        #[test]
        fn any_texts_end_in_an_answer(id in ".{0,60}", device in ".{0,60}", volume in ".{0,60}", goal: i32) {
            let slice = v1::IntendedSlice {
                slice_id: id.clone(), devices: vec![device.clone()], volume_id: volume, goal, ..slice()
            };
            let run = v1::SanitiseRun { run_id: id, devices: vec![device] };
            let message =
                v1::Intended { generation: 1, slices: vec![slice], runs: vec![run], ..Default::default() };
            let (_, unread) = Intention::read(message);
            prop_assert!(unread.iter().all(|text| text.len() < 800));
        }
    }
}
