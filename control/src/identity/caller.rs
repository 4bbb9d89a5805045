//! The name in a certificate.

use crate::domain::records::Subject;
use holm_proto::ids::Name;
use jiff::Timestamp;
use std::net::SocketAddr;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const PERSON: &str = "spiffe://holm/person/";
const HOST: &str = "spiffe://holm/host/";

/// Who calls, as a verified certificate says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// A person.
    Person(Name),
    /// A host's agent.
    Host(Name),
}

/// The other end of a connection, in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `None` on the enrolment listener, which asks for no certificate.
    pub caller: Option<Caller>,
    /// SHA-256 of its certificate; empty where there is none.
    pub certificate: String,
    /// The same, DER.
    pub der: Arc<[u8]>,
    /// When its certificate ends; where there is none, never.
    pub until: Timestamp,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NoIdentity {
    #[error("its certificate cannot be read")]
    Unreadable,
    #[error("its certificate has {0} names: it must have exactly one, a URI")]
    NotOne(usize),
    #[error("its certificate names `{0}`, which is no person and no host of Holm")]
    NotHolm(String),
}

impl Caller {
    /// As it stands in the certificate.
    pub fn uri(&self) -> String {
        match self {
            Self::Person(name) => format!("{PERSON}{name}"),
            Self::Host(name) => format!("{HOST}{name}"),
        }
    }

    /// As records have it.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Person(name) => Subject::Person(name.clone()),
            Self::Host(name) => Subject::Host(name.clone()),
        }
    }

    /// As it stands in the log.
    pub fn actor(&self) -> String {
        match self {
            Self::Person(name) => format!("person/{name}"),
            Self::Host(name) => format!("host/{name}"),
        }
    }

    /// The one identity in a certificate, and when the certificate ends. That it is signed by whom it must
    /// be is somebody else's question.
    pub fn of(certificate: &[u8]) -> Result<(Self, Timestamp), NoIdentity> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| NoIdentity::Unreadable)?;
        let names = certificate.subject_alternative_name().map_err(|_| NoIdentity::Unreadable)?;
        let names = names.map_or(&[][..], |san| &san.value.general_names);
        let [name] = names else { return Err(NoIdentity::NotOne(names.len())) };
        let GeneralName::URI(uri) = name else { return Err(NoIdentity::NotOne(0)) };
        let ends = Timestamp::from_second(certificate.validity().not_after.timestamp())
            .map_err(|_| NoIdentity::Unreadable)?;
        Ok((Self::of_uri(uri)?, ends))
    }

    fn of_uri(uri: &str) -> Result<Self, NoIdentity> {
        let caller = match (uri.strip_prefix(PERSON), uri.strip_prefix(HOST)) {
            (Some(name), _) => name.parse().ok().map(Self::Person),
            (_, Some(name)) => name.parse().ok().map(Self::Host),
            _ => None,
        };
        caller.ok_or_else(|| NoIdentity::NotHolm(uri.chars().take(80).flat_map(char::escape_debug).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_uris_name_somebody() {
        for caller in [Caller::Person("ada".parse().unwrap()), Caller::Host("dgx".parse().unwrap())] {
            assert_eq!(Caller::of_uri(&caller.uri()), Ok(caller));
        }
        for bad in [
            "",
            "spiffe://holm/person/",
            "spiffe://holm/person/Ada",
            "spiffe://holm/person/ada/x",
            "spiffe://holm/person/../host/dgx",
            "spiffe://holm/robot/ada",
            "spiffe://other/person/ada",
            "SPIFFE://holm/person/ada",
            " spiffe://holm/person/ada",
            "spiffe://holm/person/ada\0",
        ] {
            assert!(matches!(Caller::of_uri(bad), Err(NoIdentity::NotHolm(_))), "{bad:?}");
        }
    }
}
