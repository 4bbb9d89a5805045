//! holm: a thin binary over the library.

use clap::Parser;
use holm_cli::args::Cli;
use holm_cli::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    // One thread: a tunnel starts with every SSH connection, and waits for nothing but bytes.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(failure) => {
            eprintln!("error: this process gets no resources from the system: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run::main(Cli::parse()));
    // Somebody may still hold standard input open; nobody waits for that.
    runtime.shutdown_background();
    ExitCode::from(code)
}
