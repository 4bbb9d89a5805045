//! Against SoftHSM, a token in software. It is told of its tokens by an environment variable, so what uses it is a
//! process of its own: this program again.

use super::*;
use crate::keys::{Keyring, ProviderConfig, fingerprint, random};
use holm_proto::ids::{ProjectId, VolumeId};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];
const DIRECTORY: &str = "HOLM_TEST_SOFTHSM";

fn module() -> PathBuf {
    let found = MODULES.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("SoftHSM is missing: deploy/packages installs it")
}

#[test]
fn a_token_holds_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("tokens")).unwrap();
    let config = format!("directories.tokendir = {}\nobjectstore.backend = file\n", path("tokens").display());
    std::fs::write(path("softhsm2.conf"), config).unwrap();
    std::fs::write(path("pin"), "1234\n").unwrap();
    std::fs::write(path("wrong-pin"), "4321\n").unwrap();
    for pin in ["pin", "wrong-pin"] {
        std::fs::set_permissions(path(pin), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let with = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .env("SOFTHSM2_CONF", path("softhsm2.conf"))
            .env(DIRECTORY, dir.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        String::from_utf8_lossy(&said).into_owned()
    };
    let token = ["--init-token", "--free", "--label", "holm", "--pin", "1234", "--so-pin", "5678"];
    with(Path::new("softhsm2-util"), &token);
    // Each in a process of its own: once one has logged in, every session of its process is.
    for inner in ["in_a_process_with_a_token", "in_a_process_with_a_wrong_pin"] {
        let inner = format!("keys::pkcs11::tests::{inner}");
        let said = with(&std::env::current_exe().unwrap(), &["--exact", &inner, "--ignored", "--nocapture"]);
        assert!(said.contains("1 passed"), "{said}");
    }
}

#[test]
#[ignore = "run by a_token_holds_the_key, which makes the token"]
fn in_a_process_with_a_wrong_pin() {
    let at = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let pin = at.join("wrong-pin");
    let mut hsm = Hsm::new(&module(), "holm", "holm-kek", &Secret::File(pin.clone())).unwrap();
    let mut said = || {
        let failure = hsm.check().unwrap_err();
        assert!(failure.unreachable, "{}", failure.what);
        failure.what
    };
    assert!(said().contains("does not let holmd in"));
    // Each try more may lock the token for good.
    for _ in 0..3 {
        assert!(said().contains("is not tried again"));
    }
    std::fs::write(&pin, "8765\n").unwrap();
    assert!(said().contains("does not let holmd in"), "another one is tried");
    std::fs::write(&pin, "1234\n").unwrap();
    hsm.check().unwrap();
}

#[test]
#[ignore = "run by a_token_holds_the_key, which makes the token"]
fn in_a_process_with_a_token() {
    let at = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let pin = Secret::File(at.join("pin"));
    let hsm = |token: &str| Hsm::new(&module(), token, "holm-kek", &pin).unwrap();
    let mut one = hsm("holm");
    let failure = one.check().unwrap_err();
    assert!(failure.what.contains("pkcs11-tool") && !failure.unreachable, "{}", failure.what);
    let failure = hsm("other").check().unwrap_err();
    assert!(failure.unreachable && failure.what.contains("no token `other`"), "{}", failure.what);
    let session = one.session().unwrap();
    one.make(&session, 1).unwrap();
    drop(session);
    one.check().unwrap();
    let key = random().unwrap();
    let sealed = one.wrap(&key, 1, b"what it is for").unwrap();
    assert_eq!(sealed.len(), 12 + 32 + 16);
    assert_eq!(one.unwrap(&sealed, 1, b"what it is for").unwrap().expose_secret(), key.expose_secret());
    let failure = one.unwrap(&sealed, 1, b"something else").unwrap_err();
    assert!(!failure.unreachable, "{}", failure.what);
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(one.unwrap(&bad, 1, b"what it is for").is_err(), "byte {at}");
    }
    // The key itself does not come out.
    let session = one.session().unwrap();
    let object = one.key(&session, 1).unwrap();
    let value = session.get_attributes(object, &[AttributeType::Value]);
    assert!(!matches!(value.as_deref(), Ok([_, ..])), "the key can be read");
    drop(session);
    // The whole hierarchy over it.
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let config = ProviderConfig::Pkcs11 {
        module: module(),
        token: "holm".to_owned(),
        key: "holm-kek".to_owned(),
        pin,
    };
    let load = || Keyring::load(dir.path(), &config, None).unwrap();
    let (keys, p, v) = (load(), ProjectId::new_v4(), VolumeId::new_v4());
    let print = keys.volume_key(p, v).unwrap().1;
    assert_eq!(keys.rotate_kek().unwrap(), (1, 2));
    keys.begin_project(p).unwrap();
    keys.finish(&|_| Vec::new(), &mut |_| {}).unwrap();
    assert_eq!(fingerprint(&load().open_volume_key(p, v).unwrap().unwrap()), print);
    let standing = keys.standing(&|_| None).unwrap();
    assert_eq!((standing.provider, standing.kek_generation), ("pkcs11", Some(2)));
    // The first generation is gone from the token.
    assert!(one.unwrap(&sealed, 1, b"what it is for").unwrap_err().what.contains("no generation 1"));
}
