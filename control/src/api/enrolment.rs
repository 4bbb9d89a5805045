//! Enrolment: a one-time code for a certificate. The only service for who has none.
//!
//! A guess costs nothing here but one look-up, and after a few wrong ones an address has to wait; the secret
//! of a code has 128 bits, so this protects the log and the processor, not the codes.

use super::plain;
use crate::app::App;
use crate::domain::records::Subject;
use crate::domain::{Refusal, RefusalKind, people};
use crate::identity::{Caller, Code, Issued, Peer, Stranger, Strangers};
use crate::ledger::{Call, Decided};
use holm_proto::ids::RequestId;
use holm_proto::v1;
use holm_proto::v1::enrolment_service_server::EnrolmentService;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// Wrong codes that one address may send at once, and how soon it may send one more.
const WRONG_MAX: u32 = 10;
const WRONG_EVERY: Duration = Duration::from_secs(6);
/// Addresses remembered.
const ADDRESSES_MAX: usize = 1024;

#[derive(Clone)]
pub(super) struct Enrolment {
    app: Arc<App>,
    strangers: Arc<Strangers>,
    wrong: Arc<Mutex<Wrong>>,
}

impl Enrolment {
    pub(super) fn new(app: Arc<App>, strangers: Arc<Strangers>) -> Self {
        Self { app, strangers, wrong: Arc::default() }
    }

    fn wrong<T>(&self, with: impl FnOnce(&mut Wrong) -> T) -> T {
        with(&mut self.wrong.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many wrong codes came from where, less those that are forgiven by now.
#[derive(Default)]
struct Wrong(BTreeMap<IpAddr, (u32, Instant)>);

impl Wrong {
    /// Whoever is there has to wait.
    fn is_locked_out(&mut self, from: IpAddr, now: Instant) -> bool {
        self.count(network(from), now) >= WRONG_MAX
    }

    fn one_more(&mut self, from: IpAddr, now: Instant) {
        let from = network(from);
        let count = self.count(from, now).saturating_add(1);
        if self.0.len() >= ADDRESSES_MAX {
            // Who comes from many addresses makes nobody forget what came from others lately.
            let oldest = self.0.iter().min_by_key(|(_, (_, since))| *since).map(|(from, _)| *from);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let since = self.0.get(&from).map_or(now, |(_, since)| *since);
        self.0.insert(from, (count, since));
    }

    fn count(&mut self, from: IpAddr, now: Instant) -> u32 {
        let Some((count, since)) = self.0.get(&from).copied() else { return 0 };
        let gone = now.saturating_duration_since(since).as_secs() / WRONG_EVERY.as_secs();
        let forgiven = u32::try_from(gone).unwrap_or(u32::MAX);
        let left = count.saturating_sub(forgiven);
        match (left, forgiven) {
            (0, _) => drop(self.0.remove(&from)),
            (_, 0) => {}
            _ => drop(self.0.insert(from, (left, now))),
        }
        left
    }
}

/// Of IPv6 whoever has one address has 2⁶⁴ of them.
fn network(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(from) => match from.to_ipv4_mapped() {
            Some(from) => from.into(),
            None => Ipv6Addr::from_bits(from.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let Some(address) = request.extensions().get::<Peer>().map(|p| p.address) else {
            return Err(Status::internal("the connection has no address"));
        };
        let message = request.into_inner();
        if self.wrong(|all| all.is_locked_out(address.ip(), Instant::now())) {
            self.strangers.note(Stranger::TooManyCodes, String::new(), address);
            return Err(Status::resource_exhausted(
                "too many wrong codes came from your address: wait a minute",
            ));
        }
        let id = RequestId::new_v4();
        let code = Code::parse(&message.code).filter(|code| code.ca() == self.app.authority.hash());
        let hash = code.map(|code| code.hash()).unwrap_or_default();
        // Looked up before it is decided: a flood of wrong codes reaches neither the log nor its lock.
        let subject = match people::enrol(&self.app.ledger.state(), &hash, self.app.ledger.now()) {
            Ok((subject, _)) => subject,
            Err(refusal) => {
                self.wrong(|all| all.one_more(address.ip(), Instant::now()));
                self.strangers.note(Stranger::BadCode, String::new(), address);
                return super::answer(Err(refusal), id);
            }
        };
        let call = Call {
            request: id,
            actor: "unknown".to_owned(),
            peer: address.to_string(),
            action: "enrol",
            resource: match &subject {
                Subject::Person(name) => format!("person/{name}"),
                Subject::Host(name) => format!("host/{name}"),
            },
            project: None,
            source_time: None,
        };
        let app = Arc::clone(&self.app);
        let done = super::blocking(move || {
            app.ledger.commit(&call, |state, now| {
                let (subject, mut changes) = people::enrol(state, &hash, now)?;
                let caller = caller(&subject);
                let issued = issue(&app, &caller, &message.csr_pem, now)
                    .map_err(|refusal| refusal.hint("holm enrol CODE"))?;
                let anothers = people::is_anothers(state, &hash);
                changes.extend(people::certified(state, &subject, &issued.fingerprint(), anothers));
                let detail = json!({ "certificate": issued.fingerprint(), "until": issued.until });
                let value = response(&app, &caller, issued);
                Ok(Decided { detail, ..Decided::new(changes, value) })
            })
        });
        super::answer(done.await?, id)
    }
}

/// Whom the certificate names.
pub(super) fn caller(subject: &Subject) -> Caller {
    match subject {
        Subject::Person(name) => Caller::Person(name.clone()),
        Subject::Host(name) => Caller::Host(name.clone()),
    }
}

/// A certificate for the key in a signing request.
pub(super) fn issue(app: &App, caller: &Caller, csr_pem: &str, now: Timestamp) -> Result<Issued, Refusal> {
    let life = app.config.certificates.life(caller);
    let issued = app.authority.enrol(caller, csr_pem, life, now);
    issued.map_err(|e| Refusal::new(RefusalKind::Invalid, plain(&e.to_string(), 200)))
}

pub(super) fn response(app: &App, caller: &Caller, issued: Issued) -> v1::EnrolResponse {
    v1::EnrolResponse {
        certificate_pem: issued.pem,
        ca_pem: app.authority.pem().to_owned(),
        identity: caller.uri(),
        server: app.config.server.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn after_ten_wrong_codes_an_address_waits_and_no_other() {
        let (mut wrong, now) = (Wrong::default(), Instant::now());
        let guesses =
            |wrong: &mut Wrong, from: &str, n: u32| (0..n).for_each(|_| wrong.one_more(ip(from), now));
        guesses(&mut wrong, "192.0.2.7", 9);
        assert!(!wrong.is_locked_out(ip("192.0.2.7"), now));
        guesses(&mut wrong, "192.0.2.7", 1);
        assert!(wrong.is_locked_out(ip("192.0.2.7"), now));
        assert!(wrong.is_locked_out(ip("::ffff:192.0.2.7"), now));
        assert!(!wrong.is_locked_out(ip("192.0.2.8"), now));
        // One more every six seconds, and a minute later all of them.
        let later = now + Duration::from_secs(6);
        assert!(!wrong.is_locked_out(ip("192.0.2.7"), later));
        wrong.one_more(ip("192.0.2.7"), later);
        assert!(wrong.is_locked_out(ip("192.0.2.7"), later));
        assert_eq!(wrong.count(ip("192.0.2.7"), later + Duration::from_secs(60)), 0);
        assert!(wrong.0.is_empty());
    }

    #[test]
    fn neighbours_of_one_ipv6_network_are_one() {
        let (mut wrong, now) = (Wrong::default(), Instant::now());
        for n in 0..10 {
            wrong.one_more(ip(&format!("2001:db8:0:1::{n:x}")), now);
        }
        assert!(wrong.is_locked_out(ip("2001:db8:0:1:ffff::1"), now));
        assert!(!wrong.is_locked_out(ip("2001:db8:0:2::1"), now));
    }

    #[test]
    fn many_addresses_make_nobody_forget_what_came_lately() {
        let (mut wrong, start) = (Wrong::default(), Instant::now());
        let later = start + Duration::from_secs(1);
        for n in 0..2000_u32 {
            wrong.one_more(std::net::Ipv4Addr::from_bits(n).into(), start);
        }
        (0..10).for_each(|_| wrong.one_more(ip("192.0.2.7"), later));
        for n in 0..500_u32 {
            wrong.one_more(std::net::Ipv4Addr::from_bits(n).into(), later);
        }
        assert!(wrong.0.len() <= ADDRESSES_MAX);
        assert!(wrong.is_locked_out(ip("192.0.2.7"), later));
    }
}
