//! What this profile knows of the log: its key, since it was first seen, and its head, when it was last verified.
//! A log that is now another is an alarm, whoever signed it.

use super::Session;
use crate::Failure;
use crate::profile::{Pin, Place};
use holm_control::audit::Checkpoint;
use holm_proto::v1;

/// The log as holmd shows it now, compared with what is known.
#[derive(Debug)]
pub(super) struct Known {
    /// That must have signed it.
    pub(super) key: String,
    /// Nothing was known before.
    pub(super) first: bool,
    /// As it is now.
    pub(super) head: Checkpoint,
    /// Keys of witnesses, to be remembered.
    pub(super) witnesses: Vec<String>,
    note: String,
    before: Option<Checkpoint>,
}

impl Known {
    /// With `given` the key must be that one; without, the one that is known; the very first is believed.
    pub(super) fn of(session: &Session, given: Option<&str>, now: &v1::Checkpoint) -> Result<Self, Failure> {
        let pin = session.place.pin()?;
        let known = given.or(pin.as_ref().map(|p| p.key.as_str()));
        let key = known.unwrap_or(&now.verifier_key).to_owned();
        if key != now.verifier_key {
            return Err(changed_key(session, &key, &now.verifier_key));
        }
        if let Some(pin) = pin.as_ref().filter(|p| p.key != key) {
            return Err(changed_key(session, &pin.key, &key));
        }
        let head = Checkpoint::verify(&now.note, &key)
            .map_err(|e| alarm(format!("the log's head is not to be believed: {e}")))?;
        let before = pin.as_ref().map(|pin| old_head(session, pin, &head)).transpose()?;
        let witnesses = pin.as_ref().map(|pin| pin.witnesses.clone()).unwrap_or_default();
        Ok(Self { key, first: pin.is_none(), head, witnesses, note: now.note.clone(), before })
    }

    /// As it was when it was last verified: what is verified now must begin with all of that.
    pub(super) const fn head_before(&self) -> Option<&Checkpoint> {
        self.before.as_ref()
    }

    /// Every entry was seen, is what was signed, and the first ones are those of before: remember it. How far it was known
    /// before.
    pub(super) fn remember(self, place: &Place, now: jiff::Timestamp) -> Result<Option<u64>, Failure> {
        if place.exists() {
            let (checkpoint, witnesses) = (self.note, self.witnesses);
            place.set_pin(&Pin { key: self.key, checkpoint, verified: now, witnesses })?;
        }
        Ok(self.before.map(|head| head.size))
    }
}

/// The head that is known.
fn old_head(session: &Session, pin: &Pin, now: &Checkpoint) -> Result<Checkpoint, Failure> {
    let head = Checkpoint::verify(&pin.checkpoint, &pin.key).map_err(|e| {
        let path = session.place.pin_file();
        Failure::new(format!("`{}`, what is known of the log, is damaged: {e}", path.display()))
    })?;
    if now.size < head.size {
        return Err(alarm(format!(
            "the log has {} entries, and had {} when it was verified on {}: entries are missing",
            now.size, head.size, pin.verified
        )));
    }
    Ok(head)
}

/// Somebody should look, now.
pub(super) fn alarm(what: String) -> Failure {
    Failure::new(format!("ALARM: {what}"))
        .hint("keep what you have, `holm audit export DIR` too, and tell the security officers; holmd may be forged")
}

fn changed_key(session: &Session, known: &str, now: &str) -> Failure {
    let path = session.place.pin_file();
    alarm(format!("the log's key is `{now}`, and was `{known}`")).hint(format!(
        "compare with the copy from when holmd was set up; only if the change was announced: rm {}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, Output};
    use crate::profile::{Profile, Profiles};
    use crate::text::Clock;
    use holm_control::audit::verify::{Checker, VerifyError};
    use holm_control::audit::{Entry, Log, SigningKey};
    use std::path::Path;

    const ORIGIN: &str = "holm.example/holm";

    struct Scene {
        dir: tempfile::TempDir,
        session: Session,
        key: SigningKey,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let profiles = Profiles::at(dir.path());
            let place = profiles.place("frida").unwrap();
            let profile =
                Profile { server: "x:1".to_owned(), identity: "spiffe://holm/person/frida".to_owned() };
            place.enrolled(place.stage_key("x").unwrap(), "x", "x", &profile).unwrap();
            let output = Output {
                format: Format::Table,
                quiet: true,
                colour: false,
                colour_errors: false,
                width: None,
            };
            let key = SigningKey::create(&dir.path().join("key")).unwrap();
            let session = Session {
                output,
                clock: Clock::system(),
                profiles,
                place,
                keyed: crate::dial::Keyed::default(),
            };
            Self { session, key, dir }
        }

        /// A log of its own: its head and its entries.
        fn log(&self, name: &str, actors: &[&str]) -> (v1::Checkpoint, Vec<Vec<u8>>) {
            log(&self.dir.path().join(name), &self.key, actors)
        }

        fn verify(
            &self,
            given: Option<&str>,
            log: &(v1::Checkpoint, Vec<Vec<u8>>),
        ) -> Result<Option<u64>, Failure> {
            let known = Known::of(&self.session, given, &log.0)?;
            let failed = |e: VerifyError| alarm(holm_proto::chain(&e));
            let mut checker = Checker::new(&log.0.note, &known.key).map_err(failed)?;
            known.head_before().map_or(Ok(()), |head| checker.begin_with(head.clone())).map_err(failed)?;
            log.1.iter().try_for_each(|body| checker.push(body)).map_err(failed)?;
            checker.finish().map_err(failed)?;
            known.remember(&self.session.place, jiff::Timestamp::now())
        }
    }

    fn log(dir: &Path, key: &SigningKey, actors: &[&str]) -> (v1::Checkpoint, Vec<Vec<u8>>) {
        let mut log = Log::create(dir, ORIGIN, key.clone()).unwrap();
        let entries: Vec<Vec<u8>> = actors
            .iter()
            .enumerate()
            .map(|(index, actor)| {
                let text = format!(
                    r#"{{"v":1,"index":{index},"time":"2026-11-03T13:00:00Z","request":"r","actor":"{actor}",
                        "action":"a","resource":"b","outcome":"allowed"}}"#
                );
                Entry::from_bytes(text.as_bytes()).unwrap().to_bytes().unwrap()
            })
            .collect();
        log.append(&entries).unwrap();
        (v1::Checkpoint { note: log.checkpoint().to_owned(), verifier_key: log.vkey() }, entries)
    }

    #[test]
    fn a_log_that_grows_is_the_same() {
        let scene = Scene::new();
        assert_eq!(scene.verify(None, &scene.log("1", &["a", "b", "c"])), Ok(None));
        assert_eq!(scene.verify(None, &scene.log("2", &["a", "b", "c"])), Ok(Some(3)));
        assert_eq!(scene.verify(None, &scene.log("3", &["a", "b", "c", "d", "e"])), Ok(Some(3)));
        assert_eq!(scene.verify(None, &scene.log("4", &["a", "b", "c", "d", "e"])), Ok(Some(5)));
    }

    #[test]
    fn a_log_that_is_another_is_an_alarm() {
        let scene = Scene::new();
        scene.verify(None, &scene.log("1", &["a", "b", "c"])).unwrap();
        let alarm = |name: &str, actors: &[&str]| scene.verify(None, &scene.log(name, actors)).unwrap_err();
        let shorter = alarm("shorter", &["a", "b"]);
        assert!(shorter.what.starts_with("ALARM: the log has 2 entries, and had 3"), "{shorter:?}");
        // Signed by the right key, and yet not what it was.
        for (name, actors) in [("as long", ["a", "x", "c"].as_slice()), ("longer", &["a", "b", "x", "d"])] {
            let other = alarm(name, actors);
            assert!(other.what.contains("written anew: its first 3 entries"), "{other:?}");
            assert_eq!(other.exit.code(), 1);
        }
        let key = SigningKey::create(&scene.dir.path().join("key2")).unwrap();
        let other = log(&scene.dir.path().join("other key"), &key, &["a", "b", "c"]);
        assert!(scene.verify(None, &other).unwrap_err().what.contains("the log's key is"));
        let given = other.0.verifier_key.clone();
        assert!(scene.verify(Some(&given), &other).unwrap_err().what.contains("the log's key is"));
        // What was known is known still.
        assert_eq!(scene.verify(None, &scene.log("2", &["a", "b", "c"])), Ok(Some(3)));
    }

    #[test]
    fn a_key_that_is_given_counts_from_the_first_time() {
        let scene = Scene::new();
        let log = scene.log("1", &["a"]);
        let other = SigningKey::create(&scene.dir.path().join("key2")).unwrap().vkey(ORIGIN);
        assert!(scene.verify(Some(&other), &log).is_err());
        assert!(scene.session.place.pin().unwrap().is_none());
        assert_eq!(scene.verify(Some(&log.0.verifier_key), &log), Ok(None));
        // A head whose signature is not its own.
        let mut forged = scene.log("2", &["a", "b"]);
        forged.0.note = forged.0.note.replacen("\n2\n", "\n3\n", 1);
        assert!(scene.verify(None, &forged).unwrap_err().what.contains("not to be believed"));
    }
}
