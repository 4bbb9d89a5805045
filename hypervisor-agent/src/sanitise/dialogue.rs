//! Speaking with a scrubbing machine. Every byte of what it says is hostile until it is parsed: it has touched
//! devices that a tenant may have changed.

use crate::edge::{EdgeError, Result};
use holm_scrub::protocol::{Lines, Order, Report, Said};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

/// The most that a machine says: some lines for each device, and a report.
const SAID_MAX: usize = 1 << 20;

/// Gives the order and hears the report, and gives up at `deadline`.
pub fn speak(socket: &Path, order: &Order, deadline: Instant) -> Result<Report> {
    let failed = |error: std::io::Error| EdgeError::because("cannot speak with the scrubbing machine", error);
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    let mut line = serde_json::to_vec(order)
        .map_err(|error| EdgeError::because("the order cannot be written", error))?;
    line.push(b'\n');
    stream.set_write_timeout(Some(left(deadline)?)).map_err(failed)?;
    stream.write_all(&line).map_err(failed)?;

    let (mut lines, mut piece, mut heard) = (Lines::default(), [0; 4096], 0);
    loop {
        stream.set_read_timeout(Some(left(deadline)?)).map_err(failed)?;
        let length = match stream.read(&mut piece) {
            Ok(0) => return Err(EdgeError::new("the scrubbing machine ended without a report")),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return Err(EdgeError::new("the scrubbing machine ended without a report"));
            }
            Err(error) => return Err(failed(error)),
        };
        heard += length;
        if heard > SAID_MAX {
            return Err(EdgeError::new("the scrubbing machine says too much"));
        }
        let mut said = Vec::new();
        lines.push(piece.get(..length).unwrap_or_default(), |line| {
            said.push(line.and_then(|line| serde_json::from_slice(line).ok()));
        });
        for said in said {
            match said {
                Some(Said::Progress(progress)) => {
                    let step: String = super::judge::printable(&progress.step, 32);
                    tracing::debug!(run = %order.run, slot = progress.slot, step, "scrubbing");
                }
                Some(Said::Report(report)) => return Ok(report),
                None => return Err(EdgeError::new("the scrubbing machine says what is not understood")),
            }
        }
    }
}

fn left(deadline: Instant) -> Result<std::time::Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(EdgeError::new("the scrubbing machine has not reported in the time that it has")),
        false => Ok(left),
    }
}
