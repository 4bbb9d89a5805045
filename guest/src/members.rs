//! Who the people here are, while it runs: who comes gets an account, and of who goes nothing runs any more within seconds.
//! Her home stays.

use crate::{
    accounts::{self, Gone},
    evict::{Evictions, Here},
    failed::{Failed, Of as _, Outcome},
    files,
    port::Port,
    seed::User,
    slurm,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

/// Until it is looked again whether anything is left of who has gone.
const AGAIN: Duration = Duration::from_millis(250);
/// How often it is looked whether something of who only reads runs where things may be changed.
const OF_READERS: Duration = Duration::from_secs(5);
/// Until it is looked again where it could not be found out.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Who is to be here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Said")]
pub struct People {
    /// What the host calls these people.
    pub of: String,
    pub users: Vec<User>,
}

/// As the host says it.
#[derive(Deserialize)]
struct Said {
    of: String,
    users: Vec<User>,
    #[serde(default)]
    readers: Vec<User>,
}

impl From<Said> for People {
    fn from(Said { of, users, readers }: Said) -> Self {
        Self::new(of, users, readers)
    }
}

impl People {
    /// `readers` only read.
    pub fn new(of: String, mut users: Vec<User>, readers: Vec<User>) -> Self {
        users.extend(readers.into_iter().map(|user| User { read_only: true, ..user }));
        Self { of, users }
    }

    /// Those whom the host told last in this run of the machine, if it told any: what the seed says is older.
    pub fn told_since(run: &Path) -> Outcome<Option<Self>> {
        let path = run.join("people");
        if path.exists() {
            serde_json::from_str(&files::read(&path)?).of(path.display()).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Who may have what runs here.
    pub fn here(&self) -> Here {
        let readers = self.users.iter().filter(|user| user.read_only).map(|user| user.uid).collect();
        Here { people: self.ids(), readers, changed: BTreeSet::new() }
    }

    /// By what a person goes by here.
    pub fn ids(&self) -> BTreeSet<u32> {
        self.users.iter().map(|user| user.uid).collect()
    }
}

/// Those who are to be here.
#[derive(Debug)]
pub struct Members {
    people: People,
    project: String,
    /// Slurm takes their jobs.
    known: bool,
    /// It is to be looked whether anything is left of others.
    due: bool,
    /// Nothing was left, and the host was told so.
    said: bool,
    evictions: Evictions,
    looked: Instant,
    /// Those whose processes are from before they became what they are.
    changed: BTreeSet<u32>,
}

impl Members {
    /// Whose accounts were made when the machine came up, Slurm's as well. Of somebody who was here before them jobs may be left.
    pub fn new(project: String, people: People) -> Self {
        // Of readers nobody knows any more what they were.
        let changed = people.here().readers;
        Self {
            people,
            project,
            known: true,
            due: true,
            said: false,
            evictions: Evictions::default(),
            looked: Instant::now(),
            changed,
        }
    }

    /// The host wants these.
    pub fn want(&mut self, people: People, run: &Path, port: &Port) -> Outcome {
        // First, for whoever begins anew.
        let text = serde_json::to_vec(&people).of("people")?;
        let path = run.join("people");
        files::write(&path, text, 0o600, files::ROOT).of(path.display())?;
        accounts::make(&people.users, Gone::Locked)?;
        port.know(&people.users);
        let (before, after) = (self.people.here(), people.here());
        self.changed.extend(before.readers.symmetric_difference(&after.readers));
        self.changed.retain(|uid| after.people.contains(uid));
        self.evictions.end_all(&(&before.people - &after.people));
        self.evictions.end_all(&self.changed);
        // Who is on her way in was looked up before.
        if let Ok((sshd, _)) = accounts::system("sshd") {
            self.evictions.end_all(&BTreeSet::from([sshd]));
        }
        (self.people, self.known, self.due, self.said) = (people, false, true, false);
        Ok(())
    }

    /// Who came in just before is found later.
    pub fn look_again(&mut self) {
        self.due = true;
    }

    /// Goes on with it; when it is to be called again.
    pub fn turn(&mut self, port: &Port, slurm: bool) -> Option<Duration> {
        let rest = self.again().map(|every| every.saturating_sub(self.looked.elapsed()));
        if !self.due && rest.is_none_or(|rest| !rest.is_zero()) {
            return rest;
        }
        self.looked = Instant::now();
        match self.pass(port, slurm) {
            Ok(nothing_left) => {
                self.due = !nothing_left;
                self.due.then_some(AGAIN).or_else(|| self.again())
            }
            Err(Failed(why)) => {
                eprintln!("people: {why}");
                Some(AFTER_FAILURE)
            }
        }
    }

    fn tell_slurm(&mut self) -> Outcome {
        slurm::know(&self.project, &self.people.users)?;
        self.known = true;
        Ok(())
    }

    /// Where somebody only reads it is looked more often.
    fn again(&self) -> Option<Duration> {
        self.people.users.iter().any(|user| user.read_only).then_some(OF_READERS)
    }

    fn pass(&mut self, port: &Port, slurm: bool) -> Outcome<bool> {
        let here = Here { changed: self.changed.clone(), ..self.people.here() };
        let mut told = Ok(());
        if slurm && !self.known && self.again().is_some() {
            // Before jobs are looked for, and after processes: what a reader hands in then is refused. Where it fails the rest is
            // done all the same.
            self.evictions.pass(&here, false)?;
            told = self.tell_slurm();
        }
        // Once nothing was left nobody can hand in a job.
        let nothing_left = self.evictions.pass(&here, slurm && !self.said)?;
        told?;
        if nothing_left {
            self.changed.clear();
        }
        if nothing_left && !self.said {
            accounts::make(&self.people.users, Gone::Removed)?;
            if slurm && !self.known {
                self.tell_slurm()?;
            }
            port.say_people(&self.people.of).of("the port")?;
            self.said = true;
        }
        Ok(nothing_left)
    }
}
