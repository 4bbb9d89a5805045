//! A script from here to `sbatch`, and where that is wanted the wait for what becomes of it.

use super::remote::{Remote, line};
use super::slurm::{ANSWER, failure};
use super::{no_job, one};
use crate::Failure;
use crate::args::Submit;
use crate::progress::Spinner;
use crate::run::Session;
use crate::text::plain;
use crate::view::Batch;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// A script is no way to bring data: `holm slice copy` is.
const SCRIPT: usize = 1 << 20;
/// How often a job is asked after: over a connection that is there, and over one of its own.
const AGAIN: Duration = Duration::from_secs(3);
const RARELY: Duration = Duration::from_secs(30);
/// So many answers in a row may be missing.
const MISSED: u32 = 5;

pub(super) async fn run(session: &Session, args: Submit) -> Result<u8, Failure> {
    let script = read(&args.script)?;
    let slice = session.slice(&args.target.slice, &args.target.project)?;
    let remote = Remote::new(session, &slice).await?;
    let remote = if args.wait { remote.kept().await? } else { remote };
    let label = remote.label.clone();
    let said = remote.ask(&command(&args), Some(&script), ANSWER).await?;
    if said.code != 0 {
        return Err(failure(&said, &label));
    }
    if args.dry_run {
        // On standard error, as if it had gone wrong.
        let line = said.err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let line = line.trim().trim_start_matches("sbatch: ");
        let sentence = match line.split_once(" to start at ") {
            Some((_, rest)) => format!("Slurm would take it; it could start at {rest}"),
            None => "Slurm would take it".to_owned(),
        };
        return session.output.answer(&sentence, &json!({ "slice": label, "said": line })).map(|()| 0);
    }
    let job = submitted(&said.out)?;
    if !args.wait {
        session.output.answer(&job, &json!({ "slice": label, "job": job }))?;
        session.output.next(&format!("holm job show {label} {job}"))?;
        return Ok(0);
    }
    wait(session, &remote, &job).await
}

/// From a file or standard input; what Slurm would refuse without a word of use is refused here.
fn read(from: &str) -> Result<Vec<u8>, Failure> {
    let mut script = Vec::new();
    let most = SCRIPT as u64 + 1;
    let what = if from == "-" { "standard input" } else { from };
    let failed = |e: &std::io::Error| Failure::file("read", Path::new(what), e);
    if from == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut script).map_err(|e| failed(&e))?;
    } else {
        let file = std::fs::File::open(from).map_err(|e| failed(&e))?;
        file.take(most).read_to_end(&mut script).map_err(|e| failed(&e))?;
    }
    check(&script, what)?;
    Ok(script)
}

fn check(script: &[u8], what: &str) -> Result<(), Failure> {
    let bad = |why: &str| Failure::usage(format!("`{}` {why}", plain(what)));
    if script.len() > SCRIPT {
        return Err(bad("has more than 1 MiB").hint("data goes by `holm slice copy`"));
    }
    if script.iter().all(u8::is_ascii_whitespace) {
        return Err(bad("is empty"));
    }
    if !script.starts_with(b"#!") {
        return Err(bad("does not begin with #!").hint("a first line `#!/bin/bash`"));
    }
    if script.windows(2).any(|pair| pair == b"\r\n") {
        return Err(
            bad("has lines that end as on Windows").hint(format!("sed -i 's/\\r$//' {}", plain(what)))
        );
    }
    if script.contains(&0) {
        return Err(bad("is a program, and no script").hint("a script that starts it, copied there before"));
    }
    Ok(())
}

/// As one line for the shell there. With arguments sbatch wants the script by a name, which a socket has not; a pipe has.
fn command(args: &Submit) -> String {
    let file = Path::new(&args.script).file_name().map(|name| plain(&name.to_string_lossy()).into_owned());
    let name = args.name.clone().or(file.filter(|_| args.script != "-"));
    let mut words = vec!["sbatch".to_owned()];
    words.push(if args.dry_run { "--test-only" } else { "--parsable" }.to_owned());
    let after = (!args.after.is_empty()).then(|| format!("afterok:{}", args.after.join(":")));
    for (option, value) in [
        ("job-name", name),
        ("gres", args.gpus.map(|gpus| format!("gpu:{gpus}"))),
        ("time", args.time.clone()),
        ("qos", args.qos.clone()),
        ("array", args.array.clone()),
        ("dependency", after),
        ("output", args.output.clone()),
    ] {
        words.extend(value.map(|value| format!("--{option}={value}")));
    }
    if args.arguments.is_empty() {
        return line(words);
    }
    words.push("/dev/stdin".to_owned());
    words.extend(args.arguments.iter().cloned());
    format!("cat | {}", line(words))
}

/// `17`, or `17;CLUSTER`.
fn submitted(out: &[u8]) -> Result<String, Failure> {
    let text = String::from_utf8_lossy(out);
    let job = text.lines().next_back().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let good = (1..=10).contains(&job.len()) && job.bytes().all(|b| b.is_ascii_digit());
    if good {
        Ok(job.to_owned())
    } else {
        Err(Failure::new(format!("sbatch says `{}`, and not which number the job has", plain(text.trim()))))
    }
}

/// Until every task of it has ended: the exit code of the one that ended worst.
async fn wait(session: &Session, remote: &Remote<'_>, job: &str) -> Result<u8, Failure> {
    let label = &remote.label;
    let spinner = Spinner::new(&session.output);
    let goes_on = |failure: Failure| Failure {
        hint: Some(format!("it goes on; holm job show {label} {job}")),
        what: format!("job {job} is not watched any more: {}", failure.what),
        ..failure
    };
    spinner.aside(|| session.output.remark(&format!("job {job} is submitted")));
    let (mut before, mut missed) = (BTreeMap::new(), 0);
    let ended = loop {
        match one(remote, job).await {
            Ok(tasks) if tasks.is_empty() => return Err(goes_on(no_job(remote, job))),
            Ok(tasks) => {
                missed = 0;
                for task in &tasks {
                    let now = (task.state.clone(), task.reason.clone());
                    if before.insert(task.id.clone(), now.clone()).as_ref() != Some(&now) {
                        spinner.aside(|| session.output.remark(&sentence(task)));
                    }
                }
                if tasks.iter().all(Batch::has_ended) {
                    break tasks;
                }
                if let Some(task) = tasks.iter().find(|task| task.is_stuck()) {
                    return Err(Failure::new(sentence(task)).hint(format!("holm job cancel {label} {job}")));
                }
                spinner.says(&tasks.iter().find(|task| !task.has_ended()).map(sentence).unwrap_or_default());
            }
            // It may be busy, or the connection gone for a moment; the job does not mind.
            Err(failure) => {
                missed += 1;
                if missed >= MISSED {
                    return Err(goes_on(failure));
                }
            }
        }
        sleep(if remote.is_kept() { AGAIN } else { RARELY }).await;
    };
    drop(spinner);
    let code = ended.iter().map(Batch::code).max().unwrap_or(1);
    let word = if code == 0 { "completed".to_owned() } else { format!("ended with {code}") };
    let tasks: Vec<_> = ended.iter().map(crate::view::batch_json).collect();
    let json = json!({ "slice": label, "job": job, "exit_code": code, "tasks": tasks });
    session.output.done(&format!("job {job} {word}"), &json)?;
    Ok(code)
}

fn sentence(task: &Batch) -> String {
    let (state, why) = (task.state.replace('_', " "), task.why());
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("job {} is {state}{because}", task.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, JobVerb};
    use clap::Parser;

    fn parsed(words: &[&str]) -> Submit {
        let all = ["holm", "job", "submit", "heart/main"].iter().chain(words);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Job(JobVerb::Submit(args)) => *args,
            _ => panic!("it is submitted"),
        }
    }

    #[test]
    fn what_sbatch_is_told() {
        let of = |words: &[&str]| command(&parsed(words));
        insta::assert_snapshot!(
            [
                of(&["dir/train.sh"]),
                of(&["-", "--gpus", "2", "--time", "12h", "--qos", "short", "--array", "1-20%4"]),
                of(&["a.sh", "--name", "'; rm -rf ~; '", "--after", "17,18_2", "--output", "out/%A_%a"]),
                of(&["a.sh", "--dry-run", "--", "--epochs", "30", "$(id)", ""]),
            ]
            .join("\n"),
            @r"
            'sbatch' '--parsable' '--job-name=train.sh'
            'sbatch' '--parsable' '--gres=gpu:2' '--time=0-12:00:00' '--qos=short' '--array=1-20%4'
            'sbatch' '--parsable' '--job-name='\''; rm -rf ~; '\''' '--dependency=afterok:17:18_2' '--output=out/%A_%a'
            cat | 'sbatch' '--test-only' '--job-name=a.sh' '/dev/stdin' '--epochs' '30' '$(id)' ''
            "
        );
    }

    #[test]
    fn what_is_no_script_is_not_sent() {
        assert!(check(b"#!/bin/sh\ntrue\n", "a.sh").is_ok());
        let mut long = b"#!/bin/sh\n".to_vec();
        long.resize(SCRIPT + 1, b'x');
        let refused = |script: &[u8]| check(script, "a.sh").unwrap_err().text(false);
        insta::assert_snapshot!(
            [
                refused(b""),
                refused(b" \n"),
                refused(b"echo\n"),
                refused(b"#!/bin/sh\r\ntrue\r\n"),
                refused(b"#!\0ELF"),
                refused(&long),
            ]
            .concat(),
            @r"
            error: `a.sh` is empty
            error: `a.sh` is empty
            error: `a.sh` does not begin with #!
              try: a first line `#!/bin/bash`
            error: `a.sh` has lines that end as on Windows
              try: sed -i 's/\r$//' a.sh
            error: `a.sh` is a program, and no script
              try: a script that starts it, copied there before
            error: `a.sh` has more than 1 MiB
              try: data goes by `holm slice copy`
            "
        );
    }

    #[test]
    fn the_number_and_nothing_else() {
        assert_eq!(submitted(b"17\n").unwrap(), "17");
        assert_eq!(submitted(b"what a .bashrc says\n17;slice\n").unwrap(), "17");
        for bad in [&b""[..], b"Submitted\n", b"17 18\n", b"-1\n", b"\xff\n"] {
            assert!(submitted(bad).is_err());
        }
    }
}
