//! What is to be known of a machine before it can be judged, read below a root directory so that a machine may
//! also be a fixture. Nothing is judged here; what cannot be read is kept as the reason why not.

use crate::config::CommissionConfig;
use holm_proto::v1;
use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The most that is read of one file: `/proc/interrupts` of a machine of many processors is the longest.
const MAX_BYTES: u64 = 4 << 20;
/// Layers of block devices, one on the other.
const MAX_LAYERS: usize = 8;
/// Processes whose limits matter: libvirt's daemons, and QEMU, whose name the kernel cuts at 15 bytes.
const HYPERVISORS: [&str; 4] = ["libvirtd", "virtqemud", "qemu-system-", "qemu-kvm"];

/// Something seen, or why it was not.
pub type Seen<T> = Result<T, String>;

/// Differences between the fabric manager's partitions and the platform's; `None` where no fabric is driven.
pub type Fabric = Option<Result<Vec<String>, String>>;

/// A machine as it shows itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What the configuration demands beyond the list.
    pub wants: CommissionConfig,
    /// Its devices, ports and kernel.
    pub inventory: Seen<v1::Inventory>,
    /// Addresses of the members of each IOMMU group.
    pub groups: Seen<BTreeMap<u32, Vec<String>>>,
    /// Names of its IOMMUs.
    pub iommus: Seen<Vec<String>>,
    /// The kernel's command line.
    pub cmdline: Seen<String>,
    /// `/proc/interrupts`.
    pub interrupts: Seen<String>,
    /// `allow_unsafe_interrupts` of each module that has it.
    pub unsafe_interrupts: Seen<Vec<(&'static str, String)>>,
    /// Whether KSM runs, and pages that it has merged; `None` where the kernel has no KSM.
    pub ksm: Seen<Option<(u32, u64)>>,
    /// Where memory may be written to.
    pub swaps: Seen<Vec<Swap>>,
    /// What becomes of the memory of a process that crashes.
    pub core: Seen<Core>,
    /// MiB of huge pages by NUMA node.
    pub huge_pages: Seen<BTreeMap<u32, u64>>,
    /// Who keeps the clock, and whether it is right.
    pub clock: Seen<(String, bool)>,
    /// QEMU's version as libvirt gives it: major × 1 000 000 + minor × 1000 + release.
    pub qemu: Seen<u32>,
    /// The fabric.
    pub fabric: Fabric,
}

/// A swap area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// As `/proc/swaps` names it.
    pub path: String,
    /// Everything beneath it is encrypted, or it is memory itself.
    pub encrypted: bool,
}

/// What becomes of the memory of a process that crashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// `kernel.core_pattern`.
    pub pattern: String,
    /// `kernel.core_uses_pid`.
    pub uses_pid: bool,
    /// `max_core` in libvirt's `qemu.conf`, where it is set.
    pub max_core: Option<String>,
    /// The soft limit of each process of libvirt and QEMU, by its name.
    pub limits: Vec<(String, String)>,
}

impl Facts {
    /// Looks at the machine below `root`, whose sysfs is mounted at `sysfs`.
    pub fn read(
        root: &Path,
        sysfs: &Path,
        wants: CommissionConfig,
        inventory: Seen<v1::Inventory>,
        qemu: Seen<u32>,
        fabric: Fabric,
    ) -> Self {
        Self {
            wants,
            inventory,
            groups: groups(sysfs),
            iommus: names(&sysfs.join("class/iommu")),
            cmdline: demanded(&root.join("proc/cmdline")),
            interrupts: demanded(&root.join("proc/interrupts")),
            unsafe_interrupts: unsafe_interrupts(sysfs),
            ksm: ksm(sysfs),
            swaps: swaps(root, sysfs),
            core: core(root),
            huge_pages: huge_pages(sysfs),
            clock: clock(root),
            qemu,
            fabric,
        }
    }
}

/// A file's text without its line end; `None` where there is none.
fn text(path: &Path) -> Seen<Option<String>> {
    let failed = |error| format!("`{}` cannot be read: {error}", path.display());
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()))
}

fn demanded(path: &Path) -> Seen<String> {
    text(path)?.ok_or_else(|| format!("there is no `{}`", path.display()))
}

fn number<T: std::str::FromStr>(path: &Path, text: &str) -> Seen<T> {
    text.trim().parse().map_err(|_| format!("`{}` in `{}` is no number", text.escape_debug(), path.display()))
}

/// What a directory holds, in order; nothing where there is none.
fn names(directory: &Path) -> Seen<Vec<String>> {
    let failed = |error| format!("`{}` cannot be listed: {error}", directory.display());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn groups(sysfs: &Path) -> Seen<BTreeMap<u32, Vec<String>>> {
    let all = sysfs.join("kernel/iommu_groups");
    let mut groups = BTreeMap::new();
    for name in names(&all)? {
        groups.insert(number(&all, &name)?, names(&all.join(&name).join("devices"))?);
    }
    Ok(groups)
}

fn unsafe_interrupts(sysfs: &Path) -> Seen<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for module in ["vfio_iommu_type1", "iommufd"] {
        let path = sysfs.join("module").join(module).join("parameters/allow_unsafe_interrupts");
        if let Some(value) = text(&path)? {
            found.push((module, value));
        }
    }
    Ok(found)
}

fn ksm(sysfs: &Path) -> Seen<Option<(u32, u64)>> {
    let directory = sysfs.join("kernel/mm/ksm");
    let (run, shared) = (directory.join("run"), directory.join("pages_shared"));
    match text(&run)? {
        Some(value) => Ok(Some((number(&run, &value)?, number(&shared, &demanded(&shared)?)?))),
        None if sysfs.join("kernel/mm").is_dir() => Ok(None),
        None => Err(format!("there is no `{}`", sysfs.join("kernel/mm").display())),
    }
}

fn swaps(root: &Path, sysfs: &Path) -> Seen<Vec<Swap>> {
    let listed = demanded(&root.join("proc/swaps"))?;
    let mut swaps = Vec::new();
    for line in listed.lines().skip(1) {
        let mut words = line.split_whitespace();
        let Some(path) = words.next() else { continue };
        let name = path.strip_prefix("/dev/").filter(|_| words.next() == Some("partition"));
        let encrypted = match name.map(|name| block_device(sysfs, name)).transpose()?.flatten() {
            Some(device) => encrypted(sysfs, &device, MAX_LAYERS)?,
            // A file, or a device that sysfs does not know.
            None => false,
        };
        swaps.push(Swap { path: path.to_owned(), encrypted });
    }
    Ok(swaps)
}

/// The kernel's name of a block device, which `/dev/mapper` calls otherwise.
fn block_device(sysfs: &Path, name: &str) -> Seen<Option<String>> {
    let Some(mapped) = name.strip_prefix("mapper/") else {
        return Ok(
            (!name.contains('/') && sysfs.join("class/block").join(name).exists()).then(|| name.to_owned())
        );
    };
    for device in names(&sysfs.join("class/block"))? {
        if text(&sysfs.join("class/block").join(&device).join("dm/name"))?.as_deref() == Some(mapped) {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// Is all that is written to the device encrypted before it reaches a disk?
fn encrypted(sysfs: &Path, device: &str, layers: usize) -> Seen<bool> {
    let directory = sysfs.join("class/block").join(device);
    if text(&directory.join("dm/uuid"))?.is_some_and(|uuid| uuid.starts_with("CRYPT-")) {
        return Ok(true);
    }
    if device.starts_with("zram") {
        let backing = text(&directory.join("backing_dev"))?;
        return Ok(backing.is_none_or(|backing| backing == "none"));
    }
    let beneath = names(&directory.join("slaves"))?;
    if layers == 0 || beneath.is_empty() {
        return Ok(false);
    }
    for device in beneath {
        if !encrypted(sysfs, &device, layers - 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn core(root: &Path) -> Seen<Core> {
    let uses_pid = root.join("proc/sys/kernel/core_uses_pid");
    let max_core = text(&root.join("etc/libvirt/qemu.conf"))?.and_then(|conf| {
        let set = |line: &str| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == "max_core").then(|| value.trim().trim_matches('"').to_owned())
        };
        conf.lines().filter_map(set).next_back()
    });
    Ok(Core {
        pattern: demanded(&root.join("proc/sys/kernel/core_pattern"))?,
        uses_pid: text(&uses_pid)?.is_none_or(|value| value.trim() != "0"),
        max_core,
        limits: core_limits(&root.join("proc"))?,
    })
}

fn core_limits(proc: &Path) -> Seen<Vec<(String, String)>> {
    let mut limits = Vec::new();
    for id in names(proc)?.into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        let process = proc.join(&id);
        // One that ended meanwhile has neither.
        let Ok(Some(name)) = text(&process.join("comm")) else { continue };
        if !HYPERVISORS.iter().any(|one| name.starts_with(one)) {
            continue;
        }
        let Some(all) = text(&process.join("limits"))? else { continue };
        let limit = all
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"))
            .and_then(|rest| rest.split_whitespace().next())
            .ok_or_else(|| format!("the limits of process {id} do not say how large a core may be"))?;
        limits.push((name, limit.to_owned()));
    }
    Ok(limits)
}

fn huge_pages(sysfs: &Path) -> Seen<BTreeMap<u32, u64>> {
    let nodes = sysfs.join("devices/system/node");
    let mut found = BTreeMap::new();
    for name in names(&nodes)? {
        let Some(node) = name.strip_prefix("node").and_then(|id| id.parse().ok()) else { continue };
        let sizes = nodes.join(&name).join("hugepages");
        let mut kib = 0_u64;
        for size in names(&sizes)? {
            let Some(each) = size.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")) else {
                continue;
            };
            let path = sizes.join(&size).join("nr_hugepages");
            let count: u64 = number(&path, &demanded(&path)?)?;
            kib = kib.saturating_add(count.saturating_mul(number(&sizes, each)?));
        }
        found.insert(node, kib / 1024);
    }
    Ok(found)
}

/// The kernel would say it to who may ask it in C; those who keep the clock say it as well.
fn clock(root: &Path) -> Seen<(String, bool)> {
    if root.join("run/systemd/timesync/synchronized").exists() {
        return Ok(("systemd-timesyncd".to_owned(), true));
    }
    let pid: PathBuf = root.join("run/chrony/chronyd.pid");
    if let Some(id) = text(&pid)? {
        let alive =
            text(&root.join("proc").join(id.trim()).join("comm"))?.is_some_and(|name| name == "chronyd");
        if alive {
            return chrony().map(|right| ("chrony".to_owned(), right));
        }
    }
    if root.join("run/systemd/timesync").is_dir() {
        return Ok(("systemd-timesyncd".to_owned(), false));
    }
    Err("neither systemd-timesyncd nor chrony keeps it".to_owned())
}

/// chrony's own word, within 5 s. The last of its fields says whether it follows anybody.
fn chrony() -> Seen<bool> {
    let output = Command::new("timeout")
        .args(["--kill-after=1", "5", "chronyc", "-n", "-c", "tracking"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("chrony cannot be asked: {error}"))?;
    if !output.status.success() {
        return Err(format!("chrony does not answer: {}", output.status));
    }
    Ok(follows(&String::from_utf8_lossy(&output.stdout)))
}

fn follows(tracking: &str) -> bool {
    let leap = tracking.trim().rsplit(',').next().unwrap_or_default();
    ["Normal", "Insert second", "Delete second"].contains(&leap)
}

#[cfg(test)]
mod tests {
    use super::follows;

    #[test]
    fn chrony_says_whether_it_follows_anybody() {
        assert!(follows(
            "C0A80001,192.168.0.1,3,1790000000.1,0.000,0.0,0.0,1.0,0.0,0.1,0.0,0.0,64.0,Normal\n"
        ));
        assert!(!follows("00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n"));
        assert!(!follows(""));
    }
}
