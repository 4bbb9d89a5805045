//! What a slice sees of volumes: a machine with each of them as a disk, as slices have theirs, and `fio` in it.
//!
//! The machine boots the kernel and modules of the guest image, and from memory: what it measures has the disks to itself.
//! It says one line a measurement on its serial port, and ends.

use super::{AREA_MIB, Figures, LOADS, VOLUMES, key, median, run};
use holm_agent::storage::passphrase;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// Something to read and write: as many disks of a kind as are used at once.
pub struct Target {
    /// As people read it.
    pub name: &'static str,
    /// Of each disk, what QEMU is told of it (`-blockdev`, without its name).
    pub each: Vec<String>,
}

/// Bytes a second of each target, with each load.
pub fn throughput(directory: &Path, targets: &[Target], rounds: usize) -> Figures {
    let initrd = directory.join("initrd");
    make_initrd(&initrd, &directory.join("tree"), &script(targets, rounds));
    let told = fs::read_to_string(Path::new(&image()).join("cmdline")).unwrap();
    // What slices have no use for: a disk to boot from is not here, a serial port is.
    let told = told
        .split_whitespace()
        .filter(|word| !["root=", "console=", "8250."].iter().any(|no| word.starts_with(no)));
    let told = told.collect::<Vec<_>>().join(" ");
    let mut command = Command::new("/usr/bin/qemu-system-x86_64");
    command
        .args([
            "-M",
            "q35,accel=kvm",
            "-cpu",
            "qemu64",
            "-smp",
            "1",
            "-m",
            "1024",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio", "-object", "iothread,id=io"])
        .args(["-object", "secret,id=key,file=/proc/self/fd/0"])
        .args(["-kernel", &format!("{}/vmlinuz", image()), "-initrd", initrd.to_str().unwrap()])
        .args(["-append", &format!("rdinit=/measure console=ttyS0 panic=-1 {told}")]);
    for (at, target) in targets.iter().enumerate() {
        for (number, options) in target.each.iter().enumerate() {
            let name = disk(at, number);
            command.args(["-blockdev", &format!("node-name={name},{options}")]);
            command.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name},iothread=io")]);
        }
    }
    let mut machine = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    machine.stdin.take().unwrap().write_all(passphrase(&key()).as_bytes()).unwrap();
    let mut all: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    let mut said = String::new();
    for line in BufReader::new(machine.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["measured", load, at_once, target, kib] => {
                let name = targets[target.parse::<usize>().unwrap()].name;
                let key = (load.parse().unwrap(), at_once.parse().unwrap(), name);
                all.entry(key).or_default().push(kib.parse::<f64>().unwrap() * 1024.0);
            }
            ["does", what @ ..] => println!("{}", what.join(" ")),
            _ => writeln!(said, "{line}").unwrap(),
        }
    }
    assert!(machine.wait().unwrap().success() && said.contains("all measured"), "the machine says:\n{said}");
    let figures: Figures = all.into_iter().map(|(key, found)| (key, median(found))).collect();
    assert!(figures.values().all(|found| *found > 0.0), "{figures:?}\n{said}");
    figures
}

/// Where the guest image lies on the virtual DGX-2.
fn image() -> String {
    std::env::var("HOLM_GUEST_IMAGE").unwrap_or("/var/lib/holm/guest".to_owned())
}

/// The serial number of a disk.
fn disk(target: usize, number: usize) -> String {
    format!("disk-{target}-{number}")
}

/// What the machine does. Each target in turn, again and again: what else the host does meets all alike.
fn script(targets: &[Target], rounds: usize) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         b=/bin/busybox\n\
         for at in dev:devtmpfs proc:proc sys:sysfs tmp:tmpfs; do\n\
         $b mkdir -p /${at%:*}; $b mount -t ${at#*:} x /${at%:*}\ndone\n\
         exec >/dev/ttyS0 2>&1\n\
         while read -r module; do $b insmod /modules/$module; done </modules/order\n\
         cd /tmp\n\
         of() { for d in /sys/block/vd*; do [ \"$($b cat $d/serial)\" != $1 ] || echo /dev/${d##*/}; done; }\n\
         measure() {\n\
         load=$1 at_once=$2 target=$3; shift 3; jobs=\n\
         n=0; while [ $n -lt $at_once ]; do\n\
         jobs=\"$jobs --name=job$n --filename=$(of disk-$target-$n)\"; n=$((n + 1))\ndone\n\
         kib=$(fio --output-format=terse --terse-version=3 --group_reporting --thread --direct=1 --ioengine=libaio \
         \"$@\" $jobs | $b awk -F';' '{ kib += $7 + $48 } END { print kib + 0 }')\n\
         echo measured $load $at_once $target $kib\n}\n",
    );
    let fio = |load: &super::Load| {
        let super::Load { pattern, block, depth, .. } = load;
        format!("--rw={pattern} --bs={block} --iodepth={depth} --size={AREA_MIB}M")
    };
    for (at, target) in targets.iter().enumerate() {
        writeln!(script, "echo does writing {AREA_MIB} MiB of each: {}", target.name).unwrap();
        // Not counted: it is the first time that anything is there.
        writeln!(script, "measure 1 {VOLUMES} {at} {} >/dev/null", fio(&LOADS[1])).unwrap();
    }
    for round in 1..=rounds {
        writeln!(script, "echo does reading and writing, round {round} of {rounds}").unwrap();
        for (number, load) in LOADS.iter().enumerate() {
            for at_once in [1, VOLUMES] {
                for at in 0..targets.len() {
                    let time = "--time_based --runtime=1000ms --ramp_time=300ms";
                    writeln!(script, "measure {number} {at_once} {at} {} {time}", fio(load)).unwrap();
                }
            }
        }
    }
    script + "echo all measured\n$b poweroff -f\n"
}

/// The guest image's own, and after it `fio` with what it is linked to, and the script.
fn make_initrd(initrd: &Path, tree: &Path, script: &str) {
    let copy = |from: &str| {
        let to = tree.join(from.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
    };
    copy("/usr/bin/fio");
    let linked = run("ldd", &["/usr/bin/fio"]);
    linked.split_whitespace().filter(|word| word.starts_with('/')).for_each(copy);
    // Its own busybox has what it boots with, and no more.
    copy("/bin/busybox");
    let measure = tree.join("measure");
    fs::write(&measure, format!("{script}\n").replace("$(fio ", "$(/usr/bin/fio ")).unwrap();
    fs::set_permissions(&measure, fs::Permissions::from_mode(0o755)).unwrap();
    let words = "cd \"$1\" && find . | cpio --quiet -o -H newc | cat \"$2\" - >\"$3\"";
    let (tree, own, initrd) =
        (tree.to_str().unwrap(), format!("{}/initrd.img", image()), initrd.to_str().unwrap());
    run("sh", &["-c", words, "sh", tree, &own, initrd]);
}
