//! Recordings of terminals: who comes is recorded, and who looks at what was.

use crate::slices::{connect, echo, first};
use crate::world::{World, hint, pack, ready_slice, reference};
use holm_proto::v1;
use tonic::{Code, Status};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
const RECORDED: (&str, &str) =
    ("\"no_network\"]", "\"no_network\", \"terminal_only\", \"recorded_terminals\"]");

async fn sign(world: &World, who: &str, why: &str) -> Result<v1::SshCertificate, Status> {
    sign_in(world, who, "heart/main", why).await
}

async fn sign_in(world: &World, who: &str, slice: &str, why: &str) -> Result<v1::SshCertificate, Status> {
    let request = v1::SignSshKeyRequest {
        slice: Some(reference(slice)),
        public_key: KEY.to_owned(),
        recordings_reason: why.to_owned(),
    };
    world.slices(who).sign_ssh_key(request).await.map(tonic::Response::into_inner)
}

fn certificate(signed: &v1::SshCertificate) -> (ssh_key::Certificate, String) {
    let read = ssh_key::Certificate::from_openssh(&signed.certificate).unwrap();
    let command = read.critical_options().get("force-command").cloned().unwrap_or_default();
    (read, command)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_its_level_demands_it_nobody_comes_without_being_recorded() {
    let rules = tempfile::tempdir().unwrap();
    let name = pack(rules.path(), &[RECORDED]);
    let world = World::full_of(|config| config.pack = name).await;
    let (_agent, wanted) = ready_slice(&world, "heart/main", 1).await;
    world.pretend_real("dgx");
    // To an image that does not record, and to an agent that does not know of it, every key that signs is nobody's.
    let authority = &world.app.authority;
    assert_eq!(wanted.ssh_recorded_ca, authority.ssh_recorded_ca());
    assert!(wanted.terminal_only && wanted.ssh_ca == wanted.ssh_terminal_ca);
    for signs in [authority.ssh_ca(), authority.ssh_terminal_ca(), authority.ssh_recorded_ca()] {
        assert_ne!(wanted.ssh_ca, signs);
    }
    let (read, command) = certificate(&sign(&world, "rosa", "").await.unwrap());
    assert_eq!(
        (command.as_str(), read.valid_principals()),
        ("/usr/lib/holm/recorded", &["_rosa".to_owned()][..])
    );
    let signed_by = read.signature_key().clone();
    let recorded = ssh_key::PublicKey::from_openssh(authority.ssh_recorded_ca()).unwrap();
    assert_eq!(&signed_by, recorded.key_data());
    let entry = world.logged(|e| e.action == "slice.connect" && e.actor == "person/rosa").await;
    assert_eq!(
        (&entry.detail["recorded"], &entry.detail["reason"]),
        (&true.into(), &serde_json::Value::Null)
    );

    // Recordings outlast a root disk.
    let bare = v1::RequestSliceRequest {
        project: "heart".to_owned(),
        name: "bare".to_owned(),
        gpus: 1,
        home_gib: Some(0),
        ..Default::default()
    };
    let refused = world.slices("dina").request_slice(bare).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("recordings are kept on the disk of /home"), "{refused}");
    assert!(hint(&refused).contains("--home SIZE"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_outside_the_project_looks_at_them_with_a_reason_and_nobody_else() {
    let rules = tempfile::tempdir().unwrap();
    let name = pack(rules.path(), &[RECORDED]);
    let mut world = World::full_of(|config| {
        config.pack = name;
        config.watch = None;
    })
    .await;
    world.invite("frida", "ida", &["officer", "lead"]).await;
    world.project("ida", "mine", "2").await.unwrap();
    world.request("ida", "mine/main", 1).await.unwrap();
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    world.pretend_real("dgx");
    // Those who know that there is such a slice, and those who do not.
    for (who, code) in [
        ("dina", Code::PermissionDenied),
        ("rosa", Code::PermissionDenied),
        ("olga", Code::PermissionDenied),
        ("anna", Code::NotFound),
        ("rune", Code::NotFound),
    ] {
        let refused = sign(&world, who, "curious").await.unwrap_err();
        assert_eq!(refused.code(), code, "{who}: {refused}");
        let actor = format!("person/{who}");
        let entry = world.logged(|e| e.action == "slice.recordings" && e.actor == actor).await;
        assert_eq!(entry.outcome, "refused", "{who}");
    }
    let own = sign_in(&world, "ida", "mine/main", "curious").await.unwrap_err();
    assert!(own.code() == Code::PermissionDenied && own.message().contains("of their own project"), "{own}");
    let why = sign(&world, "frida", " \n").await.unwrap_err();
    assert!(why.code() == Code::InvalidArgument && why.message().contains("say why"), "{why}");

    let signed = sign(&world, "frida", "complaint 17").await.unwrap();
    let (read, command) = certificate(&signed);
    assert_eq!(command, "/usr/lib/holm/recordings");
    assert_eq!(
        (signed.user.as_str(), read.valid_principals()),
        ("holm_recordings", &["holm_recordings".to_owned()][..])
    );
    assert!(read.key_id().contains("person/frida"));
    assert!(read.valid_before() - read.valid_after() < 3600, "for one look");
    let entry = world
        .logged(|e| e.action == "slice.recordings" && e.actor == "person/frida" && e.outcome == "allowed")
        .await;
    assert_eq!(entry.detail["reason"], "complaint 17");
    let alarm = world.logged(|e| e.resource == "alarm/plays-recordings").await;
    assert_eq!(alarm.project.as_deref(), Some("heart"));

    // The way there is hers for recordings, and for nothing else.
    let _agent = echo(&world, agent).await;
    let plays = || v1::ConnectFrame { recordings: true, ..first("heart/main", b"list") };
    let (_send, mut tunnel) = connect(&world, "frida", plays()).await.unwrap();
    assert_eq!(tunnel.message().await.unwrap().unwrap().data, "LIST");
    let refused = connect(&world, "frida", first("heart/main", b"")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let refused = connect(&world, "rosa", plays()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_recorded_an_officer_has_no_way_in() {
    let world = World::full().await;
    let (_agent, wanted) = ready_slice(&world, "heart/main", 1).await;
    world.pretend_real("dgx");
    assert_eq!(wanted.ssh_recorded_ca, "");
    let frame = v1::ConnectFrame { recordings: true, ..first("heart/main", b"") };
    for refused in [
        sign(&world, "frida", "curious").await.map(drop).unwrap_err(),
        connect(&world, "frida", frame).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("nothing is recorded in `heart/main`"), "{refused}");
    }
    let entry = world.logged(|e| e.action == "slice.recordings").await;
    assert_eq!(entry.outcome, "refused");
}
