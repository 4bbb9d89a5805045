//! Syslog over TLS: RFC 5424 messages, each behind its length as RFC 5425 has it.
//!
//! ```text
//!   <PRI>1 TIME HOST holmd - ACTION [meta sequenceId="…"][origin …][holm@32473 log="…" entry="…" …] {"…": …}
//!
//!   connect ─▶ TLS ─▶ messages … ─▶ close_notify ─▶ the other side's close_notify: it has read all of it
//! ```
//!
//! Syslog says nothing to a message. What was written may lie in a buffer of a collector that has just died, so it counts
//! only when the collector, asked to, has ended the connection as TLS ends one (RFC 5425, 4.4): that comes after all that
//! came before, and nobody on the way can make it up.

use super::record::Record;
use crate::https::{self, connector};
use crate::ledger::chain;
use hyper::http::uri::Authority;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For a connection, for some messages, and for the end of it.
const LIMIT: Duration = Duration::from_secs(20);
const PORT: u16 = 6514;
/// Log audit.
const FACILITY: u8 = 13;
const INFORMATIONAL: u8 = 6;
const WARNING: u8 = 4;
/// The largest that `sequenceId` can be; then it begins again at 1.
const SEQUENCE_MAX: u64 = 2_147_483_647;

/// A collector; checked, not asked.
pub(super) struct Syslog {
    host: String,
    port: u16,
    tls: TlsConnector,
    /// This machine.
    from: String,
    open: Option<TlsStream<TcpStream>>,
}

impl Syslog {
    pub(super) fn new(server: &str, ca: &Path) -> Result<Self, String> {
        let authority: Option<Authority> = server.parse().ok();
        let authority = authority.filter(|a| !a.as_str().contains('@')).ok_or("`server` is no HOST:PORT")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(host.clone()).map_err(|_| "`server` is no HOST:PORT")?;
        let name = rustix::system::uname();
        let from = field(&name.nodename().to_string_lossy(), 255);
        let (port, tls) = (authority.port_u16().unwrap_or(PORT), connector(https::roots(ca)?)?);
        Ok(Self { host, port, tls, from, open: None })
    }

    /// HOST:PORT.
    pub(super) fn at(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// They are on their way.
    pub(super) async fn write(&mut self, records: &[Record]) -> Result<(), String> {
        let frames: String = records.iter().map(|record| frame(record, &self.from)).collect();
        let open = self.open.take();
        let written = tokio::time::timeout(LIMIT, async {
            let mut stream = match open {
                Some(stream) => stream,
                None => self.connect().await?,
            };
            stream.write_all(frames.as_bytes()).await.map_err(|e| chain(&e))?;
            stream.flush().await.map_err(|e| chain(&e))?;
            Ok(stream)
        });
        let stream = self.said(written.await)?;
        self.open = Some(stream);
        Ok(())
    }

    /// All that was written has been read.
    pub(super) async fn confirm(&mut self) -> Result<(), String> {
        let Some(mut stream) = self.open.take() else { return Err("there is no connection".to_owned()) };
        let ended = tokio::time::timeout(LIMIT, async {
            stream.shutdown().await.map_err(|e| chain(&e))?;
            let mut said = [0; 256];
            // Without a close_notify the end is an error.
            while stream.read(&mut said).await.map_err(|e| chain(&e))? > 0 {}
            Ok(())
        });
        self.said(ended.await)
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| chain(&e))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| chain(&e))?;
        self.tls.connect(name, tcp).await.map_err(|e| chain(&e))
    }

    fn said<T>(&self, done: Result<Result<T, String>, tokio::time::error::Elapsed>) -> Result<T, String> {
        let done = done.unwrap_or_else(|_| Err(format!("nothing within {} s", LIMIT.as_secs())));
        done.map_err(|why| format!("`{}`: {why}", self.at()))
    }
}

/// A message, and its length in front.
pub(super) fn frame(record: &Record, from: &str) -> String {
    let severity = if record.outcome == "refused" { WARNING } else { INFORMATIONAL };
    let message = format!(
        "<{}>1 {} {from} holmd - {} [meta sequenceId=\"{}\"][origin software=\"holmd\" swVersion=\"{}\"][holm@32473 \
         entry=\"{}\" actor=\"{}\" outcome=\"{}\"] {}",
        FACILITY * 8 + severity,
        record.time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"),
        field(&record.action, 32),
        record.number % SEQUENCE_MAX + 1,
        env!("CARGO_PKG_VERSION"),
        record.number,
        parameter(&record.actor),
        parameter(&record.outcome),
        record.json,
    );
    format!("{} {message}", message.len())
}

/// Printable ASCII without spaces; nothing is a dash.
fn field(text: &str, most: usize) -> String {
    let text: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The value of a parameter: `"`, `\` and `]` are escaped, and nothing is a control character.
fn parameter(text: &str) -> String {
    let safe = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400);
    safe.flat_map(|c| ['\\'].into_iter().filter(move |_| matches!(c, '"' | '\\' | ']')).chain([c])).collect()
}
