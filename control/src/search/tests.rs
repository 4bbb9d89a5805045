use super::*;
use crate::audit::{Log, SigningKey};
use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::TempDir;

/// A log in a directory that goes with it, and where its index goes.
struct Scratch {
    dir: TempDir,
    log: Log,
}

impl Scratch {
    fn new(key: u8, entries: &[Entry]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(&dir.path().join("log"), "holm.example/log", SigningKey::fixed(key)).unwrap();
        let mut scratch = Self { dir, log };
        scratch.add(entries);
        scratch
    }

    fn add(&mut self, entries: &[Entry]) {
        let bodies: Vec<Vec<u8>> = entries.iter().map(|entry| entry.to_bytes().unwrap()).collect();
        self.log.append(&bodies).unwrap();
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    fn index(&self) -> Index {
        let index = Index::open(&self.dir()).unwrap();
        while !index.follow(&*self.log).unwrap() {}
        index
    }

    /// All that fits, page by page.
    fn all(&self, index: &Index, query: &Query, most: usize) -> Vec<u64> {
        let (mut found, mut query) = (Vec::new(), query.clone());
        loop {
            let page = index.search(&*self.log, &query, self.log.size(), most).unwrap();
            assert!(page.found.len() <= most);
            found.extend(page.found.iter().map(|one| one.index));
            match page.next {
                Some(next) => query.from = Some(next),
                None => return found,
            }
        }
    }
}

/// Who does what varies with the number, by steps that have no common period.
fn entry(index: u64) -> Entry {
    let pick = |of: &[&str], step: u64| of[usize::try_from(index / step).unwrap() % of.len()].to_owned();
    Entry {
        v: 1,
        index,
        time: Timestamp::from_second(1_790_000_000 + i64::try_from(index).unwrap()).unwrap(),
        request: format!("call-{index}"),
        actor: pick(&["person/ada", "person/bo", "host/dgx", "holmd"], 1),
        peer: String::new(),
        action: pick(&["slice.approve", "slice.read", "audit.read"], 5),
        resource: pick(&["slice/heart/main", "slice/gait/main", "log"], 5),
        project: Some(pick(&["heart", "gait"], 7)),
        level: Some(pick(&["2", "3"], 11)),
        outcome: pick(&["allowed", "refused"], 13),
        reasons: vec![format!("because of {}", index % 1000)],
        pack: None,
        detail: serde_json::Value::Null,
        changes: Vec::new(),
    }
}

fn entries(range: Range<u64>) -> Vec<Entry> {
    range.map(entry).collect()
}

fn asked() -> Query {
    Query::default()
}

fn oldest(mut query: Query) -> Query {
    query.oldest_first = true;
    query
}

#[test]
fn what_was_logged_just_now_is_found() {
    let mut scratch = Scratch::new(1, &entries(0..3));
    let index = scratch.index();
    let ada = asked().actor("person/ada").unwrap();
    assert_eq!(scratch.all(&index, &ada, 10), vec![0]);
    scratch.add(&entries(3..9));
    assert_eq!(scratch.all(&index, &ada, 10), vec![8, 4, 0]);
    assert_eq!(scratch.all(&index, &oldest(ada), 1), vec![0, 4, 8]);
    let page = index.search(&*scratch.log, &asked(), 9, 2).unwrap();
    assert_eq!((page.found[0].index, page.next), (8, Some(6)));
    assert_eq!(page.found[0].body, entry(8).to_bytes().unwrap());
    // As it was when it was asked first.
    let page = index.search(&*scratch.log, &asked(), 3, 2).unwrap();
    assert_eq!((page.found[0].index, page.next), (2, Some(0)));
}

#[test]
fn an_index_over_several_parts_says_what_reading_all_says() {
    let count = 2 * PART + 700;
    let all = entries(0..count);
    let scratch = Scratch::new(1, &all);
    let index = scratch.index();
    let time = |index| Some(entry(index).time);
    let queries = [
        asked().actor("person/bo").unwrap().outcome("refused").unwrap().text("because of 773").unwrap(),
        asked().project("heart").unwrap().level("3").unwrap().text("BECAUSE-17").unwrap(),
        asked().action("audit").unwrap().between(time(65_000), time(66_000)).unwrap(),
        asked().request("call-131072").unwrap(),
        asked().between(time(131_071), None).unwrap(),
        asked().between(None, time(300)).unwrap(),
        asked().resource("slice/gait/main").unwrap().text("no such word").unwrap(),
    ];
    for query in queries {
        let expected: Vec<u64> = all.iter().filter(|entry| query.takes(entry)).map(|e| e.index).collect();
        let reversed: Vec<u64> = expected.iter().rev().copied().collect();
        assert_eq!(scratch.all(&index, &query, 50), reversed, "{query:?}");
        assert_eq!(scratch.all(&index, &oldest(query), 300), expected);
    }

    // Made anew, whatever became of it: the same answers.
    let query = asked().project("heart").unwrap().text("because of 42").unwrap();
    let before = scratch.all(&index, &query, 100);
    assert!(before.len() > 20);
    drop(index);
    let parts: Vec<PathBuf> = (0..2).map(|at| file(&scratch.dir(), at)).collect();
    let whole: Vec<Vec<u8>> = parts.iter().map(|part| fs::read(part).unwrap()).collect();
    for damage in 0..5_u8 {
        match damage {
            0 => fs::remove_dir_all(scratch.dir()).unwrap(),
            1 => fs::remove_file(&parts[0]).unwrap(),
            2 => fs::write(&parts[1], &whole[1][..whole[1].len() - 1]).unwrap(),
            3 => {
                let mut bytes = whole[0].clone();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&parts[0], bytes).unwrap();
            }
            // Whole, and of other entries.
            _ => fs::copy(&parts[0], &parts[1]).map(drop).unwrap(),
        }
        let index = scratch.index();
        assert_eq!(scratch.all(&index, &query, 100), before, "damage {damage}");
        assert_eq!(parts.iter().map(|part| fs::read(part).unwrap()).collect::<Vec<_>>(), whole);
    }
}

#[test]
fn an_index_of_another_log_is_not_believed() {
    let one = Scratch::new(1, &entries(0..PART));
    drop(one.index());
    let mut others = entries(0..PART);
    others[7].actor = "person/mallory".to_owned();
    let other = Scratch::new(1, &others);
    fs::create_dir_all(other.dir()).unwrap();
    fs::copy(file(&one.dir(), 0), file(&other.dir(), 0)).unwrap();
    let index = Index::open(&other.dir()).unwrap();
    assert_eq!(index.size(), 0);
    let index = other.index();
    assert_eq!(other.all(&index, &asked().actor("person/mallory").unwrap(), 9), vec![7]);
}

#[test]
fn an_index_that_is_far_behind_says_so_instead_of_leaving_out() {
    let scratch = Scratch::new(1, &entries(0..PART + 300));
    let index = Index::open(&scratch.dir()).unwrap();
    let no = index.search(&*scratch.log, &asked(), scratch.log.size(), 1).unwrap_err();
    assert!(matches!(no, SearchError::Behind { done: 0, all } if all == PART + 300), "{no}");
}

#[test]
fn a_disk_that_takes_no_more_leaves_no_hole() {
    let scratch = Scratch::new(1, &entries(0..PART + 10));
    let index = Index::open(&scratch.dir()).unwrap();
    // In the way of the part's file.
    let beside = file(&scratch.dir(), 0).with_extension("new");
    fs::create_dir_all(&beside).unwrap();
    let failed = loop {
        match index.follow(&*scratch.log) {
            Ok(all) => assert!(!all),
            Err(no) => break no,
        }
    };
    assert!(matches!(failed, SearchError::Index { .. }), "{failed}");
    fs::remove_dir(&beside).unwrap();
    while !index.follow(&*scratch.log).unwrap() {}
    assert_eq!(scratch.all(&index, &asked().request("call-65535").unwrap(), 9), vec![PART - 1]);
    assert_eq!(scratch.all(&index, &asked().request("call-65536").unwrap(), 9), vec![PART]);
}

#[test]
fn a_page_goes_into_a_message() {
    let large = |index| Entry { reasons: vec!["x".repeat(60_000)], ..entry(index) };
    let scratch = Scratch::new(1, &(0..40).map(large).collect::<Vec<_>>());
    let index = scratch.index();
    let page = index.search(&*scratch.log, &asked(), 40, 500).unwrap();
    let bytes: usize = page.found.iter().map(|one| one.body.len()).sum();
    assert!(page.next.is_some() && bytes < holm_proto::MAX_MESSAGE_BYTES, "{bytes}");
    assert_eq!(scratch.all(&index, &asked(), 500), (0..40).rev().collect::<Vec<_>>());
}

#[test]
fn a_clock_that_jumps_hides_nothing() {
    let mut some = entries(0..600);
    for entry in &mut some[300..310] {
        entry.time = Timestamp::from_second(1_000_000_000).unwrap();
    }
    let scratch = Scratch::new(1, &some);
    let index = scratch.index();
    let past = asked().between(None, Some(Timestamp::from_second(1_100_000_000).unwrap())).unwrap();
    assert_eq!(scratch.all(&index, &oldest(past), 4), (300..310).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_asked_is_said() {
    let at = Timestamp::from_second(1_790_000_000).unwrap();
    assert_eq!(
        asked().outcome("maybe").unwrap_err().to_string(),
        "`maybe` is no outcome: there are allowed, refused and observed"
    );
    assert!(matches!(asked().text("…"), Err(QueryError::Words(_))));
    assert!(matches!(asked().text(&"x".repeat(5000)), Err(QueryError::Long(5000))));
    assert!(matches!(asked().actor(&"x".repeat(5000)), Err(QueryError::Long(5000))));
    assert!(matches!(asked().between(Some(at), Some(at)), Err(QueryError::Times { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_question_is_answered_as_by_reading_all(
        size in 1_u64..1500,
        actor in proptest::option::of(prop_oneof![Just("person/ada"), Just("holmd"), Just("person/nobody")]),
        action in proptest::option::of(prop_oneof![Just("slice"), Just("slice.read"), Just("slic")]),
        outcome in proptest::option::of(prop_oneof![Just("allowed"), Just("refused")]),
        text in proptest::option::of(prop_oneof![Just("because"), Just("of 7"), Just("heart main")]),
        since in proptest::option::of(0_u64..1600),
        from in proptest::option::of(0_u64..1600),
        oldest_first: bool,
        most in 1_usize..80,
    ) {
        let all = entries(0..size);
        let scratch = Scratch::new(1, &all);
        let index = scratch.index();
        let mut query = Query::default();
        (query.oldest_first, query.from) = (oldest_first, from);
        if let Some(actor) = actor { query = query.actor(actor).unwrap(); }
        if let Some(action) = action { query = query.action(action).unwrap(); }
        if let Some(outcome) = outcome { query = query.outcome(outcome).unwrap(); }
        if let Some(text) = text { query = query.text(text).unwrap(); }
        query = query.between(since.map(|at| entry(at).time), None).unwrap();
        let in_reach = |at: u64| from.is_none_or(|from| if oldest_first { at >= from } else { at <= from });
        let mut expected: Vec<u64> =
            all.iter().filter(|e| query.takes(e) && in_reach(e.index)).map(|e| e.index).collect();
        if !oldest_first { expected.reverse(); }
        prop_assert_eq!(scratch.all(&index, &query, most), expected);
    }
}

#[test]
fn what_is_gone_of_the_log_is_gone_of_the_index_and_no_other_entry_is_missed() {
    let count = 2 * PART + 300;
    let all = entries(0..count - 1);
    let detail = serde_json::json!({ "first": PART });
    let expire = crate::audit::EXPIRE.to_owned();
    let last = Entry { actor: "holmd".to_owned(), action: expire, detail, ..entry(count - 1) };
    let mut scratch = Scratch::new(1, &all);
    scratch.log.flush().unwrap();
    // With the next entry what lies in the directory is in memory no more.
    scratch.add(&[last]);
    scratch.log.flush().unwrap();
    let index = scratch.index();
    let ada = asked().actor("person/ada").unwrap();
    let before = scratch.all(&index, &ada, 500);
    let kept: Vec<u64> = before.iter().copied().filter(|index| *index >= PART).collect();
    assert!(file(&scratch.dir(), 0).exists() && kept.len() < before.len());
    scratch.log.to_expire(PART, count).unwrap().run().unwrap();
    // The one that was there, one that takes in what was left, and one that is made anew.
    assert_eq!(scratch.all(&index, &ada, 500), kept);
    assert!(!file(&scratch.dir(), 0).exists() && file(&scratch.dir(), 1).exists());
    drop(index);
    assert_eq!(scratch.all(&scratch.index(), &ada, 500), kept);
    fs::remove_dir_all(scratch.dir()).unwrap();
    let index = scratch.index();
    assert_eq!(scratch.all(&index, &ada, 500), kept);
    let oldest: Vec<u64> = kept.iter().rev().copied().collect();
    assert_eq!(scratch.all(&index, &super::tests::oldest(ada), 500), oldest);
    assert_eq!(index.size(), count);
}
