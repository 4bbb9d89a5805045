//! The system's own programs.

use crate::failed::{Failed, Of as _, Outcome, last};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    process::{Command, Stdio},
};

/// So many seconds one of Slurm's programs has, where somebody waits for what comes after it.
pub const PATIENCE: &str = "100";

/// A command that is ended after so many seconds.
pub fn within<'a>(seconds: &'a str, command: &[&'a str]) -> Vec<&'a str> {
    [&["timeout", "--kill-after=2", seconds], command].concat()
}

/// What a command says, if it succeeds.
pub fn run(command: &[&str]) -> Outcome<String> {
    run_with(command, "")
}

/// The same, of one that is told this on its standard input.
pub fn run_with(command: &[&str], input: &str) -> Outcome<String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(String::new()) };
    let stdin = if input.is_empty() { Stdio::null() } else { said_to(input).of(program)?.into() };
    let ran = Command::new(program).args(arguments).stdin(stdin).output().of(program)?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ran.status.success() {
        return Ok(said(&ran.stdout));
    }
    let said = last(&(said(&ran.stdout) + "\n" + &said(&ran.stderr)), 300);
    let why = if said.is_empty() { ran.status.to_string() } else { said };
    Err(Failed(format!("{}: {why}", command.join(" "))))
}

/// In memory, so that nobody has to write it while somebody reads.
fn said_to(input: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Starts services in their own order; of one that does not start, what it said last.
pub fn start(units: &[&str]) -> Outcome {
    let Err(failed) = run(&[&["systemctl", "start"], units].concat()) else { return Ok(()) };
    for unit in units {
        if run(&["systemctl", "show", "--property=ActiveState", "--value", unit])?.trim() != "active" {
            let said =
                run(&["journalctl", "--quiet", "--output=cat", "--lines=8", &format!("--unit={unit}")])?;
            return Err(Failed(format!("{unit} does not start: {}", last(&said, 400))));
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_or_why_it_failed() {
        assert_eq!(run(&["echo", "a b"]), Ok("a b\n".to_owned()));
        assert_eq!(
            run(&["sh", "-c", "echo one; echo two >&2; exit 3"]),
            Err(Failed("sh -c echo one; echo two >&2; exit 3: one two".to_owned()))
        );
        assert_eq!(run_with(&["tr", "a", "b"], "abc\n"), Ok("bbc\n".to_owned()));
        assert_eq!(run(&within("9", &["echo", "a"])), Ok("a\n".to_owned()));
        assert!(run(&within("0.1", &["sleep", "60"])).unwrap_err().0.ends_with("exit status: 124"));
        assert!(run(&["false"]).unwrap_err().0.ends_with("exit status: 1"));
        assert!(run(&["/nonexistent"]).unwrap_err().0.starts_with("/nonexistent: "));
    }
}
