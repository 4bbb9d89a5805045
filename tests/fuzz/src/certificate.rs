//! What somebody shows before holmd knows her: a certificate in a TLS handshake, a request for one, a one-time code, a
//! key for SSH.
//!
//! ```text
//!   first byte, its lowest bits   0   the rest is a certificate, shown in a handshake with holmd's own TLS
//!                                 1   it is the inside of a request for a certificate
//!                                 2   it is a text: such a request, a code, a key
//!                                 3   it is names, a line each, in a certificate that holmd's authority did sign;
//!                                     bit 2: one for servers; bit 3: one that has ended
//! ```

#![no_main]

use holm_control::identity::{Authority, Caller, Code, SshReach, Usage, Wanted, tls};
use holm_proto::ids::{Name, RequestId};
use jiff::{SignedDuration, Timestamp};
use libfuzzer_sys::fuzz_target;
use rcgen::KeyPair;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
    version::TLS13,
};
use std::sync::{Arc, LazyLock};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// Names in one certificate.
const NAMES: usize = 6;

struct Place {
    authority: Arc<Authority>,
    /// As holmd's listener has it.
    tls: Arc<ServerConfig>,
    /// Whoever comes has this one, and trusts the authority.
    key: KeyPair,
    roots: Arc<RootCertStore>,
    ada: Caller,
    _dir: tempfile::TempDir,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::create(&dir.path().join("ca"), Timestamp::now()).expect("an authority");
    let authority = Arc::new(authority);
    let tls = tls::mutual(&authority, vec!["localhost".to_owned()]).expect("TLS");
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a root");
    let (key, ada) = (KeyPair::generate().expect("a key"), Caller::Person(name("ada")));
    Place { authority, tls, key, roots: Arc::new(roots), ada, _dir: dir }
});

fuzz_target!(|bytes: &[u8]| {
    let [kind, rest @ ..] = bytes else { return };
    match kind & 3 {
        0 => shown(rest),
        1 => {
            let inside = data_encoding::BASE64.encode(rest);
            let armour = "CERTIFICATE REQUEST-----\n";
            enrol(&format!("-----BEGIN {armour}{inside}\n-----END {armour}"));
        }
        2 => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            enrol(text);
            ssh(text);
            if let Some(code) = Code::parse(text) {
                let again = Code::parse(&code.text()).expect("it is a code as it is printed");
                assert_eq!((again.hash(), again.ca()), (code.hash(), code.ca()));
            }
        }
        _ => {
            let Ok(names) = std::str::from_utf8(rest) else { return };
            named(names, kind & 4 != 0, kind & 8 != 0);
        }
    }
});

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// Nobody but the authority signs what it would admit.
fn shown(der: &[u8]) {
    if let Ok((caller, _)) = Caller::of(der) {
        assert!(caller.uri().starts_with("spiffe://holm/"), "{}", caller.uri());
    }
    assert!(!admitted(CertificateDer::from(der.to_vec())), "a certificate of nobody's is admitted");
}

/// Only its public key is used: the name is the one that the code is for.
fn enrol(csr: &str) {
    let Place { authority, ada, .. } = &*PLACE;
    if let Ok(issued) = authority.enrol(ada, csr, HOUR, Timestamp::now()) {
        let (named, _) = Caller::of(&issued.der).expect("holmd reads what it signs");
        assert_eq!(named, *ada);
    }
}

fn ssh(key: &str) {
    let signed = PLACE.authority.ssh_certificate(
        key,
        &name("ada"),
        RequestId::new_v4(),
        Timestamp::now(),
        SshReach::Terminal,
    );
    if let Ok(signed) = signed {
        assert_eq!(signed.text.lines().count(), 1, "{}", signed.text);
    }
}

/// It is admitted if it is a client's, has not ended, and names one person or host and nothing else.
fn named(names: &str, server: bool, ended: bool) {
    let Place { authority, key, .. } = &*PLACE;
    let (hosts, uris): (Vec<&str>, Vec<&str>) =
        names.lines().take(NAMES).partition(|n| n.starts_with("dns:"));
    let now = Timestamp::now();
    let wanted = Wanted {
        uris: uris.into_iter().map(str::to_owned).collect(),
        hosts: hosts.into_iter().map(|host| host.trim_start_matches("dns:").to_owned()).collect(),
        usage: if server { Usage::Server } else { Usage::Client },
        from: now - HOUR * 2,
        until: if ended { now - HOUR } else { now + HOUR },
    };
    let Ok(issued) = authority.sign(key, &wanted) else { return };
    let caller = Caller::of(&issued.der).map(|(caller, _)| caller.uri());
    let good = caller.is_ok() && !server && !ended;
    assert_eq!(admitted(issued.der), good, "{caller:?} of {wanted:?}");
    if let Ok(uri) = caller {
        assert_eq!((&wanted.uris[..], wanted.hosts.len()), (&[uri][..], 0));
    }
}

/// Whether holmd's TLS lets somebody in who shows this, and has its key.
fn admitted(certificate: CertificateDer<'static>) -> bool {
    let Place { tls, key, roots, .. } = &*PLACE;
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let key = aws_lc_rs::sign::any_supported_type(&key).expect("a key to sign with");
    let shows = Arc::new(Shows(Arc::new(CertifiedKey::new(vec![certificate], key))));
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(Arc::clone(roots))
        .with_client_cert_resolver(shows);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let server_name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), server_name).expect("a client");
    let mut server = ServerConnection::new(Arc::clone(tls)).expect("a server");
    loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("written");
        }
        let mut asked = &wire[..];
        while !asked.is_empty() {
            server.read_tls(&mut asked).expect("read");
            if server.process_new_packets().is_err() {
                return false;
            }
        }
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).expect("written");
        }
        let mut answered = &back[..];
        while !answered.is_empty() {
            client.read_tls(&mut answered).expect("read");
            client.process_new_packets().expect("holmd's own certificate is good");
        }
        if wire.is_empty() && back.is_empty() {
            return !server.is_handshaking();
        }
    }
}

/// Shows this certificate, whoever asks.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
