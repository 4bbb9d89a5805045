use super::*;
use std::sync::{Arc, Barrier};

/// Of the tests of litewitness (FiloSottile/torchwood, `cmd/litewitness/testdata/litewitness.txt`): requests, and what has
/// to be said to each, in this order.
const SIGSUM: &str = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562";
const SIGSUM_KEY: &str = "ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f";
const ONE: (&str, &str) = (
    "1\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "UgIom7fPZTqpxWWhyjWduBvTvGVqsokMbqTArsQilegKoFBJQjUFAmQ0+YeSPM3wfUQMFSzVnnNuWRTYrajXpNUbIQY=",
);
const THREE: (&str, &str) = (
    "3\nRcCI1Nk56ZcSmIEfIn0SleqtV7uvrlXNccFx595Iwl0=\n",
    "UgIom2VbtIcdFbwFAy1n7s6IkAxIY6J/GQOTuZF2ORV39d75cbAj2aQYwyJre36kezNobZs4SUUdrcawfAB8WVrx6go=",
);
const FIVE: (&str, &str) = (
    "5\nQrtXrQZCCvpIgsSmOsah7HdICzMLLyDfxToMql9WTjY=\n",
    "UgIomw/EOJmWi0i1FQsOj+etB7F8IccFam/jgd6wzRns4QPVmyEZtdvl1U2KEmLOZ/ASRcWJi0tW90dJWAShei7sDww=",
);
const TO_THREE: &str =
    "KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nKgIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
const TO_FIVE: &str =
    "KgIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nKgMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
wgiIFdZfYNv6WU1OllBKsWnLYIS/DBMqt8Uh/S4OukE=\nKgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

fn sigsum(old: u64, proof: &str, (head, signature): (&str, &str)) -> String {
    format!("old {old}\n{proof}\n{SIGSUM}\n{head}\n\u{2014} {SIGSUM} {signature}\n")
}

fn now() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn config(dir: &Path, logs: &[String]) -> WitnessConfig {
    let (path, _) = init(dir, "w.test/1").unwrap();
    let config = WitnessConfig { logs: logs.to_vec(), ..WitnessConfig::load(&path).unwrap() };
    std::fs::write(path, toml::to_string(&config).unwrap()).unwrap();
    config
}

#[test]
fn what_another_witness_is_tested_with() {
    let dir = tempfile::tempdir().unwrap();
    let public = HEXLOWER.decode(SIGSUM_KEY.as_bytes()).unwrap().try_into().unwrap();
    let vkey = note::PublicKey::new(SIGSUM, 1, public).vkey();
    let config = config(dir.path(), std::slice::from_ref(&vkey));
    let witness = Witness::open(&config).unwrap();
    let add = |body: &str| witness.add(body.as_bytes(), now());
    let cosigned = |verdict: &Verdict, (head, signature): (&str, &str)| {
        let Verdict::Cosigned(line) = verdict else { panic!("{verdict:?}") };
        let note = format!("{SIGSUM}\n{head}\n\u{2014} {SIGSUM} {signature}\n{line}");
        assert_eq!(cosignature::cosigned(&note, &vkey, witness.key()).unwrap().1, now());
        assert_eq!(witness.latest(&hash(SIGSUM)), Some(note), "it is what is shown to others");
    };
    assert_eq!(witness.latest(&hash(SIGSUM)), None);
    cosigned(&add(&sigsum(0, "", ONE)), ONE);
    let forged = THREE.1.replace("6go=", "6gx=");
    assert_eq!(
        add(&sigsum(1, TO_THREE, (THREE.0, &forged))),
        Verdict::Bad("that is no checkpoint that this witness can read")
    );
    let forged = THREE.1.replace("Vrx6go=", "Vrx6gk=").replace("2VbtI", "2VbtJ");
    assert_eq!(add(&sigsum(1, TO_THREE, (THREE.0, &forged))), Verdict::Forbidden);
    assert_eq!(add(&sigsum(1, TO_THREE, THREE).replace("e562", "e563")), Verdict::Unknown);
    assert_eq!(add(&sigsum(1, "", THREE)), Verdict::Inconsistent);
    assert_eq!(add(&sigsum(1, &TO_THREE.replace("gIAAA", "gIAAB"), THREE)), Verdict::Inconsistent);
    cosigned(&add(&sigsum(1, TO_THREE, THREE)), THREE);
    assert_eq!(add(&sigsum(1, TO_FIVE, FIVE)), Verdict::Conflict(3));
    cosigned(&add(&sigsum(3, TO_FIVE, FIVE)), FIVE);
    assert_eq!(add(&sigsum(0, "", FIVE)), Verdict::Conflict(5));
    // The same again is signed again; with a proof that there is nothing to prove it is not.
    cosigned(&add(&sigsum(5, "", FIVE)), FIVE);
    assert_eq!(add(&sigsum(5, TO_THREE, FIVE)), Verdict::Inconsistent);
    // An older one that was good once.
    assert_eq!(add(&sigsum(1, TO_THREE, THREE)), Verdict::Conflict(5));
    assert_eq!(add(&sigsum(5, TO_THREE, THREE)), Verdict::Bad("the old size is larger than the new one"));
}

#[test]
fn what_is_no_request_is_refused() {
    let good = sigsum(1, TO_THREE, THREE);
    assert!(parse(&good).is_some());
    let many = |n: usize| good.replacen(TO_THREE, &TO_THREE[..45].repeat(n), 1);
    assert!(parse(&many(63)).is_some() && parse(&many(64)).is_none());
    for bad in [
        "",
        "\n\n",
        "old",
        "old 1\n",
        "old \n\n",
        "old 01\n\nx",
        "old +1\n\nx",
        "old -1\n\nx",
        "old 1 \n\nx",
        "OLD 1\n\nx",
        "old 99999999999999999999\n\nx",
        "old 1\nAA==\n\nx",
        "old 1\r\n\r\nx",
        "old 1\n \n\nx",
    ] {
        assert_eq!(parse(bad), None, "{bad:?}");
    }
}

/// A log, and requests for it as it grows.
struct Grown {
    log: crate::audit::Log,
    _dir: tempfile::TempDir,
}

impl Grown {
    fn new(entries: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::fixed(9);
        let mut new = Self {
            log: crate::audit::Log::create(&dir.path().join("log"), "holm.test/log", key).unwrap(),
            _dir: dir,
        };
        new.grow(entries);
        new
    }

    fn grow(&mut self, entries: &[&str]) {
        let bodies: Vec<Vec<u8>> = entries.iter().map(|e| e.as_bytes().to_vec()).collect();
        self.log.append(&bodies).unwrap();
    }

    fn from(&self, old: u64) -> String {
        let proof: String =
            self.log.consistency(old).unwrap().iter().map(|hash| BASE64.encode(hash) + "\n").collect();
        format!("old {old}\n{proof}\n{}", self.log.checkpoint())
    }
}

#[test]
fn of_two_histories_one_is_cosigned() {
    let dir = tempfile::tempdir().unwrap();
    let (mut one, mut other) = (Grown::new(&["a", "b"]), Grown::new(&["a", "b"]));
    let witness = Witness::open(&config(dir.path(), &[one.log.vkey()])).unwrap();
    let add = |body: String| witness.add(body.as_bytes(), now());
    assert!(matches!(add(one.from(0)), Verdict::Cosigned(_)));
    one.grow(&["c"]);
    other.grow(&["x"]);
    let (first, second) = (one.from(2), other.from(2));
    assert!(matches!(add(first), Verdict::Cosigned(_)));
    assert_eq!(add(second), Verdict::Conflict(3));
    // As long, and longer: what it begins with is not what was cosigned.
    assert_eq!(add(other.from(3)), Verdict::Inconsistent);
    other.grow(&["y", "z"]);
    assert_eq!(add(other.from(3)), Verdict::Inconsistent);
    one.grow(&["d"]);
    assert!(matches!(add(one.from(3)), Verdict::Cosigned(_)));
}

#[test]
fn many_at_once_are_judged_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let one = Grown::new(&["a"]);
    let witness = Arc::new(Witness::open(&config(dir.path(), &[one.log.vkey()])).unwrap());
    assert!(matches!(witness.add(one.from(0).as_bytes(), now()), Verdict::Cosigned(_)));
    // Sixteen histories that differ, all from the same start.
    let barrier = Arc::new(Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|n| {
            let mut forked = Grown::new(&["a"]);
            forked.grow(&[&format!("fork {n}")]);
            let (body, witness, barrier) = (forked.from(1), Arc::clone(&witness), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                witness.add(body.as_bytes(), now())
            })
        })
        .collect();
    let verdicts: Vec<Verdict> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(verdicts.iter().filter(|v| matches!(v, Verdict::Cosigned(_))).count(), 1);
    assert_eq!(verdicts.iter().filter(|v| **v == Verdict::Conflict(2)).count(), 15);
}

#[test]
fn what_cannot_be_kept_is_not_cosigned_and_a_kill_leaves_one_history() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = Grown::new(&["a"]);
    let mut other = Grown::new(&["a"]);
    let config = config(dir.path(), &[one.log.vkey()]);
    let path = dir.path().join("logs").join(format!("{}.note", hash("holm.test/log")));
    let witness = Witness::open(&config).unwrap();
    assert!(matches!(witness.add(one.from(0).as_bytes(), now()), Verdict::Cosigned(_)));
    let before = std::fs::read(&path).unwrap();
    one.grow(&["b"]);
    other.grow(&["x"]);

    // Beside its place it cannot be written: nothing was signed, and the other history may still come.
    std::fs::create_dir(path.with_extension("new")).unwrap();
    assert!(matches!(witness.add(one.from(1).as_bytes(), now()), Verdict::Failed(_)));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::remove_dir(path.with_extension("new")).unwrap();

    // Killed before the rename: half a file beside it, which nobody looks at.
    drop(witness);
    std::fs::write(path.with_extension("new"), "holm.te").unwrap();
    let witness = Witness::open(&config).unwrap();
    let Verdict::Cosigned(line) = witness.add(one.from(1).as_bytes(), now()) else { panic!() };

    // Killed after it, before the answer went out: the new one stands, and the same request goes on from there.
    drop(witness);
    let witness = Witness::open(&config).unwrap();
    assert_eq!(witness.add(other.from(1).as_bytes(), now()), Verdict::Conflict(2));
    assert_eq!(witness.add(other.from(2).as_bytes(), now()), Verdict::Inconsistent);
    assert_eq!(witness.add(one.from(1).as_bytes(), now()), Verdict::Conflict(2));
    assert_eq!(witness.add(one.from(2).as_bytes(), now()), Verdict::Cosigned(line));
}

#[test]
fn a_record_that_is_not_its_own_is_no_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let one = Grown::new(&["a"]);
    let config = config(dir.path(), &[one.log.vkey()]);
    let path = dir.path().join("logs").join(format!("{}.note", hash("holm.test/log")));
    let witness = Witness::open(&config).unwrap();
    assert!(matches!(witness.add(one.from(0).as_bytes(), now()), Verdict::Cosigned(_)));
    let good = std::fs::read_to_string(&path).unwrap();
    // Only one process has it.
    assert!(Witness::open(&config).unwrap_err().to_string().contains("cannot be taken"));
    for bad in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        one.log.checkpoint().to_owned(),
        good.replace("\n1\n", "\n0\n"),
    ] {
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(witness.add(one.from(0).as_bytes(), now()), Verdict::Failed(_)), "{bad:?}");
    }
    drop(witness);
    assert!(Witness::open(&config).unwrap_err().to_string().contains("is not what this witness wrote"));
    std::fs::write(&path, &good).unwrap();
    assert!(Witness::open(&config).is_ok());
    // A witness is made once.
    assert!(init(dir.path(), "w.test/1").is_err() && init(&dir.path().join("x"), "two words").is_err());
}
