//! A policy pack that anybody wrote: it is refused, or what no pack may lift holds in it. And its signature: whatever
//! is put into a signed note, it says what was signed, or nothing.
//!
//! The input is `pack.toml`, `schema.cedarschema`, `policies.cedar` and what is put into the signature, a line `====`
//! between two. Of a file that is empty the one of a pack of Holm's is taken, so that one can be wrong by itself.

#![no_main]

use holm_control::audit::{SigningKey, note};
use holm_control::policy;
use holm_policies::{Action, Identity, Pack, Principal, Request, Resource, diff};
use holm_proto::ids::Name;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const SIGNER: &str = "fuzz.test/rules";
/// As the threads of holmd have it that read a pack: what is nested deeply must not need more.
const STACK: usize = 2 << 20;

struct Place {
    pack: Pack,
    key: SigningKey,
    dir: tempfile::TempDir,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let key = SigningKey::create(&dir.path().join("key")).expect("a key");
    Place { pack: Pack::builtin("aau-2018").expect("a pack"), key, dir }
});

fuzz_target!(|text: &str| {
    let mut parts = text.split("\n====\n");
    let mut part = || parts.next().unwrap_or_default();
    let files = [part(), part(), part()];
    let put_in = part();
    if !put_in.is_empty() {
        signature(put_in);
    }
    if files.iter().any(|file| !file.is_empty()) {
        std::thread::scope(|all| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            thread.spawn_scoped(all, || loaded(files)).map(drop).expect("a thread");
        });
    }
});

/// One text was ever signed: no other comes out.
fn signature(put_in: &str) {
    let Place { pack, key, .. } = &*PLACE;
    let (vkey, statement) = (key.vkey(SIGNER), policy::statement(pack));
    let whole = policy::sign(pack, key, SIGNER);
    let at = put_in.bytes().next().map_or(0, usize::from) * whole.len() / 256;
    let at = (at..whole.len()).find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
    let (before, after) = whole.split_at(at);
    for forged in [format!("{before}{put_in}{after}"), put_in.to_owned()] {
        if let Ok(text) = note::verify(&forged, &vkey) {
            assert_eq!(text, statement);
        }
        let _ = policy::signer(&statement, &forged, std::slice::from_ref(&vkey));
        let _ = note::verify(&whole, put_in);
    }
}

fn loaded(files: [&str; 3]) {
    let built_in = PLACE.pack.texts();
    let texts = [0, 1, 2].map(|i| if files[i].is_empty() { built_in[i] } else { files[i] });
    let Ok(pack) = Pack::from_texts(texts) else { return };
    assert_eq!(pack.texts(), texts);
    assert!(diff(&pack, &pack).is_empty());
    let _ = diff(&PLACE.pack, &pack).lines();
    nothing_elsewhere(&pack);
    kept(&pack);
}

/// Nothing begins at a level that does not run here, and who is not known may do nothing.
fn nothing_elsewhere(pack: &Pack) {
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let elsewhere = pack.levels().iter().filter(|level| !level.runs_here).map(|level| level.id.clone());
    for level in elsewhere.chain(["no level".to_owned()]) {
        for role in pack.roles() {
            let identity = Identity::Person { name: name("ada"), roles: vec![role.to_owned()] };
            for (known, action) in [(true, Action::ProjectCreate), (false, Action::ProjectRead)] {
                let resource = Resource::Project {
                    name: name("heart"),
                    level: level.clone(),
                    lead: name("ada"),
                    members: vec![name("ada")],
                    readers: Vec::new(),
                    held_by: Vec::new(),
                    missing: Vec::new(),
                    lapsed: Vec::new(),
                };
                let principal = Principal { identity: identity.clone(), known };
                let decision = pack.decide(&Request { principal, action, resource });
                assert!(!decision.allow && !decision.reasons.is_empty(), "{action} at `{level}` by {role}");
            }
        }
    }
}

/// On disk it is the same pack, which the next start of holmd needs.
fn kept(pack: &Pack) {
    let Place { key, dir, .. } = &*PLACE;
    let (digest, signature) = (policy::digest(pack), policy::sign(pack, key, SIGNER));
    let signer = policy::signer(&policy::statement(pack), &signature, &[key.vkey(SIGNER)]);
    assert_eq!(signer.as_deref(), Ok(SIGNER), "signed by holm, and not accepted");
    policy::keep(dir.path(), pack, &signature).expect("kept");
    let place = dir.path().join("policies").join(&digest);
    assert_eq!(policy::digest(&Pack::load(&place).expect("loaded again")), digest);
    std::fs::remove_dir_all(place).expect("away");
}
