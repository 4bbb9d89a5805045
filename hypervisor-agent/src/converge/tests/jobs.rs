//! Jobs under kills and faults: what is begun comes to its end once, and no machine runs on what a job uses.

use super::{
    Mode, Stands, World, fault,
    world::{A, C, data, slice, volume},
};
use holm_proto::{
    ids::{BackupId, JobId, VolumeId},
    v1,
};
use newtype_uuid::GenericUuid as _;
use std::sync::atomic::Ordering;

fn backup(number: u8) -> BackupId {
    BackupId::from_untyped_uuid(uuid::Uuid::from_bytes([number; 16]))
}

impl World {
    /// holmd wants this done with A's volumes.
    fn job(&mut self, number: u8, kind: v1::JobKind, of: u8, sha256: &str) -> JobId {
        let id = JobId::from_untyped_uuid(uuid::Uuid::from_bytes([number; 16]));
        let volumes = [(volume(slice(A)), true), (data(slice(A)), false)];
        let mut job = v1::IntendedJob {
            job_id: id.to_string(),
            slice_id: slice(A).to_string(),
            backup_id: backup(of).to_string(),
            manifest_sha256: sha256.to_owned(),
            volumes: volumes.map(|(id, root)| v1::JobVolume { volume_id: id.to_string(), root }).into(),
            ..Default::default()
        };
        job.set_kind(kind);
        if kind == v1::JobKind::Remove {
            job.remove = vec![backup(of).to_string()];
        }
        self.jobs.push(job);
        self.holmd.generation += 1;
        id
    }

    fn told(&self, job: JobId) -> Option<v1::ObservedJob> {
        let said = self.engine().observed()?;
        said.jobs.into_iter().find(|told| told.job_id == job.to_string())
    }

    /// Until it is over, which holmd then hears, and lists it no more.
    fn ended(&mut self, job: JobId) -> v1::ObservedJob {
        for _ in 0..50 {
            self.round();
            let told = self.told(job).filter(|told| told.phase() != v1::JobPhase::Running);
            if let Some(told) = told {
                self.jobs.clear();
                self.holmd.generation += 1;
                // A kill may come in between.
                (0..3).for_each(|_| self.round());
                assert_eq!(self.told(job), None);
                return told;
            }
        }
        panic!("it has no end: {:#?}", self.engine().observed());
    }

    /// A rests.
    fn at_rest(mode: Mode) -> Self {
        let mut world = Self::new(mode);
        world.settle();
        world.keep(A);
        world.settle();
        assert_eq!(world.stands(A), Stands::Kept);
        world
    }

    /// A is backed up, loses its data, is tried, restored, and the backup is removed.
    fn story_with_a_backup(&mut self) {
        let before = self.host.machine().volumes;
        let made = self.job(1, v1::JobKind::Backup, 7, "");
        let made = self.ended(made);
        assert_eq!((made.phase(), made.manifest_sha256.len()), (v1::JobPhase::Done, 64), "{made:?}");
        assert!(made.total_bytes > 0 && made.stored_bytes > 0);
        let drilled = self.job(2, v1::JobKind::Drill, 7, &made.manifest_sha256);
        let drilled = self.ended(drilled);
        assert_eq!((drilled.phase(), drilled.method.as_str()), (v1::JobPhase::Done, "simulated"));
        let anew = self.job(5, v1::JobKind::Reencrypt, 0, "");
        let anew = self.ended(anew);
        assert_eq!((anew.phase(), anew.total_bytes), (v1::JobPhase::Done, made.total_bytes));
        assert_eq!(self.host.machine().volumes, before);
        self.lose(data(slice(A)));
        let restored = self.job(3, v1::JobKind::Restore, 7, &made.manifest_sha256);
        assert_eq!(self.ended(restored).phase(), v1::JobPhase::Done);
        self.holmd.ran.insert(slice(A));
        assert_eq!(self.host.machine().volumes, before);
        let removed = self.job(4, v1::JobKind::Remove, 7, "");
        let removed = self.ended(removed);
        assert_eq!((removed.phase(), removed.removed), (v1::JobPhase::Done, vec![backup(7).to_string()]));
        assert!(self.host.machine().backups.is_empty());
    }

    /// Somebody destroys it; until it is back nobody expects it there.
    fn lose(&mut self, volume: VolumeId) {
        use crate::edge::Host as _;
        self.holmd.ran.remove(&slice(A));
        self.host.erase_volume(volume).unwrap();
        self.host.forget_volume(volume).unwrap();
    }

    fn assert_no_jobs_are_kept(&self) {
        assert_eq!(std::fs::read_dir(self.directory.path().join("record/jobs")).unwrap().count(), 0);
    }
}

#[test]
fn a_backup_is_made_tried_and_restored() {
    let mut world = World::at_rest(Mode::default());
    world.story_with_a_backup();
    world.assert_no_jobs_are_kept();
}

#[test]
fn a_kill_at_any_moment_of_a_backup_is_a_pause() {
    let mut whole = World::at_rest(Mode::default());
    whole.begin(i64::MAX);
    whole.story_with_a_backup();
    let moments = i64::try_from(whole.fuse.burnt.load(Ordering::Relaxed)).unwrap();
    assert!(moments > 100, "{moments}");
    for moment in 0..moments {
        let mut world = World::at_rest(Mode::default());
        world.begin(moment);
        world.story_with_a_backup();
        world.assert_no_jobs_are_kept();
        assert_eq!(whole.host.machine().volumes, world.host.machine().volumes, "killed at moment {moment}");
    }
}

#[test]
fn a_failure_of_any_call_of_a_backup_is_overcome() {
    let mut whole = World::at_rest(Mode::default());
    let first = whole.calls.load(Ordering::Relaxed);
    whole.story_with_a_backup();
    let calls = whole.calls.load(Ordering::Relaxed);
    assert!(calls - first > 20);
    for number in first..calls {
        for late in [false, true] {
            let mut world = World::at_rest(Mode { fail: Some((number, late)), ..Mode::default() });
            world.story_with_a_backup();
            assert_eq!(whole.host.machine().volumes, world.host.machine().volumes, "call {number} failed");
        }
    }
}

#[test]
fn what_runs_is_not_backed_up_and_what_fails_is_said() {
    let mut world = World::new(Mode::default());
    world.settle();
    let early = world.job(1, v1::JobKind::Backup, 7, "");
    world.settle();
    let waits = world.told(early).unwrap();
    assert_eq!(
        (waits.phase(), waits.reason.as_str()),
        (v1::JobPhase::Running, "waits until the slice rests on its host")
    );
    world.keep(A);
    assert_eq!(world.ended(early).phase(), v1::JobPhase::Done);
    world.settle();
    assert_eq!(world.stands(C), Stands::Ready, "others go on");
    // A manifest that is not the one: it is tried, and has failed.
    let wrong = world.job(2, v1::JobKind::Restore, 7, &"0".repeat(64));
    let wrong = world.ended(wrong);
    assert_eq!(wrong.phase(), v1::JobPhase::Failed);
    assert!(wrong.reason.contains("is not the one that was made"), "{}", wrong.reason);
    let gone = world.job(3, v1::JobKind::Drill, 8, &"0".repeat(64));
    assert!(world.ended(gone).reason.contains("is not in the store"));
}

#[test]
fn a_removal_that_is_put_on_hold_leaves_the_backups_that_are_left() {
    let mut world = World::at_rest(Mode::default());
    for of in [7, 8] {
        let made = world.job(of, v1::JobKind::Backup, of, "");
        assert_eq!(world.ended(made).phase(), v1::JobPhase::Done);
    }
    let removing = world.job(9, v1::JobKind::Remove, 7, "");
    world.jobs[0].remove.push(backup(8).to_string());
    world.engine().intend(world.intended()).unwrap();
    fault(&world, "hang:remove_backup\n");
    let (engine, now, calls) = (world.engine(), world.now, &world.calls);
    let before = calls.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| engine.work(now));
        while calls.load(Ordering::Relaxed) == before {
            std::thread::yield_now();
        }
        // It is at the first one.
        let wanted = world.intended();
        let generation = wanted.generation + 1;
        engine.intend(v1::Intended { generation, jobs: Vec::new(), ..wanted }).unwrap();
        fault(&world, "");
    });
    assert_eq!(world.host.machine().backups.into_keys().collect::<Vec<_>>(), [backup(8)]);
    world.holmd.generation += 2;
    assert_eq!(world.ended(removing).removed.len(), 2, "lifted, it goes on");
    assert!(world.host.machine().backups.is_empty());
}

#[test]
fn keys_that_are_refused_end_a_drill_and_keys_for_nobody_are_dropped() {
    let mut world = World::at_rest(Mode::default());
    let drill = world.job(1, v1::JobKind::Drill, 7, "");
    world.engine().intend(world.intended()).unwrap();
    let wanted: Vec<_> =
        world.engine().keys_wanted().into_iter().filter(|one| one.job == Some(drill)).collect();
    assert_eq!((wanted.len(), wanted[0].volume), (1, volume(slice(A))));
    // Nobody's, one's own with a key too few, and the one before it was asked for.
    for job_id in [
        JobId::from_untyped_uuid(uuid::Uuid::from_bytes([9; 16])).to_string(),
        drill.to_string(),
        "x".to_owned(),
    ] {
        world.engine().take_key(v1::VolumeKey {
            slice_id: slice(A).to_string(),
            volume_id: volume(slice(A)).to_string(),
            key: vec![1; 32],
            job_id,
            ..Default::default()
        });
        assert!(world.engine().keys_wanted().iter().any(|one| one.job == Some(drill)));
    }
    let refused = |later| v1::KeyRefused {
        slice_id: slice(A).to_string(),
        reason: "not now".to_owned(),
        later,
        job_id: drill.to_string(),
        ..Default::default()
    };
    world.engine().refuse_key(&refused(true));
    world.engine().work(world.now);
    assert!(world.told(drill).unwrap().reason.contains("key provider cannot be reached"));
    world.engine().refuse_key(&refused(false));
    world.engine().work(world.now);
    let told = world.told(drill).unwrap();
    assert!(told.phase() == v1::JobPhase::Failed && told.reason.contains("not now"), "{told:?}");
}
