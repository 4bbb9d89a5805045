//! What encryption costs, on the disk of the machine it runs on: `tests/run bench storage` runs it on the virtual
//! DGX-2. That is an emulated processor, so what counts are ratios, and there encryption costs more beside the disk
//! than on a real host. It judges nothing. Everything on `HOLM_BENCH_DISK` is lost.
//!
//! `fio` reads and writes past the page cache. What a slice would see of a volume it reads through QEMU: an NBD server
//! (`qemu-storage-daemon`) in the place of a machine, so QEMU's qcow2 and LUKS are in it and a guest's virtio is not.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod plot;

use holm_agent::{
    config::{ImageFormat, LvmName, StorageBackend, StorageConfig},
    edge::{Key, VolumeKind as Kind},
    storage::{Disk, Hand, Volumes, passphrase},
};
use holm_proto::ids::VolumeId;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
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

/// Something to read and write: as many of a kind as are used at once.
struct Target {
    name: &'static str,
    /// What `fio` is told of each.
    each: Vec<Vec<String>>,
}

const RAW: &str = "raw disk";
/// Opened by hand, with the options that volumes are opened with.
const PLAIN: &str = "dm-crypt by hand";
/// As `cryptsetup` does it by itself: with work queues.
const QUEUES: &str = "dm-crypt, queues";
const LVM: &str = "lvm-luks2";
const RAW_QEMU: &str = "raw disk, QEMU";
const LVM_QEMU: &str = "lvm-luks2, QEMU";
const QCOW2_QEMU: &str = "qcow2-luks, QEMU";

/// What a target is measured by: nothing encrypted, reached in the same way.
fn raw_of(target: &str) -> &'static str {
    if [RAW_QEMU, LVM_QEMU, QCOW2_QEMU].contains(&target) { RAW_QEMU } else { RAW }
}

fn main() {
    let Ok(disk) = std::env::var("HOLM_BENCH_DISK") else {
        println!("HOLM_BENCH_DISK names no disk that may be written over: see `tests/run bench storage`");
        return;
    };
    let rounds = std::env::var("HOLM_BENCH_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let ground = Ground::new(&disk, directory.path());

    let times = provisioning(&ground, rounds);
    let (targets, held) = ground.targets();
    let figures = throughput(&targets, rounds);
    drop(held);

    println!("\n{}\n{}", throughput_table(&targets, &figures), provisioning_table(&times));
    println!("{}", verdict(&figures, &times));
    if let Some(path) = std::env::var_os("HOLM_PLOT") {
        fs::write(path, plot(&figures)).unwrap();
    }
}

/// Where volumes are made.
struct Ground<'a> {
    disk: &'a str,
    directory: &'a Path,
    files: PathBuf,
}

impl<'a> Ground<'a> {
    fn new(disk: &'a str, directory: &'a Path) -> Self {
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
        make_lv("files", &["--size", "16g"]);
        let device = format!("/dev/{GROUP}/files");
        run("mkfs.ext4", &["-q", "-E", "nodiscard", &device]);
        let files = directory.join("files");
        fs::create_dir(&files).unwrap();
        run("mount", &[&device, files.to_str().unwrap()]);
        fs::write(directory.join("base.raw"), vec![0; 1 << 20]).unwrap();
        Self { disk, directory, files }
    }

    fn volumes(&self, backend: StorageBackend, pool: Option<&str>) -> Volumes {
        let name = |name: &str| LvmName::try_from(name.to_owned()).unwrap();
        Volumes::new(StorageConfig {
            backend,
            volumes: self.files.join("volumes"),
            volume_group: (backend == StorageBackend::LvmLuks2).then(|| name(GROUP)),
            thin_pool: pool.map(name),
            discard: false,
            base_image: self.directory.join("base.raw"),
            base_format: ImageFormat::Raw,
            qemu_img: "/usr/bin/qemu-img".into(),
        })
        .unwrap()
    }

    /// All that is compared, written over once; and what holds it open.
    fn targets(&self) -> (Vec<Target>, Held) {
        let mut hands = Vec::new();
        // No volume is kept by both: that would be refused.
        let mut open = |backend, first| -> Vec<String> {
            let volumes = self.volumes(backend, None);
            let one = |at| {
                volumes.create(id(at), Kind::Data, 1, &key()).unwrap();
                let (Disk::File(path) | Disk::Block(path), hand) = volumes.open(id(at), &key()).unwrap();
                hands.push(hand);
                path.to_str().unwrap().to_owned()
            };
            (first..first + VOLUMES).map(one).collect()
        };
        let lvm = open(StorageBackend::LvmLuks2, 0);
        let qcow2 = open(StorageBackend::Qcow2Luks, VOLUMES);
        let without = ["--perf-no_read_workqueue", "--perf-no_write_workqueue"];
        let plain: Vec<String> = (0..VOLUMES).map(|at| crypt("plain", at, &without)).collect();
        let queues: Vec<String> = (0..VOLUMES).map(|at| crypt("queues", at, &[])).collect();

        let kernel = |path: &str| vec!["--ioengine=libaio".to_owned(), format!("--filename={path}")];
        let raw_disk = |at| {
            let start = start_of(&format!("raw{at}"));
            [kernel(self.disk), vec![format!("--offset={start}")]].concat()
        };
        let socket = self.directory.join("nbd");
        let mut served = Vec::new();
        let mut qemu = |name: &str, image: &dyn Fn(usize) -> String| {
            let one = |at| {
                let name = format!("{name}{at}");
                served.push((name.clone(), image(at)));
                let uri = format!("--uri=nbd+unix:///{name}?socket={}", socket.display());
                vec!["--ioengine=nbd".to_owned(), uri]
            };
            (0..VOLUMES).map(one).collect()
        };
        let device = |path: &str| format!("driver=host_device,filename={path},cache.direct=on,aio=native");
        let image = |path: &str| {
            format!(
                "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.driver=file,file.filename={path},\
                 cache.direct=on,file.aio=native"
            )
        };
        let target = |name, each| Target { name, each };
        let targets = vec![
            target(RAW, (0..VOLUMES).map(raw_disk).collect()),
            target(PLAIN, plain.iter().map(|path| kernel(path)).collect()),
            target(QUEUES, queues.iter().map(|path| kernel(path)).collect()),
            target(LVM, lvm.iter().map(|path| kernel(path)).collect()),
            target(RAW_QEMU, qemu("raw", &|at| device(&format!("/dev/{GROUP}/raw{at}")))),
            target(LVM_QEMU, qemu("lvm", &|at| device(&lvm[at]))),
            target(QCOW2_QEMU, qemu("qcow2", &|at| image(&qcow2[at]))),
        ];
        let held = Held { server: serve(&socket, &served), _hands: hands };
        for target in &targets {
            println!("writing {AREA_MIB} MiB of each: {}", target.name);
            fio(LOADS[1], &target.each, None);
        }
        (targets, held)
    }
}

/// What keeps volumes open until all is measured.
struct Held {
    server: PathBuf,
    _hands: Vec<Hand>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.server).unwrap();
        run("kill", &[pid.trim()]);
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

/// Where a logical volume of one piece begins on its disk, bytes.
fn start_of(name: &str) -> u64 {
    let table = run("dmsetup", &["table", &format!("{GROUP}-{name}")]);
    assert_eq!(table.lines().count(), 1, "{table}");
    table.split_whitespace().last().unwrap().parse::<u64>().unwrap() * 512
}

/// A logical volume opened with the cipher and the sectors that volumes have, and with these options.
fn crypt(lv: &str, at: usize, options: &[&str]) -> String {
    let (name, device) = (format!("{GROUP}-{lv}-open{at}"), format!("/dev/{GROUP}/{lv}{at}"));
    let words = ["open", "--batch-mode", "--type", "plain", "--key-file", "/dev/urandom"];
    let like = ["--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096"];
    run("cryptsetup", &[&words[..], &like, options, &[&device, &name]].concat());
    format!("/dev/mapper/{name}")
}

/// Serves volumes over NBD. The file where the server's process id is.
fn serve(socket: &Path, volumes: &[(String, String)]) -> PathBuf {
    let pid = socket.with_extension("pid");
    let mut command = Command::new("/usr/bin/qemu-storage-daemon");
    // It returns when it serves.
    command.arg("--daemonize").arg("--pidfile").arg(&pid);
    command.args(["--object", "secret,id=key,file=/proc/self/fd/0"]);
    command.arg("--nbd-server").arg(format!("addr.type=unix,addr.path={}", socket.display()));
    for (name, options) in volumes {
        command.args(["--blockdev", &format!("node-name={name},{options}")]);
        command
            .args(["--export", &format!("type=nbd,id=of-{name},node-name={name},name={name},writable=on")]);
    }
    let mut starting = command.stdin(Stdio::piped()).spawn().unwrap();
    starting.stdin.take().unwrap().write_all(passphrase(&key()).as_bytes()).unwrap();
    assert!(starting.wait().unwrap().success(), "no server");
    pid
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

/// Bytes a second of all that it is told to do at once: for so long, or once over the area.
fn fio(load: Load, each: &[Vec<String>], time: Option<Duration>) -> f64 {
    let mut words =
        ["--output-format=json", "--group_reporting", "--thread", "--direct=1"].map(str::to_owned).to_vec();
    words.push(format!("--rw={}", load.pattern));
    words.push(format!("--bs={}", load.block));
    words.push(format!("--iodepth={}", load.depth));
    words.push(format!("--size={AREA_MIB}M"));
    if let Some(time) = time {
        words.extend(["--time_based".to_owned(), format!("--runtime={}ms", time.as_millis())]);
        words.push("--ramp_time=300ms".to_owned());
    }
    for (at, one) in each.iter().enumerate() {
        words.push(format!("--name=job{at}"));
        words.extend(one.iter().cloned());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = run("fio", &words);
    let report = said.find('{').map(|at| &said[at..]).unwrap();
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let side = if load.pattern.ends_with("read") { "read" } else { "write" };
    let jobs = report["jobs"].as_array().unwrap();
    jobs.iter().map(|job| job[side]["bw_bytes"].as_f64().unwrap()).sum()
}

/// Bytes a second: the median of some rounds, by load, volumes at once and target.
type Figures = BTreeMap<(usize, usize, &'static str), f64>;

/// Each target in turn, again and again: what else the machine does meets all alike.
fn throughput(targets: &[Target], rounds: usize) -> Figures {
    let mut all: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        println!("reading and writing, round {round} of {rounds}");
        for (at, load) in LOADS.iter().enumerate() {
            for at_once in [1, VOLUMES] {
                for target in targets {
                    let found = fio(*load, &target.each[..at_once], Some(Duration::from_secs(1)));
                    all.entry((at, at_once, target.name)).or_default().push(found);
                }
            }
        }
    }
    all.into_iter().map(|(key, found)| (key, median(found))).collect()
}

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
                let plain = if [LVM, QUEUES].contains(&target.name) {
                    format!("{:.2}", found / of(PLAIN))
                } else {
                    String::new()
                };
                let (mib, iops) = (found / f64::from(1 << 20), found / f64::from(load.block));
                let raw = found / of(raw_of(target.name));
                let row = format!(
                    "{:<24} {at_once:>7}  {:<17} {mib:>8.1} {iops:>8.0} {raw:>7.2} {plain:>12}",
                    load.name, target.name
                );
                writeln!(table, "{}", row.trim_end()).unwrap();
            }
        }
    }
    table + "QEMU: over NBD, and beside the raw disk over NBD\n"
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
    let series = [PLAIN, LVM, LVM_QEMU, QCOW2_QEMU];
    let mut groups = Vec::new();
    for (at, load) in LOADS.iter().enumerate() {
        for at_once in [1, VOLUMES] {
            let of = |name| figures[&(at, at_once, name)];
            let ratios = series.iter().map(|name| of(name) / of(raw_of(name))).collect();
            groups.push((format!("{}, {at_once} at once", load.name), ratios));
        }
    }
    plot::bars(
        "Throughput beside the raw disk's, on the virtual DGX-2 (emulated processor)",
        &series,
        &groups,
    )
}
