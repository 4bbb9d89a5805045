//! Machines, through libvirt. Nothing else in the agent knows it.
//!
//! Each call runs on a thread of its own over a connection of its own, and is waited for as long as its
//! limit: a libvirt that hangs gives an error and one that was restarted is simply met again. A call that
//! was given up may still come to its end later. Until it has, nothing more is begun for that slice, so
//! that a start given up cannot overtake the destruction that came after it.

mod elements;
mod layout;
mod process;
mod scrub;
mod seen;
mod xml;

pub use self::{
    scrub::ScrubSpec,
    xml::{DATA_SERIAL, Opened, Parts, SCRATCH_SERIAL},
};

use crate::{
    config::{LibvirtConfig, MachinesConfig},
    edge::{DomainSpec, EdgeError, Result, VolumeKind},
    inventory::ground::Ground,
    storage::Disk,
};
use holm_proto::ids::{PciAddress, RunId, SliceId};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};
use virt::{
    connect::Connect,
    domain::{Domain, DomainPausedReason, DomainPausedReasonEnum, DomainStateReason, DomainStateReasonEnum},
    enumutil::Enum,
    error::ErrorNumber,
    secret::Secret,
    sys,
};
use zeroize::Zeroizing;

/// To answer a question; a libvirt that has just started looks at QEMU first, 70 s in an emulated machine.
const ASK_LIMIT: Duration = Duration::from_secs(120);
/// To start a machine: memory is pinned meanwhile.
const START_LIMIT: Duration = Duration::from_secs(300);
/// To stop one: libvirt itself gives up on a process after half a minute.
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// For a process that libvirt calls ended.
const EXIT_LIMIT: Duration = Duration::from_secs(30);
/// Calls that may be given up before no more are begun.
const MOST_GIVEN_UP: usize = 8;

/// The machines of this host.
#[derive(Debug, Clone)]
pub struct Libvirt {
    config: LibvirtConfig,
    machines: MachinesConfig,
    running: Arc<Mutex<Running>>,
}

/// What has been begun and not yet come to its end.
#[derive(Debug, Default)]
struct Running {
    calls: usize,
    slices: BTreeSet<SliceId>,
}

/// One of Holm's domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Whose it is.
    pub slice: SliceId,
    /// Its process runs.
    pub running: bool,
    /// It stands still: a write found no room.
    pub paused: bool,
    /// The host's devices that it holds, or would hold if it ran.
    pub devices: BTreeSet<PciAddress>,
    /// Its address on vsock while it runs.
    pub cid: Option<u32>,
}

impl Libvirt {
    /// The libvirt that the configuration names, and how machines are to lie. Nothing is asked of it yet.
    pub fn new(config: LibvirtConfig, machines: MachinesConfig) -> Self {
        // Else libvirt prints each error by itself.
        virt::error::clear_error_callback();
        Self { config, machines, running: Arc::default() }
    }

    /// QEMU's version: major × 1 000 000 + minor × 1000 + release.
    pub fn qemu_version(&self) -> Result<u32> {
        let asked =
            |libvirt: &Connect| libvirt.hyp_version().map_err(failed("ask libvirt for QEMU's version"));
        self.call("ask for QEMU's version", ASK_LIMIT, None, asked)
    }

    /// Every domain that is Holm's. Others on this host are none of its business.
    pub fn machines(&self) -> Result<Vec<Machine>> {
        self.call("list the machines", ASK_LIMIT, None, machines)
    }

    /// The same, and the runs of the sanitiser that have a machine.
    pub fn machines_and_scrubs(&self) -> Result<(Vec<Machine>, Vec<RunId>)> {
        self.call("list the machines", ASK_LIMIT, None, |libvirt| {
            Ok((machines(libvirt)?, scrub::runs(libvirt)?))
        })
    }

    /// Defines and starts a machine, lending libvirt the keys for just as long. `hold` is dropped when the
    /// call has really come to its end, given up or not.
    pub fn start(
        &self,
        spec: &DomainSpec,
        ground: &Ground,
        parts: &Parts<'_>,
        hold: impl Send + 'static,
    ) -> Result<()> {
        let slice = spec.slice;
        let unwritten =
            |error| EdgeError::because(format!("cannot describe the machine of slice `{slice}`"), error);
        let layout = layout::plan(spec, ground, &self.machines)?;
        let domain = xml::domain(spec, &layout, parts).map_err(unwritten)?;
        let mut secrets = Vec::new();
        for opened in parts.volumes {
            if let (Disk::File(path), Some(passphrase)) = (&opened.disk, &opened.passphrase) {
                let uuid = xml::secret_uuid(opened.volume);
                let xml = xml::secret(opened.volume, path).map_err(|error| {
                    EdgeError::because(format!("cannot describe a secret of slice `{slice}`"), error)
                })?;
                secrets.push(Lent { uuid, xml, passphrase: passphrase.clone() });
            }
        }
        let start = Start { slice, domain, secrets };
        self.call(
            &format!("start the machine of slice `{slice}`"),
            START_LIMIT,
            Some(slice),
            move |libvirt| {
                let _hold = hold;
                start.run(libvirt)
            },
        )
    }

    /// Tells a machine that a disk of it has this size now.
    pub fn grow(&self, slice: SliceId, kind: VolumeKind, size_gib: u64) -> Result<()> {
        let bytes = size_gib.saturating_mul(1 << 30);
        self.call(&format!("grow a disk of slice `{slice}`"), ASK_LIMIT, Some(slice), move |libvirt| {
            let gone = || EdgeError::new("its machine is not there");
            let domain = find(libvirt, slice)?.ok_or_else(gone)?;
            domain
                .block_resize(xml::target(kind), bytes, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
                .map_err(failed("grow the disk"))
        })
    }

    /// Takes the keys of a machine's disks back, where it is defined.
    pub fn take_back_keys(&self, slice: SliceId) -> Result<()> {
        self.call(&format!("take back the keys of slice `{slice}`"), ASK_LIMIT, Some(slice), move |libvirt| {
            find(libvirt, slice)?.map_or(Ok(()), |domain| take_back(libvirt, &domain))
        })
    }

    /// Waits until a machine has ended by itself, at most so long; false where it has not. No machine has.
    pub fn wait(&self, slice: SliceId, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        for process in left_over(slice)? {
            let left = end.saturating_duration_since(Instant::now());
            let gone = process.wait(left).map_err(|error| {
                EdgeError::because(format!("cannot wait for process {}", process.id), error)
            })?;
            if !gone {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stops and undefines a machine with its TPM's state and its secret, and returns when its process is
    /// gone. Nothing happens where there is none.
    pub fn destroy(&self, slice: SliceId) -> Result<()> {
        self.call(&format!("stop the machine of slice `{slice}`"), STOP_LIMIT, Some(slice), move |libvirt| {
            destroy(libvirt, slice)
        })
    }

    /// Lets a machine go on that was paused because a write found no room. One that runs, is gone, or was paused by
    /// somebody is left as it is.
    pub fn resume(&self, slice: SliceId) -> Result<()> {
        self.call(&format!("resume the machine of slice `{slice}`"), ASK_LIMIT, Some(slice), move |libvirt| {
            let Some(domain) = find(libvirt, slice)? else { return Ok(()) };
            if !is_paused(&domain).map_err(failed("ask why the machine is paused"))? {
                return Ok(());
            }
            domain.resume().map_err(failed("resume the machine"))
        })
    }

    /// Runs `work` on a thread of its own, with a connection, and waits for it as long as `limit`.
    fn call<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        slice: Option<SliceId>,
        work: impl FnOnce(&Connect) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = Turn::take(&self.running, slice)?;
        let (uri, (send, receive)) = (self.config.uri.clone(), mpsc::sync_channel(1));
        thread::Builder::new()
            .name("libvirt".to_owned())
            .spawn(move || {
                let outcome = Connect::open(Some(&uri))
                    .map_err(failed("reach libvirt"))
                    .and_then(|connection| work(&connection));
                // Before the caller hears of it, who may go on to the next call at once.
                drop(turn);
                // Nobody listens where it was given up.
                let _ = send.send(outcome);
            })
            .map_err(|error| EdgeError::because("cannot start a thread for libvirt", error))?;
        match receive.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(EdgeError::new(format!(
                "could not {what}: libvirt has not answered for {} s",
                limit.as_secs()
            ))),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(EdgeError::new(format!("could not {what}: the call to libvirt broke off")))
            }
        }
    }
}

/// The right to call libvirt, given back when dropped.
struct Turn {
    running: Arc<Mutex<Running>>,
    slice: Option<SliceId>,
}

impl Turn {
    fn take(running: &Arc<Mutex<Running>>, slice: Option<SliceId>) -> Result<Self> {
        let mut all = running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slice) = slice.filter(|slice| all.slices.contains(slice)) {
            return Err(EdgeError::new(format!(
                "libvirt has not yet ended an earlier call for slice `{slice}`"
            )));
        }
        if all.calls >= MOST_GIVEN_UP {
            return Err(EdgeError::new(format!(
                "libvirt does not answer: {} calls to it wait; look at `systemctl status libvirtd`",
                all.calls
            )));
        }
        all.calls += 1;
        all.slices.extend(slice);
        drop(all);
        Ok(Self { running: Arc::clone(running), slice })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        all.calls = all.calls.saturating_sub(1);
        if let Some(slice) = &self.slice {
            all.slices.remove(slice);
        }
    }
}

/// All that starting a machine takes.
struct Start {
    slice: SliceId,
    domain: String,
    secrets: Vec<Lent>,
}

/// A key that libvirt is lent: of each disk that takes one.
struct Lent {
    uuid: String,
    xml: String,
    passphrase: Zeroizing<String>,
}

impl Start {
    fn run(&self, libvirt: &Connect) -> Result<()> {
        if let Some(domain) = find(libvirt, self.slice)? {
            if domain.is_active().map_err(failed("ask whether the machine runs"))? {
                // An earlier start that was cut off after this point: only its secrets may be left.
                return take_back(libvirt, &domain);
            }
            undefine(libvirt, &domain)?;
        }
        if let Some(process) = left_over(self.slice)?.first() {
            return Err(EdgeError::new(format!(
                "process {} runs the machine of slice `{}` and libvirt does not know it: end it first",
                process.id, self.slice
            )));
        }
        // The domain before the secret: destroying the one finds the other by it, wherever this is cut off.
        let domain = libvirt
            .define_domain_xml_flags(&self.domain, sys::VIR_DOMAIN_DEFINE_VALIDATE)
            .map_err(failed("define the machine"))?;
        let started =
            self.lend_keys(libvirt).and_then(|()| domain.create().map_err(failed("start the machine")));
        let removed = take_back(libvirt, &domain);
        if started.is_err()
            && let Err(error) = undefine(libvirt, &domain)
        {
            tracing::warn!(slice = %self.slice, error = error.chain(), "a machine that did not start stays defined");
        }
        started.and(removed)
    }

    fn lend_keys(&self, libvirt: &Connect) -> Result<()> {
        for Lent { uuid, xml, passphrase } in &self.secrets {
            remove_secret(libvirt, uuid)?;
            libvirt
                .define_secret_xml(xml, sys::VIR_SECRET_DEFINE_VALIDATE)
                .and_then(|secret| secret.set_value(passphrase.as_bytes(), 0))
                .map_err(failed("hand over a volume's key"))?;
        }
        Ok(())
    }
}

/// Takes every key back that a machine's description names, and goes on where one does not come.
fn take_back(libvirt: &Connect, domain: &Domain) -> Result<()> {
    let description =
        domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).map_err(failed("read the machine's description"))?;
    let seen = seen::read(&description)
        .map_err(|error| EdgeError::because("cannot tell which secrets belong to the machine", error))?;
    seen.secrets.iter().map(|secret| remove_secret(libvirt, secret)).fold(Ok(()), Result::and)
}

fn machines(libvirt: &Connect) -> Result<Vec<Machine>> {
    let mut machines = Vec::new();
    for domain in libvirt.list_all_domains(0).map_err(failed("list the machines"))? {
        match machine(&domain) {
            Ok(machine) => machines.extend(machine),
            Err(Ask::Gone) => {}
            Err(Ask::Failed(error)) => return Err(error),
        }
    }
    machines.sort_by_key(|machine| machine.slice);
    Ok(machines)
}

/// Why a domain did not answer.
enum Ask {
    /// It ended between being listed and being asked.
    Gone,
    Failed(EdgeError),
}

impl From<virt::error::Error> for Ask {
    fn from(error: virt::error::Error) -> Self {
        if error.code().is(ErrorNumber::NoDomain) {
            Self::Gone
        } else {
            Self::Failed(failed("ask libvirt about a machine")(error))
        }
    }
}

fn machine(domain: &Domain) -> std::result::Result<Option<Machine>, Ask> {
    let Some(slice) = xml::slice_of(&domain.name()?) else { return Ok(None) };
    if domain.uuid_string()? != slice.to_string() {
        tracing::warn!(%slice, "a domain has a slice's name and another id: ignored");
        return Ok(None);
    }
    let running = domain.is_active()?;
    let seen = seen::read(&domain.xml_desc(0)?).map_err(|error| {
        Ask::Failed(EdgeError::because(format!("cannot read the machine of slice `{slice}`"), error))
    })?;
    let paused = running && is_paused(domain)?;
    Ok(Some(Machine { slice, running, paused, devices: seen.devices, cid: seen.cid.filter(|_| running) }))
}

/// It stands still because of an error of a disk. Of those only a lack of room pauses it: see `xml`.
fn is_paused(domain: &Domain) -> std::result::Result<bool, virt::error::Error> {
    let reason: DomainPausedReasonEnum = Enum::Known(DomainPausedReason::IOError);
    Ok(domain.state()?.1 == DomainStateReasonEnum::Known(DomainStateReason::Paused(reason)))
}

fn destroy(libvirt: &Connect, slice: SliceId) -> Result<()> {
    // Before the machine ends: afterwards they could no longer be told from others.
    let processes = left_over(slice)?;
    let domain = find(libvirt, slice)?;
    if let Some(domain) = &domain {
        if domain.is_active().map_err(failed("ask whether the machine runs"))?
            && let Err(error) = domain.destroy()
            // It may have ended by itself meanwhile.
            && domain.is_active().unwrap_or(true)
        {
            return Err(failed("stop the machine")(error));
        }
        undefine(libvirt, domain)?;
    }
    for process in processes {
        let gone = process
            .wait(if domain.is_some() { EXIT_LIMIT } else { Duration::ZERO })
            .map_err(|error| EdgeError::because(format!("cannot wait for process {}", process.id), error))?;
        if !gone {
            return Err(EdgeError::new(format!(
                "process {} of the machine of slice `{slice}` has not ended: its devices are still in its hands",
                process.id
            )));
        }
    }
    Ok(())
}

/// Undefines a domain that does not run, with its TPM's state and its secrets.
fn undefine(libvirt: &Connect, domain: &Domain) -> Result<()> {
    take_back(libvirt, domain)?;
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM
        | sys::VIR_DOMAIN_UNDEFINE_TPM;
    domain.undefine_flags(flags).map_err(failed("undefine the machine"))
}

/// The domain of a slice. One that has its id and not its name is somebody else's, and left alone.
fn find(libvirt: &Connect, slice: SliceId) -> Result<Option<Domain>> {
    let domain = match libvirt.lookup_domain_by_uuid_string(&slice.to_string()) {
        Ok(domain) => domain,
        Err(error) if error.code().is(ErrorNumber::NoDomain) => return Ok(None),
        Err(error) => return Err(failed("look for the machine")(error)),
    };
    let name = domain.name().map_err(failed("ask for the machine's name"))?;
    if xml::slice_of(&name) == Some(slice) {
        Ok(Some(domain))
    } else {
        Err(EdgeError::new(format!(
            "the domain `{}` has the id of slice `{slice}`: left alone",
            name.escape_debug()
        )))
    }
}

fn remove_secret(libvirt: &Connect, uuid: &str) -> Result<()> {
    let removed = match libvirt.lookup_secret_by_uuid_string(uuid) {
        Ok(secret) => Secret::undefine(&secret),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if !error.code().is(ErrorNumber::NoSecret) => {
            Err(failed("take the volume's key back from libvirt")(error))
        }
        _ => Ok(()),
    }
}

fn left_over(slice: SliceId) -> Result<Vec<process::Process>> {
    process::of_machine(&xml::domain_name(slice))
        .map_err(|error| EdgeError::because("cannot look through the processes", error))
}

fn failed(doing: &'static str) -> impl FnOnce(virt::error::Error) -> EdgeError {
    move |error| EdgeError::because(format!("cannot {doing}"), error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{GuestConfig, ImageFormat},
        edge::VolumeKind,
    };
    use holm_proto::ids::VolumeId;
    use newtype_uuid::GenericUuid as _;
    use std::path::Path;

    /// libvirt's own stand-in for a hypervisor: it parses and validates as the real one does. Each has a
    /// state of its own, which lasts as long as somebody is connected.
    struct StandIn {
        _file: tempfile::NamedTempFile,
        uri: String,
        connection: Connect,
    }

    fn stand_in() -> StandIn {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "<node/>").unwrap();
        let uri = format!("test://{}", file.path().display());
        StandIn { connection: Connect::open(Some(&uri)).unwrap(), _file: file, uri }
    }

    fn libvirt(uri: &str) -> Libvirt {
        Libvirt::new(LibvirtConfig { uri: uri.to_owned() }, MachinesConfig::default())
    }

    fn slice() -> SliceId {
        "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap()
    }

    /// On the DGX-2 of the layout's tests, or anywhere.
    fn domain(gpus: &[usize], anywhere: bool, cpu: &str) -> String {
        let guest = GuestConfig {
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: "quiet".to_owned(),
            cpu: cpu.to_owned(),
            images: "/var/lib/holm/images".into(),
            library: None,
        };
        let parts = Parts {
            guest: &guest,
            cmdline: "quiet",
            library: None,
            kernel: Path::new("/s/vmlinuz"),
            initrd: Path::new("/s/initrd.img"),
            volumes: &[
                opened(VolumeKind::Root, volume()),
                opened(VolumeKind::Data, data()),
                opened(VolumeKind::Scratch, VolumeId::from_untyped_uuid(uuid::Uuid::nil())),
            ],
            discard: false,
            base: Path::new("/base.raw"),
            base_format: ImageFormat::Raw,
            seed: Path::new("/s/seed.img"),
            channel: Path::new("/c.sock"),
        };
        let mut spec =
            DomainSpec { level_name: "Confidential <&>".to_owned(), ..layout::fixture::spec(gpus) };
        if anywhere {
            spec.nodes.clear();
        }
        let ground = layout::fixture::dgx2(&spec.devices);
        let layout = layout::plan(&spec, &ground, &layout::fixture::machines()).unwrap();
        xml::domain(&spec, &layout, &parts).unwrap()
    }

    fn opened(kind: VolumeKind, volume: VolumeId) -> Opened {
        Opened { volume, kind, disk: Disk::File(format!("/v/{volume}").into()), passphrase: None }
    }

    fn data() -> VolumeId {
        "6f9619ff-8b86-4d01-b42d-00cf4fc964f1".parse().unwrap()
    }

    fn volume() -> VolumeId {
        "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap()
    }

    #[test]
    fn libvirt_itself_finds_the_descriptions_valid() {
        let connection = stand_in().connection;
        let sizes = [vec![1], vec![1, 4], vec![1, 4, 6, 7], (1..=8).collect(), (1..=16).collect()];
        for (gpus, anywhere) in sizes.iter().flat_map(|gpus| [(gpus, false), (gpus, true)]) {
            // The stand-in runs machines of its own kind only.
            let text = domain(gpus, anywhere, "host-passthrough").replace("type=\"kvm\"", "type=\"test\"");
            let defined = connection.define_domain_xml_flags(&text, sys::VIR_DOMAIN_DEFINE_VALIDATE).unwrap();
            let machine = machines(&connection).unwrap().into_iter().next().unwrap();
            assert_eq!((machine.slice, machine.running, machine.cid), (slice(), false, None));
            assert_eq!(machine.devices.len(), gpus.len());
            let seen = seen::read(&defined.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).unwrap()).unwrap();
            for volume in [volume(), data()] {
                assert!(
                    seen.secrets.contains(&xml::secret_uuid(volume)),
                    "each disk's, or its key would stay"
                );
            }
            defined.undefine().unwrap();
            // Without this the test would pass on anything.
            let slip = text.replace("on_crash", "on_crashh");
            assert!(connection.define_domain_xml_flags(&slip, sys::VIR_DOMAIN_DEFINE_VALIDATE).is_err());
        }
    }

    #[test]
    fn a_machine_that_somebody_paused_stays_paused() {
        let StandIn { connection, uri, .. } = &stand_in();
        let text = domain(&[1], true, "host-passthrough").replace("type=\"kvm\"", "type=\"test\"");
        let defined = connection.define_domain_xml_flags(&text, sys::VIR_DOMAIN_DEFINE_VALIDATE).unwrap();
        let paused = || machines(connection).unwrap()[0].paused;
        assert!(!paused());
        defined.create().unwrap();
        assert!(!paused(), "it runs");
        defined.suspend().unwrap();
        assert!(!paused(), "by hand is not for want of room");
        libvirt(uri).resume(slice()).unwrap();
        assert!(!defined.state().unwrap().1.to_string().contains("Running"));
        // And one that is not there is nothing to resume.
        defined.destroy().unwrap();
        defined.undefine().unwrap();
        libvirt(uri).resume(slice()).unwrap();
    }

    #[test]
    fn domains_of_others_are_left_alone() {
        let StandIn { connection, .. } = stand_in();
        let text = format!(
            "<domain type='test'><name>web</name><uuid>{}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>",
            slice()
        );
        let theirs = connection.define_domain_xml(&text).unwrap();
        let same_name =
            text.replace("web", &xml::domain_name(slice())).replace("8ad91</uuid>", "8ad92</uuid>");
        connection.define_domain_xml(&same_name).unwrap();
        assert_eq!(machines(&connection).unwrap(), []);
        assert!(destroy(&connection, slice()).unwrap_err().chain().contains("left alone"));
        assert!(theirs.name().is_ok_and(|name| name == "web"));
    }

    #[test]
    fn a_libvirt_that_is_not_there_is_an_error() {
        let libvirt = libvirt("qemu+unix:///system?socket=/nonexistent/libvirt-sock");
        let error = libvirt.machines().unwrap_err().chain();
        assert!(error.starts_with("cannot reach libvirt: "), "{error}");
    }

    #[test]
    fn destroying_what_is_not_there_is_nothing() {
        let stand_in = stand_in();
        let libvirt = libvirt(&stand_in.uri);
        for _ in 0..100 {
            libvirt.destroy(slice()).unwrap();
        }
    }

    #[test]
    fn a_call_that_hangs_is_given_up_and_nothing_overtakes_it() {
        let stand_in = stand_in();
        let libvirt = libvirt(&stand_in.uri);
        let (go, wait) = mpsc::channel::<()>();
        let outcome = libvirt.call("try", Duration::from_millis(20), Some(slice()), move |_| {
            let _ = wait.recv();
            Ok(())
        });
        let error = outcome.unwrap_err().chain();
        assert!(error.contains("has not answered"), "{error}");
        let error = libvirt.destroy(slice()).unwrap_err().chain();
        assert!(error.contains("not yet ended"), "{error}");
        // The thread ends some moments after it was let go.
        drop(go);
        assert!((0..1_000_000).any(|_| libvirt.destroy(slice()).is_ok()));
    }

    #[test]
    fn calls_do_not_pile_up() {
        let running = Arc::default();
        let turns: Vec<Turn> = (0..MOST_GIVEN_UP).map(|_| Turn::take(&running, None).unwrap()).collect();
        assert!(Turn::take(&running, None).is_err());
        drop(turns);
        assert!(Turn::take(&running, Some(slice())).is_ok());
    }
}
