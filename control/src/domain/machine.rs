//! What a host is made of beside its devices, as small as it can be kept: a host's record goes into an entry of
//! the log whole, together with every device that changed, and an entry has at most 65,535 bytes. Bridges,
//! links and access control are therefore rows, not objects.

use holm_proto::ids::PciAddress;
use serde::{Deserialize, Serialize};

/// A machine as its agent found it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// As its firmware calls it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub product: String,
    /// Of its BIOS.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub firmware: String,
    /// By address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<Bridge>,
    /// By number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Node>,
    /// By name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<Drive>,
}

/// Which kind of port a bridge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "as holm.v1.BridgeKind documents them")]
pub enum BridgeKind {
    Unknown,
    RootPort,
    Upstream,
    Downstream,
    Conventional,
}

/// A bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BridgeRow", into = "BridgeRow")]
#[allow(missing_docs, reason = "as holm.v1.PciBridge documents them")]
pub struct Bridge {
    pub address: PciAddress,
    pub id: String,
    pub kind: BridgeKind,
    pub parent: Option<PciAddress>,
    pub root: String,
    pub numa_node: i32,
    pub iommu_group: Option<u32>,
    pub link: Option<Link>,
    /// The capability's and the control register's bits.
    pub acs: Option<(u16, u16)>,
}

type BridgeRow = (
    PciAddress,
    String,
    BridgeKind,
    Option<PciAddress>,
    String,
    i32,
    Option<u32>,
    Option<Link>,
    Option<(u16, u16)>,
);

impl From<BridgeRow> for Bridge {
    fn from((address, id, kind, parent, root, numa_node, iommu_group, link, acs): BridgeRow) -> Self {
        Self { address, id, kind, parent, root, numa_node, iommu_group, link, acs }
    }
}

impl From<Bridge> for BridgeRow {
    fn from(b: Bridge) -> Self {
        (b.address, b.id, b.kind, b.parent, b.root, b.numa_node, b.iommu_group, b.link, b.acs)
    }
}

/// How a link runs, and how it could.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "LinkRow", into = "LinkRow")]
#[allow(missing_docs, reason = "as holm.v1.Link documents them")]
pub struct Link {
    pub speed: String,
    pub width: u32,
    pub max_speed: String,
    pub max_width: u32,
}

type LinkRow = (String, u32, String, u32);

impl From<LinkRow> for Link {
    fn from((speed, width, max_speed, max_width): LinkRow) -> Self {
        Self { speed, width, max_speed, max_width }
    }
}

impl From<Link> for LinkRow {
    fn from(l: Link) -> Self {
        (l.speed, l.width, l.max_speed, l.max_width)
    }
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as holm.v1.NumaNode documents them")]
pub struct Node {
    pub id: u32,
    /// The processors of each core.
    pub cores: Vec<Vec<u32>>,
    pub memory_mib: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub huge_pages: Vec<HugePages>,
    pub distances: Vec<u32>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as holm.v1.HugePages documents them")]
pub struct HugePages {
    pub size_kib: u64,
    pub total: u64,
    /// When last reported.
    pub free: u64,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as holm.v1.Drive documents them")]
pub struct Drive {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<PciAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PciAddress>,
    pub model: String,
    pub bytes: u64,
    pub numa_node: i32,
    pub rotational: bool,
    pub discard_max_bytes: u64,
}

/// Where a device hangs, how its link runs, and what firmware it says it has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// The bridge above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PciAddress>,
    /// Absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Empty where it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub firmware: String,
}

impl Hardware {
    /// Nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// How a device is. What nobody said is unknown, never healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "as holm.v1.HealthState documents them")]
pub enum HealthState {
    #[default]
    Unknown,
    Healthy,
    Degraded,
    Failed,
}

/// What a device says of itself, but for what is true of a moment only: kept here, that would make every
/// greeting of an agent a change of every device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "as holm.v1.Health documents them")]
pub struct Health {
    pub state: HealthState,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc_corrected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_pages: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links_up: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_a_row() {
        let bridge = Bridge {
            address: "0000:33:00.0".parse().unwrap(),
            id: "10b5:9797".to_owned(),
            kind: BridgeKind::Downstream,
            parent: Some("0000:32:00.0".parse().unwrap()),
            root: "pci0000:2b".to_owned(),
            numa_node: 0,
            iommu_group: Some(41),
            link: Some(Link {
                speed: "8.0".to_owned(),
                width: 16,
                max_speed: "8.0".to_owned(),
                max_width: 16,
            }),
            acs: Some((0x5f, 0x1d)),
        };
        let text = serde_json::to_string(&bridge).unwrap();
        insta::assert_snapshot!(text, @r#"["0000:33:00.0","10b5:9797","downstream","0000:32:00.0","pci0000:2b",0,41,["8.0",16,"8.0",16],[95,29]]"#);
        assert_eq!(serde_json::from_str::<Bridge>(&text).unwrap(), bridge);
    }

    #[test]
    fn what_nobody_said_is_unknown() {
        assert_eq!(serde_json::from_str::<Health>("{}").unwrap().state, HealthState::Unknown);
        assert!(serde_json::from_str::<Health>(r#"{"state":"fine"}"#).is_err());
        assert!(serde_json::from_str::<Machine>("{}").unwrap().bridges.is_empty());
    }
}
