//! A slice's queue, as its project's lead has it: classes of jobs (Slurm's qualities of service), and whether jobs begin.
//!
//! ```text
//!   jobs begin ── drain ──▶ none begins, those that run go on ── end ──▶ jobs begin
//!                              │ to be stopped: none runs any more, as its guest says
//!                              ▼
//!                           Stopping (domain::slice)
//! ```
//!
//! What its lead did not change is as the site has it, so that a slice gets what a later Holm thinks is better.

use super::records::{Change, Drain, JobClass, Slice, SliceState};
use super::slice::{demand, halt, put};
use super::{Refusal, RefusalKind};
use holm_proto::ids::Name;
use holm_proto::{jobs, v1};
use jiff::Timestamp;

/// Of a new class that does not say.
const PRIORITY: u32 = 100;

/// What is to become of the classes, in this order.
#[derive(Debug, Clone, Default)]
pub struct Edit {
    /// As the site has them, first of all.
    pub reset: bool,
    /// These go.
    pub remove: Vec<String>,
    /// These come, or become so.
    pub put: Vec<v1::JobClassEdit>,
    /// Where a job names none it is of this one; empty: as it is.
    pub first: String,
}

/// As the site has them: what people know from the shared clusters that they come from.
pub fn site() -> Vec<JobClass> {
    let class = |name: &str, priority, gpus, hours: u32| JobClass {
        name: name.to_owned(),
        priority,
        gpus,
        wall_minutes: hours * 60,
    };
    vec![
        class("normal", 100, None, 48),
        class("short", 500, None, 3),
        class("1gpulong", 50, Some(1), 14 * 24),
        class("allgpus", 0, None, 21 * 24),
    ]
}

impl Slice {
    /// Its classes of jobs, that of a job that names none first.
    pub fn classes(&self) -> Vec<JobClass> {
        if self.scheduler.is_empty() { site() } else { self.scheduler.clone() }
    }
}

impl From<&JobClass> for v1::JobClass {
    fn from(class: &JobClass) -> Self {
        let JobClass { name, priority, gpus, wall_minutes } = class.clone();
        Self { name, priority, gpus, wall_minutes }
    }
}

/// Its lead changes its classes.
pub fn edit(slice: &Slice, edit: &Edit) -> Result<Vec<Change>, Refusal> {
    let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
    if slice.state.is_final() || SliceState::UNWANTED.contains(&slice.state) {
        return Err(Refusal::new(RefusalKind::State, format!("it is {}", slice.state.text())));
    }
    // Everybody waits while this is looked at.
    let most = jobs::CLASSES_MAX;
    if edit.put.len().max(edit.remove.len()) > most {
        return Err(invalid(format!(
            "there are {most} classes of jobs at most, and no more of them change at once"
        )));
    }
    let mut classes = if edit.reset { site() } else { slice.classes() };
    let names = |classes: &[JobClass]| classes.iter().map(|c| c.name.clone()).collect::<Vec<_>>().join(", ");
    let first = classes.first().map(|class| class.name.clone()).unwrap_or_default();
    if edit.first.is_empty() && edit.remove.contains(&first) {
        let text = format!("`{first}` is what a job is of that names no class: say which one is to be that");
        return Err(invalid(text).hint("--default NAME"));
    }
    for name in &edit.remove {
        let at = classes.iter().position(|class| &class.name == name).ok_or_else(|| {
            let name = name.escape_debug().take(60).collect::<String>();
            invalid(format!("there is no class `{name}`: there are {}", names(&classes)))
        })?;
        classes.remove(at);
    }
    for put in &edit.put {
        let at = classes.iter().position(|known| known.name == put.name);
        let known = at.and_then(|at| classes.get(at));
        let Some(wall_minutes) = put.wall_minutes.or_else(|| known.map(|known| known.wall_minutes)) else {
            let name = put.name.escape_debug().take(60).collect::<String>();
            return Err(invalid(format!("`{name}` is a new class: say how long its jobs may run")));
        };
        let gpus = put.gpus.or_else(|| known.and_then(|known| known.gpus)).filter(|_| !put.all_gpus);
        let priority = put.priority.or_else(|| known.map(|known| known.priority)).unwrap_or(PRIORITY);
        let class = JobClass { name: put.name.clone(), priority, gpus, wall_minutes };
        match at.and_then(|at| classes.get_mut(at)) {
            Some(known) => *known = class,
            None => classes.push(class),
        }
    }
    if !edit.first.is_empty() {
        let at = classes.iter().position(|class| class.name == edit.first).ok_or_else(|| {
            let name = edit.first.escape_debug().take(60).collect::<String>();
            invalid(format!("there is no class `{name}`: there are {}", names(&classes)))
        })?;
        let first = classes.remove(at);
        classes.insert(0, first);
    }
    let told: Vec<v1::JobClass> = classes.iter().map(Into::into).collect();
    if let Some(fault) = jobs::faults(&told) {
        return Err(invalid(fault));
    }
    let scheduler = if classes == site() { Vec::new() } else { classes };
    Ok(put(Slice { scheduler, ..slice.clone() }))
}

/// No job begins any more; with `stop` it is stopped when none runs.
pub fn drain(slice: &Slice, by: &Name, stop: bool, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    demand(slice, &SliceState::WANTED, "drained")?;
    if slice.drain.as_ref().is_some_and(|drain| drain.stop == stop) {
        // Whoever asks again, to wait for it, is told the same.
        return Ok(put(slice.clone()));
    }
    Ok(put(Slice { drain: Some(Drain { by: by.clone(), at: now, stop }), ..slice.clone() }))
}

/// Jobs begin again.
pub fn end_drain(slice: &Slice) -> Result<Vec<Change>, Refusal> {
    if slice.drain.is_none() {
        return Err(Refusal::new(RefusalKind::State, "jobs begin in it as it is"));
    }
    Ok(put(Slice { drain: None, ..slice.clone() }))
}

/// Ready → Stopping: it was to be stopped when no job runs, and its guest says that none may begin and none runs.
pub fn drained(slice: &Slice, now: Timestamp) -> Option<Vec<Change>> {
    let drain = slice.drain.as_ref().filter(|drain| drain.stop)?;
    let ready = slice.state == SliceState::Ready;
    ready.then(|| halt(slice, format!("stopped for {}, when its last job had ended", drain.by), now).ok())?
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heart, requested};
    use super::*;

    fn ready() -> Slice {
        Slice { state: SliceState::Ready, ..requested(1, 4, 1, 0) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn after(changes: Result<Vec<Change>, Refusal>) -> Slice {
        match changes.unwrap().remove(0) {
            Change::Put(super::super::Record::Slice(slice)) => *slice,
            other => panic!("{other:?}"),
        }
    }

    fn class(name: &str) -> v1::JobClassEdit {
        v1::JobClassEdit {
            name: name.to_owned(),
            priority: Some(7),
            gpus: Some(2),
            all_gpus: false,
            wall_minutes: Some(90),
        }
    }

    #[test]
    fn classes_are_changed_by_name_and_what_is_the_sites_stays_the_sites() {
        let slice = ready();
        let names = |slice: &Slice| slice.classes().iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        let changed = after(edit(
            &slice,
            &Edit {
                put: vec![class("short"), class("night")],
                remove: vec!["allgpus".to_owned()],
                first: "night".to_owned(),
                ..Edit::default()
            },
        ));
        assert_eq!(names(&changed), ["night", "normal", "short", "1gpulong"]);
        let short = JobClass { name: "short".to_owned(), priority: 7, gpus: Some(2), wall_minutes: 90 };
        assert_eq!(changed.classes()[2], short);
        // What is not said of one that there is stays.
        let some =
            |put| after(edit(&changed, &Edit { put: vec![put], ..Edit::default() })).classes()[2].clone();
        let none = v1::JobClassEdit { name: "short".to_owned(), ..Default::default() };
        assert_eq!(some(none.clone()), short);
        let longer = v1::JobClassEdit { wall_minutes: Some(240), all_gpus: true, ..none };
        assert_eq!(some(longer), JobClass { wall_minutes: 240, gpus: None, ..short });
        let back = after(edit(&changed, &Edit { reset: true, ..Edit::default() }));
        assert!(back.scheduler.is_empty() && back.classes() == site());
        for bad in [
            Edit { put: vec![class("Not a name")], ..Edit::default() },
            Edit {
                put: vec![v1::JobClassEdit { wall_minutes: Some(0), ..class("short") }],
                ..Edit::default()
            },
            Edit { put: vec![v1::JobClassEdit { wall_minutes: None, ..class("new") }], ..Edit::default() },
            Edit { remove: vec!["normal".to_owned()], ..Edit::default() },
            Edit { remove: vec!["night".to_owned()], ..Edit::default() },
            Edit { first: "night".to_owned(), ..Edit::default() },
            Edit { remove: site().into_iter().map(|c| c.name).collect(), ..Edit::default() },
            Edit { put: (0..13).map(|n| class(&format!("c{n}"))).collect(), ..Edit::default() },
        ] {
            assert_eq!(edit(&slice, &bad).unwrap_err().kind, RefusalKind::Invalid, "{bad:?}");
        }
        let gone = Slice { state: SliceState::Destroyed, ..slice };
        assert_eq!(edit(&gone, &Edit::default()).unwrap_err().kind, RefusalKind::State);
    }

    #[test]
    fn what_is_drained_stops_only_where_that_was_asked_for() {
        let (slice, ada) = (ready(), heart("2").lead);
        let waits = after(drain(&slice, &ada, false, at(5)));
        assert_eq!(drained(&waits, at(6)), None);
        assert_eq!(after(drain(&waits, &ada, false, at(6))), waits, "asked again it is the same");
        let stops = after(drain(&waits, &ada, true, at(7)));
        let stopped = after(Ok(drained(&stops, at(8)).unwrap()));
        assert_eq!((stopped.state, stopped.drain.is_none()), (SliceState::Stopping, true));
        assert!(stopped.reason.contains("for ada"));
        assert!(after(end_drain(&stops)).drain.is_none() && end_drain(&slice).is_err());
        let waiting = Slice { state: SliceState::Approved, ..slice };
        assert!(drain(&waiting, &ada, true, at(9)).is_err());
    }
}
