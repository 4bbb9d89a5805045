//! The services. Each call goes one way, and no handler can leave a step out:
//!
//! ```text
//!   Peer (certificate) ──▶ known? ──▶ find what it is about ──▶ Pack::decide ──▶ domain ──▶ ledger ──▶ answer
//!                            │              │                       │               │         │
//!                            └──────────────┴─── refused: an entry in the log ──────┴─────────┘
//! ```
//!
//! What one may not see is *not found*, in the same words as what is not there; the log has the true reason.
//! A read is an entry as well; of one who does not watch, as officers and auditors do, those of the same in the minutes after it
//! are counted in the next ([`crate::reads`]).

mod agent;
mod audit;
mod backup;
mod bundle;
mod claims;
mod commissioning;
mod declassify;
mod enrolment;
mod escrow;
mod guest;
mod host;
mod image;
mod incident;
mod jobs;
mod keys;
mod lock;
mod machine;
mod page;
mod person;
mod policy;
mod project;
mod queue;
mod register;
mod review;
mod search;
mod serve;
mod slice;
mod tunnel;
mod usage;
mod view;

pub use escrow::check as check_recipients;
pub use serve::{Running, start};

use crate::app::App;
use crate::domain::records::Once;
use crate::domain::{Refusal, RefusalKind, State, lock as locks, login, people};
use crate::identity::{Caller, Peer};
use crate::ledger::{Call, Decided};
use crate::once::{self, Answers, Keyed};
use crate::reads;
use crate::tag::Expected;
use holm_policies::{Action, Identity, Pack, Principal, Resource};
use holm_proto::ids::{Name, RequestId};
use jiff::Timestamp;
use register::Seen;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Response, Status};

/// The next command, UTF-8.
pub const HINT: &str = "holm-hint-bin";
/// The call's id, as it stands in the log.
pub const REQUEST: &str = "holm-request";

/// Streams are asked this often whether they may go on, beside whenever something changes: some things end by the clock.
const RECHECK: Duration = Duration::from_secs(3);

/// Roles whose every read is an entry of its own.
const WATCHERS: [&str; 2] = ["officer", "auditor"];

/// What a call is about, as far as is known before anything is looked up.
#[derive(Debug, Clone)]
struct About {
    /// As in the log, `slice/heart/main`.
    resource: String,
    project: Option<String>,
    /// What is said where there is none, or none that the caller may see.
    missing: Refusal,
}

impl About {
    fn new(resource: String, project: Option<&str>, missing: String, next: &str) -> Self {
        let missing = Refusal::new(RefusalKind::NotFound, missing).hint(next);
        Self { resource, project: project.map(shown), missing }
    }

    fn system() -> Self {
        Self::new("holm".to_owned(), None, "there is no such thing".to_owned(), "")
    }

    fn project(name: &str) -> Self {
        let name = shown(name);
        let missing = format!("there is no project `{name}`");
        Self::new(format!("project/{name}"), Some(&name), missing, "holm project list")
    }

    fn person(name: &str) -> Self {
        let name = shown(name);
        let missing = format!("there is no person `{name}`");
        Self::new(format!("person/{name}"), None, missing, "holm person list")
    }

    fn host(name: &str) -> Self {
        let name = shown(name);
        let missing = format!("there is no host `{name}`");
        Self::new(format!("host/{name}"), None, missing, "holm host list")
    }
}

/// What somebody sent, bounded and printable.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// What a host's agent sent, for people to read: bounded, one line, no control characters. Bounded in bytes, and
/// without the characters that JSON writes as two or, in a certificate within a record, as four: whatever a host
/// says of all its devices, the entry that holds it fits into the log.
fn plain(text: &str, most: usize) -> String {
    let mut left = most;
    let safe = text.chars().map(|c| match c {
        '"' => '\'',
        '\\' => '/',
        c if c.is_control() => ' ',
        c => c,
    });
    safe.take_while(|c| {
        left.checked_sub(c.len_utf8()).is_some_and(|rest| {
            left = rest;
            true
        })
    })
    .collect()
}

/// A name, an address, an id: refused in its own words.
fn parsed<T: FromStr>(text: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| Refusal::new(RefusalKind::Invalid, e.to_string()))
}

/// What a handler decides with.
struct Scene<'a> {
    app: &'a App,
    state: &'a State,
    caller: &'a Caller,
    request: RequestId,
    now: Timestamp,
    /// One pack from question to answer.
    pack: Arc<Pack>,
}

impl Scene<'_> {
    fn seen(&self) -> Seen<'_> {
        Seen { app: self.app, pack: Arc::clone(&self.pack), state: self.state, now: self.now }
    }

    /// The person who calls. A pack that lets a host do what people do stops here.
    fn person(&self) -> Result<&Name, Refusal> {
        match self.caller {
            Caller::Person(name) => Ok(name),
            Caller::Host(name) => {
                Err(Refusal::new(RefusalKind::Denied, format!("`{name}` is a host: this is for people")))
            }
        }
    }
}

/// One call, its caller known, nothing decided.
#[derive(Clone)]
struct Asked {
    app: Arc<App>,
    caller: Caller,
    /// SHA-256 of the certificate it shows.
    certificate: String,
    /// When that ends.
    until: Timestamp,
    call: Call,
    action: Action,
    missing: Refusal,
    dry_run: bool,
    /// It is made once, however often it is sent.
    once: Option<Keyed>,
    /// It is made where what it is about still is what the caller saw.
    expected: Option<Expected>,
}

/// How an answer is kept, and found again.
struct Kept<T> {
    keep: fn(&Answers, &str, &T, Timestamp),
    again: fn(&Answers, &Once) -> Result<T, Refusal>,
}

/// A refusal, and what the caller is told of it.
struct No {
    logged: Refusal,
    told: Box<Refusal>,
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self { logged: refusal.clone(), told: Box::new(refusal) }
    }
}

impl Asked {
    fn new(
        app: &Arc<App>,
        extensions: &tonic::Extensions,
        action: Action,
        about: About,
    ) -> Result<Self, Status> {
        let peer = extensions.get::<Peer>();
        let known = peer.and_then(|p| Some((p.caller.clone()?, p.certificate.clone(), p.until, p.address)));
        let Some((caller, certificate, until, address)) = known else {
            return Err(Status::unauthenticated("this connection has no certificate; run: holm enrol CODE"));
        };
        let call = Call {
            request: RequestId::new_v4(),
            actor: caller.actor(),
            peer: address.to_string(),
            action: action.text(),
            resource: about.resource,
            project: about.project,
            source_time: None,
        };
        // A host's session is many calls on one stream.
        let once = extensions.get::<Keyed>().filter(|_| matches!(caller, Caller::Person(_))).cloned();
        let expected = extensions.get::<Expected>().cloned();
        let (app, missing) = (Arc::clone(app), about.missing);
        Ok(Self { app, caller, certificate, until, call, action, missing, dry_run: false, once, expected })
    }

    /// Decide and say what would happen, change nothing.
    fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Its work is not done where it is decided: sent again it would be done again, so it takes no key.
    fn keyless(&self) -> Result<(), Refusal> {
        match &self.once {
            None => Ok(()),
            Some(_) => {
                let text = "this is done as often as it is sent: it takes no key".to_owned();
                Err(Refusal::new(RefusalKind::Invalid, text).hint("leave out --idempotency-key"))
            }
        }
    }

    /// A change: `find` looks up what it is about, `act` decides it. Both see one state that nobody else
    /// changes meanwhile. `find` gives `None` for what is not there.
    async fn change<F: 'static, T: prost::Message + Default + 'static>(
        self,
        find: impl FnOnce(&Seen<'_>) -> Result<Option<(Resource, F)>, Refusal> + Send + 'static,
        act: impl FnOnce(&Scene<'_>, F) -> Result<Decided<T>, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        self.changed(find, act, Some(Kept { keep: Answers::keep, again: Answers::again })).await
    }

    /// The same, made as often as it is sent.
    async fn change_each<F: 'static, T: Send + 'static>(
        self,
        find: impl FnOnce(&Seen<'_>) -> Result<Option<(Resource, F)>, Refusal> + Send + 'static,
        act: impl FnOnce(&Scene<'_>, F) -> Result<Decided<T>, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        self.changed(find, act, None).await
    }

    async fn changed<F: 'static, T: Send + 'static>(
        self,
        find: impl FnOnce(&Seen<'_>) -> Result<Option<(Resource, F)>, Refusal> + Send + 'static,
        act: impl FnOnce(&Scene<'_>, F) -> Result<Decided<T>, Refusal> + Send + 'static,
        kept: Option<Kept<T>>,
    ) -> Result<Response<T>, Status> {
        let id = self.call.request;
        let decided = blocking(move || {
            let (mut told, mut again) = (None, None);
            let once =
                self.once.as_ref().filter(|_| !self.dry_run).map(|keyed| keyed.id(&self.caller)).zip(kept);
            let done = self.app.ledger.decide(&self.call, |state, now| {
                let seen = self.at(state, now);
                let pack = Arc::clone(&seen.pack);
                let by = Some(pack.id().to_owned());
                let made = once.as_ref().and_then(|(id, _)| once::made(state, id, now));
                let mut unchanged = Ok(());
                let find = |seen: &Seen<'_>| {
                    let found = find(seen)?;
                    if let (Some(expected), Some((resource, _))) = (&self.expected, &found) {
                        unchanged = expected.holds(state, resource);
                    }
                    Ok(found)
                };
                let judged = self.judged(&seen, find, true).map_err(|no| match made {
                    // That it was done she knows. What her certificate lacks, or that she is locked, is said as ever.
                    Some(made) if self.known(state).is_ok() => {
                        No { told: Box::new(once::not_again(made)), ..no }
                    }
                    _ => no,
                });
                let decided = judged.and_then(|(rules, found)| {
                    if let (Some(made), Some((_, kept))) = (made, &once) {
                        let value = (kept.again)(&self.app.answers, made)?;
                        again = Some(made.request);
                        let detail = serde_json::json!({ "again": made.request });
                        return Ok(Decided {
                            detail,
                            reasons: rules,
                            pack: by.clone(),
                            ..Decided::new(Vec::new(), value)
                        });
                    }
                    unchanged?;
                    let scene = Scene { app: &self.app, state, caller: &self.caller, request: id, now, pack };
                    let mut decided = act(&scene, found)?;
                    decided.reasons = rules;
                    decided.pack.clone_from(&by);
                    if self.dry_run {
                        if !decided.changes.is_empty() {
                            self.app.ledger.admits(&self.call)?;
                        }
                        decided.changes.clear();
                        decided.detail = serde_json::json!({ "dry_run": true });
                    }
                    if let Some((id, kept)) = once.as_ref().filter(|_| !decided.changes.is_empty()) {
                        decided.changes.extend(once::noted(state, id, self.call.request, now)?);
                        (kept.keep)(&self.app.answers, id, &decided.value, now);
                    }
                    Ok(decided)
                });
                decided.map_err(|no| {
                    told = Some(*no.told);
                    Refusal { pack: by, ..no.logged }
                })
            });
            (done, told, again)
        });
        // The disk is waited for without a thread: of those a slow one would soon have them all.
        let (done, told, again) = decided.await?;
        let done = match done {
            Ok(pending) => pending.durable().await.map_err(|failure| match failure.kind {
                // What is in no log was not decided.
                RefusalKind::Unavailable => failure,
                _ => told.unwrap_or(failure),
            }),
            Err(failure) => Err(failure),
        };
        let mut answer = answer(done, id)?;
        if let Some(first) = again.and_then(|first| first.to_string().parse().ok()) {
            answer.metadata_mut().insert(once::AGAIN, first);
        }
        Ok(answer)
    }

    /// A read.
    async fn read<F: 'static, T: Send + 'static>(
        self,
        find: impl FnOnce(&Seen<'_>) -> Result<Option<(Resource, F)>, Refusal> + Send + 'static,
        show: impl FnOnce(&Scene<'_>, F) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let id = self.call.request;
        let done = blocking(move || {
            let state = self.app.ledger.state();
            let now = self.app.ledger.now();
            let seen = self.at(&state, now);
            let (pack, by) = (Arc::clone(&seen.pack), seen.pack.id().to_owned());
            let seen = self.judged(&seen, find, true).and_then(|(rules, found)| {
                let scene =
                    Scene { app: &self.app, state: &state, caller: &self.caller, request: id, now, pack };
                Ok((rules, show(&scene, found)?))
            });
            self.noted(&state, by, seen)
        })
        .await?;
        answer(done, id)
    }

    /// A list: what one may not see is left out. `each` says of every item what it is.
    async fn list<T: Send + 'static>(
        self,
        all: impl FnOnce(&Scene<'_>, &dyn Fn(Action, Resource) -> bool) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let id = self.call.request;
        let done = blocking(move || {
            let state = self.app.ledger.state();
            let pack = self.app.rules.of(&state);
            let by = pack.id().to_owned();
            let seen = self.known(&state).map_err(No::from).and_then(|principal| {
                let may = |action: Action, resource: Resource| {
                    let request = holm_policies::Request { principal: principal.clone(), action, resource };
                    pack.decide(&request).allow && locks::permits(&state, &request).is_ok()
                };
                let (now, pack) = (self.app.ledger.now(), Arc::clone(&pack));
                let scene =
                    Scene { app: &self.app, state: &state, caller: &self.caller, request: id, now, pack };
                Ok((Vec::new(), all(&scene, &may)?))
            });
            self.noted(&state, by, seen)
        })
        .await?;
        answer(done, id)
    }

    fn at<'a>(&'a self, state: &'a State, now: Timestamp) -> Seen<'a> {
        Seen { app: &self.app, pack: self.app.rules.of(state), state, now }
    }

    /// May it be done?
    fn allowed(&self, state: &State, resource: Resource) -> bool {
        self.still(state, Some(resource)).is_ok()
    }

    /// May it still be done? Without an entry: for streams, at each of their steps. `None`: what it is about is gone.
    fn still(&self, state: &State, resource: Option<Resource>) -> Result<(), No> {
        self.judged(&self.seen(state), |_| Ok(resource.map(|resource| (resource, ()))), false).map(drop)
    }

    /// A stream ends because it may not go on: an entry. What the caller is told of it.
    async fn ended(&self, no: No) -> Status {
        let (asked, id) = (self.clone(), self.call.request);
        let done = blocking(move || {
            let state = asked.app.ledger.state();
            let by = asked.app.rules.of(&state).id().to_owned();
            asked.noted::<()>(&state, by, Err(no))
        })
        .await;
        match done {
            Ok(Err(told)) => status(&told, id),
            Err(failure) => failure,
            Ok(Ok(())) => Status::internal("what may not go on went on"),
        }
    }

    /// The state as it is seen now.
    fn seen<'a>(&'a self, state: &'a State) -> Seen<'a> {
        self.at(state, self.app.ledger.now())
    }

    /// Write down a read, or that it was refused. `by` is the pack.
    fn noted<T>(&self, state: &State, by: String, seen: Result<(Vec<String>, T), No>) -> Result<T, Refusal> {
        match seen {
            Ok((rules, value)) => {
                let (reads, now) = (&self.app.reads, self.app.ledger.now());
                let watches = self.watches(state);
                let entry = if watches { None } else { reads.once_more(&self.call, now) };
                if watches || entry.is_some() {
                    let times = entry.as_ref().map_or(0, |entry| entry.times);
                    self.app.ledger.commit(&self.call, |_, _| {
                        let mut decided = Decided::new(Vec::new(), ());
                        decided.detail = reads::again(times);
                        decided.reasons = rules;
                        decided.pack = Some(by);
                        Ok(decided)
                    })?;
                    if let Some(entry) = entry {
                        reads.written(&self.call, entry, now);
                    }
                }
                Ok(value)
            }
            Err(no) => {
                let refused = Refusal { pack: Some(by), ..no.logged };
                match self.app.ledger.decide::<()>(&self.call, |_, _| Err(refused))?.wait() {
                    Err(failure) if failure.kind == RefusalKind::Unavailable => Err(failure),
                    _ => Err(*no.told),
                }
            }
        }
    }

    fn watches(&self, state: &State) -> bool {
        match &self.caller {
            Caller::Person(name) => {
                state.people.get(name).is_some_and(|p| p.roles.iter().any(|r| WATCHERS.contains(&r.as_str())))
            }
            Caller::Host(_) => false,
        }
    }

    /// Find and decide: the ids of the policies that allow it. What `begins` may take a second factor; what is open stays
    /// open when that has become too old.
    fn judged<F>(
        &self,
        seen: &Seen<'_>,
        find: impl FnOnce(&Seen<'_>) -> Result<Option<(Resource, F)>, Refusal>,
        begins: bool,
    ) -> Result<(Vec<String>, F), No> {
        let principal = self.known(seen.state)?;
        let (resource, found) = find(seen)?.ok_or_else(|| self.missing.clone())?;
        let request = holm_policies::Request { principal, action: self.action, resource };
        let decision = seen.pack.decide(&request);
        if decision.allow {
            locks::permits(seen.state, &request)?;
            if begins {
                login::demand(seen.state, &seen.pack, &request, &self.certificate, seen.now)?;
            }
            return Ok((decision.reasons, found));
        }
        let logged = Refusal::of(RefusalKind::Denied, decision.reasons);
        let told = if decision.visible { logged.clone() } else { self.missing.clone() };
        Err(No { logged, told: Box::new(told) })
    }

    /// The caller with her roles. Who is not known is told so, and nothing else; and of several certificates
    /// that one name got, only the newest speaks for it: a stolen one ends when its owner enrols again, and one
    /// that somebody got in her name cannot be used without her noticing.
    fn known(&self, state: &State) -> Result<Principal, Refusal> {
        let principal = match &self.caller {
            Caller::Person(name) => person_of(state, name),
            Caller::Host(name) => Principal {
                identity: Identity::Host { name: name.clone() },
                known: state.hosts.contains_key(name),
            },
        };
        if principal.known {
            if self.app.ledger.now() >= self.until {
                let text = format!("this certificate ended at {:.0}", self.until);
                return Err(Refusal::new(RefusalKind::Denied, text).hint("holm doctor"));
            }
            people::holds(state, &self.caller.subject(), &self.certificate)?;
            if let Caller::Person(name) = &self.caller {
                locks::person(state, name)?;
            }
            return Ok(principal);
        }
        // The pack has the words for it.
        let request = holm_policies::Request { principal, action: self.action, resource: Resource::System };
        Err(Refusal::of(RefusalKind::Denied, self.app.rules.of(state).decide(&request).reasons))
    }
}

/// A person, as the pack sees her.
fn person_of(state: &State, name: &Name) -> Principal {
    let person = state.people.get(name);
    let roles = person.map(|p| p.roles.clone()).unwrap_or_default();
    Principal {
        identity: Identity::Person { name: name.clone(), roles },
        known: person.is_some_and(|p| p.enrolled),
    }
}

/// Run what waits for the disk where it holds up nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|failure| {
        tracing::error!("a call failed: {failure}");
        Status::internal("holmd failed in this call; its operator finds why in its messages")
    })
}

/// As [`blocking`], when it is its turn. Until it is through the turn is its own, also where nobody waits any more.
async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    // Nobody closes it.
    let turn = Arc::clone(turns).acquire_owned().await;
    blocking(move || {
        let _turn = turn;
        work()
    })
    .await
}

fn answer<T>(done: Result<T, Refusal>, id: RequestId) -> Result<Response<T>, Status> {
    let value = done.map_err(|refusal| status(&refusal, id))?;
    let mut response = Response::new(value);
    identify(response.metadata_mut(), id);
    Ok(response)
}

/// A refusal as the caller gets it.
fn status(refusal: &Refusal, id: RequestId) -> Status {
    let code = match refusal.kind {
        RefusalKind::Denied => Code::PermissionDenied,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::Exists => Code::AlreadyExists,
        RefusalKind::State => Code::FailedPrecondition,
        RefusalKind::Unavailable => Code::Unavailable,
    };
    let mut metadata = MetadataMap::new();
    identify(&mut metadata, id);
    if !refusal.hint.is_empty() {
        metadata.insert_bin(HINT, MetadataValue::from_bytes(refusal.hint.as_bytes()));
    }
    Status::with_metadata(code, refusal.to_string(), metadata)
}

fn identify(metadata: &mut MetadataMap, id: RequestId) {
    if let Ok(value) = id.to_string().parse() {
        metadata.insert(REQUEST, value);
    }
}
