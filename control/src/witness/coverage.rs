//! What witnesses cosigned, held against the entries of a log as they come: how far it is covered, and by whom. Pure.

use super::cosignature::{self, WitnessKey};
use crate::audit::note::NoteError;
use crate::audit::tree::{self, Edge};
use crate::audit::{Checkpoint, Hash};
use jiff::Timestamp;
use std::convert::Infallible;

/// A head that a witness cosigned, by its own signature and the log's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Who.
    pub witness: String,
    /// Entries below it: that is what is covered.
    pub size: u64,
    /// When, by the witness's clock.
    pub at: Timestamp,
    checkpoint: Checkpoint,
}

impl Head {
    /// Those in a note that any of these witnesses cosigned: none where it was others. A note that the log did not sign is an
    /// error, and so is one in which a signature does not fit.
    pub fn of(note: &str, log: &str, witnesses: &[WitnessKey]) -> Result<Vec<Self>, NoteError> {
        let checkpoint = Checkpoint::verify(note, log)?;
        let mut heads = Vec::new();
        for key in witnesses {
            match cosignature::verify(note, key) {
                Ok(at) => heads.push(Self {
                    witness: key.name().to_owned(),
                    size: checkpoint.size,
                    at,
                    checkpoint: checkpoint.clone(),
                }),
                Err(NoteError::Unsigned(_)) => {}
                Err(no) => return Err(no),
            }
        }
        Ok(heads)
    }

    /// As the log signed it.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// Why a log is not the one that was cosigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NotCovered {
    #[error(
        "{witness} cosigned {cosigned} entries on {at}, and the log has {found}: the log was rolled back"
    )]
    Shorter { witness: String, cosigned: u64, found: u64, at: Timestamp },
    #[error(
        "{witness} cosigned {size} entries on {at} that are not the first {size} of this log: it was forked or changed"
    )]
    Other { witness: String, size: u64, at: Timestamp },
}

/// Heads, and the log as far as it has come.
#[derive(Debug, Default)]
pub struct Coverage {
    /// Not reached yet, the nearest last.
    waiting: Vec<Head>,
    reached: Vec<Head>,
    edge: Edge,
}

impl Coverage {
    /// Nothing has come yet.
    pub fn new(mut heads: Vec<Head>) -> Result<Self, NotCovered> {
        heads.sort_by_key(|head| (std::cmp::Reverse(head.size), head.at));
        let mut new = Self { waiting: heads, reached: Vec::new(), edge: Edge::default() };
        new.reach()?;
        Ok(new)
    }

    /// The next entry.
    pub fn see(&mut self, body: &[u8]) -> Result<(), NotCovered> {
        // Beyond the last there is nothing to hold it against.
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.see_leaf(tree::leaf(body))
    }

    /// The next entry, of which the hash alone is there.
    pub fn see_leaf(&mut self, leaf: Hash) -> Result<(), NotCovered> {
        let Ok(()) = self.edge.push::<Infallible>(leaf, |_, _, _| Ok(()));
        self.reach()
    }

    /// That was all of the log. For each witness the newest head that it cosigned.
    pub fn finish(self) -> Result<Vec<Head>, NotCovered> {
        if let Some(head) = self.waiting.first() {
            return Err(NotCovered::Shorter {
                witness: head.witness.clone(),
                cosigned: head.size,
                found: self.edge.size(),
                at: head.at,
            });
        }
        let mut newest: Vec<Head> = Vec::new();
        for head in self.reached.into_iter().rev() {
            if !newest.iter().any(|other| other.witness == head.witness) {
                newest.push(head);
            }
        }
        Ok(newest)
    }

    fn reach(&mut self) -> Result<(), NotCovered> {
        while let Some(head) = self.waiting.pop_if(|head| head.size == self.edge.size()) {
            if head.checkpoint.root != self.edge.root() {
                return Err(NotCovered::Other { witness: head.witness, size: head.size, at: head.at });
            }
            self.reached.push(head);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Log, SigningKey};

    const ORIGIN: &str = "holm.test/log";

    struct Scene {
        dir: tempfile::TempDir,
        keys: Vec<WitnessKey>,
    }

    impl Scene {
        fn new() -> Self {
            let key = |seed| WitnessKey::of(&SigningKey::fixed(seed), &format!("w.test/{seed}"));
            Self { dir: tempfile::tempdir().unwrap(), keys: vec![key(2), key(3)] }
        }

        /// The head over these entries, cosigned by these witnesses.
        fn head(&self, name: &str, entries: &[&str], witnesses: &[u8], at: i64) -> Vec<Head> {
            let mut log = Log::create(&self.dir.path().join(name), ORIGIN, SigningKey::fixed(1)).unwrap();
            log.append(&entries.iter().map(|e| e.as_bytes().to_vec()).collect::<Vec<_>>()).unwrap();
            let text = Checkpoint::verify(log.checkpoint(), &log.vkey()).unwrap().text();
            let at = Timestamp::from_second(at).unwrap();
            let sign = |seed: &u8| {
                cosignature::sign(&SigningKey::fixed(*seed), &format!("w.test/{seed}"), &text, at)
            };
            let lines: String = witnesses.iter().map(sign).collect();
            Head::of(&format!("{}{lines}", log.checkpoint()), &log.vkey(), &self.keys).unwrap()
        }
    }

    fn covered(heads: Vec<Head>, entries: &[&str]) -> Result<Vec<(String, u64)>, NotCovered> {
        let mut coverage = Coverage::new(heads)?;
        entries.iter().try_for_each(|body| coverage.see(body.as_bytes()))?;
        Ok(coverage.finish()?.into_iter().map(|head| (head.witness, head.size)).collect())
    }

    #[test]
    fn each_covers_as_far_as_it_cosigned_last() {
        let scene = Scene::new();
        let mut heads = scene.head("a", &["a"], &[2, 3], 100);
        heads.extend(scene.head("b", &["a", "b"], &[2], 200));
        heads.extend(scene.head("none", &[], &[3], 50));
        let all = covered(heads.clone(), &["a", "b", "c"]).unwrap();
        assert_eq!(all, [("w.test/2".to_owned(), 2), ("w.test/3".to_owned(), 1)]);
        assert_eq!(covered(Vec::new(), &["a"]).unwrap(), []);
        // By nobody who is trusted.
        assert_eq!(scene.head("c", &["a"], &[4], 100), []);
    }

    #[test]
    fn another_history_is_found_whatever_its_length() {
        let scene = Scene::new();
        let heads = scene.head("a", &["a", "b", "c"], &[2], 100);
        let short = covered(heads.clone(), &["a", "b"]).unwrap_err();
        assert_eq!(
            short.to_string(),
            "w.test/2 cosigned 3 entries on 1970-01-01T00:01:40Z, and the log has 2: the log was rolled back"
        );
        for other in [["a", "b", "x"].as_slice(), &["x", "b", "c", "d"]] {
            let no = covered(heads.clone(), other).unwrap_err().to_string();
            assert!(no.contains("are not the first 3 of this log"), "{no}");
        }
        // One good head takes nothing back from another that is not.
        let both = [heads, scene.head("b", &["a", "x"], &[3], 100)].concat();
        assert!(matches!(covered(both, &["a", "b", "c"]), Err(NotCovered::Other { size: 2, .. })));
    }

    #[test]
    fn what_the_log_did_not_sign_is_no_head() {
        let scene = Scene::new();
        let head = scene.head("a", &["a"], &[2], 100).remove(0);
        let text = head.checkpoint().text();
        let forged = crate::audit::note::sign(&SigningKey::fixed(7), ORIGIN, &text);
        let line = cosignature::sign(&SigningKey::fixed(2), "w.test/2", &text, head.at);
        let log = SigningKey::fixed(1).vkey(ORIGIN);
        assert!(Head::of(&format!("{forged}{line}"), &log, &scene.keys).is_err());
        assert!(Head::of("hello", &log, &scene.keys).is_err());
    }
}
