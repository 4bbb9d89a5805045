//! The elements of libvirt's XML that Holm writes, named as libvirt's documentation names them
//! (<https://libvirt.org/formatdomain.html>, <https://libvirt.org/formatsecret.html>). What each means is
//! said where it is filled in, in `xml`.

use serde::Serialize;

#[derive(Serialize)]
#[serde(rename = "domain")]
pub struct Domain {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    pub name: String,
    pub uuid: String,
    pub title: String,
    pub memory: Memory,
    #[serde(rename = "memoryBacking")]
    pub backing: MemoryBacking,
    pub vcpu: Vcpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iothreads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cputune: Option<CpuTune>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numatune: Option<NumaTune>,
    pub os: Os,
    pub features: Features,
    pub cpu: Cpu,
    pub clock: Clock,
    pub on_poweroff: &'static str,
    pub on_reboot: &'static str,
    pub on_crash: &'static str,
    pub devices: Devices,
}

#[derive(Serialize)]
pub struct Empty {}

#[derive(Serialize)]
pub struct Memory {
    #[serde(rename = "@unit")]
    pub unit: &'static str,
    #[serde(rename = "@dumpCore")]
    pub dump_core: &'static str,
    #[serde(rename = "$text")]
    pub amount: u64,
}

#[derive(Serialize)]
pub struct MemoryBacking {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<Hugepages>,
    pub nosharepages: Empty,
    pub locked: Empty,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<MemorySource>,
    pub allocation: Allocation,
}

#[derive(Serialize)]
pub struct Hugepages {
    pub page: Page,
}

#[derive(Serialize)]
pub struct Page {
    #[serde(rename = "@size")]
    pub size: u64,
    #[serde(rename = "@unit")]
    pub unit: &'static str,
    #[serde(rename = "@nodeset", skip_serializing_if = "Option::is_none")]
    pub nodeset: Option<String>,
}

#[derive(Serialize)]
pub struct MemorySource {
    #[serde(rename = "@type")]
    pub kind: &'static str,
}

#[derive(Serialize)]
pub struct Allocation {
    #[serde(rename = "@mode")]
    pub mode: &'static str,
    #[serde(rename = "@threads")]
    pub threads: u32,
}

#[derive(Serialize)]
pub struct CpuTune {
    pub vcpupin: Vec<VcpuPin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulatorpin: Option<EmulatorPin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iothreadpin: Option<IothreadPin>,
}

#[derive(Serialize)]
pub struct VcpuPin {
    #[serde(rename = "@vcpu")]
    pub vcpu: u32,
    #[serde(rename = "@cpuset")]
    pub cpuset: String,
}

#[derive(Serialize)]
pub struct EmulatorPin {
    #[serde(rename = "@cpuset")]
    pub cpuset: String,
}

#[derive(Serialize)]
pub struct IothreadPin {
    #[serde(rename = "@iothread")]
    pub iothread: u32,
    #[serde(rename = "@cpuset")]
    pub cpuset: String,
}

#[derive(Serialize)]
pub struct NumaTune {
    pub memory: TuneMemory,
    pub memnode: Vec<MemNode>,
}

#[derive(Serialize)]
pub struct TuneMemory {
    #[serde(rename = "@mode")]
    pub mode: &'static str,
    #[serde(rename = "@nodeset")]
    pub nodeset: String,
}

#[derive(Serialize)]
pub struct MemNode {
    #[serde(rename = "@cellid")]
    pub cell: u32,
    #[serde(rename = "@mode")]
    pub mode: &'static str,
    #[serde(rename = "@nodeset")]
    pub nodeset: String,
}

#[derive(Serialize)]
pub struct Vcpu {
    #[serde(rename = "@placement")]
    pub placement: &'static str,
    #[serde(rename = "$text")]
    pub count: u32,
}

#[derive(Serialize)]
pub struct Os {
    #[serde(rename = "type")]
    pub kind: OsType,
    pub kernel: String,
    pub initrd: String,
    pub cmdline: String,
}

#[derive(Serialize)]
pub struct OsType {
    #[serde(rename = "@arch")]
    pub arch: &'static str,
    #[serde(rename = "@machine")]
    pub machine: &'static str,
    #[serde(rename = "$text")]
    pub kind: &'static str,
}

#[derive(Serialize)]
pub struct Features {
    pub acpi: Empty,
    pub apic: Empty,
}

#[derive(Serialize)]
pub struct Cpu {
    #[serde(rename = "@mode")]
    pub mode: &'static str,
    #[serde(rename = "@match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<&'static str>,
    #[serde(rename = "@check")]
    pub check: &'static str,
    #[serde(rename = "@migratable", skip_serializing_if = "Option::is_none")]
    pub migratable: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<CpuModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<Numa>,
}

#[derive(Serialize)]
pub struct Topology {
    #[serde(rename = "@sockets")]
    pub sockets: u32,
    #[serde(rename = "@dies")]
    pub dies: u32,
    #[serde(rename = "@cores")]
    pub cores: u32,
    #[serde(rename = "@threads")]
    pub threads: u32,
}

#[derive(Serialize)]
pub struct Cache {
    #[serde(rename = "@mode")]
    pub mode: &'static str,
}

#[derive(Serialize)]
pub struct Numa {
    pub cell: Vec<NumaCell>,
}

#[derive(Serialize)]
pub struct NumaCell {
    #[serde(rename = "@id")]
    pub id: u32,
    #[serde(rename = "@cpus", skip_serializing_if = "Option::is_none")]
    pub cpus: Option<String>,
    #[serde(rename = "@memory")]
    pub memory: u64,
    #[serde(rename = "@unit")]
    pub unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distances: Option<Distances>,
}

#[derive(Serialize)]
pub struct Distances {
    pub sibling: Vec<Sibling>,
}

#[derive(Serialize)]
pub struct Sibling {
    #[serde(rename = "@id")]
    pub id: u32,
    #[serde(rename = "@value")]
    pub value: u32,
}

#[derive(Serialize)]
pub struct CpuModel {
    #[serde(rename = "@fallback")]
    pub fallback: &'static str,
    #[serde(rename = "$text")]
    pub name: String,
}

#[derive(Serialize)]
pub struct Clock {
    #[serde(rename = "@offset")]
    pub offset: &'static str,
}

#[derive(Serialize)]
pub struct Devices {
    pub disk: Vec<Disk>,
    pub controller: Vec<Controller>,
    pub channel: Channel,
    pub tpm: Tpm,
    pub hostdev: Vec<Hostdev>,
    pub memballoon: Model,
    pub rng: Rng,
    pub vsock: Vsock,
}

#[derive(Serialize)]
pub struct Disk {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@device")]
    pub device: &'static str,
    pub driver: Driver,
    pub source: Source,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    pub backing: Option<Backing>,
    pub target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<&'static str>,
    pub address: GuestAddress,
}

#[derive(Default, Serialize)]
pub struct Driver {
    #[serde(rename = "@name")]
    pub name: &'static str,
    #[serde(rename = "@type")]
    pub format: &'static str,
    #[serde(rename = "@cache", skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    #[serde(rename = "@io", skip_serializing_if = "Option::is_none")]
    pub io: Option<&'static str>,
    #[serde(rename = "@iothread", skip_serializing_if = "Option::is_none")]
    pub iothread: Option<u32>,
    #[serde(rename = "@discard", skip_serializing_if = "Option::is_none")]
    pub discard: Option<&'static str>,
    #[serde(rename = "@error_policy", skip_serializing_if = "Option::is_none")]
    pub error_policy: Option<&'static str>,
    #[serde(rename = "@rerror_policy", skip_serializing_if = "Option::is_none")]
    pub rerror_policy: Option<&'static str>,
}

#[derive(Serialize)]
pub struct Source {
    #[serde(rename = "@file", skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(rename = "@dev", skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seclabel: Option<Seclabel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

#[derive(Serialize)]
pub struct Seclabel {
    #[serde(rename = "@model")]
    pub model: &'static str,
    #[serde(rename = "@relabel")]
    pub relabel: &'static str,
}

#[derive(Serialize)]
pub struct Encryption {
    #[serde(rename = "@format")]
    pub format: &'static str,
    pub secret: SecretRef,
}

#[derive(Serialize)]
pub struct SecretRef {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@uuid")]
    pub uuid: String,
}

#[derive(Default, Serialize)]
pub struct Backing {
    #[serde(rename = "@type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Without it libvirt looks for more below.
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    pub end: Option<Empty>,
}

#[derive(Serialize)]
pub struct Format {
    #[serde(rename = "@type")]
    pub kind: &'static str,
}

#[derive(Serialize)]
pub struct Target {
    #[serde(rename = "@dev")]
    pub dev: &'static str,
    #[serde(rename = "@bus")]
    pub bus: &'static str,
}

#[derive(Serialize)]
pub struct Controller {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@index")]
    pub index: u32,
    #[serde(rename = "@model", skip_serializing_if = "Option::is_none")]
    pub model: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<PortTarget>,
    #[serde(rename = "pcihole64", skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<GuestAddress>,
}

#[derive(Default, Serialize)]
pub struct PortTarget {
    #[serde(rename = "@hotplug", skip_serializing_if = "Option::is_none")]
    pub hotplug: Option<&'static str>,
    #[serde(rename = "@busNr", skip_serializing_if = "Option::is_none")]
    pub bus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
}

#[derive(Serialize)]
pub struct Window {
    #[serde(rename = "@unit")]
    pub unit: &'static str,
    #[serde(rename = "$text")]
    pub size: u64,
}

#[derive(Serialize)]
pub struct Channel {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    pub source: ChannelSource,
    pub target: ChannelTarget,
}

#[derive(Serialize)]
pub struct ChannelSource {
    #[serde(rename = "@mode")]
    pub mode: &'static str,
    #[serde(rename = "@path")]
    pub path: String,
}

#[derive(Serialize)]
pub struct ChannelTarget {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@name")]
    pub name: &'static str,
}

#[derive(Serialize)]
pub struct Tpm {
    #[serde(rename = "@model")]
    pub model: &'static str,
    pub backend: TpmBackend,
}

#[derive(Serialize)]
pub struct TpmBackend {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@version")]
    pub version: &'static str,
}

#[derive(Serialize)]
pub struct Hostdev {
    #[serde(rename = "@mode")]
    pub mode: &'static str,
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@managed")]
    pub managed: &'static str,
    pub source: HostdevSource,
    pub rom: Rom,
    pub address: GuestAddress,
}

#[derive(Serialize)]
pub struct HostdevSource {
    pub address: HostAddress,
}

#[derive(Serialize)]
pub struct HostAddress {
    #[serde(rename = "@domain")]
    pub domain: String,
    #[serde(rename = "@bus")]
    pub bus: String,
    #[serde(rename = "@slot")]
    pub slot: String,
    #[serde(rename = "@function")]
    pub function: String,
}

#[derive(Serialize)]
pub struct Rom {
    #[serde(rename = "@bar")]
    pub bar: &'static str,
}

#[derive(Serialize)]
pub struct GuestAddress {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@domain")]
    pub domain: &'static str,
    #[serde(rename = "@bus")]
    pub bus: String,
    #[serde(rename = "@slot")]
    pub slot: String,
    #[serde(rename = "@function")]
    pub function: &'static str,
}

#[derive(Serialize)]
pub struct Model {
    #[serde(rename = "@model")]
    pub model: &'static str,
}

#[derive(Serialize)]
pub struct Rng {
    #[serde(rename = "@model")]
    pub model: &'static str,
    pub backend: RngBackend,
    pub address: GuestAddress,
}

#[derive(Serialize)]
pub struct RngBackend {
    #[serde(rename = "@model")]
    pub model: &'static str,
    #[serde(rename = "$text")]
    pub source: &'static str,
}

#[derive(Serialize)]
pub struct Vsock {
    #[serde(rename = "@model")]
    pub model: &'static str,
    pub cid: Cid,
    pub address: GuestAddress,
}

#[derive(Serialize)]
pub struct Cid {
    #[serde(rename = "@auto")]
    pub auto: &'static str,
}

#[derive(Serialize)]
#[serde(rename = "secret")]
pub struct Secret {
    #[serde(rename = "@ephemeral")]
    pub ephemeral: &'static str,
    #[serde(rename = "@private")]
    pub private: &'static str,
    pub uuid: String,
    pub description: &'static str,
    pub usage: Usage,
}

#[derive(Serialize)]
pub struct Usage {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    pub volume: String,
}
