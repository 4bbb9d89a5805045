//! What a job has used, as the slice's own `jobstat` has it. Everything of it is somebody else's words.

use super::remote::{Remote, line};
use super::slurm::{ANSWER, failure};
use crate::Failure;
use crate::args::Target;
use crate::output::{Cell, Format, Table, put};
use crate::run::Session;
use crate::text::plain_lines;
use serde_json::Value;

/// Of each point in time, as `jobstat --format json` calls them.
const COLUMNS: [&str; 4] = ["at", "gpu", "cpu", "memory_mib"];

pub(super) async fn run(session: &Session, target: &Target, job: &str) -> Result<(), Failure> {
    let remote = Remote::new(session, &session.slice(&target.slice, &target.project)?).await?;
    let drawn = session.output.format == Format::Table;
    let form = if drawn { "text" } else { "json" };
    let said = remote.ask(&line(["jobstat", job, "--format", form]), None, ANSWER).await?;
    if said.code != 0 {
        return Err(failure(&said, &remote.label));
    }
    if drawn {
        return put(&plain_lines(&String::from_utf8_lossy(&said.out)));
    }
    let series: Value = serde_json::from_slice(&said.out).map_err(|_| {
        Failure::new(format!("what {} says of job {job} is not understood", remote.label))
            .hint(format!("holm ssh --tty {} -- jobstat {job}", remote.label))
    })?;
    session.output.list(&points(&series), &series)
}

fn points(series: &Value) -> Table {
    let cell = |value: &Value| match value {
        Value::Null => Cell::new(""),
        Value::String(text) => Cell::new(text),
        other => Cell::new(other.to_string()),
    };
    let points = series.get("points").and_then(Value::as_array);
    let row =
        |point: &Value| COLUMNS.iter().map(|name| cell(point.get(*name).unwrap_or(&Value::Null))).collect();
    let rows = points.into_iter().flatten().map(row).collect();
    Table { columns: COLUMNS.to_vec(), rows, empty: "nothing is known of it yet" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_point_is_a_line() {
        let series =
            serde_json::json!({ "points": [{ "at": 60, "gpu": 0.5, "cpu": 1, "memory_mib": 7 }, "noise"] });
        assert_eq!(points(&series).csv(), "at,gpu,cpu,memory_mib\n60,0.5,1,7\n,,,\n");
        assert!(points(&Value::Null).rows.is_empty());
    }
}
