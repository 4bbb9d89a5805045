//! The rules: another pack in force without a restart, and everything that is no reason to take one.

use crate::world::World;
use holm_control::app::App;
use holm_control::audit::{SigningKey, note};
use holm_control::config::Config;
use holm_control::policy;
use holm_policies::{FILES, Pack};
use holm_proto::v1;
use holm_proto::v1::explain_policy_request::Resource;
use holm_proto::v1::policy_service_client::PolicyServiceClient;
use std::path::Path;
use tonic::transport::Channel;
use tonic::{Code, Status};

const SIGNER: &str = "site.test";

fn client(world: &World, who: &str) -> PolicyServiceClient<Channel> {
    PolicyServiceClient::new(world.of(who))
}

/// A world whose holmd trusts this key.
async fn world(keys: &Path) -> (World, SigningKey) {
    let key = SigningKey::create(&keys.join("site.key")).unwrap();
    let vkey = key.vkey(SIGNER);
    (World::full_of(|config| config.policy.signers = vec![vkey]).await, key)
}

/// The built-in pack with this changed in its `pack.toml`.
fn changed(change: impl Fn(String) -> String) -> Pack {
    let whole = Pack::builtin("aau-2018").unwrap();
    let [manifest, schema, policies] = whole.texts();
    let newer = manifest.replace("version = 7\n", "version = 8\n");
    Pack::from_texts([&change(newer), schema, policies]).unwrap()
}

/// A pack with this changed in each of its files.
fn texts(pack: &Pack, change: impl Fn(&str) -> String) -> Pack {
    let [manifest, schema, policies] = pack.texts().map(change);
    Pack::from_texts([&manifest, &schema, &policies]).unwrap()
}

fn request(pack: &Pack, signature: String) -> v1::LoadPolicyRequest {
    let files = FILES.iter().zip(pack.texts());
    let file =
        |(name, text): (&&str, &str)| v1::PolicyFile { name: (*name).to_owned(), text: text.to_owned() };
    v1::LoadPolicyRequest { files: files.map(file).collect(), signature, dry_run: false }
}

/// With more in its policies.
fn with_more(pack: &Pack, signature: String, more: &str) -> v1::LoadPolicyRequest {
    let mut request = request(pack, signature);
    request.files[2].text.push_str(more);
    request
}

async fn load(
    world: &World,
    who: &str,
    request: v1::LoadPolicyRequest,
) -> Result<v1::LoadPolicyResponse, Status> {
    client(world, who).load_policy(request).await.map(tonic::Response::into_inner)
}

async fn id(world: &World) -> String {
    client(world, "rune").get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_pack_is_in_force_at_once_and_after_a_restart() {
    let keys = tempfile::tempdir().unwrap();
    let (world, key) = world(keys.path()).await;
    world.request("dina", "heart/waits", 2).await.unwrap();
    assert_eq!(id(&world).await, "aau-2018/7");

    let stricter = changed(|text| text.replace("approvals = 1", "approvals = 2"));
    let signature = policy::sign(&stricter, &key, SIGNER);
    // First what it would do.
    let dry = v1::LoadPolicyRequest { dry_run: true, ..request(&stricter, signature.clone()) };
    let would = load(&world, "frida", dry).await.unwrap();
    assert_eq!(would.changes, ["level 2: approvals: 2 instead of 1"]);
    assert_eq!(would.projects, ["heart"]);
    assert_eq!(id(&world).await, "aau-2018/7", "a dry run changes nothing");

    let done = load(&world, "frida", request(&stricter, signature.clone())).await.unwrap().policy.unwrap();
    assert_eq!(
        (done.id.as_str(), done.loaded_by.as_str(), done.signer.as_str()),
        ("aau-2018/8", "frida", SIGNER)
    );
    assert_eq!(id(&world).await, "aau-2018/8");
    let entry =
        world.logged(|e| e.action == "policy.load" && e.outcome == "allowed" && !e.changes.is_empty()).await;
    // It was decided by the pack before, and says by which key and whom it concerns.
    assert_eq!((entry.pack.as_deref(), entry.actor.as_str()), (Some("aau-2018/7"), "person/frida"));
    assert_eq!(entry.detail["signer"], SIGNER);
    assert_eq!(entry.detail["projects"], serde_json::json!(["heart"]));
    let again = load(&world, "frida", request(&stricter, signature)).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");

    // What was asked for before needs what the pack demands now.
    let one = world.approve("frida", "heart/waits").await.unwrap();
    assert_eq!((one.state(), one.approvals_needed), (v1::SliceState::Requested, 2));
    let entry = world.logged(|e| e.action == "slice.approve").await;
    assert_eq!(entry.pack.as_deref(), Some("aau-2018/8"), "each decision says by which pack");
    let two = world.approve("gustav", "heart/waits").await.unwrap();
    assert_eq!(two.state(), v1::SliceState::Approved);

    let dir = world.end().await;
    let config = Config::load(&dir.path().join("holmd/holmd.toml")).unwrap();
    // The key's being trusted no more does not undo what was accepted.
    let app = App::open(config.clone()).unwrap();
    assert_eq!(app.pack().id(), "aau-2018/8");
    drop(app);
    // A byte of it changed where it lies: that is no pack that anybody accepted.
    let place = config.data.join("policies").join(policy::digest(&stricter)).join("policies.cedar");
    let text = std::fs::read_to_string(&place).unwrap();
    std::fs::write(&place, text.replace("// ---- People", "// ---- people")).unwrap();
    let failure = App::open(config).err().unwrap();
    assert!(failure.what.contains("not those that were loaded"), "{}", failure.what);
    assert!(failure.next.contains("holmd policy load"), "{}", failure.next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_not_signed_not_newer_or_not_whole_is_refused_and_logged() {
    let keys = tempfile::tempdir().unwrap();
    let (world, key) = world(keys.path()).await;
    let other = SigningKey::create(&keys.path().join("other.key")).unwrap();
    let newer = changed(|text| text);
    let good = policy::sign(&newer, &key, SIGNER);
    let softer = changed(|text| text.replace("approvals = 2", "approvals = 1"));
    let older = Pack::builtin("aau-2018").unwrap();
    let [manifest, schema, policies] = older.texts();
    let same = Pack::from_texts([&format!("{manifest}\n# mine"), schema, policies]).unwrap();
    let signed = |pack: &Pack| request(pack, policy::sign(pack, &key, SIGNER));
    let without = |file: &str| {
        let mut request = request(&newer, good.clone());
        request.files.retain(|f| f.name != file);
        request
    };
    let twice = {
        let mut request = request(&newer, good.clone());
        request.files.push(request.files[0].clone());
        request
    };
    let unread = with_more(&newer, good.clone(), &format!("permit ({}", "(".repeat(100_000)));
    let more = "permit (principal, action, resource);";
    let [manifest, schema, policies] = newer.texts();
    let of_more = policy::statement_of(newer.id(), [manifest, schema, &format!("{policies}{more}")]);
    let broken = with_more(&newer, note::sign(&key, SIGNER, &of_more), more);
    let cases = [
        (request(&newer, String::new()), Code::PermissionDenied, "no signed note"),
        (request(&newer, policy::sign(&newer, &other, SIGNER)), Code::PermissionDenied, "is not signed by"),
        (request(&newer, policy::sign(&newer, &key, "another")), Code::PermissionDenied, "is not signed by"),
        (request(&softer, good.clone()), Code::PermissionDenied, "of other files"),
        (signed(&same), Code::FailedPrecondition, "aau-2018/7 was in force"),
        (signed(&older), Code::AlreadyExists, "in force already"),
        (without("policies.cedar"), Code::InvalidArgument, "`policies.cedar` is missing"),
        (twice, Code::InvalidArgument, "is there twice"),
        (broken, Code::InvalidArgument, "policies.cedar:"),
        // Not even looked at.
        (unread, Code::PermissionDenied, "of other files"),
    ];
    for (request, code, text) in cases {
        let refused = load(&world, "frida", request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{text}: {refused}");
        assert!(refused.message().contains(text), "{text}: {refused}");
        let entry = world.logged(|e| e.action == "policy.load" && e.outcome == "refused").await;
        assert!(entry.changes.is_empty());
        assert_eq!(entry.pack.as_deref(), Some("aau-2018/7"), "a refusal, too, says by which pack");
    }
    // Whoever has a role that there is not, would be refused everything; and so would she who loads it.
    let roles = texts(&newer, |text| text.replace("\"officer\"", "\"guard\""));
    let refused = load(&world, "frida", signed(&roles)).await.unwrap_err();
    assert!(refused.message().contains("could put no other in its place"), "{refused}");
    let roles = texts(&newer, |text| text.replace("\"auditor\"", "\"reviewer\""));
    let refused = load(&world, "frida", signed(&roles)).await.unwrap_err();
    assert!(refused.message().contains("`anna` is auditor"), "{refused}");
    for who in ["dina", "rosa", "olga", "anna"] {
        let refused = load(&world, who, request(&newer, good.clone())).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{who}");
    }
    assert_eq!(id(&world).await, "aau-2018/7");
    assert!(!world.app.config.data.join("policies").exists(), "nothing of it was stored");

    // A level that slices are at cannot be taken from under them.
    world.request("dina", "heart/main", 2).await.unwrap();
    let elsewhere = changed(|text| {
        let from = text.find("id = \"2\"").unwrap();
        let (before, rest) = text.split_at(from);
        let (_, after) = rest.split_once("[[level]]").unwrap();
        let level =
            "id = \"2\"\nname = \"confidential\"\nruns_here = false\nrefusal = \"elsewhere\"\n\n[[level]]";
        format!("{before}{level}{after}")
    });
    let refused = load(&world, "frida", signed(&elsewhere)).await.unwrap_err();
    assert!(refused.message().contains("heart/main (level 2)"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trusted_key_nothing_is_loaded() {
    let keys = tempfile::tempdir().unwrap();
    let key = SigningKey::create(&keys.path().join("any.key")).unwrap();
    let world = World::full().await;
    let newer = changed(|text| text);
    let refused =
        load(&world, "frida", request(&newer, policy::sign(&newer, &key, SIGNER))).await.unwrap_err();
    assert!(refused.message().contains("trusts no key"), "{refused}");
    assert!(crate::world::hint(&refused).contains("[policy] signers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_force_before_does_not_come_back() {
    let keys = tempfile::tempdir().unwrap();
    let (world, key) = world(keys.path()).await;
    let signed = |pack: &Pack| request(pack, policy::sign(pack, &key, SIGNER));
    let version = |name: &str, version: u32| {
        let (from, to) = ("name = \"aau-2018\"", format!("name = \"{name}\""));
        changed(|text| text.replace(from, &to).replace("version = 8", &format!("version = {version}")))
    };
    // By way of another name.
    for pack in [version("mine", 1), version("mine", 2), version("other", 1)] {
        load(&world, "frida", signed(&pack)).await.unwrap();
        assert_eq!(id(&world).await, pack.id());
    }
    for pack in [version("mine", 1), version("mine", 2), version("aau-2018", 2)] {
        let refused = load(&world, "frida", signed(&pack)).await.unwrap_err();
        assert!(refused.message().contains("was in force, and this is"), "{refused}");
    }
    load(&world, "frida", signed(&version("mine", 3))).await.unwrap();
    // Nor while holmd does not run, by who has the server and a pack that it kept.
    let old = world.app.config.data.join("policies").join(policy::digest(&version("mine", 2)));
    let config = world.app.config.clone();
    assert!(old.join(policy::SIGNATURE).is_file());
    let _dir = world.end().await;
    let (_, log) = holm_control::app::log(&config).unwrap();
    let store = holm_control::app::store(&holm_control::app::Paths::of(&config.data).store).unwrap();
    let ledger = holm_control::ledger::Ledger::open(Box::new(store), log, jiff::Timestamp::now).unwrap();
    let failure = policy::load_offline(&config, &ledger, &old).unwrap_err();
    assert!(failure.what.contains("mine/3 was in force, and this is mine/2"), "{}", failure.what);
}

async fn explain(
    world: &World,
    who: &str,
    action: &str,
    resource: Option<Resource>,
    as_person: &str,
) -> Result<v1::PolicyExplanation, Status> {
    let request =
        v1::ExplainPolicyRequest { action: action.to_owned(), resource, as_person: as_person.to_owned() };
    client(world, who).explain_policy(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pack_would_answer_is_told_to_who_may_see_it() {
    let world = World::full().await;
    world.request("dina", "heart/main", 2).await.unwrap();
    let slice = || Some(Resource::Slice("heart/main".to_owned()));

    let own = explain(&world, "dina", "slice.approve", slice(), "").await.unwrap();
    assert!(!own.allowed && own.reasons[0].contains("nobody decides on what they asked for"), "{own:?}");
    assert_eq!((own.pack.as_str(), &own.roles[..]), ("aau-2018/7", &["officer".to_owned()][..]));
    assert!(explain(&world, "frida", "slice.approve", slice(), "").await.unwrap().allowed);
    // Nothing was done, and that she asked is in the log.
    assert_eq!(world.get("dina", "heart/main").await.unwrap().state(), v1::SliceState::Requested);
    world.logged(|e| e.action == "policy.read" && e.actor == "person/frida").await;

    // For somebody else: whoever reads everybody.
    let hers = explain(&world, "frida", "slice.connect", slice(), "rosa").await.unwrap();
    assert!(hers.allowed, "{hers:?}");
    let refused = explain(&world, "dina", "slice.connect", slice(), "rosa").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let unknown = explain(&world, "frida", "slice.connect", slice(), "nobody").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    // Another's project is not found, in the words for what there is not.
    let brain = || Some(Resource::Project("brain".to_owned()));
    let (theirs, none) = (
        explain(&world, "dina", "project.read", brain(), "").await.unwrap_err(),
        explain(&world, "dina", "project.read", Some(Resource::Project("brian".to_owned())), "")
            .await
            .unwrap_err(),
    );
    assert_eq!(theirs.code(), Code::NotFound);
    assert_eq!(theirs.message().replace("brain", "brian"), none.message());
    let guessed = explain(&world, "lars", "slice.approve", slice(), "").await.unwrap_err();
    assert_eq!(guessed.code(), Code::NotFound);

    // Nor does a question that fits nothing tell: not of what is there, not of what somebody is.
    for action in ["project.create", "person.invite-officer", "keys.read"] {
        for resource in
            [brain(), Some(Resource::Person("frida".to_owned())), Some(Resource::Host("dgx".to_owned()))]
        {
            let told = explain(&world, "rune", action, resource.clone(), "").await.unwrap_err();
            assert_eq!(told.code(), Code::NotFound, "{action} {resource:?}");
        }
    }

    // What there is not yet.
    let level = |id: &str| Some(Resource::Level(id.to_owned()));
    assert!(explain(&world, "dina", "project.create", level("3"), "").await.unwrap().allowed);
    let public = explain(&world, "dina", "project.create", level("0"), "").await.unwrap();
    assert!(public.reasons[0].contains("shared cluster") && public.roles.is_empty(), "{public:?}");
    let nonsense = explain(&world, "dina", "slice.burn", slice(), "").await.unwrap_err();
    assert!(crate::world::hint(&nonsense).contains("slice.approve"), "{nonsense}");
    let misfit = explain(&world, "dina", "slice.approve", None, "").await.unwrap();
    assert!(!misfit.allowed);
}
