//! What is not as it should be with hosts, as entries: what [`crate::domain::alert`] finds is remembered nowhere, and a
//! message is of something that began.
//!
//! ```text
//!   found at a look ──▶ found at the next, too ──▶ told ──▶ not found ──▶ over
//!        └── not found ──▶ (nothing)
//! ```
//!
//! Codes alone, and addresses of devices: what a host says of itself is not sent to anybody. One look a minute, and an
//! entry a host and look at most, so that no host can fill the log by it.

use super::book;
use crate::app::App;
use crate::domain::alert::{self, Scope};
use crate::kept;
use crate::ledger::Call;
use holm_proto::ids::Name;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(60);
/// As many are named in one entry; the next look has the others.
const NAMED: usize = 50;

/// By host: code, and the address of the device.
type Found = BTreeMap<Name, BTreeSet<String>>;

/// What was seen and said before.
#[derive(Debug, Default)]
struct Watch {
    seen: Found,
    told: Found,
}

/// What is news of one host.
#[derive(Debug, PartialEq, Eq)]
struct News {
    host: Name,
    raised: Vec<String>,
    gone: Vec<String>,
}

impl Watch {
    /// Compares with the look before; what it returns is still to be said.
    fn look(&mut self, found: Found) -> Vec<News> {
        let none = BTreeSet::new();
        let hosts: BTreeSet<&Name> = found.keys().chain(self.told.keys()).collect();
        let news = hosts.into_iter().filter_map(|host| {
            let of = |all: &'_ Found| all.get(host).unwrap_or(&none).clone();
            let (now, before, told) = (of(&found), of(&self.seen), of(&self.told));
            let raised: Vec<String> =
                now.intersection(&before).filter(|one| !told.contains(*one)).take(NAMED).cloned().collect();
            let gone: Vec<String> = told.difference(&now).take(NAMED).cloned().collect();
            let any = !raised.is_empty() || !gone.is_empty();
            any.then(|| News { host: host.clone(), raised, gone })
        });
        let news = news.collect();
        self.seen = found;
        news
    }

    /// That was said.
    fn said(&mut self, news: &News) {
        let told = self.told.entry(news.host.clone()).or_default();
        told.extend(news.raised.iter().cloned());
        told.retain(|one| !news.gone.contains(one));
        if told.is_empty() {
            self.told.remove(&news.host);
        }
    }
}

/// Looks until holmd ends.
pub(super) async fn run(app: Arc<App>) {
    let path = book::path(&app.config.data, "alerts");
    let mut watch = Watch::default();
    match kept::read(&path) {
        Ok(told) => watch.told = told.unwrap_or_default(),
        // Then what stands is told once more.
        Err(failure) => tracing::warn!("`{}` cannot be read: {failure}", path.display()),
    }
    let mut looks = tokio::time::interval(PERIOD);
    loop {
        looks.tick().await;
        let (app, path) = (Arc::clone(&app), path.clone());
        let looked = tokio::task::spawn_blocking(move || {
            look(&app, &mut watch, &path);
            watch
        });
        match looked.await {
            Ok(next) => watch = next,
            Err(failure) => {
                tracing::error!("alerts cannot be watched: {failure}");
                watch = Watch::default();
            }
        }
    }
}

fn look(app: &App, watch: &mut Watch, path: &Path) {
    let news = watch.look(found(app));
    for one in &news {
        let call = Call::own("observe.alert", format!("host/{}", one.host));
        let detail = json!({ "host": one.host, "raised": one.raised, "gone": one.gone });
        let said = app.ledger.note(&call, detail);
        match said {
            Ok(()) => watch.said(one),
            Err(refusal) => tracing::error!("an alert cannot be logged: {refusal}"),
        }
    }
    if news.is_empty() {
        return;
    }
    if let Err(failure) = kept::write(path, &watch.told) {
        tracing::error!("`{}` cannot be written: {failure}", path.display());
    }
}

fn found(app: &App) -> Found {
    let (state, now) = (app.ledger.state(), app.ledger.now());
    let of = |alert: alert::Alert| match alert.scope {
        Scope::Device(address) => format!("{} {address}", alert.code),
        Scope::Host | Scope::Fabric | Scope::Absent => alert.code.to_owned(),
    };
    // One that was invited and never came is expected by who invited it.
    let hosts = state.hosts.values().filter(|host| !host.agent_version.is_empty());
    hosts
        .map(|host| {
            let alerts = alert::alerts(&state, host, &app.bill, &app.live.heard(&host.name), now);
            (host.name.clone(), alerts.into_iter().map(of).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(codes: &[&str]) -> Found {
        BTreeMap::from([("dgx".parse().unwrap(), codes.iter().map(ToString::to_string).collect())])
    }

    fn news(raised: &[&str], gone: &[&str]) -> Vec<News> {
        let of = |codes: &[&str]| codes.iter().map(ToString::to_string).collect();
        vec![News { host: "dgx".parse().unwrap(), raised: of(raised), gone: of(gone) }]
    }

    #[test]
    fn what_stands_at_two_looks_is_told_once_and_its_end_once() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(found(&["report-stale"])), []);
        assert_eq!(watch.look(found(&[])), [], "it stood for less than two looks");
        assert_eq!(watch.look(found(&["report-stale"])), []);
        let raised = watch.look(found(&["report-stale", "gpu-missing"]));
        assert_eq!(raised, news(&["report-stale"], &[]));
        // Where it could not be logged, it is news still.
        assert_eq!(watch.look(found(&["report-stale"])), raised);
        watch.said(&raised[0]);
        assert_eq!(watch.look(found(&["report-stale"])), []);
        let gone = watch.look(found(&[]));
        assert_eq!(gone, news(&[], &["report-stale"]));
        watch.said(&gone[0]);
        assert_eq!(watch.look(BTreeMap::new()), []);
        assert!(watch.told.is_empty());
    }

    #[test]
    fn of_a_host_that_is_gone_everything_is_over() {
        let mut watch = Watch { told: found(&["a", "b"]), ..Watch::default() };
        assert_eq!(watch.look(BTreeMap::new()), news(&[], &["a", "b"]));
    }
}
