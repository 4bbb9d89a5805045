//! Keys: who rotates them, what the log says of it, and a provider that goes away and comes back.

use crate::vault::{Mood, TOKEN, Vault};
use crate::world::{SOON, World, ready_slice};
use holm_control::keys::{Keyring, ProviderConfig, Secret, fingerprint};
use holm_proto::ids::{ProjectId, VolumeId};
use holm_proto::v1;
use std::path::Path;
use tonic::Code;

fn finish(keys: &Keyring) {
    keys.finish(&|_| Vec::new(), &mut |_| {}).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_are_an_officers_and_in_the_log_without_a_key() {
    let world = World::full().await;
    let (_agent, _) = ready_slice(&world, "heart/main", 2).await;
    let before = world.get("dina", "heart/main").await.unwrap().key_fingerprint;
    // The operator sees how keys are kept, and rotates none.
    let seen = world.keys("olga").show_keys(v1::ShowKeysRequest {}).await.unwrap().into_inner();
    assert_eq!((seen.provider.as_str(), seen.kek_generation, seen.down), ("file", 1, None));
    assert_eq!(seen.projects.len(), 1);
    assert_eq!(world.rotate("olga", None).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(world.rotate("dina", Some("heart")).await.unwrap_err().code(), Code::PermissionDenied);
    // Nobody who may not rotate learns what projects there are.
    let none = world.rotate("lars", Some("nosuch")).await.unwrap_err();
    assert_eq!(none.message(), world.rotate("lars", Some("heart")).await.unwrap_err().message());
    assert_eq!(world.rotate("frida", Some("nosuch")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(world.rotate("frida", Some("brain")).await.unwrap_err().code(), Code::FailedPrecondition);
    let nothing = world.keys("frida").rotate_keys(v1::RotateKeysRequest { what: None }).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let now = world.rotate("frida", Some("heart")).await.unwrap();
    let one = &now.projects[0];
    let state = (one.project.as_str(), one.generation, one.kek_generation, one.volumes, one.rotating);
    assert_eq!(state, ("heart", 2, 1, 2, false), "of its root disk and of its data");
    let now = world.rotate("frida", None).await.unwrap();
    assert_eq!((now.kek_generation, now.projects[0].kek_generation, now.projects[0].generation), (2, 2, 2));
    // The slice runs on, and its key is the same.
    let slice = world.get("dina", "heart/main").await.unwrap();
    assert_eq!((slice.state(), &slice.key_fingerprint), (v1::SliceState::Ready, &before));
    let log = world.log();
    let asked: Vec<_> = log.iter().filter(|e| e.action == "keys.rotate").collect();
    // Of a project without a key, too: it was allowed, and nothing came of it.
    assert_eq!(asked.iter().filter(|e| e.outcome == "allowed").count(), 3);
    let rotated = log.iter().find(|e| e.action == "key.rotate").unwrap();
    assert_eq!((&rotated.detail["from"], &rotated.detail["to"]), (&1.into(), &2.into()));
    let [before, after] =
        ["fingerprint_before", "fingerprint_after"].map(|f| rotated.detail[f].as_str().unwrap());
    assert!(before != after && before.len() == 16 && after.len() == 16);
    let rewrapped = log.iter().find(|e| e.action == "key.rewrap").unwrap();
    assert_eq!(
        (rewrapped.detail["fingerprint"].as_str(), rewrapped.project.as_deref()),
        (Some(after), Some("heart"))
    );
    assert!(log.iter().any(|e| e.action == "key.retire" && e.detail["below"] == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_delays_a_start_and_nothing_else() {
    let vault = Vault::start().await;
    let world = World::full_with(vault.config()).await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 2).await;
    world.request("dina", "heart/next", 1).await.unwrap();
    world.approve("frida", "heart/next").await.unwrap();
    let next = world.get("dina", "heart/next").await.unwrap().id;
    agent.intends(|i| i.slices.iter().any(|s| s.slice_id == next)).await;
    let wanted = agent.intended.slices.iter().find(|s| s.slice_id == next).unwrap().clone();
    vault.mood(Mood::Sealed);
    let refused = agent.ask_key(&wanted).await.unwrap_err();
    assert!(refused.later && refused.reason.contains("key provider cannot be reached"), "{}", refused.reason);
    // Where it is, is no tenant's to know.
    assert!(!refused.reason.contains("localhost") && !refused.reason.to_lowercase().contains("vault"));
    let down =
        || async { world.keys("olga").show_keys(v1::ShowKeysRequest {}).await.unwrap().into_inner().down };
    assert!(down().await.unwrap().why.contains("sealed"));
    let alerts = |host: v1::Host| host.alerts.into_iter().any(|a| a.code == "key-provider-down");
    let host = || async {
        world
            .hosts("olga")
            .get_host(v1::GetHostRequest { name: "dgx".to_owned() })
            .await
            .unwrap()
            .into_inner()
    };
    assert!(alerts(host().await));
    assert_eq!(world.rotate("frida", None).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(vault.version(), 1);
    assert_eq!(world.get("dina", "heart/main").await.unwrap().state(), v1::SliceState::Ready);
    vault.mood(Mood::Well);
    let key = tokio::time::timeout(2 * SOON, agent.given()).await.unwrap();
    assert_eq!((key.key.len(), &key.slice_id), (32, &wanted.slice_id));
    assert!(down().await.is_none() && !alerts(host().await));
    let log = world.log();
    let told: Vec<_> =
        log.iter().filter(|e| e.action == "observe.keys").map(|e| e.detail["down"].is_null()).collect();
    assert!(told.is_empty() || told == [false, true], "{told:?}");
    let given = log.iter().filter(|e| e.action == "agent.key" && e.outcome == "allowed").count();
    assert_eq!(given, 2);
    assert_eq!(world.rotate("frida", None).await.unwrap().kek_generation, 2);
    assert_eq!(vault.version(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_wraps_and_binds_what_a_key_is_for() {
    let vault = Vault::start().await;
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let config = vault.config();
    let asked = vault.asked();
    let work = move |dir: &Path| {
        let load = || Keyring::load(dir, &config, None).unwrap();
        let keys = load();
        let (p, q, v) = (ProjectId::new_v4(), ProjectId::new_v4(), VolumeId::new_v4());
        keys.check().unwrap();
        let print = keys.volume_key(p, v).unwrap().1;
        keys.begin_project(p).unwrap();
        keys.rotate_kek().unwrap();
        finish(&keys);
        let standing = keys.standing(&|_| None).unwrap();
        let one = &standing.projects[0];
        assert_eq!((one.provider, one.generation, one.kek_generation), ("vault", 2, 2));
        assert_eq!(fingerprint(&load().open_volume_key(p, v).unwrap().unwrap()), print);
        // Moved, with its head made to fit: Vault itself refuses it.
        let path = |p: ProjectId| dir.join("project").join(p.to_string());
        let mut bytes = std::fs::read(path(p)).unwrap();
        assert!(String::from_utf8_lossy(&bytes[43..]).starts_with("vault:v2:"));
        let id: uuid::Uuid = q.to_string().parse().unwrap();
        bytes[11..27].copy_from_slice(id.as_bytes());
        std::fs::write(path(q), bytes).unwrap();
        let failure = keys.all().unwrap_err();
        assert!(
            failure.what.contains("message authentication failed") && !failure.unreachable,
            "{}",
            failure.what
        );
    };
    tokio::task::spawn_blocking(move || work(dir.path())).await.unwrap();
    assert!(vault.asked() > asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_unwell_is_unreachable_and_a_stranger_is_not_believed() {
    let (vault, stranger) = (Vault::start().await, Vault::start().await);
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let (here, config) = (dir.path().to_path_buf(), vault.config());
    let check = move |config: ProviderConfig| {
        let here = here.clone();
        tokio::task::spawn_blocking(move || Keyring::load(&here, &config, None).and_then(|keys| keys.check()))
    };
    check(config.clone()).await.unwrap().unwrap();
    for (mood, says) in
        [(Mood::Away, "cannot be reached"), (Mood::Sealed, "sealed"), (Mood::Silent, "no answer")]
    {
        vault.mood(mood);
        let failure = check(config.clone()).await.unwrap().unwrap_err();
        assert!(failure.unreachable && failure.what.contains(says), "{mood:?}: {}", failure.what);
    }
    vault.mood(Mood::Mad);
    let failure = check(config.clone()).await.unwrap().unwrap_err();
    assert!(failure.what.contains("not as its API documents"), "{}", failure.what);
    vault.mood(Mood::Well);
    vault.token("hvs.wrong");
    let failure = check(config.clone()).await.unwrap().unwrap_err();
    assert!(failure.unreachable && failure.what.contains("permission denied"), "{}", failure.what);
    assert!(!failure.what.contains("hvs."));
    // The next request shows the new one.
    vault.token(TOKEN);
    check(config.clone()).await.unwrap().unwrap();
    // Somebody else with a certificate of another authority, good for the name.
    let changed = |change: &dyn Fn(&mut ProviderConfig)| {
        let mut config = config.clone();
        change(&mut config);
        config
    };
    let ca = stranger.path("ca.pem");
    let wrong = changed(&|c| {
        if let ProviderConfig::Vault { ca_file, .. } = c {
            *ca_file = ca.clone();
        }
    });
    let asked = vault.asked();
    let failure = check(wrong).await.unwrap().unwrap_err();
    assert!(failure.unreachable && failure.what.contains("certificate"), "{}", failure.what);
    assert_eq!(vault.asked(), asked, "it was told the token");
    for bad in ["http://localhost:8200", "localhost", "https://", "https://user@localhost", "https://a b"] {
        let config = changed(&|c| {
            if let ProviderConfig::Vault { address, .. } = c {
                *address = bad.to_owned();
            }
        });
        assert!(check(config).await.unwrap().unwrap_err().what.contains("no address"), "{bad}");
    }
    let config = changed(&|c| {
        if let ProviderConfig::Vault { key, token, .. } = c {
            *key = "../sys/seal".to_owned();
            *token = Secret::Prompt;
        }
    });
    assert!(check(config).await.unwrap().unwrap_err().what.contains("no name"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_from_files_to_vault_and_the_files_are_destroyed() {
    let vault = Vault::start().await;
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let config = vault.config();
    let work = move |dir: &Path| {
        let file = ProviderConfig::default();
        let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
        let print = Keyring::load(dir, &file, None).unwrap().volume_key(p, v).unwrap().1;
        // Without the one that wrapped them nothing opens, and it says what to do.
        let failure = Keyring::load(dir, &config, None).unwrap().open_volume_key(p, v).unwrap_err();
        assert!(failure.what.contains("[former_keys]"), "{}", failure.what);
        let keys = Keyring::load(dir, &config, Some(&file)).unwrap();
        assert_eq!(fingerprint(&keys.open_volume_key(p, v).unwrap().unwrap()), print);
        finish(&keys);
        assert!(!dir.join("kek").exists());
        // Also while the configuration still names the files.
        for former in [Some(&file), None] {
            let keys = Keyring::load(dir, &config, former).unwrap();
            assert_eq!(fingerprint(&keys.open_volume_key(p, v).unwrap().unwrap()), print);
        }
        assert!(Keyring::load(dir, &config, Some(&config)).is_err());
    };
    tokio::task::spawn_blocking(move || work(dir.path())).await.unwrap();
}
