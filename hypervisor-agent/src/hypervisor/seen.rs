//! What libvirt says of a domain, as far as the agent looks at it.

use holm_proto::ids::PciAddress;
use serde::Deserialize;
use std::collections::BTreeSet;

/// What was read out of a domain's XML.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The host's devices that it holds.
    pub devices: BTreeSet<PciAddress>,
    /// Its address on vsock; only a running one has one.
    pub cid: Option<u32>,
    /// Ids of the secrets that open its disks.
    pub secrets: BTreeSet<String>,
}

/// Reads the XML of a domain. What cannot be read is an error: a device that is overlooked would be taken
/// for one that is free.
pub fn read(xml: &str) -> Result<Seen, NotRead> {
    let domain: Domain = quick_xml::de::from_str(xml)?;
    let mut seen = Seen::default();
    for device in domain.devices.hostdev.into_iter().filter(|device| device.kind == "pci") {
        let address = device.source.address.ok_or(NotRead::Address)?;
        seen.devices.insert(address.parse().ok_or(NotRead::Address)?);
    }
    seen.cid = domain.devices.vsock.and_then(|vsock| vsock.cid).and_then(|cid| cid.address);
    for disk in domain.devices.disk {
        let secret =
            disk.source.and_then(|source| source.encryption).and_then(|encryption| encryption.secret);
        seen.secrets.extend(secret.and_then(|secret| secret.uuid));
    }
    Ok(seen)
}

/// Why a domain's XML could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// It is not what libvirt writes.
    #[error("the machine's description is not understood")]
    Xml(#[from] quick_xml::DeError),
    /// A device without a PCI address.
    #[error("a device in the machine's description has no PCI address")]
    Address,
}

#[derive(Deserialize)]
struct Domain {
    devices: Devices,
}

#[derive(Deserialize)]
struct Devices {
    #[serde(default)]
    disk: Vec<Disk>,
    #[serde(default)]
    hostdev: Vec<Hostdev>,
    vsock: Option<Vsock>,
}

#[derive(Deserialize)]
struct Disk {
    source: Option<DiskSource>,
}

#[derive(Deserialize)]
struct DiskSource {
    encryption: Option<Encryption>,
}

#[derive(Deserialize)]
struct Encryption {
    secret: Option<SecretRef>,
}

#[derive(Deserialize)]
struct SecretRef {
    #[serde(rename = "@uuid")]
    uuid: Option<String>,
}

#[derive(Deserialize)]
struct Hostdev {
    #[serde(rename = "@type")]
    kind: String,
    source: HostdevSource,
}

#[derive(Deserialize)]
struct HostdevSource {
    address: Option<HostAddress>,
}

#[derive(Deserialize)]
struct HostAddress {
    #[serde(rename = "@domain")]
    domain: String,
    #[serde(rename = "@bus")]
    bus: String,
    #[serde(rename = "@slot")]
    slot: String,
    #[serde(rename = "@function")]
    function: String,
}

impl HostAddress {
    fn parse(&self) -> Option<PciAddress> {
        let hex = |text: &str| u16::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let address = PciAddress {
            domain: hex(&self.domain)?,
            bus: u8::try_from(hex(&self.bus)?).ok()?,
            device: u8::try_from(hex(&self.slot)?).ok()?,
            function: u8::try_from(hex(&self.function)?).ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(address)
    }
}

#[derive(Deserialize)]
struct Vsock {
    cid: Option<Cid>,
}

#[derive(Deserialize)]
struct Cid {
    #[serde(rename = "@address")]
    address: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As a running machine looks: libvirt adds much that is not looked at.
    const RUNNING: &str = "<domain type='kvm' id='3'>
      <name>holm-x</name><uuid>x</uuid>
      <devices>
        <emulator>/usr/bin/qemu-system-x86_64</emulator>
        <disk type='file' device='disk'>
          <driver name='qemu' type='qcow2'/>
          <source file='/v' index='2'>
            <encryption format='luks' engine='qemu'><secret type='passphrase' uuid='6f96'/></encryption>
          </source>
          <backingStore type='file' index='3'><format type='raw'/><source file='/b'/><backingStore/></backingStore>
          <target dev='vda' bus='virtio'/>
        </disk>
        <disk type='file' device='disk'><source file='/s' index='1'/><backingStore/><readonly/></disk>
        <controller type='usb' index='0' model='none'/>
        <hostdev mode='subsystem' type='pci' managed='no'>
          <driver name='vfio'/>
          <source><address domain='0x0000' bus='0x34' slot='0x00' function='0x0'/></source>
          <alias name='hostdev0'/><rom bar='off'/>
          <address type='pci' domain='0x0000' bus='0x06' slot='0x00' function='0x0'/>
        </hostdev>
        <hostdev mode='subsystem' type='pci' managed='no'>
          <source><address domain='0x0001' bus='0xe7' slot='0x1f' function='0x7'/></source>
        </hostdev>
        <vsock model='virtio'><cid auto='yes' address='3'/></vsock>
      </devices>
      <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>
    </domain>";

    #[test]
    fn a_running_machine() {
        let seen = read(RUNNING).unwrap();
        let devices: Vec<String> = seen.devices.iter().map(ToString::to_string).collect();
        assert_eq!(devices, ["0000:34:00.0", "0001:e7:1f.7"]);
        assert_eq!(seen.cid, Some(3));
        assert_eq!(seen.secrets.into_iter().collect::<Vec<_>>(), ["6f96"]);
    }

    #[test]
    fn one_that_is_only_defined_has_no_cid() {
        let seen = read(&RUNNING.replace(" address='3'", "")).unwrap();
        assert_eq!(seen.cid, None);
        assert_eq!(read("<domain><devices/></domain>").unwrap(), Seen::default());
    }

    #[test]
    fn a_device_is_never_overlooked() {
        for (from, to) in [
            ("bus='0x34' ", ""),
            ("bus='0x34'", "bus='0x134'"),
            ("slot='0x1f'", "slot='0x20'"),
            ("'0x34'", "'34'"),
        ] {
            assert!(read(&RUNNING.replace(from, to)).is_err(), "{to}");
        }
        for cut in [100, 500, 900] {
            assert!(read(&RUNNING[..cut]).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends_in_an_answer(text in any::<String>()) {
            let _ = read(&text);
            let _ = read(&format!("<domain><devices><hostdev>{text}</hostdev></devices></domain>"));
        }
    }
}
