//! Devices between their owners, on the virtual DGX-2: three mixes of slices that fill the machine one after the
//! other, each of which must read zeros where the one before it wrote; a GPU pulled out of a running slice; the agent
//! and libvirtd killed between Claimed and Free, as the last of the mixes comes up and as it goes.

use crate::faults::{ask, until};
use crate::ground::Machine;
use crate::site::{Daemon, HOST, OFFICERS, OPERATOR, Site, list, text};
use crate::stages::Stages;
use crate::story::{PATTERN, gpus};
use crate::{Outcome, demand, show};
use holm_proto::platform::PartitionTable;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How long a machine may take to come up, or to go.
const LIMIT: &str = "40m";
/// How often holmd is asked for what it is about to hear.
const LOOKS: usize = 600;
/// GPUs of the virtual DGX-2.
const GPUS: usize = 16;
/// The tenants, one after the other, and what each of them has at the same time.
const TENANTS: [(&str, &str, &[u32]); 3] = [
    ("dina", "stroke-ward", &[8, 4, 2, 1, 1]),
    ("emil", "bone-lab", &[16]),
    ("fie", "eye-clinic", &[4, 4, 8]),
];

/// On a site that has just been opened: all of it, or, `short`, without the first of the mixes. Machines with fewer than all GPUs have a lean guest, see `virtual-dgx2/lean`: what is
/// tested is what is around them.
pub fn run(site: &Site, stages: &mut Stages, short: bool) -> Outcome {
    stages.time("the host keeps its volumes on LVM", || on_lvm(site))?;
    stages.time("every GPU is cleaned before anyone gets it", || site.all_clean(OPERATOR))?;
    stages.time("the same by a scrubbing machine", || scrubbed(site))?;
    let [first, second, third] = TENANTS;
    if !short {
        stages.time("8 + 4 + 2 + 1 + 1 GPUs at once", || mix(site, first, |_| Ok(())))?;
        stages.time("all closed", || all_closed(site, first))?;
    }
    stages.time("16 GPUs", || mix(site, second, |_| Ok(())))?;
    stages.time("its disk grows and gets another key while it runs", || changes(site, second))?;
    stages.time("closed", || all_closed(site, second).and_then(|()| shredded(site)))?;
    stages.time("4 + 4 + 8 GPUs at once, the agent and libvirtd killed as they come up", || {
        mix(site, third, |names| killed(site, third, names, &UP))
    })?;
    stages.time("a GPU is pulled out of a running slice", || pulled(site, third))?;
    stages.time("all closed, the agent and libvirtd killed meanwhile", || killed_as_it_goes(site, third))?;
    stages.time("the officer verifies the log", || site.ok(OFFICERS[0], &["audit", "verify"]).map(drop))
}

/// A volume group on a disk of its own: from here on slices start from logical volumes, opened by the kernel.
fn on_lvm(site: &Site) -> Outcome {
    let machine = site.ground().machine().ok_or("there is no LVM on a simulated host")?;
    site.kill(Daemon::Agent)?;
    site.host(&format!(
        "{} /dev/vdb
         sed -i 's/^\\[host.storage\\]$/&\\nbackend = \"lvm-luks2\"\\nvolume_group = \"holm\"/' /var/lib/holm/agent.toml
         grep -q lvm-luks2 /var/lib/holm/agent.toml",
        machine.tool("lvm").display()
    ))?;
    site.boot_by("lean")?;
    site.start(Daemon::Agent)
}

/// What is open is changed as it is: the machine goes on, nobody logs in anew.
fn changes(site: &Site, tenant: Tenant) -> Outcome {
    let (lead, ..) = tenant;
    let names = slices(tenant);
    let slice = names.first().ok_or("a tenant without slices")?;
    crate::faults::grows(site, lead, slice)?;
    let before = site.json(lead, &["slice", "show", slice])?;
    site.ok(lead, &["slice", "rekey", slice, "--wait"])?;
    let after = site.json(lead, &["slice", "show", slice])?;
    let [old, new] = [&before, &after].map(|slice| text(slice, "key_fingerprint"));
    demand(old? != new?, "its disk has the key that it had")?;
    demand(text(&after, "state")? == "ready", "it did not stay ready")?;
    let slots =
        site.host("for v in /dev/holm/holm-*; do cryptsetup luksDump $v | grep -c '^  [0-9]: luks2'; done")?;
    demand(slots.lines().all(|slots| slots.trim() == "1"), format!("its header has key slots: {slots}"))?;
    show::seen("its disk opens with another key, and with that alone; the slice ran on");
    // What a thief would copy: header, key slots and how the data begins.
    site.host(&format!("dd if=$(ls /dev/holm/holm-*) of={STOLEN} bs=1M count=24 status=none"))?;
    demand(tried(site)?, "the copy of its disk does not open with the keys that there are")
}

/// Where a copy of a disk lies.
const STOLEN: &str = "/var/lib/holm/stolen.luks";

/// Whether the copy opens with any key that holmd has.
fn tried(site: &Site) -> Outcome<bool> {
    let (root, binaries) = (site.root().display(), site.binaries().display());
    let said = site
        .ground()
        .attempt(&format!("cd {root}/holmd && {binaries}/holmd keys try --config holmd.toml {STOLEN}"))?;
    let words = [said.stdout, said.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    demand(words.contains("opened") || words.contains("refused"), format!("nothing was tried: {words}"))?;
    Ok(said.status.success())
}

/// Closed, its disk opens with none of the keys that are left.
fn shredded(site: &Site) -> Outcome {
    demand(!tried(site)?, "a copy of the disk opens after the slice was destroyed")?;
    show::seen("a copy of its disk, taken before, opens with no key that is left");
    Ok(())
}

/// The agent cleans by a small machine of its own: one run, all GPUs, evidence for each. Then as before.
fn scrubbed(site: &Site) -> Outcome {
    let machine = site.ground().machine().ok_or("there is nothing to scrub on a simulated host")?;
    let image = machine.deploy("scrub-image/build", site.binaries())?;
    site.kill(Daemon::Agent)?;
    site.host(&format!(
        "cp -r {image} /var/lib/holm/scrub && cp /var/lib/holm/agent.toml /var/lib/holm/agent.toml.before
         cat >>/var/lib/holm/agent.toml <<END

[host.sanitise.methods]
\"1af4:1110\" = \"scrub-vm/bar\"
[host.sanitise.vm]
image = \"/var/lib/holm/scrub\"
sha256 = \"$(sha256sum </var/lib/holm/scrub/manifest | cut -d' ' -f1)\"
memory_mib = 256
vcpus = 1
start_limit_s = 1200
END"
    ))?;
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)?;
    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    let evidence: Vec<&Value> = gpus(&host)?.into_iter().map(|gpu| &gpu["evidence"]).collect();
    let runs: BTreeSet<&str> = evidence.iter().filter_map(|e| e["run_id"].as_str()).collect();
    let whole = |e: &&&Value| {
        e["method"] == "scrub-vm/bar" && e["cleaned"] == true && e["bytes_verified"] == e["bytes_total"]
    };
    let cleaned = evidence.iter().filter(whole).count();
    demand(
        cleaned == GPUS && runs.len() == 1,
        format!("{cleaned} GPUs were cleaned by a scrubbing machine, in {} runs: {evidence:?}", runs.len()),
    )?;
    let left = site.host("virsh -c qemu:///system list --all --name")?;
    demand(left.trim().is_empty(), format!("a scrubbing machine was left behind: {left}"))?;
    show::seen("one machine, measured before it started, overwrote and read back all 16, and is gone");
    site.kill(Daemon::Agent)?;
    site.host("mv /var/lib/holm/agent.toml.before /var/lib/holm/agent.toml; rm -r /var/lib/holm/scrub")?;
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)
}

type Tenant = (&'static str, &'static str, &'static [u32]);

/// A tenant's slices, in the order of their sizes.
fn slices((_, project, sizes): Tenant) -> Vec<String> {
    ('a'..).take(sizes.len()).map(|letter| format!("{project}/{letter}")).collect()
}

/// All of a tenant's slices come up side by side on legal partitions, read zeros in every GPU, and leave a text.
/// `meanwhile` happens as they come up.
fn mix(site: &Site, tenant: Tenant, meanwhile: impl FnOnce(&[String]) -> Outcome) -> Outcome {
    let (lead, project, sizes) = tenant;
    crate::faults::lead(site, lead, project)?;
    let names = slices(tenant);
    for (name, size) in names.iter().zip(sizes) {
        ask(site, lead, name, *size)?;
    }
    meanwhile(&names)?;
    for name in &names {
        site.ok(lead, &["wait", name, "ready", "--timeout", LIMIT])?;
    }
    let places = places(site)?;
    let mut taken = BTreeSet::new();
    for (name, size) in names.iter().zip(sizes) {
        let slice = site.json(lead, &["slice", "show", name])?;
        let partition = slice["partition"].as_u64().ok_or("a ready slice has no partition")?;
        let members = PartitionTable::dgx2().members(u32::try_from(partition)?).iter();
        let legal: BTreeSet<&str> = members.filter_map(|id| places.get(id).map(String::as_str)).collect();
        let devices = devices(&slice)?;
        demand(
            devices.len() == *size as usize && devices.iter().map(String::as_str).eq(legal.iter().copied()),
            format!("{name} has {devices:?}, partition {partition} is {legal:?}"),
        )?;
        demand(
            devices.iter().all(|device| taken.insert(device.clone())),
            format!("{name} shares a GPU: {devices:?}"),
        )?;
        let attached = attached(site, &slice)?;
        demand(attached == devices, format!("the machine of {name} has {attached:?}, not {devices:?}"))?;
    }
    show::seen(&format!("{sizes:?} GPUs by legal partitions, every device where the table says"));
    for (name, size) in names.iter().zip(sizes) {
        // A lean guest has done so before it was ready, and gives up where a byte is not zero.
        if *size as usize == GPUS {
            read_and_write(site, lead, name, *size)?;
        }
        full_of_text(site, lead, name)?;
    }
    show::seen("every GPU reads zeros, all the way through; each is left full of text");
    Ok(())
}

/// From outside the virtual DGX-2, all of the memory of a slice's GPUs: a text, and nothing else.
fn full_of_text(site: &Site, lead: &str, slice: &str) -> Outcome {
    let machine = site.ground().machine().ok_or("a simulated GPU has no memory")?;
    let shown = site.json(lead, &["slice", "show", slice])?;
    let devices = devices(&shown)?;
    let counted = shown["guest"]["gpus"].as_u64();
    demand(counted == Some(devices.len() as u64), format!("{slice} counts {counted:?} of {devices:?}"))?;
    for device in devices {
        // The third of its regions.
        let region = site.host(&format!("sed -n 3p /sys/bus/pci/devices/{device}/resource"))?;
        let [from, to] = region
            .split_whitespace()
            .take(2)
            .map(|at| u64::from_str_radix(at.trim_start_matches("0x"), 16))
            .collect::<Result<Vec<_>, _>>()?[..]
        else {
            return Err(format!("{device} has the region `{region}`").into());
        };
        let memory = machine.memory(from, to - from + 1)?;
        let text = memory.chunks(PATTERN.len()).all(|chunk| PATTERN.as_bytes().starts_with(chunk));
        demand(!memory.is_empty() && text, format!("{slice}: there is not only a text in {device}"))?;
    }
    Ok(())
}

/// A job on all GPUs of a slice: nothing but zeros is in them; then they hold a text.
fn read_and_write(site: &Site, lead: &str, slice: &str, gpus: u32) -> Outcome {
    let script = format!(
        "import mmap, os\n\
         for path in os.environ['HOLM_GPU_MEMORY'].split(':'):\n    \
         with open(path, 'r+b') as file:\n        memory = mmap.mmap(file.fileno(), 0)\n        \
         data = bytes(memory)\n        \
         print('gpu', len(data), 'bytes', len(data) - data.count(0), 'not zero')\n        \
         memory[:] = (b'{0}' * (len(memory) // {1} + 1))[:len(memory)]\n",
        PATTERN,
        PATTERN.len()
    );
    let file = site.write(&format!("{}.py", slice.replace('/', "-")), &script)?;
    let gres = format!("--gres=gpu:{gpus}");
    let mut command = site.command(lead, &["ssh", slice, "--", "srun", &gres, "python3", "-"]);
    let output = command.stdin(std::fs::File::open(file)?).output()?;
    let [said, wrong] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let clean = said.lines().filter(|line| line.starts_with("gpu ") && line.ends_with(" 0 not zero")).count();
    demand(
        output.status.success() && clean == gpus as usize,
        format!("{slice}: {clean} of {gpus} GPUs read zeros:\n{said}{wrong}"),
    )
}

/// Closes all of a tenant's slices at once; afterwards every GPU is free, with evidence of this time.
fn all_closed(site: &Site, tenant: Tenant) -> Outcome {
    let (lead, _, _) = tenant;
    let names = slices(tenant);
    for name in &names {
        site.ok(lead, &["slice", "close", name, "--yes"])?;
    }
    for name in &names {
        site.ok(lead, &["wait", name, "destroyed", "--timeout", LIMIT])?;
        vouched_for(site, lead, name)?;
    }
    site.all_clean(OPERATOR)?;
    free(site, GPUS)
}

/// The certificate has evidence of a complete cleaning for every GPU that the slice had.
fn vouched_for(site: &Site, lead: &str, slice: &str) -> Outcome {
    let had = devices(&site.json(lead, &["slice", "show", slice])?)?;
    let certificate = site.json(lead, &["slice", "certificate", slice])?;
    let body: Value = serde_json::from_str(text(&certificate, "body")?)?;
    let evidence = list(&body, "devices")?;
    let cleaned: BTreeSet<String> = evidence
        .iter()
        .filter(|e| e["cleaned"] == true && e["bytes_verified"] == e["bytes_total"] && e["bytes_total"] != 0)
        .filter_map(|e| e["address"].as_str().map(str::to_owned))
        .collect();
    demand(cleaned == had, format!("{slice} had {had:?}; there is evidence for {cleaned:?}"))
}

/// So many are free; after its agent was away a host cleans them again first.
fn free(site: &Site, free: usize) -> Outcome {
    let mut states = Vec::new();
    for _ in 0..LOOKS {
        let host = site.json(OPERATOR, &["host", "show", HOST])?;
        states = gpus(&host)?
            .into_iter()
            .map(|gpu| text(gpu, "state").map(str::to_owned))
            .collect::<Outcome<_>>()?;
        if !states.iter().any(|state| ["dirty", "sanitising"].contains(&state.as_str())) {
            break;
        }
    }
    let found = states.iter().filter(|state| *state == "free").count();
    demand(states.len() == GPUS && found == free, format!("{found} of {free} GPUs are free: {states:?}"))
}

/// States that a slice goes through, and after them one that it may have come to already: what is struck is then the
/// step after.
type States = &'static [&'static str];
const UP: [States; 3] =
    [&["placed", "preparing", "ready"], &["preparing", "booting", "ready"], &["booting", "ready"]];
const DOWN: [States; 2] = [&["closing", "destroying", "destroyed"], &["destroying", "destroyed"]];

/// Kills the agent and libvirtd as a slice, the last of these, comes to each state.
fn killed(site: &Site, tenant: Tenant, names: &[String], all: &[States]) -> Outcome {
    let (lead, ..) = tenant;
    let slice = names.last().ok_or("a tenant without slices")?;
    for (index, states) in all.iter().enumerate() {
        until(site, lead, slice, |s| text(s, "state").is_ok_and(|now| states.contains(&now)))?;
        // An agent that is new, and one that goes on, finds another libvirtd.
        if index % 2 == 0 {
            kill_agent(site)?;
            kill_libvirtd(site)?;
        } else {
            kill_libvirtd(site)?;
            kill_agent(site)?;
        }
    }
    Ok(())
}

/// All are closed at once. The end is what it always is: every GPU is free again, with evidence of a cleaning after its
/// last owner, but for the one that was pulled out of the first.
fn killed_as_it_goes(site: &Site, tenant: Tenant) -> Outcome {
    let (lead, ..) = tenant;
    let names = slices(tenant);
    for name in &names {
        site.ok(lead, &["slice", "close", name, "--yes"])?;
    }
    killed(site, tenant, &names, &DOWN)?;
    for name in &names {
        site.ok(lead, &["wait", name, "destroyed", "--timeout", LIMIT])?;
    }
    names.iter().skip(1).try_for_each(|name| vouched_for(site, lead, name))?;
    free(site, GPUS - 1)?;
    show::seen(
        "ten kills later none is lost or free without evidence; the GPU that was pulled is the only one missing",
    );
    Ok(())
}

fn kill_agent(site: &Site) -> Outcome {
    site.kill(Daemon::Agent)?;
    site.start(Daemon::Agent)
}

fn kill_libvirtd(site: &Site) -> Outcome {
    site.host(
        "pid=$(pgrep -xo libvirtd); kill -9 $pid; timeout 60 tail --pid=$pid -f /dev/null
         ulimit -c 0; libvirtd --daemon; timeout 200 virsh -q -c qemu:///system list >/dev/null",
    )
    .map(drop)
}

/// Pulls one GPU out of a running slice: it is quarantined, nobody else notices, and the slice can be closed.
fn pulled(site: &Site, tenant: Tenant) -> Outcome {
    let (lead, ..) = tenant;
    let machine = site.ground().machine().ok_or("there is nothing to pull on a simulated host")?;
    let names = slices(tenant);
    let [unlucky, others @ ..] = names.as_slice() else { return Err("a tenant without slices".into()) };
    let victim = devices(&site.json(lead, &["slice", "show", unlucky])?)?
        .into_iter()
        .next()
        .ok_or("the slice has no GPU")?;
    let number = places(site)?
        .into_iter()
        .find_map(|(id, address)| (address == victim).then_some(id))
        .ok_or("the GPU has no number")?;
    pull(machine, number)?;
    site.ok(OPERATOR, &["wait", "--host", HOST, "quarantined", "--timeout", LIMIT])?;
    site.typed(OPERATOR, &format!("holm host show {HOST}"), true)?;
    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    let quarantined: Vec<&Value> =
        gpus(&host)?.into_iter().filter(|gpu| gpu["state"] == "quarantined").collect();
    demand(
        quarantined.len() == 1 && quarantined[0]["pci"]["address"] == victim.as_str(),
        format!("{victim} was pulled, in quarantine are {quarantined:?}"),
    )?;
    for name in others {
        let slice = site.json(lead, &["slice", "show", name])?;
        demand(text(&slice, "state")? == "ready", format!("{name} did not stay ready"))?;
        // Nobody cleaned what is in use.
        full_of_text(site, lead, name)?;
    }
    show::seen("the GPU is in quarantine, the other slices run on with all of theirs");
    Ok(())
}

fn pull(machine: &Machine, number: u32) -> Outcome {
    machine.unplug(&format!("gpu{}", number.saturating_sub(1)))
}

/// Where each GPU is, by the fabric's number.
fn places(site: &Site) -> Outcome<BTreeMap<u32, String>> {
    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    let mut places = BTreeMap::new();
    for gpu in gpus(&host)? {
        let number = gpu["pci"]["physical_id"].as_u64().ok_or("a GPU has no number")?;
        places.insert(u32::try_from(number)?, text(&gpu["pci"], "address")?.to_owned());
    }
    Ok(places)
}

fn devices(slice: &Value) -> Outcome<BTreeSet<String>> {
    Ok(list(slice, "devices")?.iter().filter_map(|d| d.as_str().map(str::to_owned)).collect())
}

/// What libvirt says the machine of a slice has.
fn attached(site: &Site, slice: &Value) -> Outcome<BTreeSet<String>> {
    let said = site.host(&format!(
        "virsh -c qemu:///system dumpxml holm-{} | sed -n '/<hostdev/,/<\\/hostdev/{{/<source>/,/<\\/source>/s/.*address domain=.0x\\(....\\). bus=.0x\\(..\\). slot=.0x\\(..\\). function=.0x\\(.\\).*/\\1:\\2:\\3.\\4/p}}'",
        text(slice, "id")?
    ))?;
    Ok(said.lines().map(str::to_owned).collect())
}
