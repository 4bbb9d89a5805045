use super::*;
use crate::audit::proven::{ProvenError, Writer, verify};
use proptest::prelude::*;

/// Some entries of a log, as they lie in a file.
fn some(size: u64, indices: &[u64], at: u64) -> Vec<u8> {
    let mut scratch = Scratch::new(at);
    let note = scratch.log.checkpoint().to_owned();
    scratch.log.append(&bodies(at, size - at)).unwrap();
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, &note, &vkey()).unwrap();
    for index in indices {
        let proof = scratch.log.inclusion_in(*index, at).unwrap();
        let body = scratch.log.read(*index, *index + 1).unwrap().remove(0);
        writer.push(*index, &body, &proof).unwrap();
    }
    writer.finish().unwrap();
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_is_in_the_log_is_proven_at_any_earlier_size(
        at in 1_u64..700, more in 0_u64..300, picks in proptest::collection::btree_set(0_u64..700, 0..12)
    ) {
        let indices: Vec<u64> = picks.into_iter().filter(|index| *index < at).collect();
        let file = some(at + more, &indices, at);
        let mut seen = Vec::new();
        let proven = verify(file.as_slice(), &vkey(), |entry| seen.push(entry.index)).unwrap();
        prop_assert_eq!((proven.head.size, proven.entries), (at, indices.len() as u64));
        prop_assert_eq!(seen, indices);
    }
}

#[test]
fn every_changed_byte_of_it_is_found() {
    let file = some(300, &[0, 77, 255, 256, 299], 300);
    verify(file.as_slice(), &vkey(), |_| {}).unwrap();
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 1;
        assert!(verify(bad.as_slice(), &vkey(), |_| {}).is_err(), "byte {at}");
    }
}

#[test]
fn lines_that_were_moved_or_doubled_are_found_and_what_is_no_file_of_this_form_too() {
    let file = String::from_utf8(some(300, &[3, 7, 9], 300)).unwrap();
    let lines: Vec<&str> = file.split_inclusive('\n').collect();
    let check = |lines: &[&str]| verify(lines.concat().as_bytes(), &vkey(), |_| {});
    assert!(matches!(check(&[lines[0], lines[2], lines[1]]), Err(ProvenError::Order(3))));
    assert!(matches!(check(&[lines[0], lines[1], lines[1]]), Err(ProvenError::Order(3))));
    // Who takes one away takes nothing from what the others prove.
    assert_eq!(check(&[lines[0], lines[1], lines[3]]).unwrap().entries, 2);
    assert!(matches!(check(&[lines[1]]), Err(ProvenError::Form { line: 1, .. })));
    assert!(matches!(check(&[]), Err(ProvenError::Version)));
    let other = SigningKey::fixed(8).vkey(ORIGIN);
    assert!(matches!(verify(file.as_bytes(), &other, |_| {}), Err(ProvenError::Key)));
    let long = vec![b'x'; 1 << 20];
    assert!(matches!(verify(long.as_slice(), &vkey(), |_| {}), Err(ProvenError::Long(1))));
    assert!(matches!(check(&[lines[0], "{\"index\":3}\n"]), Err(ProvenError::Form { line: 2, .. })));
}

#[test]
fn nothing_unproven_is_written() {
    let scratch = Scratch::new(10);
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, scratch.log.checkpoint(), &vkey()).unwrap();
    let proof = scratch.log.inclusion_in(4, 10).unwrap();
    let body = scratch.log.read(4, 5).unwrap().remove(0);
    assert!(matches!(writer.push(5, &body, &proof), Err(ProvenError::Entry(5))));
    assert!(matches!(writer.push(4, b"{}", &proof), Err(ProvenError::Entry(4))));
    writer.push(4, &body, &proof).unwrap();
    assert!(matches!(writer.push(4, &body, &proof), Err(ProvenError::Order(4))));
    assert!(scratch.log.inclusion_in(4, 11).is_err() && scratch.log.inclusion_in(4, 4).is_err());
}
