//! Slurm's files, from what hardware there is.

/// The machine's own address, on no network.
pub const ADDRESS: &str = "192.0.2.1";

const PARTITION: &str = "PartitionName=batch";

/// The state of the partition: `DOWN` is to Slurm that what runs goes on and what is handed in waits. What it calls `DRAIN`
/// refuses what is handed in, and starts what waits.
pub fn state(drain: bool) -> &'static str {
    if drain { "DOWN" } else { "UP" }
}

/// Its configuration with the partition in that state: what begins anew has it from there.
pub fn with_state(slurm: &str, state: &str) -> String {
    let word =
        |word: &str| if word.starts_with("State=") { format!("State={state}") } else { word.to_owned() };
    let line = |line: &str| match line.starts_with(PARTITION) {
        true => line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n",
        false => line.to_owned() + "\n",
    };
    slurm.lines().map(line).collect()
}

/// What there is.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Processors.
    pub cpus: usize,
    /// MiB.
    pub memory: usize,
    /// A device file of each GPU.
    pub gpus: &'a [String],
    /// No job is to start.
    pub drain: bool,
}

/// The texts of `/etc/slurm/NAME.conf`.
#[derive(Debug)]
pub struct Configuration {
    pub slurm: String,
    pub gres: String,
    pub cgroup: String,
    pub slurmdbd: String,
}

/// The files of a machine with these.
pub fn of(facts: &Facts<'_>) -> Configuration {
    let Facts { cpus, memory, gpus, drain } = *facts;
    // What the system itself needs: found by running a job in the smallest machine that has room for one.
    let memory = memory.saturating_sub((memory / 32).max(256));
    // A job for each GPU at once, whatever the machine's size. Slurm believes what it is told then.
    let told_cpus = cpus.max(gpus.len()).max(1);
    let overbooked = told_cpus > cpus;
    let mut slurm: Vec<String> = [
        "# Made at each boot from the hardware that is there.",
        "ClusterName=slice",
        &format!("SlurmctldHost=slice({ADDRESS})"),
        "SlurmUser=slurm",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        "StateSaveLocation=/var/lib/slurm/slurmctld",
        "SlurmdSpoolDir=/var/spool/slurmd",
        "SlurmctldPidFile=/run/slurmctld/slurmctld.pid",
        "SlurmdPidFile=/run/slurm/slurmd.pid",
        "ProctrackType=proctrack/cgroup",
        if overbooked { "TaskPlugin=task/cgroup" } else { "TaskPlugin=task/cgroup,task/affinity" },
        "JobAcctGatherType=jobacct_gather/cgroup",
        "JobAcctGatherFrequency=30",
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=slice",
        "AccountingStorageTRES=gres/gpu",
        "AccountingStorageEnforce=associations,limits,qos",
        "PriorityType=priority/multifactor",
        "PriorityDecayHalfLife=7-0",
        "PriorityMaxAge=7-0",
        "PriorityWeightAge=1000",
        "PriorityWeightFairshare=10000",
        "PriorityWeightQOS=5000",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "GresTypes=gpu",
        "MailProg=/bin/true",
        // A finished job is still known a day later without asking the accounting.
        "MinJobAge=86400",
        "MpiDefault=none",
        // `salloc` gives a shell that is confined as a job is.
        "LaunchParameters=use_interactive_step",
        "PrologFlags=Alloc",
        "Prolog=/usr/lib/holm/prolog",
        "Epilog=/usr/lib/holm/epilog",
        "TaskProlog=/usr/lib/holm/task-prolog",
        "ReturnToService=2",
        "SlurmctldTimeout=300",
        "SlurmdTimeout=300",
        "MessageTimeout=60",
        "BatchStartTimeout=60",
        "UnkillableStepTimeout=300",
        "SchedulerParameters=batch_sched_delay=0,defer_batch=0,sched_min_interval=0",
    ]
    .map(str::to_owned)
    .into();
    if overbooked {
        slurm.push("SlurmdParameters=config_overrides".to_owned());
    }
    slurm.push(format!(
        "NodeName=slice NodeAddr={ADDRESS} CPUs={told_cpus} RealMemory={memory} Gres=gpu:{} State=UNKNOWN",
        gpus.len()
    ));
    let for_each = told_cpus.checked_div(gpus.len()).map(|cpus| format!(" DefCpuPerGPU={cpus}"));
    slurm.push(format!(
        "{PARTITION} Nodes=slice Default=YES State={} MaxTime=INFINITE DefMemPerCPU={}{}",
        state(drain),
        memory / told_cpus,
        for_each.unwrap_or_default()
    ));
    let gres = gpus.iter().map(|file| format!("NodeName=slice Name=gpu File={file}"));
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let cgroup = [
        "CgroupPlugin=cgroup/v2",
        "IgnoreSystemd=yes",
        "EnableControllers=yes",
        &format!("ConstrainCores={}", yes(!overbooked)),
        "ConstrainRAMSpace=yes",
        "ConstrainDevices=yes",
    ]
    .map(str::to_owned);
    let slurmdbd = [
        "AuthType=auth/munge",
        "DbdHost=slice",
        "SlurmUser=slurm",
        "PidFile=/run/slurmdbd/slurmdbd.pid",
        "StorageType=accounting_storage/mysql",
        // By its socket, as the user that it is: there is no password.
        "StorageHost=localhost",
        "StorageUser=slurm",
        "StorageLoc=slurm_acct_db",
    ]
    .map(str::to_owned);
    let text = |lines: Vec<String>| lines.join("\n") + "\n";
    Configuration {
        slurm: text(slurm),
        gres: text(gres.collect()),
        cgroup: text(cgroup.into()),
        slurmdbd: text(slurmdbd.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str, cpus: usize, memory: usize, gpus: &[String]) {
        let Configuration { slurm, gres, cgroup, slurmdbd } = of(&Facts { cpus, memory, gpus, drain: false });
        assert_eq!(with_state(&with_state(&slurm, "DOWN"), "UP"), slurm);
        let text = format!("{slurm}--- gres\n{gres}--- cgroup\n{cgroup}--- slurmdbd\n{slurmdbd}");
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }

    #[test]
    fn of_a_machine_with_a_driver() {
        let gpus: Vec<String> = (0..4).map(|number| format!("/dev/nvidia{number}")).collect();
        golden("nvidia", 24, 386_000, &gpus);
    }

    #[test]
    fn of_one_with_more_gpus_than_processors() {
        golden("overbooked", 1, 1900, &["/dev/uio0", "/dev/uio1"].map(str::to_owned));
    }

    #[test]
    fn of_one_without_gpus() {
        golden("none", 2, 3900, &[]);
    }
}
