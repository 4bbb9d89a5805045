//! What a witness says of a checkpoint: C2SP tlog-cosignature, `cosignature/v1`, Ed25519. It saw the log at that time with
//! this root, grown out of everything that it had seen before. Pure.
//!
//! ```text
//!   signed:   cosignature/v1 ⏎ time SECONDS ⏎ and the checkpoint's text
//!   its line: — NAME base64(key id, SECONDS as 8 bytes, signature)
//! ```

use crate::audit::note::{self, NoteError, PublicKey};
use crate::audit::{Checkpoint, SigningKey};
use jiff::Timestamp;

/// The signature type of timestamped Ed25519 cosignatures.
const TYPE_COSIGNATURE: u8 = 4;

/// The public key of a witness, `NAME+HASH+KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey(PublicKey);

impl WitnessKey {
    /// As `holmd witness init`, or another witness, prints it.
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        PublicKey::parse(vkey, TYPE_COSIGNATURE).map(Self)
    }

    /// Of the key that signs, under this name.
    pub fn of(key: &SigningKey, name: &str) -> Self {
        Self(PublicKey::new(name, TYPE_COSIGNATURE, key.public()))
    }

    /// The witness's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// `NAME+HASH+KEY`.
    pub fn vkey(&self) -> String {
        self.0.vkey()
    }
}

/// The line of a cosignature over the text of a checkpoint.
pub fn sign(key: &SigningKey, name: &str, text: &str, at: Timestamp) -> String {
    // Before 1970 nothing was signed, whatever the clock says.
    let seconds = u64::try_from(at.as_second()).unwrap_or_default();
    let signature = key.sign(message(seconds, text).as_bytes());
    note::line(&WitnessKey::of(key, name).0, &[&seconds.to_be_bytes()[..], &signature].concat())
}

/// When this witness cosigned the checkpoint in a note, the newest time of several. The log's own signature is not looked
/// at: that is [`Checkpoint::verify`].
pub fn verify(note: &str, key: &WitnessKey) -> Result<Timestamp, NoteError> {
    newest(note, key).map(|(at, _)| at)
}

/// The same, and the line that says so.
pub(super) fn newest(note: &str, key: &WitnessKey) -> Result<(Timestamp, String), NoteError> {
    let mut newest = None;
    note::signatures(note, &key.0, |text, blob| {
        let bad = || NoteError::Signature(key.name().to_owned());
        let (seconds, signature) = blob.split_first_chunk().ok_or_else(bad)?;
        let seconds = u64::from_be_bytes(*seconds);
        key.0.verify(message(seconds, text).as_bytes(), signature)?;
        let at = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
        // A zero is a statement without a time.
        let at = at.filter(|_| seconds > 0).ok_or_else(bad)?;
        newest = newest.take().max(Some((at, note::line(&key.0, blob))));
        Ok(())
    })?;
    newest.ok_or_else(|| NoteError::Unsigned(key.name().to_owned()))
}

/// A checkpoint that both signed: the log, and the witness at that time.
pub fn cosigned(note: &str, log: &str, witness: &WitnessKey) -> Result<(Checkpoint, Timestamp), NoteError> {
    Ok((Checkpoint::verify(note, log)?, verify(note, witness)?))
}

fn message(seconds: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it was published: a log of Certificate Transparency, cosigned by witnesses of several makers.
    const REAL: &str = "arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

\u{2014} arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
\u{2014} arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
\u{2014} witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
\u{2014} remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
";
    const REAL_LOG: &str =
        "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f";
    const REAL_WITNESS: &str = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";

    #[test]
    fn what_another_witness_signed_is_understood() {
        let key = WitnessKey::parse(REAL_WITNESS).unwrap();
        let (head, at) = cosigned(REAL, REAL_LOG, &key).unwrap();
        assert_eq!((head.size, at.to_string().as_str()), (1_432_088_532, "2026-05-23T21:50:24Z"));
        assert_eq!((key.name(), key.vkey().as_str()), ("remora.n621.de", REAL_WITNESS));
        for (was, is) in [("1432088532\n", "1432088533\n"), ("AAABqEiEgPlf", "AAABqEiEhPlf")] {
            assert_ne!(REAL.replacen(was, is, 1), REAL);
            let no = verify(&REAL.replacen(was, is, 1), &key);
            assert_eq!(no, Err(NoteError::Signature("remora.n621.de".to_owned())));
        }
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        let (log, key) = (SigningKey::fixed(1), SigningKey::fixed(2));
        let head = Checkpoint { origin: "holm.test/log".to_owned(), size: 7, root: [3; 32] };
        let note = note::sign(&log, "holm.test/log", &head.text());
        let at = Timestamp::from_second(1_679_315_147).unwrap();
        let witness = WitnessKey::of(&key, "w.test/1");
        let line = sign(&key, "w.test/1", &head.text(), at);
        let both = format!("{note}{line}");
        assert_eq!(cosigned(&both, &log.vkey("holm.test/log"), &witness).unwrap(), (head.clone(), at));
        // The log's own signature stays what it was.
        assert_eq!(Checkpoint::verify(&both, &log.vkey("holm.test/log")).unwrap(), head);

        let unsigned = Err(NoteError::Unsigned("w.test/1".to_owned()));
        let damaged = Err(NoteError::Signature("w.test/1".to_owned()));
        assert_eq!(verify(&note, &witness), unsigned, "nobody cosigned it");
        assert_eq!(
            verify(&both.replace(&line, &sign(&key, "w.test/2", &head.text(), at)), &witness),
            unsigned
        );
        assert_eq!(verify(&both, &WitnessKey::of(&SigningKey::fixed(4), "w.test/1")), unsigned);
        // Of another checkpoint, and of no time at all.
        let other = Checkpoint { size: 8, ..head.clone() };
        assert_eq!(
            verify(&format!("{note}{}", sign(&key, "w.test/1", &other.text(), at)), &witness),
            damaged
        );
        let never = sign(&key, "w.test/1", &head.text(), Timestamp::UNIX_EPOCH);
        assert_eq!(verify(&format!("{note}{never}"), &witness), damaged);
        // One of two that does not fit spoils the note; of two that do, the newer one says when.
        let later = sign(&key, "w.test/1", &head.text(), Timestamp::from_second(1_679_400_000).unwrap());
        assert_eq!(verify(&format!("{both}{later}"), &witness).unwrap().as_second(), 1_679_400_000);
        assert_eq!(verify(&format!("{both}{never}"), &witness), damaged);
    }

    #[test]
    fn a_key_is_of_a_witness_or_of_a_log() {
        let key = SigningKey::fixed(2);
        assert!(WitnessKey::parse(&key.vkey("w.test/1")).is_err());
        assert!(note::check_key(&WitnessKey::of(&key, "w.test/1").vkey()).is_err());
        for bad in
            ["", "w.test/1", "w+1+AA==", "w.test/1+00000000+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"]
        {
            assert!(WitnessKey::parse(bad).is_err(), "{bad}");
        }
    }
}
