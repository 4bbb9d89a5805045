//! The command line.

use crate::{
    Failure, TOOL, bar, cuda,
    pci::Function,
    protocol::{Method, Outcome},
    serve,
};
use clap::Parser;
use rustix::event::{Timespec, poll};
use serde_json::json;
use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// How long nothing is heard before the port is looked at again, nanoseconds.
const PAUSE_NS: i64 = 50_000_000;

/// Overwrite all memory of devices, read all of it back, and say what could not be reached
///
/// With `cuda` it takes what NVIDIA's driver hands out, so nobody else may use the device meanwhile. With `bar`
/// it takes the memory that lies open in the device's BARs; no driver may have it. What is in the memory is lost.
#[derive(Debug, Parser)]
#[command(name = "holm-scrub", version)]
struct Arguments {
    /// How the memory is reached
    #[arg(long, value_enum, required_unless_present = "serve")]
    method: Option<How>,
    /// PCI address of a device, `0000:34:00.0`; may be said again
    #[arg(long, value_name = "ADDRESS", required_unless_present = "serve")]
    device: Vec<String>,
    /// One JSON object a device instead of a line for people
    #[arg(long)]
    json: bool,
    /// Carry out one order that comes over the virtio port: what a scrubbing machine does
    #[arg(long, conflicts_with_all = ["method", "device", "json"])]
    serve: bool,
    /// The port, where it is not to be looked for; `-` for standard input and output
    #[arg(long, hide = true, requires = "serve")]
    port: Option<PathBuf>,
    /// Where sysfs is mounted
    #[arg(long, hide = true, default_value = "/sys")]
    sysfs: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    Bar,
    Cuda,
}

/// Runs the program. It fails where a device is not clean.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.method {
        None => listen(&arguments),
        Some(How::Bar) => by_hand(&arguments, Method::Bar),
        Some(How::Cuda) => by_hand(&arguments, Method::Cuda),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("holm-scrub: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Standard input and output as one.
struct Standard;

impl Read for Standard {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        io::stdin().read(into)
    }
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

fn listen(arguments: &Arguments) -> Result<bool, Failure> {
    let port = match &arguments.port {
        Some(port) => port.clone(),
        None => serve::port(&arguments.sysfs)?,
    };
    let failed =
        |error: io::Error| Failure::because(format!("cannot speak over `{}`", port.display()), error);
    if port == Path::new("-") {
        let ended = || Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        serve::serve(Standard, &arguments.sysfs, ended).map_err(failed)?;
        return Ok(true);
    }
    let file = OpenOptions::new().read(true).write(true).open(&port).map_err(failed)?;
    let pause =
        || poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: PAUSE_NS })).map(drop).map_err(io::Error::from);
    serve::serve(file, &arguments.sysfs, pause).map_err(failed)?;
    Ok(true)
}

fn by_hand(arguments: &Arguments, method: Method) -> Result<bool, Failure> {
    let gpus = match method {
        Method::Cuda => Some(cuda::by_address()?),
        Method::Bar => None,
    };
    let mut all_clean = true;
    for address in &arguments.device {
        let mut step = |step: &str| {
            if !arguments.json {
                eprintln!("{address}  {step}");
            }
        };
        let function = Function::at(&arguments.sysfs, address);
        let outcome = function.and_then(|function| match &gpus {
            None => Ok(bar::clean(&function, None, &mut step)),
            Some(gpus) => match gpus.get(address) {
                Some(gpu) => Ok(cuda::clean(*gpu, None, &mut step)),
                None => Err(Failure("the driver does not have it".to_owned())),
            },
        });
        let outcome = outcome.unwrap_or_else(|failure| serve::not_cleaned(0, &failure));
        all_clean &= outcome.cleaned;
        let line = if arguments.json { as_json(address, &outcome) } else { as_text(address, &outcome) };
        writeln!(io::stdout(), "{line}").map_err(|error| Failure::because("cannot print", error))?;
    }
    Ok(all_clean)
}

fn as_json(address: &str, outcome: &Outcome) -> String {
    json!({
        "address": address,
        "cleaned": outcome.cleaned,
        "bytes_total": outcome.bytes_total,
        "bytes_written": outcome.bytes_written,
        "bytes_verified": outcome.bytes_verified,
        "bytes_unreached": outcome.bytes_unreached,
        "bytes_dirty_before": outcome.bytes_dirty_before,
        "pattern": outcome.pattern,
        "took_ms": outcome.took_ms,
        "tool": TOOL,
        "detail": outcome.detail,
    })
    .to_string()
}

fn as_text(address: &str, outcome: &Outcome) -> String {
    if !outcome.cleaned {
        return format!("{address}  NOT CLEAN: {}", outcome.detail);
    }
    // Looked at, written twice and read twice.
    let passed = outcome.bytes_written.saturating_mul(5);
    let unreached = match outcome.bytes_unreached {
        0 => String::new(),
        bytes => format!("; {bytes} not reached, which the driver keeps"),
    };
    format!(
        "{address}  {} of {} bytes overwritten and read back in {} ms, {} MB/s over five passes{unreached}",
        outcome.bytes_verified,
        outcome.bytes_total,
        outcome.took_ms,
        passed / 1000 / outcome.took_ms.max(1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_takes() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("holm-scrub --method cuda --device 0000:34:00.0 --device 0000:36:00.0").is_ok());
        assert!(parse("holm-scrub --serve").is_ok_and(|a| a.sysfs == Path::new("/sys")));
        for bad in [
            "holm-scrub",
            "holm-scrub --method cuda",
            "holm-scrub --device 0000:34:00.0",
            "holm-scrub --method dma --device x",
            "holm-scrub --serve --json",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
