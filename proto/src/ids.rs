//! Every kind of id and name in Holm, in one place, so that one kind is never passed for another.

use newtype_uuid::{TypedUuid, TypedUuidKind, TypedUuidTag};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

macro_rules! id_kinds {
    ($($(#[$doc:meta])* $kind:ident, $id:ident, $tag:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $kind {}
        impl TypedUuidKind for $kind {
            fn tag() -> TypedUuidTag {
                const TAG: TypedUuidTag = TypedUuidTag::new($tag);
                TAG
            }
        }
        $(#[$doc])*
        pub type $id = TypedUuid<$kind>;
    )*};
}

id_kinds! {
    /// A project.
    ProjectKind, ProjectId, "project";
    /// A slice: one virtual machine of one project.
    SliceKind, SliceId, "slice";
    /// An encrypted volume.
    VolumeKind, VolumeId, "volume";
    /// One run of the sanitiser.
    RunKind, RunId, "run";
    /// A backup of a slice's volumes.
    BackupKind, BackupId, "backup";
    /// Something that is done once with a slice's volumes, or with their backups.
    JobKind, JobId, "job";
    /// One call to holmd, as it appears in the log.
    RequestKind, RequestId, "request";
    /// One connection carried to a slice.
    TunnelKind, TunnelId, "tunnel";
}

/// A name a person typed: of a project, slice, person or host. 1 to 32 lower-case letters, digits and
/// hyphens, a letter first, no hyphen last. Safe as a path component, a host name, a Unix account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name: use 1 to 32 lower-case letters, digits and hyphens, with a letter first and no hyphen last"
)]
pub struct NotAName(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let ok = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            // What is echoed is bounded and printable, whatever was sent.
            Err(NotAName(text.chars().take(40).flat_map(char::escape_debug).collect()))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NotAName;
    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A PCI address, `dddd:bb:dd.f` in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    /// PCI segment.
    pub domain: u16,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

/// A PCI address as a person types it: upper case or lower, without the domain, as `lspci` prints it, or with one
/// of eight digits, as `nvidia-smi` does. Which device it is depends on which there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypedPciAddress {
    domain: Option<u16>,
    bus: u8,
    device: u8,
    function: u8,
}

/// Why a [`TypedPciAddress`] names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// None is there.
    #[error("there is no device `{0}`")]
    Unknown(TypedPciAddress),
    /// Several are, in different domains.
    #[error("`{typed}` may be {}: say which", .all.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(" or "))]
    Ambiguous {
        /// What was typed.
        typed: TypedPciAddress,
        /// What it may be.
        all: Vec<PciAddress>,
    },
}

impl TypedPciAddress {
    /// The one device of these that it names.
    ///
    /// # Errors
    /// It is none of them, or may be several.
    pub fn among(self, devices: impl IntoIterator<Item = PciAddress>) -> Result<PciAddress, NoDevice> {
        let is = |a: &PciAddress| {
            (a.bus, a.device, a.function) == (self.bus, self.device, self.function)
                && self.domain.is_none_or(|domain| domain == a.domain)
        };
        let all: Vec<PciAddress> = devices.into_iter().filter(is).collect();
        match all.as_slice() {
            [one] => Ok(*one),
            [] => Err(NoDevice::Unknown(self)),
            [_, ..] => Err(NoDevice::Ambiguous { typed: self, all }),
        }
    }
}

impl FromStr for TypedPciAddress {
    type Err = NotAPciAddress;

    fn from_str(text: &str) -> Result<Self, NotAPciAddress> {
        let hex = |part: &str, most: usize| -> Option<u16> {
            let plain = (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u16::from_str_radix(part, 16).ok() } else { None }
        };
        let parse = || -> Option<Self> {
            let (place, function) = text.trim().rsplit_once('.')?;
            let (place, device) = place.rsplit_once(':')?;
            let (domain, bus) = match place.rsplit_once(':') {
                Some((domain, bus)) => (Some(hex(domain, 8)?), bus),
                None => (None, place),
            };
            let typed = Self {
                domain,
                bus: u8::try_from(hex(bus, 2)?).ok()?,
                device: u8::try_from(hex(device, 2)?).ok()?,
                function: u8::try_from(hex(function, 1)?).ok()?,
            };
            (typed.device < 32 && typed.function < 8).then_some(typed)
        };
        parse().ok_or_else(|| NotAPciAddress::new(text))
    }
}

impl fmt::Display for TypedPciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(domain) = self.domain {
            write!(f, "{domain:04x}:")?;
        }
        write!(f, "{:02x}:{:02x}.{:x}", self.bus, self.device, self.function)
    }
}

/// Why a text is not a [`PciAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a PCI address: write it as `0000:34:00.0`")]
pub struct NotAPciAddress(String);

impl NotAPciAddress {
    /// What is echoed is bounded and printable, whatever was sent.
    fn new(text: &str) -> Self {
        Self(text.chars().take(40).flat_map(char::escape_debug).collect())
    }
}

impl FromStr for PciAddress {
    type Err = NotAPciAddress;

    fn from_str(text: &str) -> Result<Self, NotAPciAddress> {
        let hex = |part: &str, digits: usize| -> Option<u16> {
            let plain = part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if plain { u16::from_str_radix(part, 16).ok() } else { None }
        };
        let parse = || -> Option<PciAddress> {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let address = PciAddress {
                domain: hex(domain, 4)?,
                bus: u8::try_from(hex(bus, 2)?).ok()?,
                device: u8::try_from(hex(device, 2)?).ok()?,
                function: u8::try_from(hex(function, 1)?).ok()?,
            };
            (address.device < 32 && address.function < 8).then_some(address)
        };
        parse().ok_or_else(|| NotAPciAddress::new(text))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = NotAPciAddress;
    fn try_from(text: String) -> Result<Self, NotAPciAddress> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_are_none() {
        for bad in ["", "-a", "a-", "A", "../x", "a/b", "æ", "1a", "a b", "a\0", &"a".repeat(33)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        for good in ["a", "heart-study", "b2", &"a".repeat(32)] {
            assert!(good.parse::<Name>().is_ok(), "{good:?}");
        }
        let long = "x/".repeat(1_000_000).parse::<Name>().unwrap_err().to_string();
        assert!(long.len() < 300);
    }

    #[test]
    fn addresses_as_people_type_them() {
        let address = |text: &str| text.parse::<PciAddress>().unwrap();
        let there = [address("0000:5e:00.0"), address("0000:34:00.0"), address("0001:34:00.0")];
        let typed = |text: &str| text.parse::<TypedPciAddress>().unwrap().among(there);
        for text in ["5e:00.0", "5E:00.0", "0000:5E:00.0", "00000000:5E:00.0", " 5e:0.0\n", "0:5e:0.0"] {
            assert_eq!(typed(text), Ok(there[0]), "{text:?}");
        }
        assert_eq!(typed("1:34:00.0"), Ok(there[2]));
        let words = |text: &str| typed(text).unwrap_err().to_string();
        assert_eq!(words("34:00.0"), "`34:00.0` may be `0000:34:00.0` or `0001:34:00.0`: say which");
        assert_eq!(words("0002:34:00.0"), "there is no device `0002:34:00.0`");
        for bad in [
            "",
            "5e",
            "5e:00",
            "5e.0",
            ":5e:00.0",
            "5e:00.8",
            "5e:20.0",
            "5e:00.0.0",
            "x:5e:00.0",
            "5é:00.0",
            "10000:5e:00.0",
            "000000000:5e:00.0",
            "15e:00.0",
            "5e:000.0",
            "+e:00.0",
            &"0".repeat(1_000_000),
        ] {
            let said = bad.parse::<TypedPciAddress>().unwrap_err().to_string();
            assert!(said.contains("is not a PCI address") && said.len() < 300, "{said}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_a_path_component(text in ".{0,40}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(std::path::Path::new(name.as_str()).components().count(), 1);
                prop_assert!(!name.as_str().contains(['.', '/', '\\', '\0']));
            }
        }

        #[test]
        fn pci_addresses_round_trip(domain: u16, bus: u8, device in 0u8..32, function in 0u8..8) {
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(address.to_string().parse::<PciAddress>().unwrap(), address);
        }
    }
}
