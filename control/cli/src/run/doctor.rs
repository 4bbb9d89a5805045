//! What is wrong here, one thing after the other, each with how to mend it.

use super::{PORT, Session};
use crate::output::{Cell, Table, Tone};
use crate::progress::patiently;
use crate::{Failure, dial, tls, view};
use holm_proto::v1::WhoAmIRequest;
use holm_proto::v1::person_service_client::PersonServiceClient;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::process::Stdio;
use tokio::process::Command;

/// Clocks that differ by more spoil certificates and times in the log.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Soon,
    Wrong,
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    text: String,
    mend: String,
}

pub(super) async fn run(session: &Session) -> Result<u8, Failure> {
    let mut checks = Vec::new();
    let mut exit = 0;
    let mut add = |name, found: Result<(Verdict, String, String), Failure>| {
        let good = found.is_ok();
        checks.push(match found {
            Ok((verdict, text, mend)) => Check { name, verdict, text, mend },
            Err(failure) => {
                // The first thing that is wrong is why the others are.
                exit = if exit == 0 { failure.exit.code() } else { exit };
                Check {
                    name,
                    verdict: Verdict::Wrong,
                    text: failure.what,
                    mend: failure.hint.unwrap_or_default(),
                }
            }
        });
        good
    };
    let fine = |text: String| Ok((Verdict::Good, text, String::new()));
    add("ssh", ssh().await);
    let profile = session.place.profile().and_then(|profile| Ok((profile, session.place.identity()?)));
    let mut connected = None;
    match profile {
        Err(failure) => {
            add("profile", Err(failure));
        }
        Ok((profile, identity)) => {
            let who = view::short_identity(&profile.identity);
            add("profile", fine(format!("{} in {}", who, session.place.dir.display())));
            add("certificate", certificate(session));
            let reached = async {
                let (host, port) = dial::split(&profile.server, PORT)?;
                Ok::<_, Failure>((dial::tcp(&host, port).await?, host))
            };
            match patiently(&session.output, "connecting", reached).await {
                Err(failure) => {
                    let mend = "is holmd running there, and may this machine connect to it?";
                    add("server", Err(failure.hint(mend)));
                }
                Ok((tcp, host)) => {
                    add("server", fine(format!("{} answers", profile.server)));
                    let shaken = async { dial::tls(tcp, &host, tls::mutual(&identity)?).await };
                    match shaken.await {
                        Err(failure) => {
                            add("tls", Err(failure));
                        }
                        Ok(stream) => {
                            add("tls", fine("1.3, by the authority of this profile".to_owned()));
                            connected = Some(stream);
                        }
                    }
                }
            }
        }
    }
    if let Some(stream) = connected {
        match who(stream).await {
            Err(failure) => {
                add("login", Err(failure));
            }
            Ok((person, date)) => {
                add("login", fine(person));
                if let Some(theirs) = date {
                    add("clock", Ok(clock(theirs, Timestamp::now())));
                }
            }
        }
    }
    report(session, &checks)?;
    Ok(exit)
}

async fn ssh() -> Result<(Verdict, String, String), Failure> {
    let install = "install OpenSSH's client: apt install openssh-client";
    let asked = Command::new("ssh").arg("-V").stdin(Stdio::null()).output().await;
    let said = asked.map_err(|e| Failure::new(format!("ssh cannot be run: {e}")).hint(install))?;
    let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    let scp =
        Command::new("scp").stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null()).status().await;
    match scp {
        Ok(_) => Ok((Verdict::Good, said, String::new())),
        Err(e) => Err(Failure::new(format!("scp cannot be run: {e}")).hint(install)),
    }
}

fn certificate(session: &Session) -> Result<(Verdict, String, String), Failure> {
    let (from, until) = session.place.validity()?;
    let now = session.clock.now;
    if until <= now {
        let mend = "ask an officer for a new code, then: holm enrol CODE --replace";
        return Err(Failure::new(format!("it ended {}", session.clock.relative(until))).hint(mend));
    }
    if now < from {
        let text =
            format!("by this machine's clock it is not valid yet, but {}", session.clock.relative(from));
        return Err(Failure::new(text).hint("set the clock: timedatectl set-ntp true"));
    }
    let text = format!("ends {}", session.clock.relative(until));
    if super::is_old(from, until, now) {
        Ok((Verdict::Soon, text, "holm renew".to_owned()))
    } else {
        Ok((Verdict::Good, text, String::new()))
    }
}

/// Who holmd says this is, and what time it says it is.
async fn who(
    stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
) -> Result<(String, Option<Timestamp>), Failure> {
    let mut client = PersonServiceClient::new(dial::channel(stream).await?);
    let response = tokio::time::timeout(dial::ANSWER, client.who_am_i(WhoAmIRequest {}))
        .await
        .map_err(|_| Failure::unreachable("holmd did not answer").hint("tell an operator"))??;
    let date = response.metadata().get("date").and_then(|d| d.to_str().ok());
    let date = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|d| d.timestamp());
    let person = response.into_inner();
    Ok((format!("{} ({})", person.name, person.roles.join(", ")), date))
}

fn clock(theirs: Timestamp, ours: Timestamp) -> (Verdict, String, String) {
    let skew = ours.duration_since(theirs).abs();
    // holmd says whole seconds.
    let text = match skew.as_secs() {
        0..=2 => "the same as holmd's".to_owned(),
        seconds => format!("{seconds} s {} holmd's", if ours > theirs { "before" } else { "behind" }),
    };
    if skew > SKEW {
        return (Verdict::Wrong, text, "set the clock, here or there: timedatectl set-ntp true".to_owned());
    }
    (Verdict::Good, text, String::new())
}

fn report(session: &Session, checks: &[Check]) -> Result<(), Failure> {
    let word = |verdict| match verdict {
        Verdict::Good => Cell::both("ok", "ok").tone(Tone::Good),
        Verdict::Soon => Cell::both("soon", "soon").tone(Tone::Busy),
        Verdict::Wrong => Cell::both("WRONG", "wrong").tone(Tone::Bad),
    };
    let rows = checks
        .iter()
        .map(|c| vec![c.name.into(), word(c.verdict), c.text.as_str().into(), c.mend.as_str().into()])
        .collect();
    let table = Table { columns: vec!["what", "verdict", "found", "how to mend it"], rows, empty: "" };
    let json: Vec<_> = checks
        .iter()
        .map(|c| {
            let verdict = match c.verdict {
                Verdict::Good => "ok",
                Verdict::Soon => "soon",
                Verdict::Wrong => "wrong",
            };
            json!({ "what": c.name, "verdict": verdict, "found": c.text, "mend": c.mend })
        })
        .collect();
    session.output.list(&table, &json!(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (verdict, text, _) = clock(at("2026-11-03T13:00:00Z"), at("2026-11-03T13:00:01Z"));
        assert_eq!((verdict, text.as_str()), (Verdict::Good, "the same as holmd's"));
        let (verdict, text, mend) = clock(at("2026-11-03T13:00:00Z"), at("2026-11-03T12:50:00Z"));
        assert_eq!((verdict, text.as_str()), (Verdict::Wrong, "600 s behind holmd's"));
        assert!(!mend.is_empty());
    }
}
