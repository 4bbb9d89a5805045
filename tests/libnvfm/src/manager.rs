//! The Fabric Manager behind the library: its state in a directory, and what it refuses.

use super::{
    BADPARAM, CONNECTION_NOT_VALID, GENERIC_ERROR, IN_USE, MOST_PARTITIONS, NOT_CONFIGURED, NOT_SUPPORTED,
    UNINITIALIZED, VERSION_MISMATCH,
};
use std::{
    collections::BTreeSet,
    ffi::c_int,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    time::Duration,
};

pub const CONNECT: &str = "fmConnect";
pub const GET: &str = "fmGetSupportedFabricPartitions";
pub const ACTIVATE: &str = "fmActivateFabricPartition";
pub const DEACTIVATE: &str = "fmDeactivateFabricPartition";
pub const SET: &str = "fmSetActivatedFabricPartitions";

/// A restarted one that nobody tells what is up ends after so long, seconds.
const WINDOW: u64 = 60;
/// As many partitions as the table has.
pub const TABLE_LENGTH: u32 = 33;
/// Those of more than one GPU: id, GPUs, NVLinks of each. 17 to 32 are GPUs 1 to 16.
const TABLE: [(u32, &[u32], u32); 17] = [
    (0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], 6),
    (1, &[1, 2, 3, 4, 5, 6, 7, 8], 6),
    (2, &[9, 10, 11, 12, 13, 14, 15, 16], 6),
    (3, &[1, 4, 6, 7, 9, 12, 14, 15], 5),
    (4, &[2, 3, 5, 8, 10, 11, 13, 16], 5),
    (5, &[1, 4, 6, 7], 5),
    (6, &[2, 3, 5, 8], 5),
    (7, &[9, 12, 14, 15], 5),
    (8, &[10, 11, 13, 16], 5),
    (9, &[1, 4], 5),
    (10, &[2, 3], 5),
    (11, &[5, 8], 5),
    (12, &[6, 7], 5),
    (13, &[9, 12], 5),
    (14, &[10, 11], 5),
    (15, &[13, 16], 5),
    (16, &[14, 15], 5),
];
const SINGLES: [u32; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
/// Where the GPUs are, in the order of their numbers.
const BUSES: [u8; 16] =
    [0x34, 0x36, 0x39, 0x3b, 0x57, 0x59, 0x5c, 0x5e, 0xb7, 0xb9, 0xbc, 0xbe, 0xe0, 0xe2, 0xe5, 0xe7];

/// Calls are served one after the other, save those that hang.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Ready,
    /// Until its clock shows this.
    Starting(u64),
    /// Since its clock showed this.
    Waiting(u64),
    Gone,
}

/// One Fabric Manager, while it serves one call.
pub struct Manager {
    directory: PathBuf,
    control: Vec<String>,
    mode: Mode,
    /// How often it was started.
    epoch: u64,
    active: BTreeSet<u32>,
}

impl Manager {
    /// Serves a call, on a connection to the one that was started so often.
    pub fn call<T>(
        directory: &Path,
        epoch: Option<u64>,
        name: &str,
        what: &str,
        serve: impl FnOnce(&mut Self) -> Result<T, c_int>,
    ) -> Result<T, c_int> {
        let line = format!("{name} {what}");
        append(&directory.join("trace"), line.trim_end());
        let hangs = || {
            let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            control(directory).contains(&format!("hang {name}"))
        };
        while hangs() {
            pause();
        }
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut manager = Self::load(directory);
        let outcome = manager.serve(epoch, name, serve);
        manager.save().map_err(|_| GENERIC_ERROR)?;
        outcome
    }

    fn serve<T>(
        &mut self,
        epoch: Option<u64>,
        name: &str,
        serve: impl FnOnce(&mut Self) -> Result<T, c_int>,
    ) -> Result<T, c_int> {
        self.happen();
        if self.mode == Mode::Gone || epoch.is_some_and(|epoch| epoch != self.epoch) {
            return Err(CONNECTION_NOT_VALID);
        }
        if self.control.iter().any(|line| line == "mismatch") {
            return Err(VERSION_MISMATCH);
        }
        if let Some(status) = self.take("fail", name) {
            return Err(status);
        }
        let late = self.take("late", name);
        let outcome = serve(self);
        late.map_or(outcome, Err)
    }

    /// How often it was started.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// An error where it is not ready.
    pub fn ready(&self) -> Result<(), c_int> {
        if self.mode == Mode::Ready { Ok(()) } else { Err(NOT_CONFIGURED) }
    }

    /// What it offers: id, GPUs, NVLinks of each.
    pub fn offered(&self) -> Vec<(u32, &'static [u32], u32)> {
        let singles = SINGLES.chunks(1).zip(17..).map(|(gpu, id)| (id, gpu, 0));
        let all = TABLE.into_iter().chain(singles);
        all.filter(|(id, ..)| !self.control.contains(&format!("missing {id}"))).collect()
    }

    /// Whether a partition is up.
    pub fn is_active(&self, partition: u32) -> bool {
        self.active.contains(&partition)
    }

    /// Where a GPU is.
    pub fn address(&self, gpu: u32) -> String {
        let moved = format!("gpu {gpu} ");
        if let Some(address) = self.control.iter().find_map(|line| line.strip_prefix(&moved)) {
            return address.to_owned();
        }
        let place = usize::try_from(gpu).ok().and_then(|gpu| gpu.checked_sub(1));
        place
            .and_then(|place| BUSES.get(place))
            .map_or(String::new(), |bus| format!("00000000:{bus:02X}:00.0"))
    }

    /// Brings a partition up.
    pub fn activate(&mut self, partition: u32) -> Result<(), c_int> {
        self.ready()?;
        let gpus = self.gpus(partition).ok_or(BADPARAM)?;
        let busy: BTreeSet<u32> =
            self.active.iter().filter_map(|active| self.gpus(*active)).flatten().copied().collect();
        if gpus.iter().any(|gpu| busy.contains(gpu)) {
            return Err(IN_USE);
        }
        self.active.insert(partition);
        Ok(())
    }

    /// Takes it down.
    pub fn deactivate(&mut self, partition: u32) -> Result<(), c_int> {
        self.ready()?;
        self.gpus(partition).ok_or(BADPARAM)?;
        if self.active.remove(&partition) { Ok(()) } else { Err(UNINITIALIZED) }
    }

    /// It was restarted, and these are up.
    pub fn set_active(&mut self, partitions: &[u32]) -> Result<(), c_int> {
        match self.mode {
            Mode::Waiting(_) => {}
            Mode::Starting(_) => return Err(NOT_CONFIGURED),
            Mode::Ready | Mode::Gone => return Err(NOT_SUPPORTED),
        }
        let mut busy = BTreeSet::new();
        for partition in partitions {
            let gpus = self.gpus(*partition).ok_or(BADPARAM)?;
            if !gpus.iter().all(|gpu| busy.insert(*gpu)) {
                return Err(BADPARAM);
            }
        }
        self.active = partitions.iter().copied().collect();
        self.mode = Mode::Ready;
        Ok(())
    }

    fn gpus(&self, partition: u32) -> Option<&'static [u32]> {
        let within = usize::try_from(partition).is_ok_and(|id| id < MOST_PARTITIONS);
        let mut offered = self.offered().into_iter().filter(|_| within);
        offered.find(|(id, ..)| *id == partition).map(|(_, gpus, _)| gpus)
    }

    /// What the test has done to it, and time.
    fn happen(&mut self) {
        let clock =
            lines(&self.directory.join("clock")).first().and_then(|line| line.parse().ok()).unwrap_or(0);
        let mut left = Vec::new();
        for line in std::mem::take(&mut self.control) {
            let mut words = line.split_whitespace();
            let mode = match (words.next(), words.next()) {
                (Some("restart"), None) => Mode::Waiting(clock),
                (Some("start"), Some(seconds)) => Mode::Starting(clock + seconds.parse::<u64>().unwrap_or(0)),
                (Some("stop"), None) => Mode::Gone,
                _ => {
                    left.push(line);
                    continue;
                }
            };
            // Whichever way it went, it forgets, and old connections are cut.
            self.mode = mode;
            self.epoch += 1;
            self.active.clear();
        }
        self.control = left;
        match self.mode {
            Mode::Starting(until) if clock >= until => self.mode = Mode::Ready,
            Mode::Waiting(since) if clock > since + WINDOW => self.mode = Mode::Gone,
            _ => {}
        }
    }

    /// Takes one occurrence of `KIND CALL STATUS` away.
    fn take(&mut self, kind: &str, name: &str) -> Option<c_int> {
        let mut found = None;
        let control = std::mem::take(&mut self.control);
        let left = control.into_iter().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [a, b, status, times @ ..] if found.is_none() && *a == kind && *b == name => {
                    found = Some(status.parse().unwrap_or(GENERIC_ERROR));
                    let times = times.first().and_then(|times| times.parse::<u32>().ok()).unwrap_or(1);
                    (times > 1).then(|| format!("{kind} {name} {status} {}", times - 1))
                }
                _ => Some(line),
            }
        });
        self.control = left.collect();
        found
    }

    fn load(directory: &Path) -> Self {
        let mut manager = Self {
            directory: directory.to_owned(),
            control: control(directory),
            mode: Mode::Ready,
            epoch: 0,
            active: BTreeSet::new(),
        };
        for line in lines(&directory.join("state")) {
            let mut words = line.split_whitespace();
            let word = words.next().unwrap_or_default();
            let number = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match word {
                "starting" => manager.mode = Mode::Starting(number),
                "waiting" => manager.mode = Mode::Waiting(number),
                "gone" => manager.mode = Mode::Gone,
                "epoch" => manager.epoch = number,
                "active" => drop(u32::try_from(number).map(|id| manager.active.insert(id))),
                _ => {}
            }
        }
        manager
    }

    fn save(&self) -> std::io::Result<()> {
        let mut state = match self.mode {
            Mode::Ready => "ready\n".to_owned(),
            Mode::Starting(until) => format!("starting {until}\n"),
            Mode::Waiting(since) => format!("waiting {since}\n"),
            Mode::Gone => "gone\n".to_owned(),
        };
        state.push_str(&format!("epoch {}\n", self.epoch));
        for id in &self.active {
            state.push_str(&format!("active {id}\n"));
        }
        replace(&self.directory.join("state"), &state)?;
        replace(&self.directory.join("control-taken"), &self.control.join("\n"))?;
        Ok(())
    }
}

/// What the test wants, taken out of its hands: what it writes meanwhile is the next call's, and not written over.
fn control(directory: &Path) -> Vec<String> {
    let taken = directory.join("control-taken");
    // Where it has written nothing new, what is left of the last holds.
    let _ = fs::rename(directory.join("control"), &taken);
    lines(&taken)
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(|line| line.trim().to_owned()).collect()
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let making = path.with_extension("tmp");
    fs::write(&making, text)?;
    fs::rename(&making, path)
}

/// A trace that cannot be written shows in the test that reads it.
fn append(path: &Path, line: &str) {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

fn pause() {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_millis(5));
}
