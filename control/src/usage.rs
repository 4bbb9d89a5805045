//! How slices were used, hour by hour, as their guests claim: for their leads and for operators, and for reports. It is in no
//! log: it changes by itself, and a tenant could fill one with it. Nothing here decides anything, and what is lost of it in a
//! crash, ten minutes at most, is lost.
//!
//! ```text
//!   DATA/usage/SLICE-ID   a line for each part of an hour: what of one hour stands in several lines counts together
//!   497124,3600,57600,41230,57600,90211,181000,3,0
//!   hour since 1970 · seconds known · GPU seconds in jobs · of those busy · of those known · CPU seconds · MiB · running · waiting
//! ```
//!
//! It holds no names of people, jobs or files, and goes after [`HOURS_KEPT`].

use crate::domain::records::Slice;
use crate::kept;
use holm_proto::ids::SliceId;
use holm_proto::v1;
use jiff::Timestamp;
use newtype_uuid::GenericUuid;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Hours that are kept of a slice: a report of last year can be made.
const HOURS_KEPT: i64 = 24 * 400;
/// What was heard is on disk after so many seconds.
const WRITTEN_AFTER: i64 = 600;
/// A guest's spans are no shorter: more of them are not heard.
const SPAN_LEAST: i64 = 20;
const HOUR: i64 = 3600;

/// What was used in one hour, or a part of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hour {
    /// Of which something is known.
    pub seconds: u64,
    /// GPUs that jobs had, times how long.
    pub gpu_seconds: u64,
    /// The same, by how busy they were.
    pub gpu_busy_seconds: u64,
    /// The part of `gpu_seconds` of which that is known.
    pub gpu_known_seconds: u64,
    /// Of processors, in jobs.
    pub cpu_seconds: u64,
    /// The most memory of jobs.
    pub memory_mib: u64,
    /// The most jobs that ran, at the end of a span.
    pub running: u64,
    /// The most that waited.
    pub pending: u64,
}

impl Hour {
    fn add(&mut self, other: &Self) {
        self.seconds = self.seconds.saturating_add(other.seconds).min(HOUR.unsigned_abs());
        self.gpu_seconds = self.gpu_seconds.saturating_add(other.gpu_seconds);
        self.gpu_busy_seconds = self.gpu_busy_seconds.saturating_add(other.gpu_busy_seconds);
        self.gpu_known_seconds = self.gpu_known_seconds.saturating_add(other.gpu_known_seconds);
        self.cpu_seconds = self.cpu_seconds.saturating_add(other.cpu_seconds);
        self.memory_mib = self.memory_mib.max(other.memory_mib);
        self.running = self.running.max(other.running);
        self.pending = self.pending.max(other.pending);
    }

    fn line(&self, hour: i64) -> String {
        let Self {
            seconds,
            gpu_seconds,
            gpu_busy_seconds,
            gpu_known_seconds,
            cpu_seconds,
            memory_mib,
            running,
            pending,
        } = self;
        format!(
            "{hour},{seconds},{gpu_seconds},{gpu_busy_seconds},{gpu_known_seconds},{cpu_seconds},{memory_mib},{running},{pending}\n"
        )
    }

    /// `None`: half a line, that a crash or a full disk left.
    fn read(line: &str) -> Option<(i64, Self)> {
        let (hour, rest) = line.split_once(',')?;
        let numbers: Vec<u64> = rest.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [
            seconds,
            gpu_seconds,
            gpu_busy_seconds,
            gpu_known_seconds,
            cpu_seconds,
            memory_mib,
            running,
            pending,
        ] = numbers.try_into().ok()?;
        let read = Self {
            seconds,
            gpu_seconds,
            gpu_busy_seconds,
            gpu_known_seconds,
            cpu_seconds,
            memory_mib,
            running,
            pending,
        };
        Some((hour.parse().ok()?, read))
    }
}

/// Of one slice.
#[derive(Debug, Default)]
struct Known {
    hours: BTreeMap<i64, Hour>,
    /// Not on disk yet.
    fresh: BTreeMap<i64, Hour>,
    /// When the oldest of that was heard.
    since: Option<i64>,
    /// Of the guest's span that was heard last: its own time, and when.
    last: Option<(u64, i64)>,
}

/// Of all slices.
#[derive(Debug)]
pub struct Usage {
    directory: PathBuf,
    slices: Mutex<BTreeMap<SliceId, Known>>,
}

impl Usage {
    /// What lies in this directory, which is made. What cannot be read of it is passed over.
    pub fn open(directory: &Path, now: Timestamp) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut slices = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<SliceId>().ok()) else {
                continue;
            };
            let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
            let mut known = Known::default();
            for (hour, part) in text.lines().filter_map(Hour::read) {
                known.hours.entry(hour).or_default().add(&part);
            }
            known.hours = known.hours.split_off(&(now.as_second() / HOUR - HOURS_KEPT));
            let whole: String = known.hours.iter().map(|(hour, of)| of.line(*hour)).collect();
            if known.hours.is_empty() {
                fs::remove_file(entry.path())?;
                continue;
            }
            if whole.len() < text.len() {
                kept::write_bytes(&entry.path(), whole.as_bytes())?;
            }
            slices.insert(id, known);
        }
        Ok(Self { directory: directory.to_owned(), slices: Mutex::new(slices) })
    }

    fn slices(&self) -> MutexGuard<'_, BTreeMap<SliceId, Known>> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a slice's guest claims, believed as far as the slice can have used it. Heard again it counts once.
    pub fn hear(&self, slice: &Slice, said: &v1::JobsUse, now: Timestamp) {
        let second = now.as_second();
        let mut slices = self.slices();
        let known = slices.entry(slice.id).or_default();
        if known.last.is_some_and(|(time, at)| time == said.time || second < at.saturating_add(SPAN_LEAST)) {
            return;
        }
        // Of the first that is heard, since it has its GPUs.
        let began = slice.placed.map_or(i64::MAX, |placed| second.saturating_sub(placed.as_second()).max(1));
        let since = known.last.map_or(began, |(_, at)| second - at).min(began);
        known.last = Some((said.time, second));
        // No longer than since it was heard before.
        let seconds = u64::from(said.seconds).min(since.unsigned_abs());
        let part = bounded(slice, said, seconds);
        let hour = second.div_euclid(HOUR);
        known.hours.entry(hour).or_default().add(&part);
        known.fresh.entry(hour).or_default().add(&part);
        let oldest = *known.since.get_or_insert(second);
        if second.saturating_sub(oldest) >= WRITTEN_AFTER {
            known.hours = known.hours.split_off(&(hour - HOURS_KEPT));
            self.write(slice.id, known);
        }
    }

    /// Puts everything on disk.
    pub fn keep(&self) {
        for (id, known) in self.slices().iter_mut() {
            self.write(*id, known);
        }
    }

    fn write(&self, id: SliceId, known: &mut Known) {
        let lines: String = known.fresh.iter().map(|(hour, part)| part.line(*hour)).collect();
        if lines.is_empty() {
            return;
        }
        let path = self.directory.join(id.into_untyped_uuid().to_string());
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            let before = file.metadata()?.len();
            // What a full disk took a part of would count twice when it is tried again.
            file.write_all(lines.as_bytes()).inspect_err(|_| drop(file.set_len(before)))
        };
        match append() {
            Ok(()) => (known.fresh, known.since) = (BTreeMap::new(), None),
            // It is tried again with what comes next.
            Err(error) => tracing::warn!(slice = %id, "what was used cannot be written down: {error}"),
        }
    }

    /// Hours of a slice in this time, from the first.
    pub fn hours(&self, slice: SliceId, since: Timestamp, until: Timestamp) -> Vec<(Timestamp, Hour)> {
        let (first, end) = (since.as_second().div_euclid(HOUR), until.as_second().div_euclid(HOUR));
        if first > end {
            return Vec::new();
        }
        let slices = self.slices();
        let hours = slices.get(&slice).into_iter().flat_map(|known| known.hours.range(first..=end));
        hours.filter_map(|(hour, of)| Some((Timestamp::from_second(hour * HOUR).ok()?, *of))).collect()
    }
}

/// No more than the slice has, in so many seconds.
fn bounded(slice: &Slice, said: &v1::JobsUse, seconds: u64) -> Hour {
    let gpu_seconds = said.gpu_seconds.min(u64::from(slice.gpus) * seconds);
    let busy = said.gpu_busy_seconds;
    Hour {
        seconds,
        gpu_seconds,
        gpu_busy_seconds: busy.unwrap_or(0).min(gpu_seconds),
        gpu_known_seconds: if busy.is_some() { gpu_seconds } else { 0 },
        cpu_seconds: said.cpu_seconds.min(u64::from(slice.vcpus) * seconds),
        memory_mib: said.memory_mib.min(slice.memory_mib),
        running: said.running.into(),
        pending: said.pending.into(),
    }
}

/// GPU-hours that a slice had between two moments: from when it was placed until its GPUs were given back.
pub fn held(slice: &Slice, since: Timestamp, until: Timestamp, now: Timestamp) -> f64 {
    let seconds = slice.spans().map(|(from, to, gpus)| {
        let (from, to) = (from.max(since), to.unwrap_or(now).min(until).min(now));
        to.duration_since(from).as_secs_f64().max(0.0) * f64::from(gpus)
    });
    seconds.sum::<f64>() / HOUR as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::requested;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn slice() -> Slice {
        requested(1, 4, 0, 0)
    }

    fn said(time: u64) -> v1::JobsUse {
        v1::JobsUse {
            time,
            seconds: 60,
            gpu_seconds: 120,
            gpu_busy_seconds: Some(30),
            cpu_seconds: 100,
            memory_mib: 500,
            running: 2,
            pending: 1,
        }
    }

    fn all(usage: &Usage) -> Vec<(Timestamp, Hour)> {
        usage.hours(slice().id, Timestamp::MIN, Timestamp::MAX)
    }

    #[test]
    fn what_is_heard_is_there_after_a_restart_and_counts_once() {
        let place = tempfile::tempdir().unwrap();
        let usage = Usage::open(place.path(), at(0)).unwrap();
        for minute in 0..120 {
            usage.hear(&slice(), &said(minute), at(7200 + 60 * minute as i64));
            // Its host says it again with each report.
            usage.hear(&slice(), &said(minute), at(7201 + 60 * minute as i64));
        }
        let hours = all(&usage);
        assert_eq!(hours.iter().map(|(start, _)| start.as_second()).collect::<Vec<_>>(), [7200, 10_800]);
        assert_eq!(hours[1].1.seconds, 3600);
        assert_eq!((hours[0].1.gpu_seconds, hours[0].1.gpu_busy_seconds), (7200, 1800));
        drop(usage);
        // Of ten minutes nothing was on disk yet.
        let again = Usage::open(place.path(), at(14_400)).unwrap();
        let lost = hours[1].1.seconds - all(&again)[1].1.seconds;
        assert!(lost <= 600 && all(&again)[0] == hours[0], "{lost}");
        again.hear(&slice(), &said(999), at(14_400));
        again.keep();
        assert_eq!(all(&Usage::open(place.path(), at(14_400)).unwrap()), all(&again));
        // In time it goes.
        assert!(all(&Usage::open(place.path(), at(14_400 + HOUR * (HOURS_KEPT + 2))).unwrap()).is_empty());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_guest_that_claims_more_than_it_has_or_too_often_is_held_to_what_it_has() {
        let place = tempfile::tempdir().unwrap();
        let usage = Usage::open(place.path(), at(0)).unwrap();
        for second in 0..3600_u64 {
            let greedy = v1::JobsUse {
                time: second,
                seconds: 3600,
                gpu_seconds: 64 * 3600,
                gpu_busy_seconds: Some(64 * 3600),
                cpu_seconds: u64::MAX,
                memory_mib: u64::MAX,
                running: u32::MAX,
                pending: u32::MAX,
            };
            usage.hear(&slice(), &greedy, at(3600 + second as i64));
        }
        let hours = all(&usage);
        let [(_, hour)] = hours.as_slice() else { panic!("{hours:?}") };
        assert_eq!(hour.seconds, 3600);
        // The first time it is not known how long it was not heard: this one was placed long ago.
        assert!(hour.gpu_seconds <= 4 * (3600 + 3600) && hour.memory_mib == slice().memory_mib, "{hour:?}");
    }

    #[test]
    fn what_is_no_line_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(slice().id.into_untyped_uuid().to_string());
        fs::write(&path, "2,60,1,1,1,1,1,1,1\n2,60,1\nnoise\n\u{0}\n2,60,1,1,1,1,1,1,-1\n3,60,1,1,1,1,1,1,1")
            .unwrap();
        fs::write(place.path().join("other"), "x").unwrap();
        let usage = Usage::open(place.path(), at(7200)).unwrap();
        assert_eq!(all(&usage).len(), 2);
        assert_eq!(fs::read_to_string(path).unwrap(), "2,60,1,1,1,1,1,1,1\n3,60,1,1,1,1,1,1,1\n");
    }

    proptest! {
        #[test]
        fn a_line_is_read_as_it_was_written(hour in any::<i64>(), n in any::<[u64; 8]>()) {
            let [seconds, gpu_seconds, gpu_busy_seconds, gpu_known_seconds, cpu_seconds, memory_mib, running, pending] = n;
            let of = Hour { seconds, gpu_seconds, gpu_busy_seconds, gpu_known_seconds, cpu_seconds, memory_mib, running, pending };
            prop_assert_eq!(Hour::read(of.line(hour).trim_end()), Some((hour, of)));
        }
    }
}
