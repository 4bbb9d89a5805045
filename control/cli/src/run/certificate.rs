//! Deletion certificates, verified with nothing but the log's public key.

use super::audit::key_of;
use crate::Failure;
use crate::args::CertificateVerb;
use crate::output::Output;
use crate::text::Clock;
use crate::view::{Deletion, NotADeletion};
use holm_control::audit::note;
use serde_json::json;
use std::path::Path;

/// A certificate has some thousand bytes; a note more than this is refused by its verifier, too.
const LIMIT: u64 = note::MAX_NOTE as u64;

pub(super) fn run(verb: &CertificateVerb, output: &Output, clock: &Clock) -> Result<(), Failure> {
    let CertificateVerb::Verify { file, key } = verb;
    let key = key_of(key)?;
    let text = read(file)?;
    let (deletion, body) = verified(&text, &key, file)?;
    let signer = key.split('+').next().unwrap_or_default();
    let gaps = deletion.gaps();
    let json = json!({ "signature": "good", "signer": signer, "gaps": gaps, "certificate": body });
    output.sheet(&deletion.sheet(signer, clock), &json)
}

fn read(file: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(LIMIT + 1).read_to_string(&mut text));
    read.map_err(|e| Failure::file("read", file, &e))?;
    Ok(text)
}

fn verified(text: &str, key: &str, file: &Path) -> Result<(Deletion, serde_json::Value), Failure> {
    let shown = file.display();
    let body = note::verify(text, key).map_err(|e| {
        let failure = Failure::new(format!("`{shown}` is NOT to be believed: {e}"));
        match e {
            note::NoteError::Key(_) => {
                failure.hint("holm audit key   (an officer or auditor can ask for it)")
            }
            _ => failure.hint("get it anew: holm slice certificate PROJECT/NAME --out FILE"),
        }
    })?;
    Deletion::read(&body).map_err(|NotADeletion| {
        Failure::new(format!(
            "`{shown}` is signed by the log's key, and is no deletion certificate that this holm knows"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_control::audit::SigningKey;

    #[test]
    fn each_byte_counts() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::create(&dir.path().join("key")).unwrap();
        let name = "holm.example/holm";
        let body = format!("{:#}\n", crate::view::sample_deletion());
        let note = note::sign(&key, name, &body);
        let (vkey, file) = (key.vkey(name), dir.path().join("certificate"));
        std::fs::write(&file, &note).unwrap();
        std::fs::write(dir.path().join("vkey"), format!("{vkey}\n")).unwrap();
        assert!(verified(&read(&file).unwrap(), &key_of(&vkey).unwrap(), &file).is_ok());
        let from_file = key_of(dir.path().join("vkey").to_str().unwrap()).unwrap();
        assert_eq!(from_file, vkey);

        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            assert!(verified(&text, &vkey, &file).is_err(), "byte {at} of {}", note.len());
        }
        let other = SigningKey::create(&dir.path().join("other")).unwrap().vkey(name);
        assert!(verified(&note, &other, &file).is_err());
        // The same key signs the log's head, which is no certificate.
        let head = note::sign(&key, name, &format!("{name}\n42\nAAAA\n"));
        let refused = verified(&head, &vkey, &file).err().unwrap();
        assert!(refused.what.contains("no deletion certificate"), "{refused:?}");
    }
}
