//! Who was turned away before anybody knew who it was. Each is an entry in the log, but a flood of them must
//! not fill it: of each kind the first few in a minute are written, the rest counted.

use crate::app::App;
use crate::ledger::Call;
use holm_proto::ids::RequestId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Entries of one kind in one window.
const FIRST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Why somebody was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Stranger {
    NoCertificate,
    Foreign,
    Expired,
    NotYet,
    NoIdentity,
    BadCertificate,
    NoTls,
    Slow,
    Full,
    BadCode,
    TooManyCodes,
}

impl Stranger {
    /// As it stands in the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoCertificate => "it has no certificate",
            Self::Foreign => "its certificate is of another authority",
            Self::Expired => "its certificate has expired",
            Self::NotYet => "its certificate is not valid yet",
            Self::NoIdentity => "its certificate names nobody",
            Self::BadCertificate => "its certificate cannot be used",
            Self::NoTls => "it did not finish the TLS handshake",
            Self::Slow => "it took too long for the TLS handshake",
            Self::Full => "there are too many connections",
            Self::BadCode => "its code is not known, was used already, has expired, or waits to be confirmed",
            Self::TooManyCodes => "too many codes are tried",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::BadCode | Self::TooManyCodes => "enrol",
            _ => "connect",
        }
    }
}

/// Writes them down.
pub struct Strangers {
    app: Arc<App>,
    windows: Mutex<BTreeMap<Stranger, Window>>,
}

struct Window {
    began: Instant,
    written: u32,
    counted: u64,
}

impl Strangers {
    /// Nobody so far.
    pub fn new(app: Arc<App>) -> Self {
        Self { app, windows: Mutex::default() }
    }

    /// Somebody was turned away. Does not wait for the log.
    pub fn note(&self, kind: Stranger, detail: String, address: SocketAddr) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Window { began: Instant::now(), written: 0, counted: 0 };
        let window = windows.entry(kind).or_insert_with(fresh);
        if window.began.elapsed() >= WINDOW {
            self.summary(kind, window);
            *window = fresh();
        }
        if window.written < FIRST {
            window.written += 1;
            drop(windows);
            let reason =
                if detail.is_empty() { kind.text().to_owned() } else { format!("{}: {detail}", kind.text()) };
            self.write(kind, address.to_string(), reason);
        } else {
            window.counted += 1;
        }
    }

    /// Write down what was only counted, as is done once a minute.
    pub fn summarise(&self) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|kind, window| {
            let over = window.began.elapsed() >= WINDOW;
            if over {
                self.summary(*kind, window);
            }
            !over
        });
    }

    fn summary(&self, kind: Stranger, window: &Window) {
        if window.counted > 0 {
            let n = window.counted;
            self.write(kind, String::new(), format!("{n} more in a minute: {}", kind.text()));
        }
    }

    fn write(&self, kind: Stranger, peer: String, reason: String) {
        let app = Arc::clone(&self.app);
        let call = Call {
            request: RequestId::new_v4(),
            actor: "unknown".to_owned(),
            peer,
            action: kind.action(),
            resource: String::new(),
            project: None,
            source_time: None,
        };
        tokio::task::spawn_blocking(move || app.ledger.refused(&call, &reason));
    }
}
