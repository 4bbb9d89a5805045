//! A slice's own queue, and how slices were used.

use super::disks::not_waited_for;
use super::project::afterwards;
use super::{Session, watch};
use crate::args::{By, Drain, Report, Scheduler, Usage};
use crate::output::{Format, put};
use crate::progress::Spinner;
use crate::text::{parse_since, timestamp};
use crate::{Exit, Failure, view};
use holm_proto::v1::{
    DrainSliceRequest, GetUsageRequest, JobClass, ListUsageRequest, SetSchedulerRequest, SliceState, UsageRow,
};
use serde_json::json;

pub(super) async fn scheduler(session: &Session, args: Scheduler) -> Result<(), Failure> {
    let wanted = session.slice(&args.target.slice, &args.target.project)?;
    let mut client = session.slices().await?;
    let shows = args.shows();
    let slice = if shows {
        session.ask(client.get_slice(wanted)).await?
    } else {
        let Scheduler { put, remove, first, reset, dry_run, .. } = args.clone();
        let first = first.unwrap_or_default();
        let request = SetSchedulerRequest { slice: Some(wanted), put, remove, first, reset, dry_run };
        session.ask(client.set_scheduler(request)).await?
    };
    let first = |(at, class): (usize, &JobClass)| {
        let mut json = view::class_json(class);
        if let Some(json) = json.as_object_mut() {
            json.insert("default".to_owned(), (at == 0).into());
        }
        json
    };
    let classes = json!(slice.classes.iter().enumerate().map(first).collect::<Vec<_>>());
    session.output.list(&view::classes(&slice.classes), &classes)?;
    if !shows && session.output.format == Format::Table {
        let label = view::label(&slice);
        session.output.remark(&afterwards(args.dry_run, format!("these are the classes of jobs in {label}")));
    }
    Ok(())
}

pub(super) async fn drain(session: &Session, args: &Drain) -> Result<u8, Failure> {
    let wanted = session.slice(&args.target.slice, &args.target.project)?;
    let mut client = session.slices().await?;
    let request = DrainSliceRequest {
        slice: Some(wanted.clone()),
        end: args.end,
        stop: args.stop,
        dry_run: args.how.dry_run,
    };
    let slice = session.ask(client.drain_slice(request)).await?;
    let label = view::label(&slice);
    let sentence = match (args.end, args.stop) {
        (true, _) => format!("jobs begin again in {label}"),
        (_, true) => {
            format!("no job begins in {label} any more, and it is stopped when its last one has ended")
        }
        _ => format!("no job begins in {label} any more; those that run go on"),
    };
    if args.end || !args.how.wait || args.how.dry_run {
        return not_waited_for(session, &slice, &args.how, sentence, &format!("holm slice show {label}"));
    }
    let spinner = Spinner::new(&session.output);
    let last = watch::follow(session, &wanted, None, &spinner, |now| {
        let empty = now.drain.as_ref().is_some_and(|drain| drain.begun)
            && now.jobs.is_some_and(|jobs| jobs.running == 0);
        let stopped = matches!(view::state(now), SliceState::Stopped | SliceState::Failed);
        Ok(stopped || now.drain.is_none() && view::state(now) == SliceState::Ready || empty && !args.stop)
    })
    .await?;
    drop(spinner);
    let (well, sentence) = match (view::state(&last), &last.drain) {
        (SliceState::Stopped, _) => (true, format!("{label} is stopped: {}", last.reason)),
        (SliceState::Failed, _) => (false, format!("{label} has failed: {}", last.reason)),
        (_, None) => (false, format!("jobs begin again in {label}: somebody ended it")),
        (_, Some(_)) => (true, format!("no job runs in {label}, and none begins")),
    };
    session.output.done(&sentence, &view::slice_json(&last))?;
    Ok(if well { 0 } else { Exit::Refused.code() })
}

pub(super) async fn usage(session: &Session, args: &Usage) -> Result<(), Failure> {
    let slice = session.slice(&args.target.slice, &args.target.project)?;
    let time = |text: &Option<String>| {
        let read = text.as_deref().map(|text| parse_since(text, &session.clock).map(timestamp));
        read.transpose().map_err(Failure::usage)
    };
    let request =
        GetUsageRequest { slice: Some(slice), since: time(&args.since)?, until: time(&args.until)? };
    let mut client = session.slices().await?;
    let usage = session.ask(client.get_usage(request)).await?;
    match session.output.format {
        Format::Table => put(&view::usage(&usage, &session.clock)),
        Format::Json | Format::Csv => {
            session.output.list(&view::usage_hours(&usage), &view::usage_json(&usage))
        }
    }
}

pub(super) async fn report(session: &Session, args: &Report) -> Result<(), Failure> {
    let mut client = session.slices().await?;
    let request = ListUsageRequest {
        since: args.since.clone().unwrap_or_default(),
        until: args.until.clone().unwrap_or_default(),
    };
    let answer = session.ask(client.list_usage(request)).await?;
    let none = String::new;
    let rows = view::summed(&answer.rows, |r: &UsageRow| match args.by {
        By::Slice => [r.department.clone(), r.project.clone(), r.slice.clone()],
        By::Project => [r.department.clone(), r.project.clone(), none()],
        By::Department => [r.department.clone(), none(), none()],
        By::Month => [none(), none(), none()],
    });
    let table = view::report(&rows);
    let write = |path: &std::path::Path, text: String| {
        std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error))?;
        session.output.remark(&format!("written to {}", path.display()));
        Ok::<_, Failure>(())
    };
    if let Some(path) = &args.csv {
        write(path, table.csv())?;
    }
    if let Some(path) = &args.html {
        write(path, view::report_page(&rows, &session.clock.local(session.clock.now)))?;
    }
    session.output.list(&table, &view::report_json(&rows))
}
