//! Bytes, files and entries that were changed, put in, left out or moved.

use super::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

#[test]
fn both_accept_what_was_signed() {
    let mut cases = Cases::new();
    for size in [0, 1, 2, 255, 256, 257, 511, 513] {
        for copy in copies(size) {
            cases.add(&format!("{size} entries"), true, &copy);
        }
    }
    cases.add("three levels of tiles", true, &log_of(&bodies(0, 65_536 + 3), key()));
    assert_eq!(cases.judge(), 0);
}

#[test]
fn both_refuse_changed_bytes_and_files() {
    let mut cases = Cases::new();
    let mut random = Random(1);
    for good in [copies(5)[0].clone(), copies(515)[1].clone()] {
        let names: Vec<&String> = good.keys().collect();
        for _ in 0..40 {
            let name = *random.of(&names);
            let (at, bit) = (random.below(good[name].len()), random.below(8));
            let flipped = changed(&good, name, |bytes| bytes[at] ^= 1 << bit);
            cases.bad(&format!("bit {bit} of byte {at} of {name} flipped"), &flipped);
        }
        for name in names.iter().filter(|name| ***name != "vkey") {
            let cut = random.below(good[*name].len());
            cases.bad(&format!("{name} cut to {cut}"), &changed(&good, name, |bytes| bytes.truncate(cut)));
            cases.bad(&format!("{name} empty"), &changed(&good, name, Vec::clear));
            cases.bad(&format!("{name} longer"), &changed(&good, name, |bytes| bytes.push(0)));
            cases.bad(&format!("{name} twice"), &changed(&good, name, |bytes| bytes.extend_from_within(..)));
            let mut without = good.clone();
            without.remove(*name);
            cases.bad(&format!("without {name}"), &without);
            let at = cases.bad(&format!("{name} is a link"), &good);
            fs::rename(at.join(name), cases.dir.path().join("elsewhere")).unwrap();
            symlink(cases.dir.path().join("elsewhere"), at.join(name)).unwrap();
            let at = cases.bad(&format!("{name} is a directory"), &without);
            fs::create_dir_all(at.join(name)).unwrap();
            let at = cases.bad(&format!("{name} is a pipe"), &without);
            fs::create_dir_all(at.join(name).parent().unwrap()).unwrap();
            let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
            rustix::fs::mknodat(rustix::fs::CWD, at.join(name), fifo, mode, 0).unwrap();
        }
    }
    let [good, export] = copies(515);
    for (one, other) in [("tile/0/000", "tile/0/001"), ("tile/entries/000", "tile/entries/001")] {
        let mut swapped = good.clone();
        swapped.insert(one.to_owned(), good[other].clone());
        cases.bad(&format!("{other} in the place of {one}"), &swapped);
        swapped.insert(other.to_owned(), good[one].clone());
        cases.bad(&format!("{one} and {other} exchanged"), &swapped);
    }
    for extra in [
        "tile/entries/003",
        "tile/2/000.p/1",
        "checkpoint.new",
        "notes",
        "tile/x",
        "tile/entries/002.p/4",
        "tile/0/002.p/03",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/x000/000",
        "tile/00/000",
        "tile/8/000",
        "tile/0/0000",
        "tile/entries/002",
        "tile/0/\u{660}00",
        "tile/0/000.p/1/1",
        "Checkpoint",
        "\n",
        "witness",
        "tile/0/x184/x467/x440/x737/x095/516",
    ] {
        cases.bad(&format!("{extra:?} more"), &with(&good, extra, "?"));
        cases.bad(&format!("{extra:?} more, empty"), &with(&good, extra, ""));
    }
    for name in [b"\xff".as_slice(), b"tile\xff"] {
        let at = cases.bad("a name that is no text", &good);
        fs::write(at.join(OsStr::from_bytes(name)), "").unwrap();
    }
    let at = cases.add("an empty directory more", true, &good);
    fs::create_dir(at.join("tile/9")).unwrap();
    let at = cases.bad("a link to a directory", &good);
    symlink("0", at.join("tile/9")).unwrap();
    let at = cases.bad("no directory", &good);
    fs::remove_dir_all(at).unwrap();

    // What a kill leaves: an older form of a tile.
    let older = bundle(&bodies(512, 514));
    cases.add("an older bundle", true, &with(&good, "tile/entries/002.p/2", older.clone()));
    cases.add("an older tile", true, &with(&good, "tile/0/001.p/255", &good["tile/0/001"][..255 * 32]));
    cases.add(
        "an older tile of an export",
        true,
        &with(&export, "tile/1/000.p/1", &good["tile/1/000.p/2"][..32]),
    );
    cases.bad("an older bundle of others", &with(&good, "tile/entries/002.p/2", bundle(&bodies(511, 513))));
    cases.bad("an older bundle of fewer", &with(&good, "tile/entries/002.p/1", older.clone()));
    cases.bad("an older bundle, cut", &with(&good, "tile/entries/002.p/2", &older[..older.len() - 1]));
    cases.bad("an older tile of others", &with(&good, "tile/0/001.p/255", vec![7; 255 * 32]));
    cases.bad("an older tile, cut", &with(&good, "tile/0/001.p/255", &good["tile/0/001"][..254 * 32]));
    cases.bad("an older tile, longer", &with(&good, "tile/0/001.p/254", &good["tile/0/001"][..255 * 32]));
    assert!(cases.judge() >= 200);
}

#[test]
fn both_refuse_entries_that_were_moved() {
    let mut cases = Cases::new();
    let mut random = Random(2);
    for size in [5, 300] {
        let good = copies(size)[0].clone();
        let all = bodies(0, size);
        for _ in 0..6 {
            let (at, to) = (random.below(all.len()), random.below(all.len() - 1));
            let mut moves: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();
            let mut change = |what, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
                let mut bodies = all.clone();
                change(&mut bodies);
                moves.push((what, bodies));
            };
            change("dropped", &|b| drop(b.remove(at)));
            change("inserted", &|b| b.insert(at, b[to].clone()));
            change("repeated", &|b| b.insert(at, b[at].clone()));
            change("exchanged with its neighbour", &|b| b.swap(to, to + 1));
            change("in another's place", &|b| {
                b[at] = Entry { actor: "person/bob".to_owned(), ..entry(at as u64) }.to_bytes().unwrap()
            });
            change("the last replaced", &|b| {
                *b.last_mut().unwrap() =
                    Entry { resource: "slice/x/y".to_owned(), ..entry(size - 1) }.to_bytes().unwrap();
            });
            change("the end cut off", &|b| b.truncate(at));
            change("empty", &|b| b[at].clear());
            for (what, bodies) in moves {
                let what = format!("entry {at} of {size} {what}");
                // All hashes made to fit, as far as that goes without the key.
                let mut forged = log_of(&bodies, SigningKey::fixed(8));
                cases.bad(&format!("{what}, signed by another"), &forged);
                forged.insert("checkpoint".to_owned(), good["checkpoint"].clone());
                cases.bad(&format!("{what}, under the checkpoint that was signed"), &forged);
                // The bundle alone.
                let partial = format!("tile/entries/00{}.p/{}", size / 256, size % 256);
                let rest = usize::try_from(size / 256 * 256).unwrap();
                let last = bundle(bodies.get(rest..).unwrap_or_default());
                if last != good[&partial] {
                    cases.bad(&format!("{what}, without the hashes"), &with(&good, &partial, last));
                }
            }
        }
        for older in [0, 1, size - 1] {
            let old = copies(older)[0].clone();
            cases.bad(
                &format!("checkpoint of {older} on {size}"),
                &with(&good, "checkpoint", old["checkpoint"].clone()),
            );
            let mut both = good.clone();
            both.extend(old.clone());
            cases.bad(&format!("log of {older} on {size}"), &both);
            cases.add(&format!("the whole log of {older}"), true, &old);
            cases.with_earlier(&format!("the log of {older} again"), false, &old, &checkpoint(&good));
            cases.with_earlier(&format!("{size} after {older}"), true, &good, &checkpoint(&old));
            if older > 0 {
                let mut fork = bodies(0, older);
                *fork.last_mut().unwrap() =
                    Entry { resource: "slice/x/y".to_owned(), ..entry(older - 1) }.to_bytes().unwrap();
                let fork = checkpoint(&log_of(&fork, key()));
                cases.with_earlier(&format!("{size} beside a fork of {older}"), false, &good, &fork);
            }
        }
        let mut two = good.clone();
        two.insert("tile/0/000.p/5".to_owned(), leaves(&bodies(1, 6)));
        cases.bad("another tile", &two);
    }
    assert!(cases.judge() >= 200);
}
