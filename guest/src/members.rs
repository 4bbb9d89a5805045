//! Who the people here are, while it runs: who comes gets an account, and of who goes nothing runs any more within seconds.
//! Her home stays.

use crate::{
    accounts::{self, Gone},
    evict::Evictions,
    failed::{Failed, Of as _, Outcome},
    files,
    port::Port,
    seed::User,
    slurm,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::Path, time::Duration};

/// Until it is looked again whether anything is left of who has gone.
const AGAIN: Duration = Duration::from_millis(250);
/// The same where it could not be found out.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// As the host says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct People {
    /// What the host calls these people.
    pub of: String,
    pub users: Vec<User>,
}

impl People {
    /// Those whom the host told last in this run of the machine, if it told any: what the seed says is older.
    pub fn told_since(run: &Path) -> Outcome<Option<Self>> {
        let path = run.join("people");
        if path.exists() {
            serde_json::from_str(&files::read(&path)?).of(path.display()).map(Some)
        } else {
            Ok(None)
        }
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
}

impl Members {
    /// Whose accounts were made when the machine came up, Slurm's as well. Of somebody who was here before them jobs may be left.
    pub fn new(project: String, people: People) -> Self {
        Self { people, project, known: true, due: true, said: false, evictions: Evictions::default() }
    }

    /// The host wants these.
    pub fn want(&mut self, people: People, run: &Path, port: &Port) -> Outcome {
        // First, for whoever begins anew.
        let text = serde_json::to_vec(&people).of("people")?;
        let path = run.join("people");
        files::write(&path, text, 0o600, files::ROOT).of(path.display())?;
        accounts::make(&people.users, Gone::Locked)?;
        port.know(&people.users);
        (self.people, self.known, self.due, self.said) = (people, false, true, false);
        Ok(())
    }

    /// Who came in just before is found later.
    pub fn look_again(&mut self) {
        self.due = true;
    }

    /// Goes on with it; when it is to be called again.
    pub fn turn(&mut self, port: &Port, slurm: bool) -> Option<Duration> {
        if !self.due {
            return None;
        }
        match self.pass(port, slurm) {
            Ok(nothing_left) => {
                self.due = !nothing_left;
                self.due.then_some(AGAIN)
            }
            Err(Failed(why)) => {
                eprintln!("people: {why}");
                Some(AFTER_FAILURE)
            }
        }
    }

    fn pass(&mut self, port: &Port, slurm: bool) -> Outcome<bool> {
        // Once nothing was left nobody can hand in a job.
        let nothing_left = self.evictions.pass(&self.people.ids(), slurm && !self.said)?;
        if nothing_left && !self.said {
            accounts::make(&self.people.users, Gone::Removed)?;
            if slurm && !self.known {
                slurm::know(&self.project, &self.people.users)?;
                self.known = true;
            }
            port.say_people(&self.people.of).of("the port")?;
            self.said = true;
        }
        Ok(nothing_left)
    }
}
