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
use std::net::IpAddr;
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
    wrong: Arc<Mutex<BTreeMap<IpAddr, (u32, Instant)>>>,
}

impl Enrolment {
    pub(super) fn new(app: Arc<App>, strangers: Arc<Strangers>) -> Self {
        Self { app, strangers, wrong: Arc::default() }
    }

    /// How many wrong codes came from there, less those that are forgiven by now.
    fn wrong(&self, from: IpAddr, one_more: bool) -> u32 {
        let mut all = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES_MAX {
            all.clear();
        }
        let now = Instant::now();
        let (count, since) = all.get(&from).copied().unwrap_or((0, now));
        let forgiven = u32::try_from(since.elapsed().as_secs() / WRONG_EVERY.as_secs()).unwrap_or(u32::MAX);
        let since = if forgiven == 0 { since } else { now };
        let count = count.saturating_sub(forgiven) + u32::from(one_more);
        if count == 0 {
            all.remove(&from);
        } else {
            all.insert(from, (count, since));
        }
        count
    }
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let Some(address) = request.extensions().get::<Peer>().map(|p| p.address) else {
            return Err(Status::internal("the connection has no address"));
        };
        let message = request.into_inner();
        if self.wrong(address.ip(), false) >= WRONG_MAX {
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
                self.wrong(address.ip(), true);
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
        };
        let app = Arc::clone(&self.app);
        let done = super::blocking(move || {
            app.ledger.commit(&call, |state, now| {
                let (subject, mut changes) = people::enrol(state, &hash, now)?;
                let caller = caller(&subject);
                let issued = issue(&app, &caller, &message.csr_pem, now)
                    .map_err(|refusal| refusal.hint("holm enrol CODE"))?;
                changes.extend(people::certified(state, &subject, &issued.fingerprint()));
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
