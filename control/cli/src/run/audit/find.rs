//! Entries that fit: found by holmd, which has an index, and shown as they come.

use super::Client;
use super::rows::Rows;
use crate::Failure;
use crate::args::{Filter, Log};
use crate::progress::patiently;
use crate::run::Session;
use crate::text::{Clock, parse_since};
use holm_control::audit::Entry;
use holm_proto::v1::{EntryFilter, LogEntry, SearchEntriesRequest};
use std::collections::VecDeque;

/// Entries of a page.
const PAGE: u64 = 500;

/// What holmd is asked.
pub(super) fn filter(wanted: &Filter, clock: &Clock) -> Result<EntryFilter, Failure> {
    let actor = match (&wanted.person, &wanted.host) {
        (Some(name), _) => format!("person/{name}"),
        (None, Some(name)) => format!("host/{name}"),
        (None, None) => String::new(),
    };
    let time = |text: &Option<String>| match text {
        Some(text) => {
            parse_since(text, clock).map(|at| Some(crate::text::timestamp(at))).map_err(Failure::usage)
        }
        None => Ok(None),
    };
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(EntryFilter {
        actor,
        resource: said(&wanted.about),
        project: said(&wanted.project),
        level: said(&wanted.level),
        device: said(&wanted.device),
        action: said(&wanted.action),
        outcome: said(&wanted.outcome),
        request: said(&wanted.request),
        text: said(&wanted.text),
        since: time(&wanted.since)?,
        until: time(&wanted.until)?,
    })
}

/// The pages of a search, one after the other.
pub(super) struct Search<'a> {
    session: &'a Session,
    client: Client,
    wanted: SearchEntriesRequest,
    came: VecDeque<LogEntry>,
    over: bool,
    /// Entries that the log had.
    pub size: u64,
}

impl<'a> Search<'a> {
    pub(super) async fn new(
        session: &'a Session,
        filter: EntryFilter,
        oldest_first: bool,
        most: u64,
    ) -> Result<Self, Failure> {
        let page_size = u32::try_from(most.clamp(1, PAGE)).unwrap_or_default();
        let filter = Some(filter);
        Self::of(session, SearchEntriesRequest { filter, oldest_first, page_size, ..Default::default() })
            .await
    }

    /// Of the log's first `size` entries, oldest first, with proofs that they are among them.
    pub(super) async fn proven(
        session: &'a Session,
        filter: EntryFilter,
        size: u64,
    ) -> Result<Self, Failure> {
        let filter = Some(filter);
        let page_size = u32::try_from(PAGE).unwrap_or_default();
        let wanted = SearchEntriesRequest {
            filter,
            oldest_first: true,
            page_size,
            prove_in: size,
            ..Default::default()
        };
        Self::of(session, wanted).await
    }

    async fn of(session: &'a Session, wanted: SearchEntriesRequest) -> Result<Self, Failure> {
        let client = session.log().await?;
        Ok(Self { session, client, wanted, came: VecDeque::new(), over: false, size: 0 })
    }

    /// The next entry, and as it came.
    pub(super) async fn next(&mut self) -> Result<Option<(Entry, LogEntry)>, Failure> {
        while self.came.is_empty() && !self.over {
            let ask = self.client.search_entries(self.wanted.clone());
            let page = self.session.ask(patiently(&self.session.output, "searching the log", ask)).await?;
            self.size = page.size;
            self.over = page.next_page_token.is_empty();
            if self.over && page.first > 0 {
                self.session.output.remark(&format!(
                    "entries 0 to {} are gone, and were not looked through: holm audit log --action log.expire",
                    page.first - 1
                ));
            }
            self.wanted.page_token = page.next_page_token;
            self.came.extend(page.entries);
        }
        self.came.pop_front().map(|next| Ok((super::read(&next)?, next))).transpose()
    }
}

pub(super) async fn log(session: &Session, wanted: &Log) -> Result<(), Failure> {
    let filter = filter(&wanted.filter, &session.clock)?;
    // Before anything is looked up: what comes meanwhile comes once more rather than not at all.
    let follows = match wanted.follow {
        true => Some(session.ask(session.log().await?.follow_entries(filter.clone())).await?),
        false => None,
    };
    let mut search =
        Search::new(session, filter, wanted.all, if wanted.all { PAGE } else { wanted.last }).await?;
    let mut next = search.next().await?;
    let mut rows = Rows::new(&session.output, &session.clock, wanted.follow);
    rows.begin()?;
    let mut newest = Vec::new();
    let (mut more, mut seen) = (false, search.size);
    while let Some((entry, came)) = next {
        if wanted.all {
            rows.add(&entry, &came.body)?;
        } else {
            more = newest.len() as u64 == wanted.last;
            if more {
                break;
            }
            newest.push((entry, came.body));
        }
        next = search.next().await?;
    }
    for (entry, body) in newest.iter().rev() {
        rows.add(entry, body)?;
    }
    if let Some(mut stream) = follows {
        while let Some(next) = stream.message().await? {
            if next.index >= seen {
                seen = next.index + 1;
                rows.add(&super::read(&next)?, &next.body)?;
            }
        }
    }
    let count = rows.count();
    rows.end()?;
    match (count, more) {
        (0, _) => session.output.remark(&format!(
            "none of the {} entries is like that; without a filter: holm audit log --last 20",
            search.size
        )),
        (_, true) => session.output.remark("earlier ones fit as well: --last with a larger number, or --all"),
        _ => {}
    }
    Ok(())
}
