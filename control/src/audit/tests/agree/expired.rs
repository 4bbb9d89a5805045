//! Logs whose beginning is gone, as it may be, and as it may not.

use super::*;
use crate::audit::tests::expire::{expire, telling, without};

#[test]
fn both_accept_what_went_in_its_time_and_refuse_all_else() {
    let mut cases = Cases::new();
    let mut random = Random(3);
    let good = log_of(&telling(1100, 1050, 768), key());
    for gone in 0..4 {
        cases.add(&format!("{gone} bundles gone"), true, &without(&good, 0..gone));
    }
    cases.bad("one more than may be", &without(&good, 0..4));
    for (from, to) in [(1, 2), (2, 3), (1, 3), (3, 4)] {
        cases.bad(&format!("bundles {from} to {to} gone"), &without(&good, from..to));
    }
    let mut first_and_third = without(&good, 0..1);
    first_and_third.remove("tile/entries/002").unwrap();
    cases.bad("the first and the third gone", &first_and_third);

    let gone = without(&good, 0..3);
    for size in [1, 256, 500, 768, 1000, 1100] {
        let old = checkpoint(&log_of(&telling(1100, 1050, 768)[..size], key()));
        cases.with_earlier(&format!("after {size}"), true, &gone, &old);
        let fork = checkpoint(&log_of(
            &bodies(1, size as u64 + 1)
                .into_iter()
                .zip(0..)
                .map(|(_, at)| Entry { resource: "slice/x/y".to_owned(), ..entry(at) }.to_bytes().unwrap())
                .collect::<Vec<_>>(),
            key(),
        ));
        cases.with_earlier(&format!("beside a fork of {size}"), false, &gone, &fork);
    }
    // The hashes that stand for them, and all else.
    for name in gone.keys() {
        for _ in 0..6 {
            let (at, bit) = (random.below(gone[name].len()), random.below(8));
            let flipped = changed(&gone, name, |bytes| bytes[at] ^= 1 << bit);
            cases.bad(&format!("bit {bit} of byte {at} of {name} flipped"), &flipped);
        }
        let cut = random.below(gone[name].len());
        cases.bad(&format!("{name} cut to {cut}"), &changed(&gone, name, |bytes| bytes.truncate(cut)));
        cases.bad(&format!("{name} longer"), &changed(&gone, name, |bytes| bytes.push(0)));
        let mut missing = gone.clone();
        missing.remove(name).unwrap();
        // With the fourth bundle more is gone than may be.
        cases.bad(&format!("without {name}"), &missing);
    }
    for (one, other) in [("tile/0/000", "tile/0/001"), ("tile/0/002", "tile/0/003")] {
        let swapped = with(&gone, one, good[other].clone());
        cases.bad(&format!("{other} in the place of {one}"), &swapped);
        cases.bad(&format!("{one} and {other} exchanged"), &with(&swapped, other, good[one].clone()));
    }
    cases.bad("a bundle that is empty", &with(&gone, "tile/entries/000", ""));
    cases.bad("another bundle", &with(&gone, "tile/entries/000", good["tile/entries/001"].clone()));
    cases.bad("the last of them again", &with(&gone, "tile/entries/002", good["tile/entries/001"].clone()));
    cases.add(
        "the last of them put back",
        true,
        &with(&gone, "tile/entries/002", good["tile/entries/002"].clone()),
    );
    cases.bad(
        "the first of them put back",
        &with(&gone, "tile/entries/000", good["tile/entries/000"].clone()),
    );
    cases.bad("a part of one that is gone", &with(&gone, "tile/entries/000.p/2", bundle(&bodies(0, 2))));
    let at = cases.bad("a bundle that is a link to nothing", &gone);
    std::os::unix::fs::symlink("nowhere", at.join("tile/entries/000")).unwrap();
    let at = cases.bad("no directory of bundles", &gone);
    fs::remove_dir_all(at.join("tile/entries")).unwrap();
    let at = cases.bad("a file in its place", &gone);
    fs::remove_dir_all(at.join("tile/entries")).unwrap();
    fs::write(at.join("tile/entries"), "").unwrap();
    // Whoever has the key signs any size, and by links there is a tile for each entry of it.
    let note = checkpoint(&gone);
    let (origin, rest) = note.split_once('\n').unwrap();
    let root = rest.lines().nth(1).unwrap();
    let huge = note::sign(&key(), ORIGIN, &format!("{origin}\n9223372036854775808\n{root}\n"));
    let at = cases.bad("one file in every place", &with(&gone, "checkpoint", huge));
    fs::remove_dir_all(at.join("tile/entries")).unwrap();
    for number in 0..1000 {
        fs::write(at.join(format!("tile/0/{number:03}")), "").unwrap();
        std::os::unix::fs::symlink(".", at.join(format!("tile/0/x{number:03}"))).unwrap();
    }
    assert!(cases.judge() >= 80);
}

#[test]
fn both_say_the_same_of_who_may_say_that_entries_are_gone_and_how() {
    let mut cases = Cases::new();
    let mut says = |name: &str, good: bool, said: Vec<Entry>| {
        let first = 700 - said.len() as u64;
        let said = said.into_iter().zip(first..).map(|(entry, index)| Entry { index, ..entry });
        let all = [bodies(0, first), said.map(|entry| entry.to_bytes().unwrap()).collect()].concat();
        cases.add(name, good, &without(&log_of(&all, key()), 0..2));
    };
    let own = |first: Value| expire(0, first);
    says("nobody", false, vec![]);
    for (first, good) in [
        (json!(512), true),
        (json!(513), true),
        (json!(699), true),
        (json!(511), false),
        (json!(256), false),
        (json!(0), false),
        (json!(-1), false),
        (json!(700), false),
        (json!(u64::MAX), false),
        (json!("512"), false),
        (json!(true), false),
        (json!(null), false),
        (json!([512]), false),
        (json!({ "first": 512 }), false),
    ] {
        says(&format!("first: {first}"), good, vec![own(first)]);
    }
    for detail in [json!(null), json!(512), json!([]), json!({}), json!({ "First": 512 }), json!("first")] {
        says(&format!("detail: {detail}"), false, vec![Entry { detail, ..own(json!(512)) }]);
    }
    for outcome in ["allowed", "observed"] {
        says(outcome, true, vec![Entry { outcome: outcome.to_owned(), ..own(json!(512)) }]);
    }
    says("refused", false, vec![Entry { outcome: "refused".to_owned(), ..own(json!(512)) }]);
    for actor in ["person/ada", "host/dgx", "unknown", "", "Holmd", "person/holmd"] {
        says(actor, false, vec![Entry { actor: actor.to_owned(), ..own(json!(512)) }]);
    }
    for action in ["log.carry", "log.expire ", "slice.expire", ""] {
        says(action, false, vec![Entry { action: action.to_owned(), ..own(json!(512)) }]);
    }
    says("twice, the later one less", true, vec![own(json!(512)), own(json!(256))]);
    says("twice, and too few", false, vec![own(json!(256)), own(json!(300))]);
    assert!(cases.judge() >= 25);
}
