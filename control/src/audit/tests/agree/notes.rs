//! What is signed, by whom, and how it is written.

use super::*;

#[test]
fn both_read_notes_and_keys_alike() {
    let mut cases = Cases::new();
    let good = copies(5)[0].clone();
    let note = checkpoint(&good);
    let (text, line) = note.rsplit_once("\n\n").unwrap();
    let (text, line) = (format!("{text}\n"), line.strip_suffix('\n').unwrap());
    let lines: Vec<&str> = text.lines().collect();
    let (origin, size, root) = (lines[0], lines[1], lines[2]);
    let signed = |text: &str| note::sign(&key(), ORIGIN, text);
    assert_eq!(signed(&text), note);
    let mut say = |good_: bool, checkpoint: String| {
        cases.add(&format!("the checkpoint {checkpoint:?}"), good_, &with(&good, "checkpoint", checkpoint));
    };
    let other = |name: &str| {
        let note = note::sign(&SigningKey::fixed(8), name, &text);
        note.rsplit_once("\n\n").unwrap().1.to_owned()
    };
    let blob = BASE64.encode(&[7; 68]);
    // Signature lines.
    say(true, format!("{note}{}", other("witness.example")));
    say(true, format!("{text}\n{}{line}\n", other("witness.example")));
    say(true, format!("{note}{}", other(ORIGIN)));
    say(true, format!("{note}{line}\n"));
    say(true, format!("{note}\u{2014} x {}\n", BASE64.encode(&[1, 2, 3, 4])));
    say(false, format!("{note}\u{2014} x {}\n", BASE64.encode(&[1, 2, 3])));
    for name in
        ["", "a+b", "a\u{a0}b", "a\u{2028}b", "a\u{85}b", "a\u{3000}", "a\tb", "a\u{7f}", "a\u{1680}b"]
    {
        say(false, format!("{note}\u{2014} {name} {blob}\n"));
    }
    for name in ["\u{200b}", "\u{ad}", "\u{feff}", "\u{1f600}", "\u{e000}", "\u{180e}"] {
        say(true, format!("{note}\u{2014} {name} {blob}\n"));
    }
    say(false, format!("{note}- x {blob}\n"));
    say(false, format!("{note}\u{2014}  {blob}\n"));
    say(false, format!("{note}\u{2014} x {blob} \n"));
    say(false, format!("{note}\u{2014} x {}\n", blob.replace('B', "-")));
    say(false, format!("{note}\u{2014} x {}\n", blob.trim_end_matches('=')));
    say(false, format!("{note}\u{2014} x AAAAAB==\n"));
    say(false, format!("{note}\u{2014} x AAAA\u{e9}A==\n"));
    say(false, format!("{note}\u{2014} x\n"));
    say(false, format!("{note}\n"));
    say(false, format!("{note}{line}"));
    say(false, note.replace('\n', "\r\n"));
    say(false, format!("\u{feff}{note}"));
    say(false, note.replace("\n\n", "\n\n\n"));
    say(false, note.replace("\u{2014} ", "\u{2014}"));
    let mut wrong = BASE64.decode(line.rsplit_once(' ').unwrap().1.as_bytes()).unwrap();
    for at in [4, 35, 36, 67] {
        wrong[at] ^= 1;
        say(false, format!("{text}\n\u{2014} {ORIGIN} {}\n", BASE64.encode(&wrong)));
        say(false, format!("{note}\u{2014} {ORIGIN} {}\n", BASE64.encode(&wrong)));
        wrong[at] ^= 1;
    }
    for cut in [4, 5, 67] {
        say(false, format!("{text}\n\u{2014} {ORIGIN} {}\n", BASE64.encode(&wrong[..cut])));
    }
    say(false, format!("{text}\n\u{2014} {ORIGIN} {}\n", BASE64.encode(&[wrong.clone(), vec![0]].concat())));
    // The same signature with the order of the group added to its second half.
    let order = BASE64.decode(b"7dP1XBpjEljWnPei3vneFAAAAAAAAAAAAAAAAAAAABA=").unwrap();
    let (mut high, mut carry) = (wrong.clone(), 0_u16);
    for (byte, more) in high[36..].iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(more);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    say(false, format!("{text}\n\u{2014} {ORIGIN} {}\n", BASE64.encode(&high)));
    say(true, format!("{note}{}", format!("\u{2014} x {blob}\n").repeat(1000)));
    say(false, format!("{note}{}", format!("\u{2014} x {blob}\n").repeat(20_000)));
    // What is signed.
    for (size, good) in [
        (size, true),
        ("05", false),
        ("+5", false),
        ("-5", false),
        (" 5", false),
        ("5.0", false),
        ("0x5", false),
        ("", false),
        ("\u{665}", false),
        ("4", false),
        ("6", false),
        ("18446744073709551615", false),
        ("18446744073709551616", false),
        ("9223372036854775808", false),
        ("99999999999999999999999999999", false),
    ] {
        say(good, signed(&format!("{origin}\n{size}\n{root}\n")));
    }
    for root in [
        format!("{root}="),
        root.replace('=', ""),
        BASE64.encode(&[7; 31]),
        BASE64.encode(&[7; 33]),
        String::new(),
        format!("{root} "),
        HEXLOWER.encode(&[7; 32]),
        format!("{}B=", &root[..42]),
    ] {
        if root != lines[2] {
            say(false, signed(&format!("{origin}\n{size}\n{root}\n")));
        }
    }
    for text in [
        format!("{text}more\n"),
        format!("{text}\n"),
        format!("\n{text}"),
        format!("other/log\n{size}\n{root}\n"),
        format!("{origin}\n{size}\n"),
        String::from("\n"),
        format!("{origin} \n{size}\n{root}\n"),
        format!("{}\n", text.trim_end()).replace('\n', "\u{2028}") + "\n",
    ] {
        say(false, signed(&text));
    }
    let at = cases.bad("a checkpoint that is no text", &good);
    fs::write(at.join("checkpoint"), b"\xff\xfe").unwrap();

    let key = vkey();
    cases.with_key(true, &key, &good);
    let parts: Vec<&str> = key.splitn(3, '+').collect();
    for bad in [
        "".to_owned(),
        "+".to_owned(),
        "a+b+c".to_owned(),
        key.replace("holm", "halm"),
        format!("{key}="),
        format!("{key} "),
        format!(" {key}"),
        key.replace('=', ""),
        format!("{}+{}+{}", parts[0], parts[1].to_uppercase(), parts[2]),
        format!("{}++{}", parts[0], parts[2]),
        SigningKey::fixed(8).vkey(ORIGIN),
        SigningKey::fixed(7).vkey("other/log"),
        format!("{}+{}+{}", parts[0], parts[1], BASE64.encode(&[1; 32])),
    ] {
        if bad != key {
            cases.with_key(false, &bad, &good);
        }
    }
    let bytes = |key: &str| with(&copies(5)[1], "vkey", key);
    for (text, good) in [
        (format!("{key}\n"), true),
        (key.clone(), false),
        (format!("{key}\n\n"), false),
        (format!("{key}\r\n"), false),
    ] {
        cases.add(&format!("the key {text:?} beside it"), good, &bytes(&text));
    }
    cases.judge();
}

#[test]
fn both_want_what_witnesses_signed_to_be_of_this_log() {
    let mut cases = Cases::new();
    let [good, export] = copies(515);
    let cosigned = |bodies: &[Vec<u8>], key| {
        let note = checkpoint(&log_of(bodies, key));
        let text = format!("{}\n", note.rsplit_once("\n\n").unwrap().0);
        let line = note::sign(&SigningKey::fixed(9), "witness.example", &text);
        format!("{note}{}", line.rsplit_once("\n\n").unwrap().1)
    };
    for size in [0, 1, 255, 256, 257, 511, 512, 513, 515] {
        let note = cosigned(&bodies(0, size), key());
        cases.add(&format!("witnessed at {size}"), true, &with(&good, "witness/one", note.clone()));
        cases.add(
            &format!("witnessed at {size} twice"),
            true,
            &with(&with(&export, "witness/one", note.clone()), "witness/two \u{e6}", note),
        );
        let mut fork = bodies(0, size);
        if let Some(last) = fork.last_mut() {
            *last = b"{}".to_vec();
            let fork = with(&good, "witness/one", cosigned(&fork, key()));
            cases.bad(&format!("another log witnessed at {size}"), &fork);
        }
        let stranger = cosigned(&bodies(0, size), SigningKey::fixed(8));
        cases.bad(&format!("witnessed at {size} by another key"), &with(&good, "witness/one", stranger));
    }
    let empty = format!("{ORIGIN}\n0\n{}\n", BASE64.encode(&[7; 32]));
    cases.bad("another log of nothing", &with(&good, "witness/one", note::sign(&key(), ORIGIN, &empty)));
    cases.bad("rolled back", &with(&good, "witness/one", cosigned(&bodies(0, 516), key())));
    cases.bad("no note", &with(&good, "witness/one", "hello\n"));
    cases.bad("an empty note", &with(&good, "witness/one", ""));
    cases.bad("no text", &with(&good, "witness/one", [0xff]));
    cases.bad("a note that is too deep", &with(&good, "witness/one/two", cosigned(&bodies(0, 1), key())));
    let at = cases.bad("a link", &good);
    fs::create_dir(at.join("witness")).unwrap();
    std::os::unix::fs::symlink("../checkpoint", at.join("witness/one")).unwrap();
    let at = cases.add("no witness", true, &good);
    fs::create_dir(at.join("witness")).unwrap();
    cases.judge();
}

/// RFC 8032, section 7.1: public key, message, signature.
const ED25519: [[&str; 3]; 3] = [
    [
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

#[test]
fn its_ed25519_is_that_of_rfc_8032() {
    let program = r#"
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("verifier", sys.argv[1])
verifier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verifier)
for key, message, signature in json.loads(sys.argv[2]):
    key, message, signature = map(bytes.fromhex, (key, message, signature))
    assert verifier.is_signature(signature, message, key)
    assert not verifier.is_signature(signature, message + b"x", key)
    for at in range(64):
        assert not verifier.is_signature(signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1:], message, key)
"#;
    let vectors = serde_json::to_string(&ED25519).unwrap();
    let output = python(["-c", program, VERIFIER, &vectors]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
