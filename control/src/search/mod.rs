//! Finds entries of the log: an index beside it, made from nothing but the log, and made anew where it is missing, broken or
//! another log's.
//!
//! ```text
//!   entries 0 … 65535      ──▶ DATA/index/000000     one file, which never changes
//!   entries 65536 … 131071 ──▶ DATA/index/000001
//!   entries 131072 …       ──▶ in memory, read from the log when holmd starts
//! ```
//!
//! By term it knows which entries have it; what is looked for are the entries that have all of some terms, the newest or the
//! oldest first, and each is compared with the question once more when it has been read. So a search costs little more than
//! reading what it shows and a few terms of each part; and the index can make one miss an entry, never see a wrong one. Hence
//! the checks: each file has a checksum, and the log's own hash over its entries.

mod part;
mod postings;
mod query;
mod terms;

#[cfg(test)]
mod tests;

pub use self::query::{Query, QueryError};
pub(crate) use self::terms::words;

use self::part::{Full, Growing, Part};
use self::postings::Set;
use crate::app::App;
use crate::audit::{Entry, Hash, LogError, SEGMENT, View};
use crate::kept;
use crate::ledger::Ledger;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Entries of a part: those under one hash of the log's second level.
const PART: u64 = SEGMENT;
/// Entries of one of the log's bundles.
const BUNDLE: u64 = 256;

/// What is indexed.
pub trait Source {
    /// How many entries there are.
    fn size(&self) -> u64;
    /// The first that is kept: those before it are gone.
    fn first(&self) -> Result<u64, LogError>;
    /// Those of a range, as they were logged.
    fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, LogError>;
    /// The hash over the 65,536 entries of a full part.
    fn over(&self, part: u64) -> Result<Hash, LogError>;
}

impl Source for Ledger {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn first(&self) -> Result<u64, LogError> {
        Ok(Self::first(self))
    }

    fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, LogError> {
        Self::entries(self, range.start, range.end)
    }

    fn over(&self, part: u64) -> Result<Hash, LogError> {
        Self::over(self, part)
    }
}

impl Source for View {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn first(&self) -> Result<u64, LogError> {
        Self::first(self)
    }

    fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, LogError> {
        self.read(range.start, range.end)
    }

    fn over(&self, part: u64) -> Result<Hash, LogError> {
        Self::over(self, part)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SearchError {
    #[error("the log cannot be read")]
    Log(#[from] LogError),
    #[error("entry {index} of the log cannot be read")]
    Entry { index: u64, source: serde_json::Error },
    #[error(
        "the index of the log in `{path}` cannot be used: remove it, and it is made anew when holmd starts"
    )]
    Index { path: PathBuf, source: io::Error },
    #[error("the index of the log is being made: it has {done} of {all} entries")]
    Behind { done: u64, all: u64 },
}

/// An entry that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its place in the log.
    pub index: u64,
    /// As it was logged.
    pub body: Vec<u8>,
}

/// Some of what was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In the order asked for.
    pub found: Vec<Found>,
    /// Where the next page begins; `None`: there is no more.
    pub next: Option<u64>,
}

/// Finds entries.
pub struct Index {
    dir: PathBuf,
    parts: RwLock<Parts>,
}

#[derive(Default)]
struct Parts {
    /// So many parts are gone with their entries.
    gone: u64,
    /// Those after them.
    full: Vec<Full>,
    growing: Growing,
}

impl Parts {
    fn size(&self) -> u64 {
        self.grows_at() * PART + self.growing.len() as u64
    }

    /// The part that grows.
    fn grows_at(&self) -> u64 {
        self.gone + self.full.len() as u64
    }

    fn get(&self, at: u64) -> Option<&dyn Part> {
        let place = usize::try_from(at.checked_sub(self.gone)?).ok()?;
        let full = self.full.get(place).map(|part| part as &dyn Part);
        full.or_else(|| (at == self.grows_at()).then_some(&self.growing as &dyn Part))
    }

    /// Forgets the parts before this one.
    fn drop_before(&mut self, part: u64) {
        let gone = usize::try_from(part.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        if gone > self.full.len() {
            self.growing = Growing::default();
        }
        self.full.drain(..gone.min(self.full.len()));
        self.gone = self.gone.max(part);
    }
}

impl Index {
    /// In this directory. What lies in it is looked at when the index follows the log.
    pub fn open(dir: &Path) -> Result<Self, SearchError> {
        let failed = |source| SearchError::Index { path: dir.to_path_buf(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        Ok(Self { dir: dir.to_path_buf(), parts: RwLock::default() })
    }

    /// Takes in the next part, where it lies there, whole and of this log. Otherwise it is made anew from the entries.
    fn adopt(&self, log: &impl Source) -> Result<bool, SearchError> {
        let from = self.size();
        let at = from / PART;
        if !from.is_multiple_of(PART) || log.size().saturating_sub(from) < PART {
            return Ok(false);
        }
        let path = file(&self.dir, at);
        let part = match Full::open(&path, &log.over(at)?) {
            Ok(part) => part,
            Err(no) => {
                if no.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("`{}` is made anew: {no}", path.display());
                }
                return Ok(false);
            }
        };
        let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        // Unless another one was quicker.
        if parts.size() == from {
            parts.full.push(part);
        }
        Ok(true)
    }

    /// Removes the parts whose entries are gone.
    fn expire(&self, log: &impl Source) -> Result<(), SearchError> {
        let first = log.first()? / PART;
        if self.parts.read().unwrap_or_else(PoisonError::into_inner).gone >= first {
            return Ok(());
        }
        let failed = |source| SearchError::Index { path: self.dir.clone(), source };
        for item in fs::read_dir(&self.dir).map_err(failed)? {
            let item = item.map_err(failed)?;
            let part: Option<u64> = item.file_name().to_str().and_then(|name| name.parse().ok());
            if part.is_some_and(|part| part < first) {
                // A search and who follows the log may both be about it.
                kept::remove(&item.path()).map_err(failed)?;
            }
        }
        self.parts.write().unwrap_or_else(PoisonError::into_inner).drop_before(first);
        Ok(())
    }

    /// Takes in what the log has and the index has not, at most one bundle; whether that was all.
    pub fn follow(&self, log: &impl Source) -> Result<bool, SearchError> {
        self.expire(log)?;
        self.seal(log, &mut self.parts.write().unwrap_or_else(PoisonError::into_inner))?;
        if self.adopt(log)? {
            return Ok(self.size() >= log.size());
        }
        let (size, from) = (log.size(), self.size());
        let until = (from / BUNDLE + 1).saturating_mul(BUNDLE).min(size);
        if from >= until {
            return Ok(true);
        }
        let mut entries = Vec::new();
        for (index, body) in (from..).zip(log.entries(from..until)?) {
            entries.push(Entry::from_bytes(&body).map_err(|source| SearchError::Entry { index, source })?);
        }
        let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        // Another one was quicker.
        if parts.size() != from {
            return Ok(false);
        }
        entries.iter().for_each(|entry| parts.growing.add(entry));
        self.seal(log, &mut parts)?;
        Ok(until == size)
    }

    /// Writes the newest part, where it is full. On a full disk it stays in memory, and is written at the next try.
    fn seal(&self, log: &impl Source, parts: &mut Parts) -> Result<(), SearchError> {
        if !parts.growing.is_full() {
            return Ok(());
        }
        let at = parts.grows_at();
        let path = file(&self.dir, at);
        let over = log.over(at)?;
        let part = parts.growing.write(&path, &over).and_then(|()| Full::open(&path, &over));
        parts.full.push(part.map_err(|source| SearchError::Index { path, source })?);
        parts.growing = Growing::default();
        Ok(())
    }

    /// How many entries it has.
    pub fn size(&self) -> u64 {
        self.parts.read().unwrap_or_else(PoisonError::into_inner).size()
    }

    /// Of the log's first `all` entries those that fit, `most` at a time and as many as go into one message. They are as
    /// they were logged, checked by the log.
    pub fn search(
        &self,
        log: &impl Source,
        query: &Query,
        all: u64,
        most: usize,
    ) -> Result<Page, SearchError> {
        // What came in the meantime is little; what is made anew is much, and nobody waits for that.
        self.expire(log)?;
        while self.size() < all {
            if all - self.size() > PART && !self.adopt(log)? {
                return Err(SearchError::Behind { done: self.size(), all });
            }
            self.follow(log)?;
        }
        let mut page = Page { found: Vec::new(), next: None };
        let (mut read, mut bytes) = (0, 0);
        // The log reads and checks a bundle as a whole, however few of its entries are asked for.
        let mut bundle = (u64::MAX, Vec::new());
        let first = log.first()?;
        let mut range = query.range(all);
        range.start = range.start.max(first.min(range.end));
        let parts = range.start / PART..range.end.div_ceil(PART);
        for at in query.ordered(parts) {
            let places = self.candidates(at, query, &range)?;
            for index in query.ordered(0..places.len()).filter_map(|place| places.get(place)) {
                if page.found.len() == most || read == READ_MOST || bytes >= BYTES_MOST {
                    page.next = Some(*index);
                    return Ok(page);
                }
                read += 1;
                if bundle.0 != index / BUNDLE {
                    let first = index / BUNDLE * BUNDLE;
                    bundle = (index / BUNDLE, log.entries(first..all.min(first + BUNDLE))?);
                }
                for body in bundle.1.iter().skip((index % BUNDLE) as usize).take(1) {
                    let entry = Entry::from_bytes(body)
                        .map_err(|source| SearchError::Entry { index: *index, source })?;
                    if query.takes(&entry) {
                        bytes += body.len();
                        page.found.push(Found { index: *index, body: body.clone() });
                    }
                }
            }
        }
        Ok(page)
    }

    /// The entries of a part that have all the terms, in bundles that have a time like those asked for. Oldest first.
    fn candidates(&self, at: u64, query: &Query, range: &Range<u64>) -> Result<Vec<u64>, SearchError> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = range.end.min((at + 1).saturating_mul(PART));
        let Some(part) = parts.get(at).filter(|_| parts.size() >= wanted) else {
            return Err(SearchError::Behind { done: parts.size(), all: range.end });
        };
        let mut set = Set::first(part.len());
        for term in query.terms() {
            let failed = |source| SearchError::Index { path: file(&self.dir, at), source };
            match part.having(term).map_err(failed)? {
                Some(having) => set.and(&having),
                None => return Ok(Vec::new()),
            }
            if set.is_empty() {
                return Ok(Vec::new());
            }
        }
        let first = at * PART;
        let in_time = |bundle: &u64| usize::try_from(*bundle).is_ok_and(|at| query.overlaps(part.span(at)));
        let bundles = (0..PART / BUNDLE).filter(in_time);
        let places = bundles.flat_map(|bundle| bundle * BUNDLE..(bundle + 1) * BUNDLE);
        let had = places.filter(|place| usize::try_from(*place).is_ok_and(|place| set.has(place)));
        Ok(had.map(|place| first + place).filter(|index| range.contains(index)).collect())
    }
}

/// Keeps up with the log, until the process ends. A search takes in by itself what came in the meantime; this is for what is
/// made anew, and so that there is never much.
pub async fn run(app: Arc<App>) {
    let mut size = app.ledger.subscribe();
    loop {
        let worker = Arc::clone(&app);
        let followed = tokio::task::spawn_blocking(move || worker.index.follow(&worker.ledger)).await;
        match followed {
            Ok(Ok(false)) => continue,
            Ok(Ok(true)) => {}
            Ok(Err(failure)) => tracing::error!("{}", crate::ledger::chain(&failure)),
            Err(failure) => tracing::error!("the index of the log does not follow it: {failure}"),
        }
        // Not after each entry: some come together.
        tokio::time::sleep(PAUSE).await;
        if size.changed().await.is_err() {
            return;
        }
    }
}

/// Between two looks at the log.
const PAUSE: Duration = Duration::from_secs(1);

/// Entries read for one page at the most: also those that do not fit after all.
const READ_MOST: usize = 4096;
/// Bytes of entries after which a page is full: one more, of 64 KiB, still goes into a message.
const BYTES_MOST: usize = holm_proto::MAX_MESSAGE_BYTES / 2;

/// Where a part lies.
fn file(dir: &Path, at: u64) -> PathBuf {
    dir.join(format!("{at:06}"))
}
