//! What makes an entry of the log news to officers: rules as data. Pure.

use crate::audit::{Entry, OUTCOMES};
use crate::search;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Those that are in force where a site has none of its own.
const BUILT_IN: &str = include_str!("rules.toml");
/// Actors that are counted at a time: of more the ones that were quiet longest are forgotten.
const ACTORS: usize = 10_000;
const COUNT_MAX: u32 = 1000;
const MINUTES_MAX: u32 = 24 * 60;

/// A `[[watch]]` of `holmd.toml`. An entry must be all that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// In the log and in mail: small letters, digits and dashes.
    pub name: String,
    /// As `slice.connect`; `slice` stands for all of slices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// `allowed`, `refused` or `observed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The project's then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// A project by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Not between these times of day, `07:00-19:00`, or on another day than `days`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
    /// `mon` to `sun`; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<Vec<String>>,
    /// Whose time of day it is, as `Europe/Copenhagen`; absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Who did it looked for, or did it to, herself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub herself: bool,
    /// Only when one actor has as many, 1 to 1000, within `minutes`; absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// 1 to 1440.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u32>,
    /// After an alarm none more of this actor for so long, 1 to 1440; absent: each is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_minutes: Option<u32>,
}

/// A rule that makes sense.
#[derive(Debug, Clone)]
struct Rule {
    config: WatchConfig,
    hours: Option<Hours>,
}

/// When people work.
#[derive(Debug, Clone)]
struct Hours {
    from: Time,
    until: Time,
    days: Vec<Weekday>,
    zone: TimeZone,
}

/// The rules, and what they remember.
#[derive(Debug, Default)]
pub struct Watch {
    rules: Vec<Rule>,
    /// By rule and actor.
    seen: BTreeMap<(usize, String), Seen>,
}

/// What an actor did that a rule takes.
#[derive(Debug, Default)]
struct Seen {
    /// When, within the rule's minutes.
    times: VecDeque<Timestamp>,
    /// When that was an alarm last.
    alarm: Option<Timestamp>,
}

impl Seen {
    fn last(&self) -> Option<Timestamp> {
        self.times.back().copied().max(self.alarm)
    }
}

/// An entry that officers hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Which rule.
    pub rule: String,
    /// How many entries it took.
    pub count: usize,
    /// The time of the first of them.
    pub first: Timestamp,
}

impl Watch {
    /// By these rules; by those that are built in, where there are none. What makes no sense is said.
    pub fn new(configured: Option<&[WatchConfig]>) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            watch: Vec<WatchConfig>,
        }
        let all = match configured {
            Some(all) => all.to_vec(),
            None => toml::from_str::<File>(BUILT_IN).map_err(|e| e.to_string())?.watch,
        };
        let mut rules: Vec<Rule> = Vec::new();
        for config in all {
            if rules.iter().any(|rule| rule.config.name == config.name) {
                return Err(format!("two rules are named `{}`", config.name.escape_debug()));
            }
            let name = config.name.escape_debug().to_string();
            rules.push(Rule::new(config).map_err(|why| format!("the rule `{name}`: {why}"))?);
        }
        Ok(Self { rules, seen: BTreeMap::new() })
    }

    /// So long back it must be known what happened.
    pub fn memory(&self) -> SignedDuration {
        let of = |rule: &Rule| rule.config.minutes.max(rule.config.quiet_minutes);
        SignedDuration::from_mins(self.rules.iter().filter_map(of).max().unwrap_or(0).into())
    }

    /// The rules as they are configured, or built in.
    pub fn configs(&self) -> impl Iterator<Item = &WatchConfig> {
        self.rules.iter().map(|rule| &rule.config)
    }

    /// Names of the rules.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.config.name.as_str())
    }

    /// The next entry of the log: what officers hear of it.
    pub fn see(&mut self, entry: &Entry) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for (at, rule) in self.rules.iter().enumerate().filter(|(_, rule)| rule.takes(entry)) {
            let wanted = rule.config.count.unwrap_or(1).max(1) as usize;
            let span = |minutes: Option<u32>| SignedDuration::from_mins(minutes.unwrap_or(0).into());
            // By a clock that went back what is later counts as well.
            let near = |time: Timestamp, span| entry.time.duration_since(time).abs() <= span;
            let seen = self.seen.entry((at, entry.actor.clone())).or_default();
            seen.times.push_back(entry.time);
            seen.times.retain(|time| near(*time, span(rule.config.minutes)));
            if seen.times.len() < wanted {
                continue;
            }
            let quiet = rule.config.quiet_minutes.map(|minutes| span(Some(minutes)));
            let still = quiet.zip(seen.alarm).is_some_and(|(quiet, alarm)| near(alarm, quiet));
            if !still {
                seen.alarm = Some(entry.time);
                alarms.push(Alarm {
                    rule: rule.config.name.clone(),
                    count: seen.times.len(),
                    first: seen.times.front().copied().unwrap_or(entry.time),
                });
            }
            // It takes as many again until the next.
            seen.times.clear();
        }
        self.forget(entry.time);
        alarms
    }

    /// Keeps what is remembered small.
    fn forget(&mut self, now: Timestamp) {
        if self.seen.len() <= ACTORS {
            return;
        }
        let memory = self.memory();
        self.seen.retain(|_, seen| seen.last().is_some_and(|last| now.duration_since(last) <= memory));
        while self.seen.len() > ACTORS {
            let quiet = self.seen.iter().min_by_key(|(_, seen)| seen.last()).map(|(key, _)| key.clone());
            let Some(quiet) = quiet else { return };
            self.seen.remove(&quiet);
        }
    }
}

impl Rule {
    fn new(config: WatchConfig) -> Result<Self, String> {
        let name = &config.name;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 40 || !name.chars().all(fits) {
            return Err("a name is 1 to 40 small letters, digits and dashes".to_owned());
        }
        if let Some(outcome) = &config.outcome
            && !OUTCOMES.contains(&outcome.as_str())
        {
            return Err(format!(
                "`outcome` is allowed, refused or observed: `{}` is not",
                outcome.escape_debug()
            ));
        }
        let some = [&config.action, &config.outcome, &config.level, &config.project, &config.outside];
        if some.iter().all(|said| said.is_none()) && !config.herself {
            return Err("it would be of every entry: say an action, an outcome, a level, a project or hours"
                .to_owned());
        }
        match (config.count, config.minutes) {
            (None, None) => {}
            (Some(1..=COUNT_MAX), Some(1..=MINUTES_MAX)) => {}
            _ => {
                return Err(format!(
                    "`count` is 1 to {COUNT_MAX} and stands with `minutes`, 1 to {MINUTES_MAX}"
                ));
            }
        }
        if config.quiet_minutes.is_some_and(|minutes| !(1..=MINUTES_MAX).contains(&minutes)) {
            return Err(format!("`quiet_minutes` is 1 to {MINUTES_MAX}"));
        }
        let hours = match &config.outside {
            Some(outside) => Some(Hours::new(outside, config.days.as_deref(), config.zone.as_deref())?),
            None if config.days.is_some() || config.zone.is_some() => {
                return Err("`days` and `zone` stand with `outside`".to_owned());
            }
            None => None,
        };
        Ok(Self { config, hours })
    }

    fn takes(&self, entry: &Entry) -> bool {
        let config = &self.config;
        let same = |wanted: &Option<String>, is: Option<&str>| wanted.is_none() || wanted.as_deref() == is;
        let action = config.action.as_deref().is_none_or(|wanted| {
            let rest = entry.action.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        action
            && same(&config.outcome, Some(&entry.outcome))
            && same(&config.level, entry.level.as_deref())
            && same(&config.project, entry.project.as_deref())
            && self.hours.as_ref().is_none_or(|hours| !hours.have(entry.time))
            && (!config.herself || is_of_herself(entry))
    }
}

/// What it is about, or what was looked for, is who did it.
fn is_of_herself(entry: &Entry) -> bool {
    let Some(name) = entry.actor.strip_prefix("person/") else { return false };
    let filter = |field: &str| entry.detail.get("filter")?.get(field).and_then(Value::as_str);
    let words = |text: &str| {
        let wanted: BTreeSet<String> = search::words(text).collect();
        search::words(name).all(|word| wanted.contains(&word))
    };
    entry.resource == entry.actor
        || filter("actor") == Some(&entry.actor)
        || filter("resource") == Some(&entry.actor)
        || filter("text").is_some_and(words)
}

impl Hours {
    fn new(outside: &str, days: Option<&[String]>, zone: Option<&str>) -> Result<Self, String> {
        const DAYS: [(&str, Weekday); 7] = [
            ("mon", Weekday::Monday),
            ("tue", Weekday::Tuesday),
            ("wed", Weekday::Wednesday),
            ("thu", Weekday::Thursday),
            ("fri", Weekday::Friday),
            ("sat", Weekday::Saturday),
            ("sun", Weekday::Sunday),
        ];
        let bad = || format!("`outside` is as 07:00-19:00: `{}` is not", outside.escape_debug());
        let (from, until) = outside.split_once('-').ok_or_else(bad)?;
        let (from, until): (Time, Time) =
            (from.parse().map_err(|_| bad())?, until.parse().map_err(|_| bad())?);
        if from >= until {
            return Err(bad());
        }
        let day = |name: &String| {
            let found = DAYS.iter().find(|(known, _)| known == name);
            found
                .map(|(_, day)| *day)
                .ok_or_else(|| format!("`{}` is no day: mon to sun", name.escape_debug()))
        };
        let days = match days {
            Some(days) => days.iter().map(day).collect::<Result<_, _>>()?,
            None => DAYS.iter().map(|(_, day)| *day).collect(),
        };
        let zone = zone.unwrap_or("UTC");
        let zone = TimeZone::get(zone)
            .map_err(|_| format!("no time zone `{}` is known: as Europe/Copenhagen", zone.escape_debug()))?;
        Ok(Self { from, until, days, zone })
    }

    fn have(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        self.days.contains(&local.weekday()) && (self.from..self.until).contains(&local.time())
    }
}
