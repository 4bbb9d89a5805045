//! Deletion certificates, verified with nothing but the log's public key.

use super::audit::key_of;
use crate::Failure;
use crate::args::CertificateVerb;
use crate::output::Output;
use crate::profile::Profiles;
use crate::text::Clock;
use crate::view::{self, Deletion, NotADeletion};
use holm_control::audit::{Checkpoint, Entry, note, verify};
use serde_json::json;
use std::path::Path;

/// A certificate has some thousand bytes; a note more than [`note::MAX_NOTE`] is refused by its verifier, and a
/// page says it twice, in more words.
const LIMIT: u64 = 8 * note::MAX_NOTE as u64;

const ANEW: &str = "get it anew: holm slice certificate PROJECT/NAME --out FILE, or --html FILE";

pub(super) fn run(
    verb: &CertificateVerb,
    profile: &str,
    output: &Output,
    clock: &Clock,
) -> Result<(), Failure> {
    let CertificateVerb::Verify { file, key, log } = verb;
    let text = read(file)?;
    let key = match key {
        Some(key) => key_of(key)?,
        None => known_key(profile, file)?,
    };
    let Verified { note, deletion, body } = verified(&text, &key, file)?;
    let entry = log.as_deref().map(|dir| logged(dir, &key, &note, &deletion)).transpose()?;
    let signer = key.split('+').next().unwrap_or_default();
    let gaps = deletion.gaps();
    let json =
        json!({ "signature": "good", "signer": signer, "entry": entry, "gaps": gaps, "certificate": body });
    let mut sheet = deletion.sheet(signer, clock);
    if let Some(entry) = entry {
        sheet
            .line("", format!("all that it held then, and this certificate as entry {entry}, verified here"));
    }
    output.sheet(&sheet, &json)
}

/// The key that `holm audit verify` has come to know. Never one from beside the certificate.
fn known_key(profile: &str, file: &Path) -> Result<String, Failure> {
    let known = Profiles::find()?.place(profile)?.pin()?;
    known.map(|pin| pin.key).ok_or_else(|| {
        Failure::usage("with which key? none is known here").hint(format!(
            "holm certificate verify {} --key KEY   (KEY: as it was shown when holmd was set up, or from an officer: \
             holm audit key)",
            file.display()
        ))
    })
}

fn read(file: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(LIMIT + 1).read_to_string(&mut text));
    read.map_err(|e| Failure::file("read", file, &e))?;
    Ok(text)
}

/// A certificate whose signature fits.
struct Verified {
    note: String,
    deletion: Deletion,
    body: serde_json::Value,
}

/// Of a note, or of a page with one.
fn verified(text: &str, key: &str, file: &Path) -> Result<Verified, Failure> {
    let shown = file.display();
    let page = view::note_in(text);
    let note = page.as_deref().unwrap_or(text);
    let forged = |why: &str| Failure::new(format!("`{shown}` is NOT to be believed: {why}")).hint(ANEW);
    let body = note::verify(note, key).map_err(|e| {
        let failure = forged(&e.to_string());
        match e {
            note::NoteError::Key(_) => {
                failure.hint("holm audit key   (an officer or auditor can ask for it)")
            }
            _ => failure,
        }
    })?;
    // Signatures of others are none of holmd's making.
    let signatures = note.strip_prefix(body.as_str()).unwrap_or_default();
    if signatures.lines().count() != 2 {
        return Err(forged("it has more than one signature, and holmd signs once"));
    }
    let (deletion, body) = Deletion::read(&body).map_err(|NotADeletion| {
        Failure::new(format!(
            "`{shown}` is signed by the log's key, and is no deletion certificate that this holm knows"
        ))
    })?;
    if page.is_some() && view::page(note).ok().as_deref() != Some(text) {
        return Err(forged(
            "what was signed is in it, but what it shows is not what follows from that; it was changed, or another \
             version of holm made it",
        ));
    }
    Checkpoint::verify(deletion.checkpoint(), key)
        .map_err(|e| forged(&format!("the head of the log in it is not to be believed: {e}")))?;
    Ok(Verified { note: note.to_owned(), deletion, body })
}

/// The entry that issued the certificate, in an export that begins with the log as it was then.
fn logged(dir: &Path, key: &str, note: &str, deletion: &Deletion) -> Result<u64, Failure> {
    let shown = dir.display();
    let wrong = |e: &dyn std::error::Error| {
        Failure::new(format!(
            "`{shown}` is NOT the log that this certificate speaks of: {}",
            holm_proto::chain(e)
        ))
    };
    let head = Checkpoint::verify(deletion.checkpoint(), key).map_err(|e| wrong(&e))?;
    let (_, found) = verify::directory_from(dir, key, std::slice::from_ref(&head), |entry: &Entry| {
        let issues = |change: &serde_json::Value| {
            change.pointer("/of/certificate/note").and_then(|v| v.as_str()) == Some(note)
        };
        entry.changes.iter().any(issues).then_some(entry.index)
    })
    .map_err(|e| wrong(&e))?;
    found.first().copied().filter(|index| *index >= head.size).ok_or_else(|| {
        Failure::new(format!("`{shown}` is the log, and has no entry that issues this certificate")).hint(
            "if it was exported before that: holm audit export DIR; otherwise tell the security officers",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_control::audit::{Entry, Log, SigningKey};
    use proptest::prelude::*;
    use serde_json::Value;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    const NAME: &str = "holm.example/holm";

    /// A log of three entries, the certificate of then, and what it takes to judge it.
    struct Scene {
        dir: tempfile::TempDir,
        key: SigningKey,
        vkey: String,
        note: String,
        page: String,
    }

    fn body(index: u64, changes: Vec<Value>) -> Vec<u8> {
        let text = json!({ "v": 1, "index": index, "time": "2026-11-03T13:00:00Z", "request": "r", "actor": "holmd",
            "action": "slice.destroy", "resource": "b", "outcome": "allowed", "changes": changes });
        Entry::from_bytes(text.to_string().as_bytes()).unwrap().to_bytes().unwrap()
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let key = SigningKey::create(&dir.path().join("key")).unwrap();
            let mut log = Log::create(&dir.path().join("log"), NAME, key.clone()).unwrap();
            log.append(&[body(0, vec![]), body(1, vec![]), body(2, vec![])]).unwrap();
            log.flush().unwrap();
            let mut value = view::sample_deletion();
            value["log_checkpoint"] = log.checkpoint().into();
            let note = note::sign(&key, NAME, &format!("{value:#}\n"));
            let page = view::page(&note).unwrap();
            Self { vkey: key.vkey(NAME), dir, key, note, page }
        }

        fn shared() -> &'static Self {
            static SCENE: OnceLock<Scene> = OnceLock::new();
            SCENE.get_or_init(Self::new)
        }

        /// What is said of a file with these bytes.
        fn judge(&self, bytes: &[u8]) -> Result<Verified, Failure> {
            let text = std::str::from_utf8(bytes).map_err(|e| Failure::new(e.to_string()))?;
            verified(text, &self.vkey, Path::new("file"))
        }

        fn refused(&self, text: &str) -> String {
            self.judge(text.as_bytes()).err().unwrap().what
        }

        /// The log with this entry as its fourth.
        fn log_with(&self, name: &str, entry: &[u8]) -> PathBuf {
            let dir = self.dir.path().join(name);
            let mut log = Log::create(&dir, NAME, self.key.clone()).unwrap();
            log.append(&[body(0, vec![]), body(1, vec![]), body(2, vec![]), entry.to_vec()]).unwrap();
            log.flush().unwrap();
            dir
        }
    }

    #[test]
    fn each_byte_counts() {
        let scene = Scene::new();
        for good in [&scene.note, &scene.page] {
            assert!(scene.judge(good.as_bytes()).is_ok());
            // Of the page, which is longer, one in five: the others at random below.
            let step = if good.len() > scene.note.len() { 5 } else { 1 };
            for at in (0..good.len()).step_by(step) {
                let mut bytes = good.clone().into_bytes();
                bytes[at] ^= 1 << (at % 8);
                assert!(scene.judge(&bytes).is_err(), "byte {at} of {}", good.len());
            }
        }
    }

    proptest! {
        /// Taken out, put in, or exchanged, wherever: no other bytes are a certificate.
        #[test]
        fn nothing_but_what_was_signed(
            of_page: bool,
            from: prop::sample::Index,
            length in 0_usize..40,
            instead in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..8),
                "[ \n<>&;a-z0-9\u{2014}]{0,12}".prop_map(String::into_bytes),
            ],
        ) {
            let scene = Scene::shared();
            let good = if of_page { &scene.page } else { &scene.note }.as_bytes();
            let from = from.index(good.len() + 1);
            let to = (from + length).min(good.len());
            let bad = [&good[..from], &instead, &good[to..]].concat();
            prop_assert_eq!(scene.judge(&bad).is_ok(), bad == good);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let scene = Scene::new();
        let other = SigningKey::create(&scene.dir.path().join("other")).unwrap();
        let file = scene.dir.path().join("x");
        for text in [&scene.note, &scene.page] {
            assert!(verified(text, &other.vkey(NAME), &file).is_err(), "another key of that name");
            assert!(verified(text, &other.vkey("other"), &file).is_err());
            assert!(
                verified(text, "nonsense", &file).err().unwrap().hint.unwrap().contains("holm audit key")
            );
        }
        // One more signature is one more line that nobody asked for.
        let theirs = note::sign(&other, "other", "x\n");
        let theirs = theirs.lines().nth(2).unwrap();
        assert!(scene.refused(&format!("{}{theirs}\n", scene.note)).contains("more than one signature"));
        assert!(scene.refused(&format!("{}\n", scene.note)).contains("NOT to be believed"));
        assert!(scene.refused(&format!("{} ", scene.page)).contains("what it shows"));
        assert!(scene.refused(&scene.page.replace("is destroyed", "is DESTROYED")).contains("what it shows"));
        assert!(scene.refused(&scene.page.replace("</body>", "")).contains("what it shows"));
        assert!(scene.refused("").contains("no signed note"));
        // The same key signs the log's head, which is no certificate.
        let head = note::sign(&scene.key, NAME, &format!("{NAME}\n42\nAAAA\n"));
        assert!(scene.refused(&head).contains("no deletion certificate"));
        // And a certificate with the head of another log, or of none.
        let value = view::sample_deletion();
        let note = note::sign(&scene.key, NAME, &format!("{value:#}\n"));
        assert!(scene.refused(&note).contains("head of the log"));
        let key = scene.dir.path().join("vkey");
        std::fs::write(&key, format!("{}\n", scene.vkey)).unwrap();
        assert_eq!(key_of(key.to_str().unwrap()).unwrap(), scene.vkey);
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(read(&file).unwrap_err().what.contains("cannot read"));
    }

    #[test]
    fn it_is_looked_up_in_the_log() {
        let scene = Scene::new();
        let ours = scene.judge(scene.note.as_bytes()).unwrap();
        let look = |dir: &Path| logged(dir, &scene.vkey, &ours.note, &ours.deletion).map_err(|e| e.what);
        let issue = |note: &str| {
            body(
                3,
                vec![
                    json!({ "op": "put", "of": { "kind": "slice", "certificate": { "body": "", "note": note } } }),
                ],
            )
        };
        assert_eq!(look(&scene.log_with("with", &issue(&scene.note))), Ok(3));
        let without = "has no entry that issues this certificate";
        assert!(look(&scene.log_with("without", &issue("another"))).unwrap_err().contains(without));
        assert!(look(&scene.dir.path().join("log")).unwrap_err().contains(without), "as it was just before");
        // A log of the same key with another past, and one that is shorter.
        for (name, entries, why) in [
            ("past", vec![body(0, vec![json!(1)]), body(1, vec![]), body(2, vec![])], "written anew"),
            ("short", vec![body(0, vec![])], "an older copy"),
        ] {
            let dir = scene.dir.path().join(name);
            let mut log = Log::create(&dir, NAME, scene.key.clone()).unwrap();
            log.append(&entries).unwrap();
            log.flush().unwrap();
            assert!(look(&dir).unwrap_err().contains(why), "{name}");
        }
        assert!(look(&scene.dir.path().join("nowhere")).is_err());
    }
}
