//! `holm-agent`: the command line.

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use holm_agent::{
    commission,
    config::{CleanMethod, Config, FabricModel, HostConfig},
    converge::{Driver, Engine, Limits, Record},
    edge::Host,
    fabric::{self, Fabric as _, NoFabric, Nvfm, Seen, SeenGpu},
    images::Images,
    real::RealHost,
    sanitise::check_image,
    session::{Identity, Session},
    simulate::SimulatedHost,
    storage,
};
use holm_proto::{
    gpu::GpuKind,
    ids::{PciAddress, TypedPciAddress},
    v1,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// For calls to the outside to come to their end when the agent is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Threads that may wait for a disk or a socket at a time.
const MOST_BLOCKING: usize = 16;

const NO_HOST: &str = "the configuration has no section `[host]`: write one, or say `--simulate dgx2`";

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(name = "holm-agent", version, about = "The agent of a host that Holm splits into slices")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a session with holmd and bring this host to what it wants
    Serve(Where),
    /// Print what this host has, as JSON
    Inventory(Where),
    /// Check the configuration, the identity and what they name
    Check(Where),
    /// What connects the GPUs
    Fabric {
        #[command(subcommand)]
        command: FabricCommand,
    },
    /// Clean devices now, by hand, and print the evidence as JSON. holmd hears nothing of it and believes nothing
    /// of it: for trying a method. The agent must not run meanwhile
    Sanitise {
        #[command(flatten)]
        place: Where,
        /// PCI address of a device that no machine has; may be said again. What is in its memory is lost
        #[arg(long, value_name = "ADDRESS", required = true)]
        device: Vec<TypedPciAddress>,
    },
    /// Check whether this host is fit to keep tenants apart
    #[command(
        after_help = "Ends with exit code 0 where all passes that must, 1 where something does not, 2 where \
        the checks could not be run, or there is nothing to check because the host is simulated."
    )]
    Commission {
        #[command(flatten)]
        place: Where,
        /// How to print it
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// The images that slices can be made over on this host
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum FabricCommand {
    /// Compare the fabric with its platform's table, and print the GPUs' numbers for the configuration
    Show {
        #[command(flatten)]
        place: Where,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Take one in, as `deploy/guest-image/build` made it; what is not as its manifest says is not
    Add {
        /// Where it lies
        directory: PathBuf,
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = "/etc/holm/agent.toml")]
        config: PathBuf,
    },
    /// Those that are here
    List {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = "/etc/holm/agent.toml")]
        config: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Where {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/holm/agent.toml")]
    config: PathBuf,
    /// Use no real host but a simulated one, and say so wherever it is shown
    #[arg(long, value_name = "MACHINE")]
    simulate: Option<Simulated>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For a person
    Text,
    /// For a program
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Simulated {
    /// 16 GPUs, 12 NVSwitches
    Dgx2,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(place) => serve(&place),
        Command::Inventory(place) => inventory(&place),
        Command::Check(place) => check(&place),
        Command::Fabric { command: FabricCommand::Show { place, format } } => show_fabric(&place, format),
        Command::Sanitise { place, device } => sanitise(&place, &device),
        Command::Commission { place, format } => return commissioned(commission(&place, format)),
        Command::Image { command } => image(&command),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "holm-agent", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

/// Who read standard output has left, as `head` does: there is nobody to say anything to.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
struct NobodyReads;

/// Writes to standard output.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => NobodyReads.into(),
        _ => format!("cannot write to standard output: {error}").into(),
    })
}

/// Says why, where somebody reads it.
fn failed(error: &Failure, code: u8) -> ExitCode {
    if !error.is::<NobodyReads>() {
        let _ = writeln!(io::stderr(), "holm-agent: {}", holm_proto::chain(error.as_ref()));
    }
    ExitCode::from(code)
}

/// Whether everything passes that must, as an exit code that a script can tell from a failure.
fn commissioned(outcome: Result<Option<bool>, Failure>) -> ExitCode {
    match outcome {
        Ok(Some(true)) => ExitCode::SUCCESS,
        Ok(Some(false)) => ExitCode::from(1),
        // The words say that nothing was checked.
        Ok(None) => ExitCode::from(2),
        Err(error) => failed(&error, 2),
    }
}

/// Whether everything passes that must; `None` where nothing was checked.
fn commission(place: &Where, format: Format) -> Result<Option<bool>, Failure> {
    let config = Config::load(&place.config)?;
    let report = host(&config, place.simulate)?.commission();
    match format {
        Format::Text => say(&commission::text(&report))?,
        Format::Json => say(&format!("{:#}\n", commission::json(&report)))?,
    }
    Ok(commission::passed(&report))
}

/// Keys pass through this process: no core dump gets at them, not even one that is piped to a program, which no
/// limit of the unit's holds back.
fn harden() -> Result<(), Failure> {
    let off = |error| format!("core dumps cannot be switched off: {error}");
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(off)?)
}

fn serve(place: &Where) -> Result<(), Failure> {
    harden()?;
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let config = Config::load(&place.config)?;
    let host = host(&config, place.simulate)?;
    let (record, loaded) = Record::open(&config.agent.record)?;
    let simulated = host.simulated();
    host.begin()?;
    let engine =
        Engine::new(host, record, loaded, Limits::new(config.agent.boot_limit(), config.agent.stop_limit()));
    let driver = Arc::new(Driver::start(Arc::new(engine))?);
    let session = Session::new(Arc::clone(&driver), &config.agent.identity);
    // One thread: it waits for messages and carries bytes; what takes time has threads of its own.
    let runtime =
        runtime::Builder::new_current_thread().enable_all().max_blocking_threads(MOST_BLOCKING).build()?;
    runtime.block_on(async {
        let (tell, told) = watch::channel(false);
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut first = true;
        let up = |identity: &Identity| {
            if std::mem::take(&mut first) {
                let note = if simulated { ", simulated" } else { "" };
                let line = format!("holm-agent ready: {} with {}{note}", identity.host, identity.server);
                // A standard output that is closed is no reason to end.
                let _ = writeln!(io::stdout(), "{line}");
            }
        };
        tokio::select! {
            () = session.keep(told, up) => {}
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        let _ = tell.send(true);
        Ok::<(), io::Error>(())
    })?;
    tracing::info!("stopping: machines run on");
    if !driver.stop(STOP_LIMIT) {
        tracing::warn!("a call to the outside has not ended: the next agent takes it up again");
    }
    runtime.shutdown_timeout(Duration::ZERO);
    Ok(())
}

fn inventory(place: &Where) -> Result<(), Failure> {
    let config = Config::load(&place.config)?;
    let host = host(&config, place.simulate)?;
    let mut shown = described(&host.inventory()?);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("platform".to_owned(), json!(host.platform()));
        fields.insert("simulated".to_owned(), json!(host.simulated()));
    }
    say(&format!("{shown:#}\n"))
}

fn sanitise(place: &Where, typed: &[TypedPciAddress]) -> Result<(), Failure> {
    let config = Config::load(&place.config)?;
    let host = host(&config, place.simulate)?;
    // Held as long as this takes: an agent that ran beside would end the scrubbing machine as a stray.
    let (_record, _) = Record::open(&config.agent.record)?;
    let held = host.attached()?;
    let known: Vec<PciAddress> =
        host.inventory()?.devices.iter().filter_map(|device| device.address.parse().ok()).collect();
    let mut devices = Vec::new();
    for one in typed {
        devices.push(one.among(known.iter().copied())?);
    }
    for device in &devices {
        if held.contains(device) {
            return Err(format!("something holds `{device}`: stop it first").into());
        }
        host.bind(*device)?;
    }
    let evidence = host.sanitise(uuid::Uuid::new_v4().to_string().parse()?, &devices)?;
    let clean = evidence.len() == devices.len() && evidence.iter().all(|one| one.cleaned);
    for one in evidence {
        let shown = json!({
            "run_id": one.run_id,
            "address": one.address,
            "cleaned": one.cleaned,
            "method": one.method,
            "pattern": one.pattern,
            "bytes_total": one.bytes_total,
            "bytes_written": one.bytes_written,
            "bytes_verified": one.bytes_verified,
            "bytes_unreached": one.bytes_unreached,
            "bytes_dirty_before": one.bytes_dirty_before,
            "took_ms": one.took_ms,
            "tool": one.tool,
            "detail": one.detail,
        });
        say(&format!("{shown:#}\n"))?;
    }
    if clean { Ok(()) } else { Err("not every device is clean".into()) }
}

fn check(place: &Where) -> Result<(), Failure> {
    let config = Config::load(&place.config)?;
    say(&format!("configuration  {}\n", place.config.display()))?;
    let mut wrong = Vec::new();
    match Identity::load(&config.agent.identity) {
        Ok(identity) => say(&format!("identity       {} with {}\n", identity.host, identity.server))?,
        Err(error) => wrong.push(holm_proto::chain(&error)),
    }
    let host = host(&config, place.simulate)?;
    if let Some(real) = config.host.as_ref().filter(|_| !host.simulated()) {
        wrong.extend(missing(real));
        wrong.extend(unlike(real));
        wrong.extend(storage::Volumes::new(real.storage.clone())?.lacks());
        if let Some(to) = &real.backup {
            wrong.extend(storage::backup::Backups::new(to.clone(), real.storage.clone())?.lacks());
        }
    }
    let inventory = host.inventory()?;
    let gpus = || inventory.devices.iter().filter(|device| device.kind() == v1::DeviceKind::Gpu);
    say(&format!("GPUs           {} of {}\n", gpus().count(), host.platform()))?;
    if gpus().count() == 0 {
        wrong.push("there is no GPU: see `gpus` in `[host.devices]`".to_owned());
    }
    for gpu in gpus() {
        if !gpu.problem.is_empty() {
            wrong.push(format!("`{}`: {}", gpu.address, gpu.problem));
        } else if gpu.physical_id.is_none() {
            wrong.push(format!("`{}` has no number in `physical_ids`: it is never handed out", gpu.address));
        }
    }
    if let Some(real) = config.host.as_ref().filter(|_| !host.simulated()) {
        let kinds: BTreeSet<&str> = gpus().map(|gpu| gpu.id.as_str()).collect();
        wrong.extend(kinds.into_iter().filter_map(|kind| uncleanable(real, kind)));
        if let Some(Err(error)) = real.sanitise.vm.as_ref().map(check_image) {
            wrong.push(error.chain());
        }
    }
    if wrong.is_empty() {
        return say("all is well\n");
    }
    Err(wrong.join("\nholm-agent: ").into())
}

/// How a shared fabric differs from what the platform and the configuration say.
fn unlike(host: &HostConfig) -> Vec<String> {
    match host.fabric.model {
        FabricModel::None => Vec::new(),
        FabricModel::SharedNvswitch => {
            let compared = fabric::table(&host.platform).and_then(|table| {
                Ok(fabric::compare(table, &Nvfm::look(&host.fabric)?, &host.devices.physical_ids))
            });
            compared.unwrap_or_else(|error| vec![error.chain()])
        }
    }
}

/// Asks the fabric once and changes nothing: an agent may be at work.
fn show_fabric(place: &Where, format: Format) -> Result<(), Failure> {
    let config = Config::load(&place.config)?;
    let (platform, model, seen, configured) = match (place.simulate, &config.host) {
        (Some(Simulated::Dgx2), _) => {
            let host = simulated(&config)?;
            let devices = host.inventory()?.devices.into_iter();
            let numbers = devices.filter_map(|gpu| Some((gpu.address.parse().ok()?, gpu.physical_id?)));
            let numbers: BTreeMap<PciAddress, u32> = numbers.collect();
            (host.platform().to_owned(), host.model(), host.partitions()?, numbers)
        }
        (None, Some(host)) => {
            let seen = match host.fabric.model {
                FabricModel::None => NoFabric::new(fabric::table(&host.platform)?).partitions()?,
                FabricModel::SharedNvswitch => Nvfm::look(&host.fabric)?,
            };
            let numbers = host.devices.physical_ids.clone();
            (host.platform.clone(), host.fabric.model, seen, numbers)
        }
        (None, None) => return Err(NO_HOST.into()),
    };
    let differences = fabric::compare(fabric::table(&platform)?, &seen, &configured);
    // What cannot be learnt is among the differences.
    let learnt = fabric::learn(&seen).unwrap_or_default();
    let mut out = String::new();
    match format {
        Format::Json => {
            let partition = |seen: &Seen| {
                let gpu = |gpu: &SeenGpu| {
                    json!({
                        "physical_id": gpu.physical_id,
                        "uuid": gpu.uuid,
                        "pci_bus_id": gpu.pci_bus_id,
                        "links": gpu.links,
                    })
                };
                json!({
                    "id": seen.id,
                    "active": seen.active,
                    "gpus": seen.gpus.iter().map(gpu).collect::<Vec<Value>>(),
                })
            };
            let physical_ids: serde_json::Map<String, Value> =
                learnt.iter().map(|(address, id)| (address.to_string(), json!(id))).collect();
            let shown = json!({
                "platform": platform,
                "model": model.as_str(),
                "simulated": place.simulate.is_some(),
                "partitions": seen.iter().map(partition).collect::<Vec<Value>>(),
                "physical_ids": physical_ids,
                "differences": differences,
            });
            writeln!(out, "{shown:#}")?;
        }
        Format::Text => {
            // All but the section is a comment, so that the whole can be put into a configuration.
            let note = if place.simulate.is_some() { ", simulated" } else { "" };
            writeln!(out, "# {platform}, {}{note}: {} partitions", model.as_str(), seen.len())?;
            let active: Vec<String> =
                seen.iter().filter(|seen| seen.active).map(|seen| seen.id.to_string()).collect();
            let active = if active.is_empty() { "none".to_owned() } else { active.join(", ") };
            writeln!(out, "# up: {active}")?;
            for difference in &differences {
                writeln!(out, "# differs: {difference}")?;
            }
            writeln!(out, "[host.devices.physical_ids]")?;
            for (address, id) in &learnt {
                writeln!(out, "\"{address}\" = {id}")?;
            }
        }
    }
    say(&out)
}

/// Why a kind of GPU is never cleaned, and so never handed out.
fn uncleanable(host: &HostConfig, kind: &str) -> Option<String> {
    match host.sanitise.method(&host.devices, kind) {
        None if GpuKind::of(kind).is_some() => Some(format!(
            "the BARs of a {kind} are not its memory: only `scrub-vm/cuda` cleans it; name it in `[host.sanitise]`"
        )),
        None => Some(format!("nothing says how a {kind} is cleaned: name a method in `[host.sanitise]`")),
        Some(CleanMethod::VmBar | CleanMethod::VmCuda) if host.sanitise.vm.is_none() => Some(format!(
            "a {kind} is cleaned by a machine that is not described: write `[host.sanitise.vm]`"
        )),
        Some(CleanMethod::VmCuda) if GpuKind::of(kind).is_none() => Some(format!(
            "nobody knows how much memory a {kind} has, so `scrub-vm/cuda` never calls it clean"
        )),
        Some(_) => None,
    }
}

fn image(command: &ImageCommand) -> Result<(), Failure> {
    let (ImageCommand::Add { config, .. } | ImageCommand::List { config }) = command;
    let images = Images::new(Config::load(config)?.host.ok_or(NO_HOST)?.guest.images);
    let line = |id: &str| -> Result<String, Failure> {
        let about = images.describe(id)?;
        Ok(format!("{id}  {}  {} packages\n", about.version, about.packages.len()))
    };
    match command {
        ImageCommand::Add { directory, .. } => say(&line(&images.add(directory)?)?),
        ImageCommand::List { .. } => {
            let all = images.list()?.iter().map(|id| line(id)).collect::<Result<String, _>>()?;
            say(&if all.is_empty() { "none: holm-agent image add DIR\n".to_owned() } else { all })
        }
    }
}

/// Files that the configuration names and that are not there.
fn missing(host: &HostConfig) -> Vec<String> {
    let files: [&Path; 4] =
        [&host.storage.base_image, &host.storage.qemu_img, &host.guest.kernel, &host.guest.initrd];
    let missing = files.into_iter().filter(|file| !file.is_file());
    missing.map(|file| format!("there is no file `{}`", file.display())).collect()
}

fn host(config: &Config, simulate: Option<Simulated>) -> Result<Arc<dyn Host>, Failure> {
    match (simulate, &config.host) {
        (Some(Simulated::Dgx2), _) => Ok(Arc::new(simulated(config)?)),
        (None, Some(host)) => Ok(Arc::new(RealHost::new(host.clone())?)),
        (None, None) => Err(NO_HOST.into()),
    }
}

fn simulated(config: &Config) -> Result<SimulatedHost, Failure> {
    let directory = config.simulate.directory.clone();
    let directory = directory.unwrap_or_else(|| config.agent.record.join("simulated"));
    Ok(SimulatedHost::new(&directory, config.simulate.clone())?)
}

fn described(inventory: &v1::Inventory) -> Value {
    let device = |device: &v1::PciDevice| {
        let kind = match device.kind() {
            v1::DeviceKind::Gpu => "gpu",
            v1::DeviceKind::Nvswitch => "nvswitch",
            v1::DeviceKind::Unspecified => "unknown",
        };
        json!({
            "address": device.address,
            "kind": kind,
            "id": device.id,
            "numa_node": device.numa_node,
            "iommu_group": device.iommu_group,
            "physical_id": device.physical_id,
            "driver": device.driver,
            "reset_methods": device.reset_methods,
            "memory_bytes": device.memory_bytes,
            "problem": device.problem,
        })
    };
    json!({
        "cpus": inventory.cpus,
        "numa_nodes": inventory.numa_nodes,
        "memory_mib": inventory.memory_mib,
        "iommu": inventory.iommu,
        "kernel": inventory.kernel,
        "devices": inventory.devices.iter().map(device).collect::<Vec<Value>>(),
    })
}
