//! Jobs of a slice's Slurm, without logging in: each verb is one of Slurm's own commands, run there as whoever asks, the same
//! way as `holm ssh`: by a certificate for this once, through holmd, and in the log.
//!
//! ```text
//!   submit ─▶ sbatch    list, show ─▶ squeue, sacct    stat ─▶ jobstat    logs ─▶ sacct, tail    cancel ─▶ scancel
//! ```

mod logs;
pub(super) mod remote;
mod slurm;
mod stat;
mod submit;

use self::remote::{Remote, line};
use self::slurm::{ANSWER, Account, Mark, Which};
use super::Session;
use super::slice::confirm;
use crate::Failure;
use crate::args::{JobVerb, Target};
use crate::text::parse_since;
use crate::view::{self, Batch};
use serde_json::json;

pub(super) async fn run(session: &Session, verb: JobVerb) -> Result<u8, Failure> {
    match verb {
        JobVerb::Submit(args) => submit::run(session, *args).await,
        JobVerb::List { target, all_users, since } => {
            list(session, &target, all_users, since.as_deref()).await.map(|()| 0)
        }
        JobVerb::Show { target, job } => show(session, &target, &job).await.map(|()| 0),
        JobVerb::Stat { target, job } => stat::run(session, &target, &job).await.map(|()| 0),
        JobVerb::Logs(args) => logs::run(session, args).await.map(|()| 0),
        JobVerb::Cancel { target, jobs, mine, yes } => {
            let jobs = if mine { None } else { Some(jobs) };
            cancel(session, &target, jobs, yes).await.map(|()| 0)
        }
    }
}

async fn list(session: &Session, target: &Target, all: bool, since: Option<&str>) -> Result<(), Failure> {
    let since = since.map(|text| parse_since(text, &session.clock)).transpose().map_err(Failure::usage)?;
    let remote = Remote::new(session, &session.slice(&target.slice, &target.project)?).await?;
    let remote = if since.is_some() { remote.kept().await? } else { remote };
    let user = (!all).then(|| remote.user());
    let mut jobs = active(&remote, user).await?;
    if let Some(since) = since {
        let mark = Mark::new();
        let said = remote.ask(&mark.sacct(Account::Since(since, user)), None, ANSWER).await?;
        let ended = mark.accounts(&said, &remote.label)?.into_iter().filter(Batch::has_ended);
        jobs.extend(ended);
    }
    jobs.sort_by_key(|job| job.submitted);
    let json = json!(jobs.iter().map(view::batch_json).collect::<Vec<_>>());
    session.output.list(&view::batches(&jobs, all, &session.clock), &json)
}

/// Those that wait or run.
async fn active(remote: &Remote<'_>, user: Option<&str>) -> Result<Vec<Batch>, Failure> {
    let mark = Mark::new();
    let said = remote.ask(&mark.squeue(Which::Active(user)), None, ANSWER).await?;
    mark.queue(&said, &remote.label)
}

/// One job, or each task of an array, as slurmctld knows it, or, where that has forgotten it, the accounting.
async fn one(remote: &Remote<'_>, job: &str) -> Result<Vec<Batch>, Failure> {
    let mark = Mark::new();
    let said = remote.ask(&mark.squeue(Which::One(job)), None, ANSWER).await?;
    let jobs = mark.queue(&said, &remote.label)?;
    if jobs.is_empty() { accounted(remote, job).await } else { Ok(jobs) }
}

/// The same as the accounting knows it: with the numbers in the names of files.
async fn accounted(remote: &Remote<'_>, job: &str) -> Result<Vec<Batch>, Failure> {
    let mark = Mark::new();
    let said = remote.ask(&mark.sacct(Account::One(job)), None, ANSWER).await?;
    mark.accounts(&said, &remote.label)
}

fn no_job(remote: &Remote<'_>, job: &str) -> Failure {
    let label = &remote.label;
    Failure::new(format!("there is no job {job} in {label}, or none that you see"))
        .hint(format!("holm job list {label} --since 7d"))
}

async fn show(session: &Session, target: &Target, job: &str) -> Result<(), Failure> {
    let remote = Remote::new(session, &session.slice(&target.slice, &target.project)?).await?.kept().await?;
    let mut jobs = one(&remote, job).await?;
    let accounted = accounted(&remote, job).await?;
    for job in &mut jobs {
        if let Some(known) = accounted.iter().find(|known| known.id == job.id) {
            job.output.clone_from(&known.output);
        }
    }
    let clock = &session.clock;
    match jobs.as_slice() {
        [] => Err(no_job(&remote, job)),
        [job] => session.output.sheet(&view::batch(job, clock), &view::batch_json(job)),
        tasks => {
            let json = json!(tasks.iter().map(view::batch_json).collect::<Vec<_>>());
            session.output.list(&view::batches(tasks, true, clock), &json)
        }
    }
}

async fn cancel(
    session: &Session,
    target: &Target,
    jobs: Option<Vec<String>>,
    yes: bool,
) -> Result<(), Failure> {
    let slice = session.slice(&target.slice, &target.project)?;
    let label = format!("{}/{}", slice.project, slice.name);
    if jobs.is_none() && !yes {
        let lost = format!("All your jobs in {label} will be cancelled.");
        confirm(&label, &lost, "do", &format!("holm job cancel {label} --mine --yes"))?;
    }
    let remote = Remote::new(session, &slice).await?.kept().await?;
    let mine = active(&remote, Some(remote.user())).await?;
    let jobs = match jobs {
        // The number of all of them is that in front of what tasks wait: 17_[4-9].
        None => mine.iter().map(|job| job.id.split("_[").next().unwrap_or_default().to_owned()).collect(),
        // scancel says nothing of what there is not.
        Some(jobs) => {
            let array = |id: &str| id.split('_').next().unwrap_or_default().to_owned();
            for job in &jobs {
                if !mine.iter().any(|known| known.id == *job || array(&known.id) == array(job)) {
                    return Err(not_to_cancel(&remote, job).await?);
                }
            }
            jobs
        }
    };
    if !jobs.is_empty() {
        let words = ["scancel"].into_iter().chain(jobs.iter().map(String::as_str));
        let said = remote.ask(&line(words), None, ANSWER).await?;
        if said.code != 0 {
            return Err(slurm::failure(&said, &label));
        }
    }
    let sentence = match jobs.as_slice() {
        [] => format!("you have no job in {label}"),
        [job] => format!("job {job} is cancelled"),
        many => format!("jobs {} are cancelled", many.join(", ")),
    };
    session.output.done(&sentence, &json!({ "slice": label, "cancelled": jobs }))
}

/// Why this one is not cancelled.
async fn not_to_cancel(remote: &Remote<'_>, job: &str) -> Result<Failure, Failure> {
    let jobs = one(remote, job).await?;
    let Some(known) = jobs.first() else { return Ok(no_job(remote, job)) };
    if known.user != remote.user() {
        return Ok(Failure::new(format!("job {job} is {}'s: nothing was cancelled", known.user)));
    }
    Ok(Failure::new(format!("job {job} has ended already, nothing was cancelled"))
        .hint(format!("holm job show {} {job}", remote.label)))
}
