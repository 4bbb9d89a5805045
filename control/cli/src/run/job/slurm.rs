//! Slurm's commands and what they say. Everything here was said by somebody in the slice: a job's name may be many lines, and
//! look like other jobs. So fields end with a word that nobody in there can know before: it is another each time.

use super::remote::{self, Said};
use crate::Failure;
use crate::text::plain;
use crate::view::Batch;
use jiff::Timestamp;
use ssh_key::rand_core::{OsRng, RngCore};

/// Of an answer. A job takes some hundred bytes.
pub(super) const ANSWER: usize = 16 << 20;
/// In front of each command that says times: seconds since 1970, whatever the slice takes for its zone.
const TIMES: [&str; 3] = ["env", "TZ=UTC", "SLURM_TIME_FORMAT=%s"];

/// Which jobs are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// Those that wait or run; of this user alone, or of all that are shown.
    Active(Option<&'a str>),
    /// One of these numbers, each task of an array by itself, ended or not.
    One(&'a str),
}

/// What ends a field.
#[derive(Debug)]
pub(super) struct Mark(String);

impl Mark {
    pub(super) fn new() -> Self {
        // It begins with a letter: a digit would be a field's width.
        Self(format!("h{:016x}", OsRng.next_u64()))
    }

    /// What slurmctld knows: jobs that wait or run, and for a day those that have ended.
    pub(super) fn squeue(&self, which: Which<'_>) -> String {
        const FIELDS: [&str; 15] = [
            "JobArrayID",
            "UserName",
            "State",
            "Reason",
            "tres-alloc",
            "TimeUsed",
            "TimeLimit",
            "SubmitTime",
            "StartTime",
            "EndTime",
            "exit_code",
            "QOS",
            "Name",
            "WorkDir",
            "StdOut",
        ];
        let format = FIELDS.map(|field| format!("{field}:{}", self.0)).join(",");
        let mut words: Vec<String> = TIMES.map(str::to_owned).into();
        words.extend(["squeue".to_owned(), "--noheader".to_owned(), format!("--Format={format}")]);
        match which {
            Which::Active(Some(user)) => words.push(format!("--user={user}")),
            Which::Active(None) => {}
            Which::One(job) => {
                words.extend(["--states=all".to_owned(), "--array".to_owned(), format!("--jobs={job}")]);
            }
        }
        remote::line(words)
    }

    /// What its accounting knows: all that there ever was.
    pub(super) fn sacct(&self, which: Account<'_>) -> String {
        const FIELDS: &str = "JobID,User,State,Reason,AllocTRES,ReqTRES,ElapsedRaw,TimelimitRaw,Submit,Start,End,ExitCode,QOS,\
            JobName,WorkDir,StdOut";
        let mut words: Vec<String> = TIMES.map(str::to_owned).into();
        words.extend(["sacct", "--noheader", "--allocations", "--parsable"].map(str::to_owned));
        words.extend([format!("--delimiter={}", self.0), format!("--format={FIELDS}")]);
        match which {
            Account::Since(at, user) => {
                words.push(format!("--starttime={}", at.strftime("%Y-%m-%dT%H:%M:%S")));
                words.push(user.map_or_else(|| "--allusers".to_owned(), |user| format!("--user={user}")));
            }
            Account::One(job) => {
                words.extend(["--expand-patterns".to_owned(), "--array".to_owned(), format!("--jobs={job}")]);
            }
        }
        remote::line(words)
    }

    /// What `squeue` said. Of no such job it says so, and that is no failure.
    pub(super) fn queue(&self, said: &Said, label: &str) -> Result<Vec<Batch>, Failure> {
        if said.code != 0 && said.err.contains("Invalid job id specified") {
            return Ok(Vec::new());
        }
        let good = said.code == 0;
        if !good {
            return Err(failure(said, label));
        }
        self.records(&said.out, |fields: [&str; 15]| {
            let [
                id,
                user,
                state,
                reason,
                tres,
                used,
                limit,
                submitted,
                started,
                ended,
                exit,
                qos,
                name,
                dir,
                out,
            ] = fields;
            Some(Batch {
                elapsed: duration(used),
                limit: duration(limit),
                gpus: gpus(tres),
                ..common(id, user, state, reason, [submitted, started, ended], exit, qos, name, dir, out)?
            })
        })
    }

    /// What `sacct` said.
    pub(super) fn accounts(&self, said: &Said, label: &str) -> Result<Vec<Batch>, Failure> {
        if said.code != 0 {
            return Err(failure(said, label));
        }
        self.records(&said.out, |fields: [&str; 16]| {
            let [
                id,
                user,
                state,
                reason,
                got,
                wanted,
                used,
                limit,
                submitted,
                started,
                ended,
                exit,
                qos,
                name,
                dir,
                out,
            ] = fields;
            Some(Batch {
                elapsed: used.parse().ok(),
                limit: limit.parse::<u64>().ok().and_then(|minutes| minutes.checked_mul(60)),
                gpus: gpus(if got.is_empty() { wanted } else { got }),
                ..common(id, user, state, reason, [submitted, started, ended], exit, qos, name, dir, out)?
            })
        })
    }

    fn records<const N: usize>(
        &self,
        out: &[u8],
        read: impl Fn([&str; N]) -> Option<Batch>,
    ) -> Result<Vec<Batch>, Failure> {
        let nonsense =
            || Failure::new("Slurm's answer cannot be read: the slice's Slurm is none that this holm knows");
        let text = String::from_utf8_lossy(out);
        let mut fields: Vec<&str> = text.split(self.0.as_str()).collect();
        // After the last field of all is the end of its line.
        if fields.pop().is_some_and(|rest| !rest.trim().is_empty()) {
            return Err(nonsense());
        }
        let mut all = Vec::new();
        for (at, record) in fields.chunks(N).enumerate() {
            let mut record: [&str; N] = record.try_into().map_err(|_| nonsense())?;
            if let Some(first) = record.first_mut().filter(|_| at > 0) {
                *first = first.strip_prefix('\n').ok_or_else(nonsense)?;
            }
            all.push(read(record).ok_or_else(nonsense)?);
        }
        Ok(all)
    }
}

/// Which jobs the accounting is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Account<'a> {
    /// What was there at some time since; of this user alone, or of all that are shown.
    Since(Timestamp, Option<&'a str>),
    /// One of these numbers, each task of an array by itself.
    One(&'a str),
}

#[allow(clippy::too_many_arguments, reason = "a record has so many fields")]
fn common(
    id: &str,
    user: &str,
    state: &str,
    reason: &str,
    [submitted, started, ended]: [&str; 3],
    exit: &str,
    qos: &str,
    name: &str,
    directory: &str,
    output: &str,
) -> Option<Batch> {
    // Numbers of jobs go into the next command.
    if !id.starts_with(|c: char| c.is_ascii_digit()) || id.len() > 1024 {
        return None;
    }
    // CANCELLED by 10001
    let state = state.split_whitespace().next()?.to_ascii_lowercase();
    let reason = if matches!(reason, "None" | "N/A" | "(null)") { "" } else { reason };
    let exit =
        exit.split_once(':').and_then(|(code, signal)| Some((code.parse().ok()?, signal.parse().ok()?)));
    let at = |text: &str| text.parse().ok().and_then(|at| Timestamp::from_second(at).ok());
    Some(Batch {
        id: id.to_owned(),
        user: user.to_owned(),
        state,
        reason: reason.to_owned(),
        submitted: at(submitted),
        started: at(started),
        ended: at(ended),
        exit: exit?,
        qos: qos.to_owned(),
        name: name.to_owned(),
        directory: directory.to_owned(),
        output: output.to_owned(),
        ..Batch::default()
    })
}

/// Of `cpu=4,gres/gpu=2,gres/gpu:v100=2`.
fn gpus(tres: &str) -> u64 {
    tres.split(',').find_map(|one| one.strip_prefix("gres/gpu=")).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Of `1-02:03:04`, `2:03:04`, `3:04` or `0:04`; none of UNLIMITED.
fn duration(text: &str) -> Option<u64> {
    let (days, time) = text.split_once('-').unwrap_or(("0", text));
    let mut seconds = 0_u64;
    for part in time.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    days.parse::<u64>().ok()?.checked_mul(86_400)?.checked_add(seconds).filter(|_| time.contains(':'))
}

/// Why Slurm refused, in its own words without what stands before them, and what to do, where that is known.
pub(super) fn failure(said: &Said, label: &str) -> Failure {
    if said.code == 127 || said.code == 126 {
        let older = said.err.contains("/usr/lib/holm/terminal");
        let what =
            if older { "its system is older than what its level demands" } else { "there is no Slurm in it" };
        return Failure::new(format!("{label}: {what}"))
            .hint(format!("its lead: holm slice start {label} --rebuild"));
    }
    const BEFORE: [&str; 7] = [
        "error: ",
        "sbatch: ",
        "scancel: ",
        "Batch job submission failed: ",
        "allocation failure: ",
        "slurm_load_jobs error: ",
        "holm: ",
    ];
    let bare = |line: &str| {
        let mut line = line.trim();
        while let Some(rest) = BEFORE.iter().find_map(|before| line.strip_prefix(before)) {
            line = rest;
        }
        plain(&line.chars().take(300).collect::<String>()).into_owned()
    };
    let lines: Vec<String> = said.err.lines().map(bare).filter(|line| !line.is_empty()).take(4).collect();
    let why =
        if lines.is_empty() { format!("exit code {} without a word", said.code) } else { lines.join("; ") };
    let hint = [
        ("node configuration is not available", format!("ask for what it has: holm slice show {label}")),
        (
            "Invalid qos",
            format!("which there are: holm ssh {label} --tty -- sacctmgr show qos format=name,maxwall"),
        ),
        ("Invalid job id", format!("holm job list {label} --since 7d")),
        ("Access/permission denied", format!("yours are: holm job list {label}")),
        ("Unable to contact slurm", format!("holm slice show {label}")),
        ("without a terminal", format!("holm ssh {label}")),
    ];
    let hint = hint.into_iter().find_map(|(words, hint)| why.contains(words).then_some(hint));
    let failure = Failure::new(format!("Slurm: {why}"));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Said {
        Said { code: 0, out: text.as_bytes().to_vec(), err: String::new() }
    }

    fn mark() -> Mark {
        Mark("|".to_owned())
    }

    /// As Slurm 24.11 says it.
    const QUEUE: &str = "\
3_[2-3%1]|bo|PENDING|JobArrayTaskLimit|cpu=1,mem=500M,node=1,billing=1,gres/gpu=1|0:00|2-00:00:00|1795770325|N/A|N/A|0:0|normal|sbatch|/home/bo|/home/bo/slurm-%A_%a.out|
1|ida|FAILED|NonZeroExitCode|cpu=1,mem=500M,node=1,billing=1,gres/gpu=2|1:02:03|UNLIMITED|1795770325|1795770326|1795770329|7:0|normal|x '; rm
7 y|/home/ida|/home/ida/slurm-1.out|
";
    const ACCOUNTS: &str = "\
2|ida|CANCELLED by 10001|None||billing=1,cpu=1,gres/gpu=9,mem=500M,node=1|0|2880|1795770325|None|1795770325|0:15|normal|sbatch|/home/ida|/home/ida/slurm-2.out|
";

    #[test]
    fn what_slurm_says_is_read() {
        let jobs = mark().queue(&said(QUEUE), "heart/main").unwrap();
        let [waits, failed] = jobs.as_slice() else { panic!("{jobs:?}") };
        assert_eq!((waits.id.as_str(), waits.state.as_str(), waits.gpus), ("3_[2-3%1]", "pending", 1));
        assert_eq!((waits.limit, waits.started, waits.has_ended()), (Some(172_800), None, false));
        assert_eq!(failed.name, "x '; rm\n7 y");
        assert_eq!((failed.elapsed, failed.limit, failed.code()), (Some(3723), None, 7));
        let jobs = mark().accounts(&said(ACCOUNTS), "heart/main").unwrap();
        assert_eq!((jobs[0].state.as_str(), jobs[0].gpus, jobs[0].code()), ("cancelled", 9, 143));
        assert_eq!((jobs[0].limit, jobs[0].reason.as_str()), (Some(172_800), ""));
        assert_eq!(mark().queue(&said(""), "heart/main").unwrap(), []);
    }

    #[test]
    fn what_it_does_not_say_so_is_refused() {
        for (from, to) in [
            ("PENDING|", ""),
            ("3_[", "_["),
            ("|PENDING", "| "),
            ("|0:0|", "|0|"),
            ("7:0", "700:0"),
            ("slurm-1.out|\n", "slurm-1.out|\nmore"),
            ("%a.out|\n", "%a.out| "),
        ] {
            let spoilt = QUEUE.replacen(from, to, 1);
            assert!(spoilt != QUEUE && mark().queue(&said(&spoilt), "heart/main").is_err(), "{from} {to}");
        }
    }

    #[test]
    fn no_job_is_no_failure_and_a_refusal_is_one() {
        let mut none = said("");
        (none.code, none.err) = (1, "slurm_load_jobs error: Invalid job id specified\n".to_owned());
        assert!(mark().queue(&none, "heart/main").unwrap().is_empty());
        let of = |code, err: &str| {
            failure(&Said { code, out: Vec::new(), err: err.to_owned() }, "heart/main").text(false)
        };
        insta::assert_snapshot!(
            [
                of(1, "sbatch: error: Batch job submission failed: Requested node configuration is not available\n"),
                of(1, "sbatch: error: Batch job submission failed: Invalid qos specification\n"),
                of(1, "allocation failure: Requested node configuration is not available"),
                of(1, "scancel: error: Kill job error on job id 3_2: Access/permission denied"),
                of(127, "sh: 1: /usr/lib/holm/terminal: not found"),
                of(127, "bash: line 1: sbatch: command not found"),
                of(1, "a\n\n\u{1b}[2Jb\n"),
                of(9, ""),
            ]
            .concat(),
            @r"
            error: Slurm: Requested node configuration is not available
              try: ask for what it has: holm slice show heart/main
            error: Slurm: Invalid qos specification
              try: which there are: holm ssh heart/main --tty -- sacctmgr show qos format=name,maxwall
            error: Slurm: Requested node configuration is not available
              try: ask for what it has: holm slice show heart/main
            error: Slurm: Kill job error on job id 3_2: Access/permission denied
              try: yours are: holm job list heart/main
            error: heart/main: its system is older than what its level demands
              try: its lead: holm slice start heart/main --rebuild
            error: heart/main: there is no Slurm in it
              try: its lead: holm slice start heart/main --rebuild
            error: Slurm: a; \u{1b}[2Jb
            error: Slurm: exit code 9 without a word
            "
        );
    }

    #[test]
    fn the_commands() {
        let at = "2026-11-03T13:02:11Z".parse().unwrap();
        insta::assert_snapshot!(
            [
                mark().squeue(Which::Active(Some("ida"))),
                mark().squeue(Which::Active(None)),
                mark().squeue(Which::One("17_3")),
                mark().sacct(Account::Since(at, Some("ida"))),
                mark().sacct(Account::Since(at, None)),
                mark().sacct(Account::One("17")),
            ]
            .join("\n"),
            @r"
            'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'squeue' '--noheader' '--Format=JobArrayID:|,UserName:|,State:|,Reason:|,tres-alloc:|,TimeUsed:|,TimeLimit:|,SubmitTime:|,StartTime:|,EndTime:|,exit_code:|,QOS:|,Name:|,WorkDir:|,StdOut:|' '--user=ida'
            'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'squeue' '--noheader' '--Format=JobArrayID:|,UserName:|,State:|,Reason:|,tres-alloc:|,TimeUsed:|,TimeLimit:|,SubmitTime:|,StartTime:|,EndTime:|,exit_code:|,QOS:|,Name:|,WorkDir:|,StdOut:|'
            'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'squeue' '--noheader' '--Format=JobArrayID:|,UserName:|,State:|,Reason:|,tres-alloc:|,TimeUsed:|,TimeLimit:|,SubmitTime:|,StartTime:|,EndTime:|,exit_code:|,QOS:|,Name:|,WorkDir:|,StdOut:|' '--states=all' '--array' '--jobs=17_3'
            'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'sacct' '--noheader' '--allocations' '--parsable' '--delimiter=|' '--format=JobID,User,State,Reason,AllocTRES,ReqTRES,ElapsedRaw,TimelimitRaw,Submit,Start,End,ExitCode,QOS,JobName,WorkDir,StdOut' '--starttime=2026-11-03T13:02:11' '--user=ida'
            'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'sacct' '--noheader' '--allocations' '--parsable' '--delimiter=|' '--format=JobID,User,State,Reason,AllocTRES,ReqTRES,ElapsedRaw,TimelimitRaw,Submit,Start,End,ExitCode,QOS,JobName,WorkDir,StdOut' '--starttime=2026-11-03T13:02:11' '--allusers'
            'env' 'TZ=UTC' 'SLURM_TIME_FORMAT=%s' 'sacct' '--noheader' '--allocations' '--parsable' '--delimiter=|' '--format=JobID,User,State,Reason,AllocTRES,ReqTRES,ElapsedRaw,TimelimitRaw,Submit,Start,End,ExitCode,QOS,JobName,WorkDir,StdOut' '--expand-patterns' '--array' '--jobs=17'
            "
        );
        let one = Mark::new();
        assert!(one.0.len() == 17 && one.0.starts_with('h') && one.0 != Mark::new().0);
    }

    proptest! {
        #[test]
        fn whatever_a_job_is_called_it_is_one_job(name in "[^|]{0,40}", dir in "[^|]{0,20}") {
            let text = QUEUE.replacen("|sbatch|/home/bo|", &format!("|{name}|{dir}|"), 1);
            let jobs = mark().queue(&said(&text), "heart/main").unwrap();
            prop_assert_eq!(jobs.len(), 2);
            prop_assert_eq!((&jobs[0].name, &jobs[0].directory), (&name, &dir));
        }

        #[test]
        fn whatever_is_said_is_read_or_refused(text in ".{0,200}", many in "[0-9a-zA-Z|:\n]{0,200}") {
            let _ = mark().queue(&said(&text), "heart/main");
            let _ = mark().accounts(&said(&many), "heart/main");
            let _ = duration(&text);
        }
    }
}
