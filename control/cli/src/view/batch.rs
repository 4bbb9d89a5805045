//! Jobs of a slice's Slurm, as Slurm says them: any text in them is somebody's in the slice.

use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::{Clock, timestamp};
use crate::view::{time_json, when, when_full};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A job, or a task of an array, or tasks of one that wait together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// 17, `17_3` or `17_[4-9%2]`.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// Slurm's word, lower case: running.
    pub state: String,
    /// Slurm's word: Resources.
    pub reason: String,
    /// How many it has, or asks for.
    pub gpus: u64,
    /// Seconds.
    pub elapsed: Option<u64>,
    /// Seconds; none where there is no limit.
    pub limit: Option<u64>,
    /// When it was.
    pub submitted: Option<Timestamp>,
    /// When it did, or will as far as Slurm can tell.
    pub started: Option<Timestamp>,
    /// When it did, or will at the latest.
    pub ended: Option<Timestamp>,
    /// Exit code and signal.
    pub exit: (u8, u8),
    /// Its quality of service.
    pub qos: String,
    /// As it was called.
    pub name: String,
    /// Where it began.
    pub directory: String,
    /// The file of its standard output.
    pub output: String,
}

impl Batch {
    /// It will do nothing any more.
    pub fn has_ended(&self) -> bool {
        const GO_ON: [&str; 14] = [
            "pending",
            "running",
            "completing",
            "configuring",
            "suspended",
            "requeued",
            "requeue_hold",
            "requeue_fed",
            "resizing",
            "signaling",
            "stage_out",
            "stopped",
            "special_exit",
            "resv_del_hold",
        ];
        !GO_ON.contains(&self.state.as_str())
    }

    /// It has begun.
    pub fn has_begun(&self) -> bool {
        !matches!(
            self.state.as_str(),
            "pending" | "configuring" | "requeued" | "requeue_hold" | "requeue_fed"
        )
    }

    /// What it ended with, as a shell has it. What was not let finish did not end well.
    pub fn code(&self) -> u8 {
        match self.exit {
            (0, 0) if self.state == "completed" => 0,
            (0, 0) => 1,
            (0, signal) => 128_u8.saturating_add(signal),
            (code, _) => code,
        }
    }

    /// What it waits for will not come.
    pub fn is_stuck(&self) -> bool {
        self.state == "pending" && self.reason == "DependencyNeverSatisfied"
    }

    /// "out of memory", "exit code 7", "others are before it".
    pub fn why(&self) -> String {
        let words = match self.reason.as_str() {
            "NonZeroExitCode" | "RaisedSignal" | "JobLaunchFailure" if self.exit != (0, 0) => "",
            "TimeLimit" => "its time was up",
            "OutOfMemory" => "it took more memory than it asked for",
            "BadConstraints" => "asks for what the slice does not have",
            // What it waited for last.
            "Resources" | "Priority" | "Dependency" | "JobArrayTaskLimit" | "BeginTime"
                if self.has_ended() =>
            {
                ""
            }
            "Resources" => "waits until what it asks for is free",
            "Priority" => "others are before it",
            "Dependency" => "waits for other jobs",
            "DependencyNeverSatisfied" => "a job that it waits for did not succeed: it never starts",
            "JobArrayTaskLimit" => "as many tasks of its array run as may at once",
            "BeginTime" => "its time has not come",
            "JobHeldUser" => "held by whose it is",
            "JobHeldAdmin" => "held",
            "PartitionTimeLimit" | "QOSMaxWallDurationPerJobLimit" => "asks for more time than its QoS gives",
            "QOSMaxGRESPerUser" | "QOSMaxGRESPerJob" | "QOSMaxJobsPerUserLimit" | "QOSGrpGRES" => {
                "its QoS gives no more at once"
            }
            "ReqNodeNotAvail" | "NodeDown" | "PartitionDown" => "the slice takes no jobs now",
            other => other,
        };
        let ended = match self.exit {
            _ if !self.has_ended() || self.state == "completed" => String::new(),
            // Slurm's own way to say so.
            _ if self.state == "out_of_memory" => String::new(),
            (0, 0) => String::new(),
            (0, signal) => format!("signal {signal}"),
            (code, _) => format!("exit code {code}"),
        };
        let both = [words.to_owned(), ended];
        both.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    fn word(&self) -> String {
        self.state.replace('_', " ")
    }

    fn tone(&self) -> Tone {
        match self.state.as_str() {
            "running" | "completed" => Tone::Good,
            "cancelled" => Tone::Dim,
            _ if self.has_ended() => Tone::Bad,
            _ => Tone::Busy,
        }
    }
}

/// A list; with whose each is, where there are others'.
pub fn batches(all: &[Batch], users: bool, clock: &Clock) -> Table {
    let row = |job: &Batch| {
        let mut row = vec![Cell::new(&*job.id), Cell::new(&*job.name)];
        if users {
            row.push(Cell::new(&*job.user));
        }
        row.extend([
            Cell::both(job.word(), &*job.state).tone(job.tone()),
            Cell::both(
                if job.gpus == 0 { String::new() } else { job.gpus.to_string() },
                job.gpus.to_string(),
            ),
            seconds(job.elapsed),
            seconds(job.limit),
            when(job.submitted.map(timestamp).as_ref(), clock),
            Cell::both(job.why(), &*job.reason),
        ]);
        row
    };
    let mut columns = vec!["job", "name"];
    if users {
        columns.push("user");
    }
    columns.extend(["state", "gpus", "elapsed", "limit", "submitted", "reason"]);
    let empty = "no jobs wait or run; of those that have ended: holm job list SLICE --since 7d";
    Table { columns, rows: all.iter().map(row).collect(), empty }
}

/// One job.
pub fn batch(job: &Batch, clock: &Clock) -> Sheet {
    let at = |at: Option<Timestamp>| when_full(at.map(timestamp).as_ref(), clock);
    let mut sheet = Sheet::new(&*job.id).state(Cell::both(job.word(), &*job.state).tone(job.tone()));
    sheet
        .line("name", &*job.name)
        .line("user", &*job.user)
        .line("reason", Cell::both(job.why(), &*job.reason));
    sheet.line("GPUs", job.gpus.to_string()).line("QoS", &*job.qos);
    sheet.line("submitted", at(job.submitted));
    let word = |done, will| if job.has_begun() { done } else { will };
    sheet.line(word("started", "may start"), at(job.started));
    let word = if job.has_ended() { "ended" } else { "ends at the latest" };
    sheet.line(word, at(job.ended).tone(Tone::Plain));
    sheet.line("elapsed", seconds(job.elapsed)).line("time limit", seconds(job.limit));
    sheet.line("directory", &*job.directory).line("output", &*job.output);
    sheet
}

/// As scripts read it.
pub fn batch_json(job: &Batch) -> Value {
    let at = |at: Option<Timestamp>| time_json(at.map(timestamp).as_ref());
    json!({
        "id": job.id,
        "user": job.user,
        "name": job.name,
        "state": job.state,
        "reason": job.reason,
        "gpus": job.gpus,
        "qos": job.qos,
        "elapsed_seconds": job.elapsed,
        "limit_seconds": job.limit,
        "submitted": at(job.submitted),
        "started": at(job.started),
        "ended": at(job.ended),
        "exit_code": job.has_ended().then_some(job.exit.0),
        "signal": job.has_ended().then_some(job.exit.1),
        "directory": job.directory,
        "output": job.output,
    })
}

/// `1-02:03:04`, as Slurm writes it.
fn seconds(seconds: Option<u64>) -> Cell {
    let Some(all) = seconds else { return Cell::default() };
    let (days, rest) = (all / 86_400, all % 86_400);
    let time = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    Cell::both(if days == 0 { time } else { format!("{days}-{time}") }, all.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn job(id: &str, state: &str, reason: &str, exit: (u8, u8)) -> Batch {
        Batch {
            id: id.to_owned(),
            user: "ida".to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
            gpus: 2,
            elapsed: Some(3723),
            limit: Some(172_800),
            submitted: Some("2026-11-03T12:00:00Z".parse().unwrap()),
            exit,
            name: "train\n9 \u{1b}[2J".to_owned(),
            ..Batch::default()
        }
    }

    fn clock() -> Clock {
        Clock { now: "2026-11-03T13:02:11Z".parse().unwrap(), zone: TimeZone::UTC }
    }

    #[test]
    fn jobs_as_people_read_them() {
        let mut quiet = job("19", "completed", "", (0, 0));
        (quiet.gpus, quiet.limit) = (0, None);
        let all = [
            job("17", "running", "", (0, 0)),
            job("18_[4-9%2]", "pending", "JobArrayTaskLimit", (0, 0)),
            quiet,
            job("20", "failed", "NonZeroExitCode", (7, 0)),
            job("21", "out_of_memory", "OutOfMemory", (0, 125)),
            job("22", "cancelled", "Resources", (0, 0)),
        ];
        insta::assert_snapshot!(batches(&all, false, &clock()).text(false, None), @r"
        JOB         NAME                STATE          GPUS  ELAPSED   LIMIT       SUBMITTED      REASON
        17          train\n9 \u{1b}[2J  running        2     01:02:03  2-00:00:00  1 h 2 min ago  -
        18_[4-9%2]  train\n9 \u{1b}[2J  pending        2     01:02:03  2-00:00:00  1 h 2 min ago  as many tasks of its array run as may at once
        19          train\n9 \u{1b}[2J  completed      -     01:02:03  -           1 h 2 min ago  -
        20          train\n9 \u{1b}[2J  failed         2     01:02:03  2-00:00:00  1 h 2 min ago  exit code 7
        21          train\n9 \u{1b}[2J  out of memory  2     01:02:03  2-00:00:00  1 h 2 min ago  it took more memory than it asked for
        22          train\n9 \u{1b}[2J  cancelled      2     01:02:03  2-00:00:00  1 h 2 min ago  -
        ");
        insta::assert_snapshot!(batches(&all[..1], true, &clock()).csv(), @r"
        job,name,user,state,gpus,elapsed,limit,submitted,reason
        17,train\n9 \u{1b}[2J,ida,running,2,3723,172800,2026-11-03T12:00:00Z,
        ");
        insta::assert_snapshot!(batch(&all[3], &clock()).text(false), @r"
        20  failed
          name        train\n9 \u{1b}[2J
          user        ida
          reason      exit code 7
          GPUs        2
          submitted   2026-11-03 12:00:00 (1 h 2 min ago)
          elapsed     01:02:03
          time limit  2-00:00:00
        ");
        insta::assert_snapshot!(format!("{:#}", batch_json(&all[4])), @r#"
        {
          "id": "21",
          "user": "ida",
          "name": "train\n9 \u001b[2J",
          "state": "out_of_memory",
          "reason": "OutOfMemory",
          "gpus": 2,
          "qos": "",
          "elapsed_seconds": 3723,
          "limit_seconds": 172800,
          "submitted": "2026-11-03T12:00:00Z",
          "started": null,
          "ended": null,
          "exit_code": 0,
          "signal": 125,
          "directory": "",
          "output": ""
        }
        "#);
        assert_eq!(all.map(|job| job.code()), [1, 1, 0, 7, 253, 1]);
    }

    #[test]
    fn what_has_ended_does_nothing_more() {
        for (state, begun, ended) in [
            ("pending", false, false),
            ("running", true, false),
            ("completing", true, false),
            ("completed", true, true),
            ("timeout", true, true),
            ("node_fail", true, true),
        ] {
            let job = job("1", state, "", (0, 0));
            assert_eq!((job.has_begun(), job.has_ended()), (begun, ended), "{state}");
        }
    }
}
