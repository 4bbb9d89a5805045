//! A third: `tests/tlog`, in Go, with the library that Go's own checksum database is verified with.

use super::*;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tlog/main.go");

#[test]
#[ignore = "needs Go and golang.org/x/mod: tests/run audit brings them, and runs it"]
fn gos_own_verifier_says_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let mut random = Random(3);
    let mut logs: Vec<(String, Files)> = [1, 2, 255, 256, 257, 511, 513, 65_536 + 3]
        .into_iter()
        .map(|size| (format!("{size} entries"), log_of(&bodies(0, size), key())))
        .collect();
    let good = log_of(&bodies(0, 515), key());
    for (name, bytes) in &good {
        for _ in 0..8 {
            let (at, bit) = (random.below(bytes.len()), random.below(8));
            let what = format!("bit {bit} of byte {at} of {name} flipped");
            logs.push((what, changed(&good, name, |bytes| bytes[at] ^= 1 << bit)));
        }
    }
    logs.push(("another key".to_owned(), log_of(&bodies(0, 5), SigningKey::fixed(8))));
    let mut forged = log_of(&[bodies(0, 514), bodies(0, 1)].concat(), key());
    forged.insert("checkpoint".to_owned(), good["checkpoint"].clone());
    logs.push(("all hashes made to fit".to_owned(), forged));

    let mut go = Command::new("go");
    // As Debian lays out its libraries.
    go.args(["run", PROGRAM, &vkey()]).env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    for (number, (_, files)) in logs.iter().enumerate() {
        let at = scratch.path().join(number.to_string());
        lay_out(&at, files);
        go.arg(at);
    }
    let output = go.output().unwrap_or_else(|e| panic!("this test needs Go, run deploy/packages audit: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), logs.len());
    for (number, ((what, _), theirs)) in logs.iter().zip(said.lines()).enumerate() {
        match verify::directory(&scratch.path().join(number.to_string()), &vkey()) {
            Ok(v) => assert_eq!(theirs, format!("{} {}", v.entries, HEXLOWER.encode(&v.root)), "{what}"),
            Err(ours) => assert!(theirs.starts_with("refused: "), "{what}: {theirs}, and ours: {ours}"),
        }
    }
}
