//! Memory that lies open in the device's prefetchable BARs.

use crate::{
    Failure,
    memory::{Mapping, PATTERN_TEXT},
    overwrite::overwrite,
    pci::Function,
    protocol::Outcome,
};
use std::{
    fs::{self, OpenOptions},
    time::Instant,
};

/// Overwrites the BARs of a function that no driver has. Where `expected` is given, they must be as long.
/// `step` hears what begins.
pub fn clean(function: &Function, expected: Option<u64>, step: &mut dyn FnMut(&str)) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome { pattern: PATTERN_TEXT.to_owned(), ..Outcome::default() };
    match try_clean(function, expected, &mut outcome, step) {
        Ok(()) => outcome.cleaned = true,
        Err(failure) => outcome.detail = failure.to_string(),
    }
    outcome.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    outcome
}

fn try_clean(
    function: &Function,
    expected: Option<u64>,
    outcome: &mut Outcome,
    step: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let address = &function.address;
    let total = function.memory_bytes();
    outcome.bytes_total = total;
    if total == 0 {
        return Err(Failure(format!("`{address}` shows no memory BAR, so nothing of it can be cleaned")));
    }
    if let Some(expected) = expected.filter(|expected| *expected != total) {
        return Err(Failure(format!("`{address}` shows {total} bytes of memory, the host saw {expected}")));
    }
    if function.path.join("driver").exists() {
        return Err(Failure(format!("a driver has `{address}`: unbind it first")));
    }
    fs::write(function.path.join("enable"), "1")
        .map_err(|error| Failure::because(format!("`{address}` does not switch on"), error))?;
    let (mut stretches, mut before) = (Vec::new(), 0);
    for (index, bytes) in &function.memory {
        let mapping = OpenOptions::new()
            .read(true)
            .write(true)
            .open(function.path.join(format!("resource{index}")))
            .and_then(|file| Mapping::new(file, 0, *bytes, before))
            .map_err(|error| Failure::because(format!("cannot map BAR {index} of `{address}`"), error))?;
        stretches.push(mapping);
        before += bytes;
    }
    let counts = overwrite(&mut stretches, step)?;
    outcome.bytes_dirty_before = counts.dirty_before;
    outcome.bytes_written = counts.written;
    outcome.bytes_verified = counts.verified;
    match counts.written.saturating_sub(counts.verified) {
        0 => Ok(()),
        wrong => Err(Failure(format!("{wrong} bytes read back otherwise than they were written"))),
    }
}
