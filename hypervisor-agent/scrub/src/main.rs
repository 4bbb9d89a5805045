//! `holm-scrub`: the command line, and what the scrubbing machine runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    holm_scrub::cli::main()
}
