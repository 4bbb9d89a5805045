//! Reading the PCI tree out of sysfs. Nothing is remembered: each call looks again.

use crate::edge::{EdgeError, Result};
use holm_proto::ids::PciAddress;
use std::{
    fs,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
};

/// The most that is read of one attribute; the kernel writes a page at most.
const MAX_ATTRIBUTE_BYTES: u64 = 4096;
/// The most that is kept of a name that a part of the machine gives itself.
const MAX_LABEL_CHARS: usize = 64;
/// The most of a text that an error repeats.
const MAX_SHOWN_CHARS: usize = 40;
/// No list of processors or nodes goes as far.
const MAX_MEMBER: u32 = 1 << 16;
/// A BAR below a page is registers.
const PAGE_BYTES: u64 = 4096;

/// A mounted sysfs.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

/// One PCI function as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciFunction {
    /// Where it is.
    pub address: PciAddress,
    /// What it is, `vvvv:dddd`.
    pub id: String,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// Its NUMA node; -1 where the firmware does not say.
    pub numa_node: i32,
    /// Its IOMMU group, where there is an IOMMU.
    pub group: Option<u32>,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// The ways to reset it, the preferred one first.
    pub reset_methods: Vec<String>,
    /// Its base address registers.
    pub bars: Vec<Bar>,
}

/// One base address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// 0 to 5.
    pub index: u32,
    /// Its size.
    pub bytes: u64,
    /// It is memory whose reads have no side effects.
    pub prefetchable: bool,
}

impl PciFunction {
    /// A bridge belongs to the tree and not to a user: VFIO lets it keep its own driver.
    pub fn is_bridge(&self) -> bool {
        matches!(self.class >> 8, 0x0600 | 0x0604)
    }

    /// The BARs that hold the device's own memory: prefetchable ones of a page or more. PCI calls memory
    /// prefetchable when a read changes nothing, which registers cannot promise; what is not prefetchable
    /// or is below a page is registers or an interrupt table.
    pub fn memory_bars(&self) -> impl Iterator<Item = Bar> + '_ {
        self.bars.iter().copied().filter(|bar| bar.prefetchable && bar.bytes >= PAGE_BYTES)
    }

    /// Sum of the memory BARs, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bars().map(|bar| bar.bytes).fold(0, u64::saturating_add)
    }
}

impl Sysfs {
    /// The sysfs mounted at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path in it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Where the kernel keeps a function's attributes.
    pub fn device(&self, address: PciAddress) -> PathBuf {
        self.root.join("bus/pci/devices").join(address.to_string())
    }

    /// Every PCI function, in the order of addresses. A machine without PCI has none.
    pub fn functions(&self) -> Result<Vec<PciFunction>> {
        let mut functions = Vec::new();
        for address in self.addresses(&self.root.join("bus/pci/devices"))? {
            functions.extend(self.function(address)?);
        }
        Ok(functions)
    }

    /// One PCI function; `None` where there is none at this address.
    pub fn function(&self, address: PciAddress) -> Result<Option<PciFunction>> {
        self.try_function(address)
            .map_err(|cause| EdgeError::because(format!("sysfs does not describe `{address}`"), cause))
    }

    /// Every function of an IOMMU group, in the order of addresses.
    pub fn group_members(&self, group: u32) -> Result<Vec<PciFunction>> {
        let mut members = Vec::new();
        for address in self.group_addresses(group)? {
            members.extend(self.function(address)?);
        }
        Ok(members)
    }

    /// The text of an attribute without its line end; `None` where it does not exist.
    pub fn attribute(&self, path: &Path) -> Result<Option<String>> {
        attribute(path)
            .map_err(|cause| EdgeError::because(format!("cannot read `{}`", path.display()), cause))
    }

    /// The start of an attribute that is not text: a function's configuration space, 4096 bytes of it for
    /// root, 64 for anybody else; `None` where it does not exist.
    pub fn bytes(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        bytes(path).map_err(|cause| EdgeError::because(format!("cannot read `{}`", path.display()), cause))
    }

    /// A name that a part of the machine gives itself: it may hold anything, and is shortened and cleaned
    /// rather than refused. Empty where it does not exist.
    pub fn label(&self, path: &Path) -> Result<String> {
        let bytes = self.bytes(path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Ok(clean.trim().chars().take(MAX_LABEL_CHARS).collect::<String>().trim_end().to_owned())
    }

    /// A whole number in an attribute; `None` where it does not exist.
    pub fn number(&self, path: &Path) -> Result<Option<u64>> {
        let Some(text) = self.attribute(path)? else { return Ok(None) };
        let bad = || EdgeError::new(format!("`{}` in `{}` is not a number", shown(&text), path.display()));
        text.parse().map(Some).map_err(|_| bad())
    }

    /// The members of a list such as `0-3,8`; `None` where it does not exist.
    pub fn list(&self, path: &Path) -> Result<Option<Vec<u32>>> {
        let Some(text) = self.attribute(path)? else { return Ok(None) };
        let bad =
            || EdgeError::new(format!("`{}` in `{}` is not a list of numbers", shown(&text), path.display()));
        let mut members = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) =
                (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
            if first > last || last >= MAX_MEMBER {
                return Err(bad());
            }
            members.extend(first..=last);
            if members.len() > MAX_MEMBER as usize {
                return Err(bad());
            }
        }
        Ok(Some(members))
    }

    /// The names in a directory, in order; none where it does not exist.
    pub fn names(&self, directory: &Path) -> Result<Vec<String>> {
        let failed = |cause| EdgeError::because(format!("cannot list `{}`", directory.display()), cause);
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            // The kernel's own names are ASCII: another one is of nothing that is looked for.
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Where a link of sysfs leads: the parts of its path, and nothing where there is no link.
    pub fn link(&self, path: &Path) -> Result<Vec<String>> {
        let target = match fs::read_link(path) {
            Ok(target) => target,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                return Ok(Vec::new());
            }
            Err(error) => {
                return Err(EdgeError::because(format!("cannot follow `{}`", path.display()), error));
            }
        };
        Ok(target.iter().filter_map(|part| part.to_str().map(str::to_owned)).collect())
    }

    /// The addresses of an IOMMU group's members, in order.
    pub fn group_addresses(&self, group: u32) -> Result<Vec<PciAddress>> {
        self.addresses(&self.root.join(format!("kernel/iommu_groups/{group}/devices")))
    }

    fn addresses(&self, directory: &Path) -> Result<Vec<PciAddress>> {
        // A segment beyond 16 bits (a virtual root complex of a hypervisor) holds no device of ours.
        let mut addresses: Vec<PciAddress> =
            self.names(directory)?.iter().filter_map(|name| name.parse().ok()).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    fn try_function(&self, address: PciAddress) -> io::Result<Option<PciFunction>> {
        let directory = self.device(address);
        let read = |name: &str| attribute(&directory.join(name));
        let (Some(vendor), Some(device), Some(class)) = (read("vendor")?, read("device")?, read("class")?)
        else {
            return Ok(None);
        };
        let group = link_name(&directory.join("iommu_group"))?;
        Ok(Some(PciFunction {
            address,
            id: format!("{:04x}:{:04x}", hex(&vendor)?, hex(&device)?),
            class: u32::try_from(hex(&class)?).map_err(io::Error::other)?,
            numa_node: match read("numa_node")? {
                Some(text) => text.parse().map_err(io::Error::other)?,
                None => -1,
            },
            group: group.map(|name| name.parse()).transpose().map_err(io::Error::other)?,
            driver: link_name(&directory.join("driver"))?,
            reset_methods: read("reset_method")?
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            bars: bars(&read("resource")?.unwrap_or_default())?,
        }))
    }
}

/// Reads the first six lines of `resource`: start, end and the kernel's flags of each BAR.
fn bars(text: &str) -> io::Result<Vec<Bar>> {
    const IORESOURCE_MEM: u64 = 0x200;
    const IORESOURCE_PREFETCH: u64 = 0x2000;
    let mut bars = Vec::new();
    for (index, line) in (0..6).zip(text.lines()) {
        let mut fields = line.split_whitespace();
        let (Some(start), Some(end), Some(flags), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(io::Error::other(format!("`{}` is not a resource", shown(line))));
        };
        let (start, end, flags) = (hex(start)?, hex(end)?, hex(flags)?);
        if flags & IORESOURCE_MEM != 0 && end > start {
            bars.push(Bar {
                index,
                bytes: (end - start).saturating_add(1),
                prefetchable: flags & IORESOURCE_PREFETCH != 0,
            });
        }
    }
    Ok(bars)
}

fn attribute(path: &Path) -> io::Result<Option<String>> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(Some(text.trim_end().to_owned()))
}

fn bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_ATTRIBUTE_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn link_name(path: &Path) -> io::Result<Option<String>> {
    match fs::read_link(path) {
        Ok(target) => Ok(target.file_name().and_then(|name| name.to_str()).map(str::to_owned)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn hex(text: &str) -> io::Result<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|error| io::Error::other(format!("`{}`: {error}", shown(text))))
}

/// The start of a text that makes no sense, for the error that says so.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect()
}
