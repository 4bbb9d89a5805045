//! The conversation with Fabric Manager. One thread holds it; each call may take long.

use super::{
    Ask, Calls, Ticket,
    ledger::Ledger,
    raw::{Handle, Library, PartitionList, Status},
};
use crate::{
    config::FabricConfig,
    edge::{EdgeError, Result},
    fabric::{Seen, SeenGpu},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// How often one that starts, or cannot be reached, is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct Manager {
    config: FabricConfig,
    ledger: Arc<Ledger>,
    calls: Arc<Calls>,
    library: Option<Library>,
    connection: Option<Handle>,
    /// What was wrong at the last look, so that it is said once.
    complaint: Option<String>,
}

/// Why the partitions are not known.
enum Unknown {
    /// It may be otherwise in a moment.
    Passing(EdgeError),
    /// Somebody must do something.
    Lasting(EdgeError),
}

impl Unknown {
    fn error(self) -> EdgeError {
        match self {
            Self::Passing(error) | Self::Lasting(error) => error,
        }
    }
}

/// Who tells a Fabric Manager that waits what is up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Tell,
    Leave,
}

impl Manager {
    pub(super) fn new(config: FabricConfig, ledger: Arc<Ledger>, calls: Arc<Calls>) -> Self {
        Self { config, ledger, calls, library: None, connection: None, complaint: None }
    }

    /// Until the next look.
    pub(super) fn pause(&self) -> Duration {
        self.config.watch_pause()
    }

    /// Does what is asked.
    pub(super) fn run(&mut self, ask: &Ask, ticket: &Ticket) -> Result<Vec<Seen>> {
        let outcome = match ask {
            Ask::List => self.listed(ticket),
            Ask::Activate(partition) => self.activate(*partition, ticket).map(|()| Vec::new()),
            Ask::Deactivate(partition) => self.deactivate(*partition, ticket).map(|()| Vec::new()),
            Ask::Restore(active) => self.ledger.replace(active).and_then(|()| self.listed(ticket)),
        };
        if ticket.is_given_up() {
            // What it did is not known: the next one starts from a question.
            self.drop_connection();
        }
        outcome
    }

    /// Looks whether it is still the Fabric Manager it was, and tells it what is up where it is not.
    pub(super) fn watch(&mut self) {
        match self.list(Waiting::Tell).map_err(Unknown::error) {
            Ok(_) => {
                if self.complaint.take().is_some() {
                    tracing::info!("Fabric Manager answers again");
                }
            }
            Err(error) => {
                let text = error.chain();
                if self.complaint.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                    self.complaint = Some(text);
                }
            }
        }
    }

    /// Ends the connection.
    pub(super) fn close(mut self) {
        self.drop_connection();
    }

    fn activate(&mut self, partition: u32, ticket: &Ticket) -> Result<()> {
        let seen = self.listed(ticket)?;
        let wanted = find(&seen, partition)?;
        if wanted.active {
            return Ok(());
        }
        if let Some(other) = overlapping(&seen, wanted) {
            return Err(in_use(partition, other));
        }
        self.ledger.add(partition)?;
        match self.on_partition("fmActivateFabricPartition", partition, ticket, Library::activate)? {
            Status::SUCCESS => Ok(()),
            status @ (Status::BADPARAM | Status::NOT_SUPPORTED | Status::NOT_CONFIGURED) => {
                self.ledger.remove(partition)?;
                Err(failed("activate", partition, status))
            }
            Status::IN_USE => {
                // Something came in between. What is up now says what is so.
                let seen = self.listed(ticket)?;
                let wanted = find(&seen, partition)?;
                // Listing has put the record right.
                match overlapping(&seen, wanted) {
                    _ if wanted.active => Ok(()),
                    Some(other) => Err(in_use(partition, other)),
                    None => Err(failed("activate", partition, Status::IN_USE)),
                }
            }
            // It may have come up all the same: the next list says.
            status => Err(failed("activate", partition, status)),
        }
    }

    fn deactivate(&mut self, partition: u32, ticket: &Ticket) -> Result<()> {
        let seen = self.listed(ticket)?;
        // One that is not offered any more, because a link of it failed, is not up either.
        let active = seen.iter().any(|seen| seen.id == partition && seen.active);
        if active {
            match self.on_partition("fmDeactivateFabricPartition", partition, ticket, Library::deactivate)? {
                Status::SUCCESS | Status::UNINITIALIZED => {}
                status => return Err(failed("deactivate", partition, status)),
            }
        }
        self.ledger.remove(partition)
    }

    /// A call about one partition on the connection that has just answered.
    fn on_partition(
        &mut self,
        name: &'static str,
        partition: u32,
        ticket: &Ticket,
        call: fn(&Library, Handle, u32) -> Status,
    ) -> Result<Status> {
        let (Some(library), Some(handle), false) = (&self.library, self.connection, ticket.is_given_up())
        else {
            return Err(EdgeError::new("given up before Fabric Manager was asked"));
        };
        let status = self.calls.make(name, || call(library, handle, partition));
        if status == Status::CONNECTION_NOT_VALID {
            self.drop_connection();
        }
        Ok(status)
    }

    /// The partitions, however long Fabric Manager takes to start.
    fn listed(&mut self, ticket: &Ticket) -> Result<Vec<Seen>> {
        let end = Instant::now() + self.config.start_limit();
        loop {
            if ticket.is_given_up() {
                return Err(EdgeError::new("given up before Fabric Manager was asked"));
            }
            match self.list(Waiting::Tell) {
                Ok(seen) => return Ok(seen),
                Err(Unknown::Lasting(error)) => return Err(error),
                Err(Unknown::Passing(error)) if Instant::now() + AGAIN >= end => return Err(error),
                Err(Unknown::Passing(_)) => pause(AGAIN),
            }
        }
    }

    /// The partitions as they are now, over a connection that is made where there is none.
    fn list(&mut self, waiting: Waiting) -> std::result::Result<Vec<Seen>, Unknown> {
        let fresh = self.connection.is_none();
        match self.list_once(waiting) {
            // An old connection ends with the Fabric Manager it was made to.
            Err(_) if self.connection.is_none() && !fresh => self.list_once(waiting),
            outcome => outcome,
        }
    }

    fn list_once(&mut self, waiting: Waiting) -> std::result::Result<Vec<Seen>, Unknown> {
        let handle = self.connect()?;
        let Some(library) = &self.library else { return Err(Unknown::Lasting(not_loaded(&self.config))) };
        let mut answer = self.calls.make("fmGetSupportedFabricPartitions", || library.supported(handle));
        if matches!(answer, Err(Status::NOT_CONFIGURED)) && waiting == Waiting::Tell {
            let active = self.ledger.all();
            let told = self.calls.make("fmSetActivatedFabricPartitions", || {
                library.set_activated(handle, active.iter().copied())
            });
            match told {
                Status::SUCCESS => {
                    tracing::warn!(?active, "Fabric Manager was restarted and told which partitions are up");
                    answer = self.calls.make("fmGetSupportedFabricPartitions", || library.supported(handle));
                }
                // It was not restarted but started, and is not ready yet.
                Status::NOT_SUPPORTED | Status::NOT_CONFIGURED => {}
                Status::CONNECTION_NOT_VALID => answer = Err(told),
                status => {
                    return Err(Unknown::Lasting(EdgeError::because(
                        format!("Fabric Manager was restarted and does not take that {active:?} are up"),
                        status.to_string(),
                    )));
                }
            }
        }
        match answer {
            Ok(list) => {
                let seen = seen(&list).map_err(Unknown::Lasting)?;
                if waiting == Waiting::Tell {
                    self.remember(&seen).map_err(Unknown::Lasting)?;
                }
                Ok(seen)
            }
            Err(status) => {
                if status == Status::CONNECTION_NOT_VALID {
                    self.drop_connection();
                }
                Err(self.unknown(status))
            }
        }
    }

    /// What Fabric Manager says is up is up: it answers only where it knows.
    fn remember(&self, seen: &[Seen]) -> Result<()> {
        let active: BTreeSet<u32> = seen.iter().filter(|seen| seen.active).map(|seen| seen.id).collect();
        let lost: Vec<u32> = self.ledger.all().difference(&active).copied().collect();
        if !lost.is_empty() {
            tracing::warn!(
                ?lost,
                "partitions that may have been up are down: a machine in one of them has no NVLinks any more"
            );
        }
        self.ledger.replace(&active)
    }

    fn connect(&mut self) -> std::result::Result<Handle, Unknown> {
        if let Some(handle) = self.connection {
            return Ok(handle);
        }
        if self.library.is_none() {
            let library = Library::load(self.config.library.as_os_str()).map_err(|error| {
                Unknown::Lasting(EdgeError::because(not_loaded(&self.config).what, error))
            })?;
            match self.calls.make("fmLibInit", || library.init()) {
                Status::SUCCESS | Status::IN_USE => self.library = Some(library),
                status => return Err(self.unknown(status)),
            }
        }
        let Some(library) = &self.library else { return Err(Unknown::Lasting(not_loaded(&self.config))) };
        // Before the call itself is given up.
        let timeout = u32::try_from(self.config.call_limit().as_millis() / 2).unwrap_or(u32::MAX);
        match self.calls.make("fmConnect", || library.connect(&self.config.address, timeout)) {
            Ok(handle) => {
                self.connection = Some(handle);
                Ok(handle)
            }
            Err(status) => Err(self.unknown(status)),
        }
    }

    fn drop_connection(&mut self) {
        if let (Some(library), Some(handle)) = (&self.library, self.connection.take()) {
            // It may be gone already; there is nothing more to do for it.
            let _ = self.calls.make("fmDisconnect", || library.disconnect(handle));
        }
    }

    /// What an answer means that is no list of partitions.
    fn unknown(&self, status: Status) -> Unknown {
        let address = &self.config.address;
        let say = |text: String| EdgeError::because(text, status.to_string());
        match status {
            Status::CONNECTION_NOT_VALID | Status::TIMEOUT => Unknown::Passing(say(format!(
                "Fabric Manager cannot be reached at `{address}`: see `systemctl status nvidia-fabricmanager`"
            ))),
            Status::NOT_CONFIGURED => Unknown::Passing(say(
                "Fabric Manager starts and knows no partitions yet".to_owned(),
            )),
            Status::VERSION_MISMATCH => Unknown::Lasting(say(format!(
                "`{}` and Fabric Manager are of different versions: install the SDK package \
                 `nvidia-fabricmanager-dev` of the version that `nv-fabricmanager --version` shows",
                self.config.library.display()
            ))),
            Status::NOT_SUPPORTED => Unknown::Lasting(say(
                "Fabric Manager does not share the fabric: set `FABRIC_MODE=1` in its `fabricmanager.cfg` and \
                 start it anew"
                    .to_owned(),
            )),
            Status::BADPARAM => {
                Unknown::Lasting(say(format!("Fabric Manager has no address such as `{address}`")))
            }
            _ => Unknown::Lasting(say("Fabric Manager does not say which partitions there are".to_owned())),
        }
    }
}

/// Asks once, and leaves everything as it is.
pub(super) fn look(config: &FabricConfig) -> Result<Vec<Seen>> {
    let ledger = Arc::new(Ledger::open(&config.record)?);
    let mut manager = Manager::new(config.clone(), ledger, Arc::default());
    let seen = manager.list(Waiting::Leave).map_err(Unknown::error);
    manager.close();
    seen
}

fn seen(list: &PartitionList) -> Result<Vec<Seen>> {
    let nonsense = || EdgeError::new("Fabric Manager lists more partitions or GPUs than there can be");
    let mut all = Vec::new();
    for info in list.partitions().ok_or_else(nonsense)? {
        let mut gpus: Vec<SeenGpu> = info
            .gpus()
            .ok_or_else(nonsense)?
            .iter()
            .map(|gpu| SeenGpu {
                physical_id: gpu.physical_id,
                uuid: gpu.uuid(),
                pci_bus_id: gpu.pci_bus_id(),
                links: gpu.links_available,
            })
            .collect();
        gpus.sort_by_key(|gpu| gpu.physical_id);
        all.push(Seen { id: info.partition_id, active: info.is_active != 0, gpus });
    }
    all.sort_by_key(|seen| seen.id);
    Ok(all)
}

fn find(seen: &[Seen], partition: u32) -> Result<&Seen> {
    seen.iter().find(|seen| seen.id == partition).ok_or_else(|| {
        EdgeError::new(format!(
            "Fabric Manager offers no partition `{partition}`: see `holm-agent fabric show`"
        ))
    })
}

/// A partition that is up and has a GPU of this one.
fn overlapping<'a>(seen: &'a [Seen], wanted: &Seen) -> Option<&'a Seen> {
    let ids = wanted.physical_ids();
    seen.iter().find(|other| other.active && other.id != wanted.id && !other.physical_ids().is_disjoint(&ids))
}

fn in_use(partition: u32, other: &Seen) -> EdgeError {
    EdgeError::new(format!(
        "partition `{partition}` has GPUs in common with partition `{}`, which is up: that one must go down first",
        other.id
    ))
}

fn failed(doing: &str, partition: u32, status: Status) -> EdgeError {
    EdgeError::because(format!("Fabric Manager does not {doing} partition `{partition}`"), status.to_string())
}

fn not_loaded(config: &FabricConfig) -> EdgeError {
    EdgeError::new(format!(
        "`{}` cannot be loaded: install the SDK package `nvidia-fabricmanager-dev` of Fabric Manager's version",
        config.library.display()
    ))
}

/// Waits for nothing but the time.
fn pause(time: Duration) {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}
