//! The demo: boots the virtual DGX-2, opens a site on it, tells the story, prints how long it took.

use clap::Parser;
use holm_tests::ground::{Ground, Machine};
use holm_tests::search::Known;
use holm_tests::site::{Plan, Site};
use holm_tests::stages::Stages;
use holm_tests::{Outcome, devices, faults, full, show, story, workshop};
use std::path::PathBuf;
use std::process::ExitCode;

/// The main job of Holm on a virtual DGX-2, from request to destroyed.
#[derive(Parser)]
struct Options {
    /// The checkout.
    #[arg(long)]
    repository: PathBuf,
    /// Leave the machine running afterwards, and say how to get in.
    #[arg(long)]
    keep: bool,
    /// Afterwards, on the same machine: kills, cuts and races.
    #[arg(long)]
    suite: bool,
    /// Instead of the story: mixes of slices that fill the machine, kills between owners, a GPU pulled out.
    #[arg(long, conflicts_with = "suite")]
    devices: bool,
    /// For a slow machine: of the suite all but stopping, starting and rebuilding; of the mixes two of three.
    #[arg(long)]
    short: bool,
    /// Instead of the story: a guest that fills what its disk lies in, and goes on when there is room.
    #[arg(long, conflicts_with_all = ["suite", "devices"])]
    full: bool,
    /// Instead of the story: a slice as researchers have it, stopped, started, rebuilt onto a newer image.
    #[arg(long, conflicts_with_all = ["suite", "devices", "full"])]
    workshop: bool,
    /// Instead of the story: what `holm ssh` costs, and a start until a job's output.
    #[arg(long, conflicts_with_all = ["suite", "devices", "full", "workshop"])]
    bench_slice: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut stages = Stages::default();
    let outcome = run(&options, &mut stages);
    println!("\n{}", stages.table());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("the demo failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, stages: &mut Stages) -> Outcome {
    let scratch = tempfile::Builder::new().prefix("holm-demo-").tempdir()?;
    let dir = scratch.path().join("machine");
    let home = scratch.path().join("people");
    std::fs::create_dir_all(&home)?;
    let machine = stages.time("a virtual DGX-2 boots", || {
        Machine::boot(&options.repository, &dir, options.keep, options.devices)
    })?;
    let ports = machine.ports()?;
    let binaries = std::env::current_exe()?.parent().ok_or("the demo lies nowhere")?.to_owned();
    let plan = Plan {
        ground: Ground::Virtual(machine),
        binaries,
        root: "/var/lib/holm/site".into(),
        home: home.clone(),
        ports,
        agent_config: Some("/var/lib/holm/agent.toml".into()),
    };
    let site = stages.time("holmd and the agent start", || Site::open(plan))?;
    let mut known = Known::default();
    let told = match (options.devices, options.full) {
        (true, _) => devices::run(&site, stages, options.short),
        (_, true) => stages.time("disks fill up", || {
            faults::lead(&site, "dina", "stroke-ward")?;
            full::run(&site, "dina", "stroke-ward")
        }),
        _ if options.bench_slice => workshop::bench(&site),
        _ if options.workshop => workshop::run(&site, stages),
        _ => story::tell(&site, stages, &mut known).and_then(|()| match options.suite {
            true => {
                stages.time("what goes wrong", || faults::on_the_machine(&site, &mut known, options.short))
            }
            false => Ok(()),
        }),
    };
    if told.is_err() {
        show::heading("what the daemons say");
        let logs = site.host(&format!("tail -n 25 {}/*.log", site.root().display()))?;
        logs.lines().for_each(show::printed);
    }
    if options.keep {
        let kept = scratch.keep();
        if let Some(machine) = site.ground().machine() {
            let [enter, end] = machine.ways_in();
            show::heading("the virtual DGX-2 keeps running");
            println!("   log in to the host:    {enter}");
            println!(
                "   be the operator:       export HOLM_CONFIG={} HOLM_PROFILE=olga; {}/holm host show",
                home.display(),
                site.binaries().display()
            );
            println!(
                "   be somebody else:      HOLM_PROFILE=frida (officer), cleo (lead), carl (researcher)"
            );
            println!("   end it:                {end} && rm -r {}", kept.display());
        }
    }
    told
}
