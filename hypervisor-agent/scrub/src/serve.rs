//! What the scrubbing machine does: hears one order, carries it out, says what came of it.

use crate::{
    Failure, TOOL, bar,
    pci::Function,
    protocol::{Expected, Lines, Method, Order, Outcome, PORT, Progress, Report, SLOTS, Said},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

/// Hears an order, carries it out and reports. `pause` is called where there is nothing to hear yet.
pub fn serve(
    mut port: impl Read + Write,
    sysfs: &Path,
    mut pause: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let order = hear(&mut port, &mut pause)?;
    let mut failed = None;
    let devices = carry_out(&order, sysfs, &mut |slot, step| {
        let progress = Said::Progress(Progress { slot, step: step.to_owned() });
        if let Err(error) = say(&mut port, &progress) {
            failed.get_or_insert(error);
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let report = Report { run: order.run, nonce: order.nonce, tool: TOOL.to_owned(), devices };
    say(&mut port, &Said::Report(report))
}

/// Carries an order out: one outcome for every device of it, in its order.
pub fn carry_out(order: &Order, sysfs: &Path, progress: &mut dyn FnMut(u8, &str)) -> Vec<Outcome> {
    let slots: BTreeSet<u8> = order.devices.iter().map(|device| device.slot).collect();
    let sound = slots.len() == order.devices.len() && slots.iter().all(|slot| *slot < SLOTS);
    let found: Vec<Result<(Expected, Function), (u8, Failure)>> = order
        .devices
        .iter()
        .map(|device| {
            let function = match sound {
                true => look(device, sysfs),
                false => Err(Failure("the order names a place twice, or one that is none".to_owned())),
            };
            function.map(|function| (device.clone(), function)).map_err(|failure| (device.slot, failure))
        })
        .collect();
    match order.method {
        Method::Bar => found
            .into_iter()
            .map(|found| match found {
                Ok((device, function)) => {
                    let outcome =
                        bar::clean(&function, Some(device.bytes), &mut |step| progress(device.slot, step));
                    Outcome { slot: device.slot, ..outcome }
                }
                Err((slot, failure)) => not_cleaned(slot, &failure),
            })
            .collect(),
        #[cfg(feature = "cuda")]
        Method::Cuda => crate::cuda::clean_all(found, progress),
        #[cfg(not(feature = "cuda"))]
        Method::Cuda => {
            let failure = Failure("this build has no CUDA".to_owned());
            order.devices.iter().map(|device| not_cleaned(device.slot, &failure)).collect()
        }
    }
}

/// The port of this machine that leads to the agent.
pub fn port(sysfs: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| Failure::because("there are no virtio ports", error);
    for entry in fs::read_dir(sysfs.join("class/virtio-ports")).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim_end() == PORT) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(Failure(format!("there is no virtio port `{PORT}`: this is no scrubbing machine of Holm's")))
}

pub(crate) fn not_cleaned(slot: u8, failure: &Failure) -> Outcome {
    Outcome { slot, detail: failure.to_string(), ..Outcome::default() }
}

fn look(device: &Expected, sysfs: &Path) -> Result<Function, Failure> {
    let function = Function::behind_port(sysfs, device.slot)?;
    match function.id == device.id {
        true => Ok(function),
        false => Err(Failure(format!(
            "`{}` says it is {}, the host saw {}",
            function.address, function.id, device.id
        ))),
    }
}

fn hear(port: &mut impl Read, pause: &mut impl FnMut() -> io::Result<()>) -> io::Result<Order> {
    let (mut lines, mut piece, mut heard) = (Lines::default(), [0; 4096], None);
    while heard.is_none() {
        let length = match port.read(&mut piece) {
            // Nobody has opened the other end yet.
            Ok(0) => {
                pause()?;
                continue;
            }
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                pause()?;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        lines.push(piece.get(..length).unwrap_or_default(), |line| {
            heard.get_or_insert_with(|| line.map(<[u8]>::to_vec));
        });
    }
    let line = heard.flatten().ok_or_else(|| io::Error::other("the order is too long"))?;
    serde_json::from_slice(&line).map_err(io::Error::other)
}

fn say(port: &mut impl Write, said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    port.write_all(&line)
}
