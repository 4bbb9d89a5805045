//! What the host has Slurm do: which classes of jobs there are, and whether any job is to start. What it orders while the
//! machine runs is in force at once, and is said to be so once Slurm has taken it.

use crate::{
    failed::{Failed, Of as _, Outcome},
    files, notices,
    port::Port,
    slurm,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

/// Until what Slurm did not take is told it again, the first time; then twice as long each time.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(120);
/// So many classes, and what each may say: what Slurm's own tool takes without a second thought.
const MOST_CLASSES: usize = 16;
const MOST_PRIORITY: u32 = 100_000;
const MOST_MINUTES: u32 = 525_600;
const MOST_GPUS: u32 = 64;
/// The file of which /etc/profile.d/holm-notices.sh shows what is in it.
const DRAINS: &str = "drains";

/// As the host says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What the host calls them; empty where it did not say any.
    pub of: String,
    /// Running jobs go on, and none starts.
    #[serde(default)]
    pub drain: bool,
    /// The first is meant where a job names none.
    pub classes: Vec<Class>,
}

/// A quality of service, as Slurm calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    pub name: String,
    pub priority: u32,
    /// GPUs of one person at once; all where it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    pub wall_minutes: u32,
}

impl Settings {
    /// As on the shared clusters that people come from.
    pub fn usual() -> Self {
        let class = |name: &str, priority, gpus, hours: u32| {
            let name = name.to_owned();
            Class { name, priority, gpus, wall_minutes: hours * 60 }
        };
        let classes = vec![
            class("normal", 100, None, 48),
            class("short", 500, None, 3),
            class("1gpulong", 50, Some(1), 14 * 24),
            class("allgpus", 0, None, 21 * 24),
        ];
        Self { of: String::new(), drain: false, classes }
    }

    /// Those that the host told last in this run of the machine; else those of the seed; else the usual ones.
    pub fn told_since(run: &Path, seeded: Option<&serde_json::Value>) -> Self {
        let path = run.join("scheduler");
        let said = if path.exists() { files::read(&path).ok() } else { seeded.map(ToString::to_string) };
        let Some(said) = said else { return Self::usual() };
        // A slice that runs as slices usually do is worth more than none.
        Self::parse(said.as_bytes()).unwrap_or_else(|| {
            eprintln!("scheduler: what was told is not understood");
            Self::usual()
        })
    }

    /// `{"of":"0123456789abcdef","drain":false,"classes":[{"name":"normal","priority":100,"wall_minutes":2880}]}`; `None` also
    /// for what Slurm would not take.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let settings: Self = serde_json::from_slice(text).ok()?;
        let Self { of, classes, .. } = &settings;
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let called = (1..=64).contains(&of.len()) && of.bytes().all(hexadecimal);
        let names: BTreeSet<&str> = classes.iter().map(|class| class.name.as_str()).collect();
        let apart = names.len() == classes.len() && (1..=MOST_CLASSES).contains(&classes.len());
        (called && apart && classes.iter().all(Class::fits)).then_some(settings)
    }
}

impl Class {
    fn fits(&self) -> bool {
        let first = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
        let named = self.name.bytes().enumerate().all(|(at, byte)| first(byte) || at > 0 && byte == b'-');
        named
            && (1..=31).contains(&self.name.len())
            && self.priority <= MOST_PRIORITY
            && (1..=MOST_MINUTES).contains(&self.wall_minutes)
            && self.gpus.is_none_or(|gpus| gpus <= MOST_GPUS)
    }
}

/// Those that are to be in force.
#[derive(Debug)]
pub struct Scheduler {
    settings: Settings,
    project: String,
    gpus: usize,
    /// Slurm has taken them.
    applied: bool,
    /// The host was told so, or did not ask.
    said: bool,
    again: Duration,
    due: Option<Instant>,
}

impl Scheduler {
    /// In force since Slurm runs.
    pub fn new(project: String, gpus: usize, settings: Settings) -> Self {
        let said = settings.of.is_empty();
        Self { settings, project, gpus, applied: true, said, again: AGAIN, due: None }
    }

    /// No job is to start.
    pub fn drains(&self) -> bool {
        self.settings.drain
    }

    /// The host wants these.
    pub fn want(&mut self, settings: Settings, run: &Path) -> Outcome {
        keep(&settings, run)?;
        let begins = settings.drain && !self.settings.drain;
        notice(run, settings.drain, begins)?;
        self.applied &= settings == self.settings;
        (self.settings, self.said, self.again, self.due) = (settings, false, AGAIN, None);
        Ok(())
    }

    /// Goes on with it; when it is to be called again.
    pub fn turn(&mut self, port: &Port) -> Option<Duration> {
        let now = Instant::now();
        if let Some(due) = self.due.filter(|due| *due > now) {
            return Some(due - now);
        }
        let Err(Failed(why)) = self.step(port) else {
            self.due = None;
            return None;
        };
        eprintln!("scheduler: {why}");
        let again = self.again;
        self.again = (again * 2).min(AGAIN_MOST);
        self.due = Some(now + again);
        Some(again)
    }

    fn step(&mut self, port: &Port) -> Outcome {
        if !self.applied {
            slurm::schedule(&self.project, &self.settings, self.gpus)?;
            self.applied = true;
        }
        if !self.said {
            port.say_scheduler(&self.settings.of).of("the port")?;
            self.said = true;
        }
        Ok(())
    }
}

/// For whoever begins anew in this run of the machine.
pub fn keep(settings: &Settings, run: &Path) -> Outcome {
    let text = serde_json::to_vec(settings).of("scheduler")?;
    let path = run.join("scheduler");
    files::write(&path, text, 0o600, files::ROOT).of(path.display())
}

/// Has people know that no job starts: who logs in, and where that `begins` those who are logged in.
pub fn notice(run: &Path, drain: bool, begins: bool) -> Outcome {
    let text = "No new jobs start for now: those that run go on, and what is handed in waits.\n";
    let path = run.join(DRAINS);
    files::write(&path, if drain { text } else { "" }, 0o644, files::ROOT).of(path.display())?;
    if begins {
        notices::tell_all(text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(classes: &str) -> Option<Settings> {
        Settings::parse(format!(r#"{{"of":"0f","drain":true,"classes":[{classes}]}}"#).as_bytes())
    }

    #[test]
    fn settings_are_told_whole_or_not_at_all() {
        let settings = told(
            r#"{"name":"normal","priority":100,"wall_minutes":2880},{"name":"1gpulong","priority":50,"gpus":1,"wall_minutes":20160}"#,
        );
        let settings = settings.unwrap();
        assert!(settings.drain && settings.of == "0f");
        let gpus: Vec<_> = settings.classes.iter().map(|class| class.gpus).collect();
        assert_eq!(gpus, [None, Some(1)]);
        for class in [
            "",
            r#"{"name":"normal","priority":100}"#,
            r#"{"name":"","priority":1,"wall_minutes":1}"#,
            r#"{"name":"-a","priority":1,"wall_minutes":1}"#,
            r#"{"name":"A","priority":1,"wall_minutes":1}"#,
            r#"{"name":"a b","priority":1,"wall_minutes":1}"#,
            r#"{"name":"a\nb","priority":1,"wall_minutes":1}"#,
            r#"{"name":"abcdefghijklmnopqrstuvwxyz012345","priority":1,"wall_minutes":1}"#,
            r#"{"name":"a","priority":-1,"wall_minutes":1}"#,
            r#"{"name":"a","priority":100001,"wall_minutes":1}"#,
            r#"{"name":"a","priority":1,"wall_minutes":0}"#,
            r#"{"name":"a","priority":1,"wall_minutes":525601}"#,
            r#"{"name":"a","priority":1,"wall_minutes":1,"gpus":1025}"#,
            r#"{"name":"a","priority":1,"wall_minutes":1,"gpus":"all"}"#,
            r#"{"name":"a","priority":1,"wall_minutes":1},{"name":"a","priority":2,"wall_minutes":2}"#,
        ] {
            assert_eq!(told(class), None, "{class}");
        }
        let many = |count: u32| {
            let classes: Vec<String> =
                (0..count).map(|of| format!(r#"{{"name":"c{of}","priority":1,"wall_minutes":1}}"#)).collect();
            told(&classes.join(","))
        };
        assert!(many(16).is_some() && many(17).is_none());
        for of in ["", "0F", "x", "../x", &"0".repeat(65)] {
            let text = format!(r#"{{"of":"{of}","classes":[{{"name":"a","priority":1,"wall_minutes":1}}]}}"#);
            assert_eq!(Settings::parse(text.as_bytes()), None, "{of}");
        }
    }

    #[test]
    fn what_was_ordered_last_comes_before_the_seed_and_that_before_the_usual() {
        let place = tempfile::tempdir().unwrap();
        let seeded = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
        assert_eq!(Settings::told_since(place.path(), None), Settings::usual());
        let seed = seeded(r#"{"of":"0e","classes":[{"name":"a","priority":1,"wall_minutes":1}]}"#);
        assert_eq!(Settings::told_since(place.path(), Some(&seed)).of, "0e");
        let nonsense = seeded(r#"{"of":"0e","classes":"all"}"#);
        assert_eq!(Settings::told_since(place.path(), Some(&nonsense)), Settings::usual());
        let path = place.path().join("scheduler");
        std::fs::write(path, r#"{"of":"0f","classes":[{"name":"a","priority":1,"wall_minutes":1}]}"#)
            .unwrap();
        assert_eq!(Settings::told_since(place.path(), Some(&seed)).of, "0f");
    }

    proptest! {
        #[test]
        fn whatever_is_said_what_is_taken_fits(name in "[a-z0-9-]{0,40}", priority in 0u32..200_000, minutes in 0u32..600_000) {
            let class = format!(r#"{{"name":"{name}","priority":{priority},"wall_minutes":{minutes}}}"#);
            let fits = !name.is_empty() && !name.starts_with('-') && name.len() <= 31 && priority <= 100_000
                && (1..=525_600).contains(&minutes);
            prop_assert_eq!(told(&class).is_some(), fits);
        }
    }
}
