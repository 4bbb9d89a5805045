//! What encryption costs, on the disk of the machine it runs on: `tests/run bench storage` runs it on the virtual
//! DGX-2. That is an emulated processor, so what counts are ratios, and there encryption costs more beside the disk
//! than on a real host. It judges nothing. Everything on `HOLM_BENCH_DISK` is lost.
//!
//! `fio` reads and writes past the page cache, in a machine that has all of the disks as slices have theirs (`slice`).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod plot;
mod slice;

use self::slice::Target;
use holm_agent::{
    config::{ImageFormat, LvmName, Overcommit, StorageBackend, StorageConfig},
    edge::{Key, VolumeKind as Kind},
    storage::{Disk, Hand, Volumes},
};
use holm_proto::ids::VolumeId;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// What is read and written of each volume, MiB: written once before, so that nothing of it is a hole.
const AREA_MIB: u64 = 64;
/// At most so many volumes at once.
const VOLUMES: usize = 4;
const GROUP: &str = "holmbench";

/// A pattern of requests.
#[derive(Debug, Clone, Copy)]
struct Load {
    name: &'static str,
    /// As `fio` calls it.
    pattern: &'static str,
    /// Bytes of a request.
    block: u32,
    /// Requests at once, to each volume.
    depth: u32,
}

const LOADS: [Load; 4] = [
    Load { name: "sequential read, 1 MiB", pattern: "read", block: 1 << 20, depth: 4 },
    Load { name: "sequential write, 1 MiB", pattern: "write", block: 1 << 20, depth: 4 },
    Load { name: "random read, 4 KiB", pattern: "randread", block: 4096, depth: 16 },
    Load { name: "random write, 4 KiB", pattern: "randwrite", block: 4096, depth: 16 },
];

const RAW: &str = "raw disk";
/// Opened by hand, with the options that volumes are opened with.
const PLAIN: &str = "dm-crypt by hand";
/// As `cryptsetup` does it by itself: with work queues.
const QUEUES: &str = "dm-crypt, queues";
const LVM: &str = "lvm-luks2";
const QCOW2: &str = "qcow2-luks";

fn main() {
    let Ok(disk) = std::env::var("HOLM_BENCH_DISK") else {
        println!("HOLM_BENCH_DISK names no disk that may be written over: see `tests/run bench storage`");
        return;
    };
    let rounds = std::env::var("HOLM_BENCH_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let ground = Ground::new(&disk, directory.path());

    let times = provisioning(&ground, rounds);
    let (targets, _hands) = ground.targets();
    let figures = slice::throughput(ground.directory, &targets, rounds);

    println!("\n{}\n{}", throughput_table(&targets, &figures), provisioning_table(&times));
    println!("{}", verdict(&figures, &times));
    if let Some(path) = std::env::var_os("HOLM_PLOT") {
        fs::write(path, plot(&figures)).unwrap();
    }
}

/// Where volumes are made.
struct Ground<'a> {
    directory: &'a Path,
    files: PathBuf,
}

impl<'a> Ground<'a> {
    fn new(disk: &str, directory: &'a Path) -> Self {
        run("vgcreate", &["--quiet", "--yes", GROUP, disk]);
        for at in 0..VOLUMES {
            make_lv(&format!("raw{at}"), &["--size", "1g"]);
            make_lv(&format!("plain{at}"), &["--size", "1g"]);
            make_lv(&format!("queues{at}"), &["--size", "1g"]);
        }
        run(
            "lvcreate",
            &["--quiet", "--yes", "--type", "thin-pool", "--size", "1100g", "--name", "pool", GROUP],
        );
        // No more is promised to volumes than there is.
        make_lv("files", &["--size", "1100g"]);
        let device = format!("/dev/{GROUP}/files");
        run("mkfs.ext4", &["-q", "-T", "largefile4", "-E", "nodiscard", &device]);
        let files = directory.join("files");
        fs::create_dir(&files).unwrap();
        run("mount", &[&device, files.to_str().unwrap()]);
        fs::write(directory.join("base.raw"), vec![0; 1 << 20]).unwrap();
        Self { directory, files }
    }

    fn volumes(&self, backend: StorageBackend, pool: Option<&str>) -> Volumes {
        let name = |name: &str| LvmName::try_from(name.to_owned()).unwrap();
        Volumes::new(StorageConfig {
            backend,
            volumes: self.files.join("volumes"),
            volume_group: (backend == StorageBackend::LvmLuks2).then(|| name(GROUP)),
            thin_pool: pool.map(name),
            discard: false,
            overcommit: Overcommit::default(),
            base_image: self.directory.join("base.raw"),
            base_format: ImageFormat::Raw,
            qemu_img: "/usr/bin/qemu-img".into(),
        })
        .unwrap()
    }

    /// All that is compared, and what holds it open.
    fn targets(&self) -> (Vec<Target>, Vec<Hand>) {
        let mut hands = Vec::new();
        // No volume is kept by both: that would be refused.
        let mut open = |backend, first| -> Vec<Disk> {
            let volumes = self.volumes(backend, None);
            let one = |at| {
                volumes.create(id(at), Kind::Data, 1, &key()).unwrap();
                let (disk, hand) = volumes.open(id(at), &key()).unwrap();
                hands.push(hand);
                disk
            };
            (first..first + VOLUMES).map(one).collect()
        };
        let lvm = open(StorageBackend::LvmLuks2, 0);
        let qcow2 = open(StorageBackend::Qcow2Luks, VOLUMES);
        let without = ["--perf-no_read_workqueue", "--perf-no_write_workqueue"];
        let device = |path: String| format!("driver=host_device,filename={path},cache.direct=on,aio=native");
        // As the agent has libvirt do it.
        let volume = |disk: &Disk| match disk {
            Disk::Block(path) => format!(
                "driver=qcow2,file.driver=host_device,file.filename={},file.cache.direct=on,file.aio=native",
                path.display()
            ),
            Disk::File(path) => format!(
                "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.driver=file,file.filename={}",
                path.display()
            ),
        };
        let each = |make: &dyn Fn(usize) -> String| (0..VOLUMES).map(make).collect();
        let target = |name, each| Target { name, each };
        let targets = vec![
            target(RAW, each(&|at| device(format!("/dev/{GROUP}/raw{at}")))),
            target(PLAIN, each(&|at| device(crypt("plain", at, &without)))),
            target(QUEUES, each(&|at| device(crypt("queues", at, &[])))),
            target(LVM, lvm.iter().map(volume).collect()),
            target(QCOW2, qcow2.iter().map(volume).collect()),
        ];
        (targets, hands)
    }
}

fn id(at: usize) -> VolumeId {
    format!("6f9619ff-8b86-4d01-b42d-{at:012x}").parse().unwrap()
}

fn key() -> Key {
    Key::new(Box::new([7; 32]))
}

fn make_lv(name: &str, what: &[&str]) {
    let words = ["--quiet", "--yes", "--wipesignatures", "n", "--name", name];
    run("lvcreate", &[&words[..], what, &[GROUP]].concat());
}

/// A logical volume opened with the cipher and the sectors that volumes have, and with these options.
fn crypt(lv: &str, at: usize, options: &[&str]) -> String {
    let (name, device) = (format!("{GROUP}-{lv}-open{at}"), format!("/dev/{GROUP}/{lv}{at}"));
    let words = ["open", "--batch-mode", "--type", "plain", "--key-file", "/dev/urandom"];
    let like = ["--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096"];
    run("cryptsetup", &[&words[..], &like, options, &[&device, &name]].concat());
    format!("/dev/mapper/{name}")
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new("/usr/bin/env")
        .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", program])
        .args(words)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{program} {}` failed: {complaint}", words.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes a second: the median of some rounds, by load, volumes at once and target.
type Figures = BTreeMap<(usize, usize, &'static str), f64>;

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    let middle = of.len() / 2;
    if of.len() % 2 == 1 { of[middle] } else { f64::midpoint(of[middle - 1], of[middle]) }
}

/// Seconds: the median of some rounds, by back end, kind and GiB.
type Times = BTreeMap<(&'static str, &'static str, u64), f64>;

fn provisioning(ground: &Ground<'_>, rounds: usize) -> Times {
    let backends = [
        ("qcow2-luks", ground.volumes(StorageBackend::Qcow2Luks, None)),
        ("lvm-luks2", ground.volumes(StorageBackend::LvmLuks2, None)),
        ("lvm-luks2, thin pool", ground.volumes(StorageBackend::LvmLuks2, Some("pool"))),
    ];
    let mut all: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    // The first brings programs into memory, and does not count.
    for round in 0..=rounds {
        println!("making volumes, round {round} of {rounds}");
        for (name, volumes) in &backends {
            for (kind, kind_name) in [(Kind::Root, "root"), (Kind::Data, "data")] {
                for gib in [1, 1024] {
                    let started = Instant::now();
                    volumes.create(id(0), kind, gib, &key()).unwrap();
                    let took = started.elapsed().as_secs_f64();
                    assert!(volumes.erase(id(0)).unwrap().erased);
                    volumes.forget(id(0)).unwrap();
                    if round > 0 {
                        all.entry((*name, kind_name, gib)).or_default().push(took);
                    }
                }
            }
        }
    }
    all.into_iter().map(|(key, found)| (key, median(found))).collect()
}

fn throughput_table(targets: &[Target], figures: &Figures) -> String {
    let mut table = format!(
        "{:<24} {:>7}  {:<17} {:>8} {:>8} {:>7} {:>12}\n",
        "requests", "at once", "of", "MiB/s", "IOPS", "to raw", "to dm-crypt"
    );
    for (at, load) in LOADS.iter().enumerate() {
        for at_once in [1, VOLUMES] {
            for target in targets {
                let of = |name| figures[&(at, at_once, name)];
                let found = of(target.name);
                let plain = if target.name != RAW && target.name != PLAIN {
                    format!("{:.2}", found / of(PLAIN))
                } else {
                    String::new()
                };
                let (mib, iops) = (found / f64::from(1 << 20), found / f64::from(load.block));
                let raw = found / of(RAW);
                let row = format!(
                    "{:<24} {at_once:>7}  {:<17} {mib:>8.1} {iops:>8.0} {raw:>7.2} {plain:>12}",
                    load.name, target.name
                );
                writeln!(table, "{}", row.trim_end()).unwrap();
            }
        }
    }
    table
}

fn provisioning_table(times: &Times) -> String {
    let mut table =
        format!("{:<24} {:>7} {:>9} {:>9} {:>7}\n", "making a volume", "kind", "1 GiB", "1 TiB", "ratio");
    for (name, kind) in made(times) {
        let (small, large) = (times[&(name, kind, 1)], times[&(name, kind, 1024)]);
        let ratio = large / small;
        writeln!(table, "{name:<24} {kind:>7} {small:>7.2} s {large:>7.2} s {ratio:>7.2}").unwrap();
    }
    table
}

fn made(times: &Times) -> impl Iterator<Item = (&'static str, &'static str)> {
    times.keys().filter(|(.., gib)| *gib == 1).map(|(name, kind, _)| (*name, *kind))
}

/// What was wanted, and whether it is so.
fn verdict(figures: &Figures, times: &Times) -> String {
    let yes = |is| if is { "yes" } else { "NO" };
    let least = figures
        .iter()
        .filter(|((.., name), _)| *name == LVM)
        .map(|((at, at_once, _), found)| found / figures[&(*at, *at_once, PLAIN)])
        .fold(f64::INFINITY, f64::min);
    let most = made(times)
        .map(|(name, kind)| (times[&(name, kind, 1024)] / times[&(name, kind, 1)] - 1.0).abs())
        .fold(0.0, f64::max);
    format!(
        "wanted: lvm-luks2 at 0.9 of dm-crypt by hand or more: {}, the least is {least:.2}\n\
         wanted: 1 TiB is made within 20 % of the time for 1 GiB: {}, the most is {:.0} %",
        yes(least >= 0.9),
        yes(most <= 0.2),
        most * 100.0
    )
}

fn plot(figures: &Figures) -> String {
    let series = [PLAIN, LVM, QCOW2];
    let mut groups = Vec::new();
    for (at, load) in LOADS.iter().enumerate() {
        for at_once in [1, VOLUMES] {
            let of = |name| figures[&(at, at_once, name)];
            let ratios = series.iter().map(|name| of(name) / of(RAW)).collect();
            groups.push((format!("{}, {at_once} at once", load.name), ratios));
        }
    }
    plot::bars(
        "Throughput in a slice beside the raw disk's, on the virtual DGX-2 (emulated processor)",
        &series,
        &groups,
    )
}
