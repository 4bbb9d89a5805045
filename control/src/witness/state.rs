//! Who holds the log's head outside, and how it stands with each of them: what people are shown.

use super::book::{Standing, State};
use super::client::Client;
use super::config::WitnessConfig;
use crate::app::Failure;
use crate::domain::alert::{Alert, Scope};
use holm_proto::ids::Name;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The witnesses of the configuration.
#[derive(Default)]
pub struct Witnesses {
    all: Mutex<BTreeMap<Name, Standing>>,
}

impl Witnesses {
    /// As the configuration says. Files are read; nobody is asked.
    pub(super) fn clients(config: &WitnessConfig, log: &str) -> Result<Vec<(Name, Client)>, Failure> {
        let next = "mend [witness] in holmd.toml, then: holmd check";
        if !(1..=3600).contains(&config.every_seconds) {
            let every = config.every_seconds;
            let text = format!("`every_seconds` in [witness] can be 1 to 3600: `{every}` is not");
            return Err(Failure::new(text, next));
        }
        let client = |(name, cosigner): (&Name, _)| {
            let client = Client::new(cosigner, log);
            let wrong = |why| Failure::new(format!("[witness.cosigners.{name}] cannot be used: {why}"), next);
            Ok((name.clone(), client.map_err(wrong)?))
        };
        config.cosigners.iter().map(client).collect()
    }

    /// Whether it can be used, in words.
    pub fn check(config: &WitnessConfig, log: &str) -> Result<String, Failure> {
        let all = Self::clients(config, log)?;
        let names: Vec<&str> = all.iter().map(|(_, client)| client.key().name()).collect();
        if names.is_empty() {
            return Ok("nobody: whoever has this machine can roll the log back".to_owned());
        }
        Ok(format!("cosigned by {}", names.join(", ")))
    }

    /// How it stands with each.
    pub fn all(&self) -> BTreeMap<Name, Standing> {
        self.lock().clone()
    }

    pub(super) fn set(&self, name: &Name, standing: Standing) {
        self.lock().insert(name.clone(), standing);
    }

    /// Who has seen another history, or does not cosign.
    pub fn alerts(&self) -> Vec<Alert> {
        let alert = |(name, standing): (&Name, &Standing)| {
            let code = match standing.state {
                State::New | State::Covered => return None,
                State::Behind => "witness-behind",
                State::Alarm => "witness-alarm",
            };
            let why = standing.why.as_deref().unwrap_or_default();
            Some(Alert {
                code,
                scope: Scope::Host,
                text: format!("the witness {name}, since {:.0}: {why}", standing.since),
                mend: "holm audit witnesses".to_owned(),
                prevents: Vec::new(),
            })
        };
        self.lock().iter().filter_map(alert).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Standing>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
