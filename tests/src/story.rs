//! The main job, from request to destroyed, on the virtual DGX-2: shown as a person would type it, and
//! checked. The demo is this; `tests/run demo` is this and [`crate::faults`] on the same machine.

use crate::by_hand;
use crate::claims::claimed;
use crate::search::Known;
use crate::site::{Daemon, FILED, HOST, OFFICERS, OPERATOR, Site, list, text};
use crate::stages::Stages;
use crate::{Outcome, demand, show};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

/// Written over and over into the memory of A's GPUs, and looked for afterwards.
pub const PATTERN: &str = "RECORD OF PATIENT 42 ";
/// How long a machine may take to come up, or to go.
const LIMIT: &str = "30m";

/// Who is in a project of the story.
struct Team {
    lead: &'static str,
    researcher: &'static str,
    project: &'static str,
    level: &'static str,
    purpose: &'static str,
    gpus: usize,
    /// `/home` and `/raid` on disks of their own.
    disks: &'static str,
    /// Its level allows a terminal and copying in, and nothing else.
    terminal_only: bool,
}

const A: Team = Team {
    lead: "ada",
    researcher: "rosa",
    project: "heart-study",
    level: "3",
    purpose: "risk of stroke from ECGs",
    gpus: 2,
    disks: "--home 1G --scratch 1G",
    terminal_only: true,
};
const B: Team = Team {
    lead: "bo",
    researcher: "bent",
    project: "gait-lab",
    level: "2",
    purpose: "gait after hip surgery",
    gpus: 1,
    disks: "--home 1G --scratch 1G",
    terminal_only: false,
};
const C: Team = Team {
    lead: "cleo",
    researcher: "carl",
    project: "sleep-study",
    level: "2",
    purpose: "apnoea in shift workers",
    gpus: 2,
    disks: "--home 0 --scratch 0",
    terminal_only: false,
};

impl Team {
    fn slice(&self) -> String {
        format!("{}/main", self.project)
    }
}

/// Tells the story on a site that has just been opened.
pub fn tell(site: &Site, stages: &mut Stages, known: &mut Known) -> Outcome {
    stages.time("people are invited and enrolled", || people(site))?;
    stages.time("1. the operator looks at the host", || the_host(site))?;
    stages.time("2. two leads register projects and ask for slices", || requests(site))?;
    stages.time("3. officers approve", || approvals(site))?;
    stages.time("4. both machines come up", || come_up(site))?;
    stages.time("5. researchers run jobs", || jobs(site))?;
    known.learn(site)?;
    let stolen = stages.time("6. A is closed, and provably gone", || closing(site))?;
    stages.time("7. C gets A's GPUs, and reads zeros", || handed_on(site, &stolen))?;
    stages.time("   the same hand-over by hand, with plain virsh", || by_hand::hand_over(site))?;
    let hand = stages.time("   a start by hand, to compare", || by_hand::start(site, C.lead, &C.slice()))?;
    stages.time("8. the officer reads and verifies the log", || the_log(site))?;
    let holm = approved_to_started(site, &C)?;
    stages.note(format!(
        "approved to machine started: {holm:.1} s with Holm, {hand:.1} s by hand, ratio {:.2}",
        holm / hand
    ));
    for daemon in [Daemon::Holmd, Daemon::Agent] {
        stages.note(format!("{} resident: {:.1} MiB", daemon.name(), site.resident_mib(daemon)?));
    }
    Ok(())
}

fn people(site: &Site) -> Outcome {
    for team in [&A, &B, &C] {
        for (name, role) in [(team.lead, "lead"), (team.researcher, "researcher")] {
            site.typed(OPERATOR, &format!("holm person invite {name} --role {role}"), true)?;
        }
    }
    show::say("each enrols with her one-time code: `holm enrol CODE`");
    for team in [&A, &B, &C] {
        for name in [team.lead, team.researcher] {
            site.invite(OPERATOR, name, None)?;
        }
    }
    Ok(())
}

fn the_host(site: &Site) -> Outcome {
    // The first thing an agent does is to clean every device nobody vouches for.
    show::say(
        "a host that has just joined has only dirty devices: Holm cleans all 16 before anyone gets one",
    );
    site.all_clean(OPERATOR)?;
    site.typed(OPERATOR, &format!("holm host show {HOST}"), true)?;
    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    let gpus: Vec<&Value> = gpus(&host)?;
    demand(gpus.len() == 16, format!("there are {} GPUs", gpus.len()))?;
    let groups: BTreeSet<u64> = gpus.iter().filter_map(|g| g["pci"]["iommu_group"].as_u64()).collect();
    demand(groups.len() == 16, "GPUs share IOMMU groups")?;
    let ids: BTreeSet<u64> = gpus.iter().filter_map(|g| g["pci"]["physical_id"].as_u64()).collect();
    demand(ids == (1..=16).collect(), "the fabric ids are not 1 to 16")?;
    demand(host["simulated"] != Value::Bool(true), "the host is simulated")?;
    show::seen("16 GPUs, each alone in its IOMMU group, on two NUMA nodes, with fabric ids 1 to 16");
    Ok(())
}

fn requests(site: &Site) -> Outcome {
    for team in [&A, &B] {
        register(site, team)?;
    }
    show::say("what she asked for herself, a lead cannot approve:");
    let said = site.typed(A.lead, &format!("holm slice approve {}", A.slice()), false)?;
    demand(said.contains("officer"), "the refusal does not say who approves")?;
    show::say("public data does not belong here:");
    let said = site.typed(B.lead, "holm project create open-data --level 0 --purpose \"a course\"", false)?;
    demand(said.contains("shared cluster"), "the refusal does not point to the shared cluster")?;
    Ok(())
}

fn register(site: &Site, team: &Team) -> Outcome {
    let Team { lead, researcher, project, level, purpose, gpus, disks, terminal_only: _ } = team;
    site.typed(
        lead,
        &format!("holm project create {project} --level {level} --purpose \"{purpose}\""),
        true,
    )?;
    site.typed(lead, &format!("holm project file {project} {FILED}"), true)?;
    site.typed(lead, &format!("holm project add-member {project} {researcher}"), true)?;
    // Small machines: the whole host is emulated by one processor.
    let size = "--vcpus 1 --memory 512M --disk 4G";
    let request = format!("holm slice request {} --gpus {gpus} {size} {disks}", team.slice());
    if *level == "3" {
        show::say("data of level 3 without an impact assessment gets no machine:");
        let said = site.typed(lead, &request, false)?;
        demand(said.contains("a DPIA (--dpia)"), "the refusal does not name the DPIA")?;
        let file = format!("holm project file {project} --dpia DPIA-2026-17 --dpia-expires 365d");
        site.typed(lead, &file, true)?;
    }
    site.typed(lead, &request, true)?;
    Ok(())
}

fn approvals(site: &Site) -> Outcome {
    site.typed(OFFICERS[0], &format!("holm slice approve {} --comment \"DPIA seen\"", A.slice()), true)?;
    let state = site.json(OFFICERS[0], &["slice", "show", &A.slice()])?;
    demand(text(&state, "state")? == "requested", "level 3 was approved by one")?;
    show::seen("one approval is not enough at level 3");
    site.typed(OFFICERS[0], &format!("holm slice approve {}", A.slice()), false)?;
    site.typed(OFFICERS[1], &format!("holm slice approve {}", A.slice()), true)?;
    site.typed(OFFICERS[1], &format!("holm slice approve {}", B.slice()), true)?;
    Ok(())
}

fn come_up(site: &Site) -> Outcome {
    site.typed(A.lead, &format!("holm slice watch {} --timeout {LIMIT}", A.slice()), true)?;
    site.typed(B.lead, &format!("holm slice watch {} --timeout {LIMIT}", B.slice()), true)?;
    for team in [&A, &B] {
        isolated(site, team)?;
    }
    show::seen("vfio-pci holds exactly the GPUs given, disks are LUKS, a TPM each, no network interface");
    Ok(())
}

/// What libvirt runs for this slice is what the house promises.
fn isolated(site: &Site, team: &Team) -> Outcome {
    let slice = site.json(team.lead, &["slice", "show", &team.slice()])?;
    let domain = format!("holm-{}", text(&slice, "id")?);
    let xml = site.host(&format!("virsh -c qemu:///system dumpxml {domain}"))?;
    demand(!xml.contains("<interface"), format!("{domain} has a network interface"))?;
    // But for the seed, which holds no secret, each disk that it can write to.
    let (disks, read_only) = (xml.matches("device='disk'").count(), xml.matches("<readonly/>").count());
    let encrypted = xml.matches("<encryption format='luks'").count();
    let wanted = 1 + usize::from(slice["home_gib"] != 0) + usize::from(slice["scratch_gib"] != 0);
    demand(
        (disks - read_only, encrypted) == (wanted, wanted),
        format!("{domain} has {disks} disks, {read_only} read only, {encrypted} encrypted"),
    )?;
    demand(xml.contains("<tpm "), format!("{domain} has no TPM"))?;
    let devices = list(&slice, "devices")?;
    demand(devices.len() == team.gpus, format!("{domain} has {} devices", devices.len()))?;
    for device in devices {
        let driver = site.host(&format!(
            "basename $(readlink /sys/bus/pci/devices/{}/driver)",
            device.as_str().unwrap_or_default()
        ))?;
        demand(driver == "vfio-pci", format!("{device} is on `{driver}`"))?;
    }
    let secrets =
        site.host("virsh -q -c qemu:///system secret-list; ls /etc/libvirt/secrets 2>/dev/null || true")?;
    demand(secrets.trim().is_empty(), format!("libvirt still has secrets: {secrets}"))
}

/// The job of the seed's workshop, with Python's own mmap for CUDA.
fn script(body: &str) -> String {
    format!(
        "#!/bin/bash\n#SBATCH --job-name=memory\n\
         echo \"job $SLURM_JOB_ID of $(id -un): GPUs $SLURM_JOB_GPUS\"\n\
         python3 - <<'END'\nimport mmap, os\n\
         for path in os.environ['HOLM_GPU_MEMORY'].split(':'):\n    \
         with open(path, 'r+b') as file:\n        memory = mmap.mmap(file.fileno(), 0)\n        {body}\nEND\n"
    )
}

fn jobs(site: &Site) -> Outcome {
    let write = script(&format!(
        "memory[:] = (b'{PATTERN}' * (len(memory) // {0} + 1))[:len(memory)]\n        \
         print(path.split('/')[-2], len(memory), 'bytes written, begins with', bytes(memory[:{0}]).decode())",
        PATTERN.len()
    ));
    for team in [&A, &B] {
        let said = job(site, team, &write)?;
        let written = said.matches("begins with RECORD OF PATIENT 42").count();
        demand(written == team.gpus, format!("{written} of {} GPUs were written", team.gpus))?;
        claims(site, team)?;
        if team.terminal_only {
            terminal_only(site, team)?;
        }
    }
    show::say("what is not hers a researcher does not even see:");
    site.typed(B.researcher, &format!("holm ssh {} -- true", A.slice()), false)?;
    show::say("and an operator has no way in:");
    site.typed(OPERATOR, &format!("holm ssh {} -- true", A.slice()), false)?;
    Ok(())
}

/// What she copies out, or, where nothing is copied out, in, and all that she did, her guest claims for the log.
fn claims(site: &Site, team: &Team) -> Outcome {
    let slice = team.slice();
    let (copied, way) = if team.terminal_only {
        (site.home().join(format!("{}.sh", team.project)), "bytes_in")
    } else {
        let to = site.home().join(format!("{}.out", team.project));
        site.typed(team.researcher, &format!("holm slice copy {slice}:out.txt {}", to.display()), true)?;
        (to, "bytes_out")
    };
    let bytes = fs::metadata(&copied)?.len();
    let wanted = ["guest.login", "guest.job-start", "guest.job-end", "guest.logout", "guest.transfer"];
    let claims = claimed(site, team.project, team.researcher, &wanted)?;
    let of = |action: &str| claims.iter().find(|entry| entry["action"] == action).map(|e| &e["detail"]);
    let start = of("guest.job-start").ok_or("no job")?;
    demand(start["gpus"] == team.gpus && start["cpus"] != 0, format!("its job is claimed as {start}"))?;
    let end = of("guest.job-end").ok_or("no end of it")?;
    demand(end["exit_code"] == 0 && end["job"] == start["job"], format!("its end is claimed as {end}"))?;
    let transfer = of("guest.transfer").ok_or("no copy")?;
    demand(transfer[way] == bytes, format!("{bytes} bytes are claimed as {transfer}"))?;
    for disk in ["root", "data", "scratch"] {
        let mounted = claims.iter().any(|e| e["action"] == "guest.mount" && e["detail"]["disk"] == disk);
        demand(mounted, format!("that {disk} was mounted is not claimed"))?;
    }
    show::seen(
        "her login, her job on its GPUs, its end and what she copied are in the log, as her guest's claims",
    );
    Ok(())
}

/// At its level there is a terminal, and jobs; nothing is copied out, and no port is forwarded.
fn terminal_only(site: &Site, team: &Team) -> Outcome {
    let slice = team.slice();
    show::say("data of level 3 is looked at in a terminal, and is not copied out by SSH:");
    let to = site.home().join("copied-out");
    let line = format!("holm slice copy {slice}:out.txt {}", to.display());
    let said = site.typed(team.researcher, &line, false)?;
    demand(said.contains("nothing is copied out"), "why it was refused is not said")?;
    demand(fs::metadata(&to).map_or(0, |file| file.len()) == 0, "it was copied out all the same")?;
    let said = site.typed(team.researcher, &format!("holm ssh {slice} -- cat out.txt"), false)?;
    demand(said.contains("no command without a terminal"), "why it was refused is not said")?;
    site.typed(team.researcher, &format!("holm ssh {slice} --forward 8888:22 -- true"), false)?;
    site.typed(team.researcher, &format!("holm job list {slice} --since 1d"), true)?;
    Ok(())
}

/// Sends a batch job that asks for all of the slice's GPUs, waits for it, returns its output and record.
fn job(site: &Site, team: &Team, script: &str) -> Outcome<String> {
    let file = site.write(&format!("{}.sh", team.project), script)?;
    let slice = team.slice();
    if team.terminal_only {
        let line = format!("holm slice copy {} {slice}:job.sh", file.display());
        site.typed(team.researcher, &line, true)?;
    } else {
        show::typed(team.researcher, &format!("holm ssh {slice} -- 'cat >job.sh' <job.sh"));
        let mut copy = site.command(team.researcher, &["ssh", &slice, "--", "cat >job.sh"]);
        let status = copy.stdin(fs::File::open(file)?).status()?;
        demand(status.success(), "the job script was not copied")?;
    }
    let tty = if team.terminal_only { " --tty" } else { "" };
    let line = format!(
        "holm ssh {slice}{tty} -- \"sbatch --wait --gres=gpu:{} -o out.txt job.sh && cat out.txt && \
         scontrol show job | grep -E 'JobId|JobState|TresPerNode|RunTime|gres/gpu'\"",
        team.gpus
    );
    let said = site.typed(team.researcher, &line, true)?;
    // `--wait` ends with the job's own exit status when the job has ended: its epilog may still clean up after it.
    demand(
        said.contains("JobState=COMPLETED") || said.contains("JobState=COMPLETING"),
        "the job did not complete",
    )?;
    demand(
        said.contains(&format!("TresPerNode=gres/gpu:{}", team.gpus)),
        "its record does not name its GPUs",
    )?;
    Ok(said)
}

/// What the thief has: a copy of A's disk, taken while A lived, and the GPUs that A had.
struct Stolen {
    devices: BTreeSet<String>,
    partition: u64,
}

fn closing(site: &Site) -> Outcome<Stolen> {
    let slice = site.json(A.lead, &["slice", "show", &A.slice()])?;
    let devices = list(&slice, "devices")?.iter().filter_map(|d| d.as_str().map(str::to_owned)).collect();
    let partition = slice["partition"].as_u64().ok_or("A has no partition")?;
    show::say("a thief has copied A's disk from the host; while its key lives, holmd can open it:");
    site.host(&format!(
        "cp --sparse=always $(virsh -c qemu:///system domblklist holm-{} | awk '$1==\"vda\" {{ print $2 }}') /var/lib/holm/stolen.qcow2",
        text(&slice, "id")?
    ))?;
    let said = site.typed_on_host("holmd keys try --config holmd.toml /var/lib/holm/stolen.qcow2", true)?;
    demand(said.contains("opened"), "the control failed: A's own key does not open A's disk")?;
    show::say("A's scratch disk he cannot open even so: holmd never has its key");
    site.host(&format!(
        "cp --sparse=always $(virsh -c qemu:///system domblklist holm-{} | awk '$1==\"vdd\" {{ print $2 }}') /var/lib/holm/raid.qcow2",
        text(&slice, "id")?
    ))?;
    site.typed_on_host("holmd keys try --config holmd.toml /var/lib/holm/raid.qcow2", false)?;
    site.typed(A.lead, &format!("holm slice close {} --yes", A.slice()), true)?;
    site.typed(A.lead, &format!("holm slice watch {} --timeout {LIMIT}", A.slice()), true)?;
    site.typed(A.lead, &format!("holm wait {} destroyed --timeout {LIMIT}", A.slice()), true)?;
    let domains = site.host("virsh -c qemu:///system list --all --name")?;
    demand(!domains.contains(text(&slice, "id")?), "A's machine is still defined")?;
    show::say("the thief tries again, with every key that is left:");
    site.typed_on_host("holmd keys try --config holmd.toml /var/lib/holm/stolen.qcow2", false)?;
    let file = site.home().join("certificate.txt");
    let path = file.display();
    site.typed(A.lead, &format!("holm slice certificate {} --out {path}", A.slice()), true)?;
    let key = site.ok(OFFICERS[0], &["audit", "key"])?;
    site.typed(A.lead, &format!("holm certificate verify {path} --key {key}"), true)?;
    Ok(Stolen { devices, partition })
}

fn handed_on(site: &Site, stolen: &Stolen) -> Outcome {
    register(site, &C)?;
    site.typed(OFFICERS[0], &format!("holm slice approve {}", C.slice()), true)?;
    site.typed(C.lead, &format!("holm slice watch {} --timeout {LIMIT}", C.slice()), true)?;
    let slice = site.json(C.lead, &["slice", "show", &C.slice()])?;
    let devices: BTreeSet<String> =
        list(&slice, "devices")?.iter().filter_map(|d| d.as_str().map(str::to_owned)).collect();
    demand(devices == stolen.devices, format!("C got {devices:?}, A had {:?}", stolen.devices))?;
    demand(slice["partition"].as_u64() == Some(stolen.partition), "C got another partition")?;
    show::seen("C sits on exactly the GPUs that A wrote to");
    let read = script(
        "data = bytes(memory)\n        \
         print(path.split('/')[-2], len(data), 'bytes read,', len(data) - data.count(0), 'not zero')",
    );
    let said = job(site, &C, &read)?;
    demand(said.matches(", 0 not zero").count() == C.gpus, "C read what is not zero")?;
    show::seen("C's job reads zeros, all the way through");
    Ok(())
}

fn the_log(site: &Site) -> Outcome {
    let officer = OFFICERS[0];
    site.typed(officer, &format!("holm audit log --project {}", A.project), true)?;
    site.typed(officer, &format!("holm audit log --project {} --action guest", A.project), true)?;
    site.typed(officer, "holm audit verify", true)?;
    let export = site.home().join("export");
    let dir = export.display();
    site.typed(officer, &format!("holm audit export {dir}"), true)?;
    let key = site.ok(officer, &["audit", "key"])?;
    site.typed(officer, &format!("holm audit verify {dir} --key {key}"), true)?;
    show::say("one byte changed in a copy:");
    let bundle = export.join("tile/entries");
    let bundle = first_file(&bundle)?;
    let mut bytes = fs::read(&bundle)?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    fs::write(&bundle, bytes)?;
    site.typed(officer, &format!("holm audit verify {dir} --key {key}"), false)?;
    show::seen("the changed byte is found");
    show::say("an operator does not read the log:");
    site.typed(OPERATOR, "holm audit log", false)?;
    Ok(())
}

/// The first file below a directory, however deep.
fn first_file(dir: &std::path::Path) -> Outcome<std::path::PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    entries.sort();
    let first = entries.into_iter().next().ok_or("the export holds no entries")?;
    if first.is_dir() { first_file(&first) } else { Ok(first) }
}

/// The GPUs of a host, as `holm host show` tells of them.
pub fn gpus(host: &Value) -> Outcome<Vec<&Value>> {
    Ok(list(host, "devices")?.iter().filter(|d| d["pci"]["kind"] == "gpu").collect())
}

/// Seconds from the last approval, as the log has it, to the started machine, as the agent saw it.
fn approved_to_started(site: &Site, team: &Team) -> Outcome<f64> {
    let slice = site.json(team.lead, &["slice", "show", &team.slice()])?;
    let approved = list(&slice, "approvals")?.last().ok_or("no approval")?;
    let approved = seconds(text(approved, "at")?)?;
    let step = list(&slice, "steps")?.iter().find(|s| s["name"] == "start machine").ok_or("no such step")?;
    let took = step["took_ms"].as_f64().ok_or("the step has no time")? / 1000.0;
    Ok(seconds(text(step, "started")?)? + took - approved)
}

fn seconds(time: &str) -> Outcome<f64> {
    let time: jiff::Timestamp = time.parse()?;
    Ok(time.as_millisecond() as f64 / 1000.0)
}
