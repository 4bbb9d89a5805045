//! A host's word on its own fitness, signed with the key of the certificate that it speaks with.
//!
//! ```text
//!   report, signature ──▶ short enough? ──▶ signed by this host? ──▶ of now? newer than the last? ──▶ the log, Host
//!                              │                   │                          │
//!                              └───────────────────┴──────────────────────────┴──▶ refused: the log
//! ```
//!
//! The log gets the report as it was signed, the signature and the certificate: whoever has the log can check who
//! said it without trusting holmd.

use super::agent::admitted;
use super::{plain, view};
use crate::app::App;
use crate::domain::alert::{self, Alert, Prevents, Scope};
use crate::domain::records::{Change, Commissioning, FailedCheck, Host, Record};
use crate::domain::{Refusal, RefusalKind, State};
use crate::ledger::{Call, Decided};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use data_encoding::{BASE64, HEXLOWER};
use holm_proto::commission;
use holm_proto::ids::Name;
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A report in which everything fails has some 6 KiB; with what it becomes in an entry it must fit into one.
const REPORT_MAX: usize = 10 * 1024;
/// An ECDSA signature on P-256 has 72 bytes at most.
const SIGNATURE_MAX: usize = 96;
const CHECKS_MAX: usize = 32;
/// Bytes of an id, a title, what was found, how to mend it.
const SHORT: usize = 48;
const TITLE: usize = 96;
const LONG: usize = 240;
/// How far a host's clock may be from holmd's: a report is of now or of no use.
const CLOCKS: SignedDuration = SignedDuration::from_mins(15);
/// What has not changed is written down again after so long.
const ANEW: SignedDuration = SignedDuration::from_hours(23);

/// Judges a report and keeps it. `noted`: one of this session was refused already, and another is no entry.
pub(super) fn take(
    app: &App,
    host: &Name,
    call: &Call,
    signed: &v1::SignedCommissioning,
    certificate: &[u8],
    noted: bool,
) -> Result<(), Refusal> {
    let fresh = match checked(signed, certificate, app.ledger.now()) {
        Ok(fresh) => fresh,
        Err(refusal) if noted => return Err(refusal),
        Err(refusal) if !admitted(app, host)? => return Err(refusal),
        Err(refusal) => return app.ledger.commit::<()>(call, |_, _| Err(refusal)),
    };
    // A look first: most reports say what the last one did.
    match news(&app.ledger.state(), host, &fresh) {
        Ok(None) => return Ok(()),
        Err(refusal) if noted => return Err(refusal),
        Ok(Some(_)) | Err(_) => {}
    }
    if !admitted(app, host)? {
        return Ok(());
    }
    let detail = detail(signed, certificate, &fresh);
    app.ledger.commit(call, |state, _| {
        let next = news(state, host, &fresh)?;
        let changes = next.into_iter().map(|next| Change::Put(Record::Host(next))).collect();
        Ok(Decided { detail, ..Decided::new(changes, ()) })
    })
}

/// The report, where this certificate's holder signed it just now. Nothing in it is looked at before.
fn checked(
    signed: &v1::SignedCommissioning,
    certificate: &[u8],
    now: Timestamp,
) -> Result<Commissioning, Refusal> {
    let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
    let (report, signature) = (&signed.report, &signed.signature);
    if report.len() > REPORT_MAX || signature.len() > SIGNATURE_MAX {
        let text = format!("a report has at most {REPORT_MAX} bytes, this one has {}", report.len());
        return Err(invalid(text));
    }
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|_| invalid("the host's certificate cannot be read".to_owned()))?;
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(report, signature).map_err(|_| {
        Refusal::new(RefusalKind::Denied, "the report is not signed by the key of this host's certificate")
    })?;
    let message = v1::Commissioning::decode(report.as_slice())
        .map_err(|_| invalid("the report cannot be read".to_owned()))?;
    let at = message
        .at
        .and_then(|at| Timestamp::new(at.seconds, at.nanos).ok())
        .ok_or_else(|| invalid("the report does not say when it was made".to_owned()))?;
    let apart = now.duration_since(at);
    if apart.abs() > CLOCKS {
        let text =
            format!("the report is of {} s ago: an old one, or the host's clock is wrong", apart.as_secs());
        return Err(invalid(text));
    }
    if message.checks.len() > CHECKS_MAX {
        return Err(invalid(format!("a report has at most {CHECKS_MAX} checks")));
    }
    let (mut failed, mut passed, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    for check in &message.checks {
        let id = plain(&check.id, SHORT);
        if id.is_empty() || !ids.insert(id.clone()) {
            return Err(invalid(format!("the report has check `{id}` twice, or one without a name")));
        }
        match check.verdict() {
            v1::Verdict::Pass => passed.push(id),
            verdict => failed.push(FailedCheck {
                id,
                title: plain(&check.title, TITLE),
                unknown: verdict != v1::Verdict::Fail,
                must: check.must,
                found: plain(&check.found, LONG),
                mend: plain(&check.mend, LONG),
            }),
        }
    }
    Ok(Commissioning {
        at,
        received: now,
        agent_version: plain(&message.agent_version, SHORT),
        simulated: message.simulated,
        failed,
        passed,
        sha256: HEXLOWER.encode(digest(&SHA256, report).as_ref()),
        signature: BASE64.encode(signature),
    })
}

/// The host with this report; `None` where it says nothing new. An older one than the last is a replay: a host that
/// was fit then need not be so now.
fn news(state: &State, host: &Name, fresh: &Commissioning) -> Result<Option<Host>, Refusal> {
    let missing = || Refusal::new(RefusalKind::NotFound, "this host is not known");
    let known = state.hosts.get(host).ok_or_else(missing)?;
    if let Some(last) = &known.commissioning {
        if last.sha256 == fresh.sha256 {
            return Ok(None);
        }
        if fresh.at <= last.at {
            return Err(Refusal::new(RefusalKind::State, "the report is older than the last one"));
        }
        let same = (last.simulated, &last.agent_version, &last.failed, &last.passed)
            == (fresh.simulated, &fresh.agent_version, &fresh.failed, &fresh.passed);
        if same && fresh.received.duration_since(last.received) < ANEW {
            return Ok(None);
        }
    }
    Ok(Some(Host { commissioning: Some(fresh.clone()), ..known.clone() }))
}

/// For whoever checks it later: see the recipe in deploy/docs/officers.md.
fn detail(signed: &v1::SignedCommissioning, certificate: &[u8], fresh: &Commissioning) -> Value {
    let mut verdicts = Map::new();
    for check in &fresh.failed {
        let word = if check.unknown { "unknown" } else { "fail" };
        verdicts.insert(check.id.clone(), word.into());
    }
    verdicts.extend(fresh.passed.iter().map(|id| (id.clone(), "pass".into())));
    json!({
        "report": BASE64.encode(&signed.report),
        "sha256": fresh.sha256,
        "signature": fresh.signature,
        "certificate": BASE64.encode(certificate),
        "simulated": fresh.simulated,
        "verdicts": verdicts,
    })
}

/// As people get it: what passed by its id, the rest whole.
pub(super) fn commissioning(kept: &Commissioning) -> v1::Commissioning {
    let failed = kept.failed.iter().map(|check| v1::Check {
        id: check.id.clone(),
        title: check.title.clone(),
        verdict: if check.unknown { v1::Verdict::Unknown } else { v1::Verdict::Fail }.into(),
        must: check.must,
        found: check.found.clone(),
        mend: check.mend.clone(),
    });
    let passed = kept.passed.iter().map(|id| {
        let listed = commission::check(id);
        v1::Check {
            id: id.clone(),
            title: listed.map(|check| check.title.to_owned()).unwrap_or_default(),
            verdict: v1::Verdict::Pass.into(),
            must: listed.is_some_and(|check| check.must),
            ..Default::default()
        }
    });
    v1::Commissioning {
        checks: failed.chain(passed).collect(),
        at: Some(view::time(kept.at)),
        agent_version: kept.agent_version.clone(),
        simulated: kept.simulated,
    }
}

/// What is not as it should be with a host now, as people get it.
pub(super) fn alerts(app: &App, state: &State, host: &Host) -> Vec<v1::Alert> {
    let mut all = alert::alerts(state, host, &app.bill, &app.live.heard(&host.name), app.ledger.now());
    // Not the host's own, and yet what keeps slices from starting there.
    all.extend(app.keys.health().borrow().down.as_ref().map(|(since, why)| Alert {
        code: "key-provider-down",
        scope: Scope::Host,
        text: format!("no disk can be opened since {since:.0}: {why}"),
        mend: "holm keys show; it is gone when the provider is back".to_owned(),
        prevents: vec![Prevents::Change],
    }));
    all.extend(app.ledger.short().map(|free| Alert {
        code: "control-disk-full",
        scope: Scope::Host,
        text: format!("of holmd's own disk {} MiB are free: people begin nothing new", free >> 20),
        mend: "make room where holmd's `data` lies, or say in holmd.toml how much is to stay free: [disk] keep_free_mib".to_owned(),
        prevents: vec![Prevents::Change],
    }));
    all.extend(app.notify.alerts());
    all.extend(app.witnesses.alerts());
    all.extend(app.streams.alerts());
    all.into_iter().map(shown).collect()
}

fn shown(alert: Alert) -> v1::Alert {
    let prevents = |prevents| match prevents {
        Prevents::Allocation => v1::Prevents::Allocation,
        Prevents::Change => v1::Prevents::Change,
        Prevents::Closing => v1::Prevents::Closing,
    };
    let device = match alert.scope {
        Scope::Device(address) => address.to_string(),
        Scope::Host | Scope::Fabric | Scope::Absent => String::new(),
    };
    v1::Alert {
        code: alert.code.to_owned(),
        device,
        text: alert.text,
        mend: alert.mend,
        prevents: alert.prevents.into_iter().map(|one| prevents(one).into()).collect(),
    }
}
