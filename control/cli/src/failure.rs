//! What went wrong, in words, with the command to run next and the exit code that scripts see.

use crate::text::{json_line, plain};
use owo_colors::OwoColorize;
use serde_json::json;
use std::error::Error as _;
use std::io;
use std::path::Path;
use tonic::{Code, Status};

/// Metadata of a refusal: the next command, UTF-8.
const HINT: &str = "holm-hint-bin";
/// Metadata of an answer: the call's id, as it stands in the log.
const REQUEST: &str = "holm-request";

/// What the exit code says. Documented in `holm --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Refused, or failed.
    Refused,
    /// The command line makes no sense.
    Usage,
    /// holmd cannot be reached.
    Unreachable,
    /// What was waited for did not come in time.
    TimedOut,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::TimedOut => 4,
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One line, lower case, no full stop. Empty where nobody is left to read it.
    pub what: String,
    /// The next command, or what to do.
    pub hint: Option<String>,
    /// The call's id, if holmd gave one: for scripts, and for officers, who find it in the log.
    pub request: Option<String>,
    /// What scripts see.
    pub exit: Exit,
}

impl Failure {
    /// Refused or failed, for this reason.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None, request: None, exit: Exit::Refused }
    }

    /// A command line that makes no sense.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new(what) }
    }

    /// holmd cannot be reached.
    pub fn unreachable(what: impl Into<String>) -> Self {
        Self { exit: Exit::Unreachable, ..Self::new(what) }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file did not do.
    pub fn file(what: &str, path: &Path, cause: &io::Error) -> Self {
        Self::new(format!("cannot {what} `{}`: {cause}", path.display()))
    }

    /// An error with its causes.
    pub fn of(error: &dyn std::error::Error) -> Self {
        Self::new(holm_proto::chain(error))
    }

    /// The reader of standard output left: nothing to say, nobody to say it to.
    pub fn nobody_reads() -> Self {
        Self::new("")
    }

    /// The connection was lost on the way, so that trying again may help.
    pub fn is_lost(&self) -> bool {
        self.exit == Exit::Unreachable
    }

    /// As people read it.
    pub fn text(&self, colour: bool) -> String {
        if self.what.is_empty() {
            return String::new();
        }
        let paint = |text: &str, bold: bool| match (colour, bold) {
            (false, _) => text.to_owned(),
            (true, true) => text.red().bold().to_string(),
            (true, false) => text.dimmed().to_string(),
        };
        let mut lines = format!("{} {}\n", paint("error:", true), plain(&self.what));
        if let Some(hint) = &self.hint {
            lines.push_str(&format!("  {} {}\n", paint("try:", false), plain(hint)));
        }
        lines
    }

    /// As scripts read it: one line of JSON.
    pub fn json(&self) -> String {
        if self.what.is_empty() {
            return String::new();
        }
        let body = json!({
            "error": self.what,
            "try": self.hint,
            "request": self.request,
            "exit": self.exit.code(),
        });
        format!("{}\n", json_line(&body))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        // What comes from holmd has no source here; what tonic made of a broken connection has.
        if status.source().is_some() || status.code() == Code::Cancelled {
            return lost(&status);
        }
        let metadata = status.metadata();
        let hint = metadata.get_bin(HINT).and_then(|v| v.to_bytes().ok());
        let hint = hint.map(|b| String::from_utf8_lossy(&b).into_owned());
        let request = metadata.get(REQUEST).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let what = match status.message() {
            "" => format!("holmd refused without a reason ({:?})", status.code()).to_lowercase(),
            message => message.to_owned(),
        };
        // Said by no handler: holmd goes, or it took too long.
        let gone = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) && request.is_none();
        let exit = if gone { Exit::Unreachable } else { Exit::Refused };
        Self { what, hint, request, exit }
    }
}

/// A connection that broke, and why, where TLS says why.
fn lost(status: &Status) -> Failure {
    let mut next = status.source();
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = io.and_then(|e| e.downcast_ref::<rustls::Error>()) {
            return crate::tls::failure(tls, "holmd");
        }
        next = error.source();
    }
    let why = status.source().map_or_else(|| status.message().to_owned(), holm_proto::chain);
    Failure::unreachable(format!("the connection to holmd broke: {why}")).hint("holm doctor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::{MetadataMap, MetadataValue};

    fn refusal(code: Code, message: &str, hint: &str) -> Failure {
        let mut metadata = MetadataMap::new();
        metadata.insert(REQUEST, "6f8e2b1a-0000-4000-8000-000000000001".parse().unwrap());
        metadata.insert_bin(HINT, MetadataValue::from_bytes(hint.as_bytes()));
        Status::with_metadata(code, message, metadata).into()
    }

    #[test]
    fn errors_as_people_read_them() {
        let denied = refusal(
            Code::PermissionDenied,
            "only an officer approves; nobody approves her own",
            "holm slice list",
        );
        insta::assert_snapshot!(denied.text(false), @r"
        error: only an officer approves; nobody approves her own
          try: holm slice list
        ");
        assert_eq!(denied.json().lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&denied.json()).unwrap();
        assert_eq!(
            json,
            json!({
                "error": "only an officer approves; nobody approves her own",
                "try": "holm slice list",
                "request": "6f8e2b1a-0000-4000-8000-000000000001",
                "exit": 1,
            })
        );
        assert!(denied.text(true).contains("\u{1b}["));
        assert_eq!(Failure::nobody_reads().text(false), "");
    }

    #[test]
    fn a_server_cannot_write_to_the_terminal() {
        let text = refusal(Code::NotFound, "no \u{1b}]0;owned\u{7}such\nthing", "x\u{9b}31m").text(false);
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{text:?}");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn exit_codes_tell_a_refusal_from_a_holmd_that_is_gone() {
        assert_eq!(refusal(Code::Unavailable, "the host is not connected", "").exit, Exit::Refused);
        assert_eq!(Failure::from(Status::unavailable("holmd is stopping")).exit, Exit::Unreachable);
        assert_eq!(Failure::from(Status::internal("holmd failed in this call")).exit, Exit::Refused);
        let broken = Status::from_error(Box::new(io::Error::other("reset by peer")));
        assert!(Failure::from(broken).is_lost());
    }
}
