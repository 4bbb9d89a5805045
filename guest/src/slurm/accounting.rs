//! Who may run jobs here, and of which classes, in the words of Slurm's own tool. What is so already stays so.

use super::{configuration::ADDRESS, pause};
use crate::{
    command::{PATIENCE, run, run_with, within},
    failed::{Failed, Outcome, last},
    scheduler::Class,
    seed::User,
};
use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

/// slurmdbd's, where its configuration names no other.
const PORT: u16 = 6819;

/// The account of the project, and the classes that its jobs may be of, of which the first is meant where nothing is said. The
/// cluster is in the image.
pub fn account(project: &str, classes: &[Class]) -> String {
    let names = names(classes);
    let default = classes.first().map_or("", |class| class.name.as_str());
    new(classes)
        + &text(&[
            format!("add account {project} cluster=slice"),
            format!("modify account {project} set qos={names} DefaultQOS={default}"),
        ])
}

/// The classes, of which there may be some.
pub fn new(classes: &[Class]) -> String {
    format!("add qos {}\n", names(classes))
}

/// Its people. Who only reads has no job: it would run where everything may be changed.
pub fn people(project: &str, users: &[User]) -> String {
    let lines = |user: &User| {
        let jobs = if user.read_only { "0" } else { "-1" };
        let (name, most) = (&user.name, format!("MaxJobs={jobs} MaxSubmitJobs={jobs}"));
        [
            format!("add user {name} account={project} cluster=slice {most}"),
            format!("modify user where name={name} set {most}"),
        ]
    };
    text(&users.iter().flat_map(lines).collect::<Vec<_>>())
}

/// What the classes may have of that many GPUs. What a class no longer limits is said as well: it is kept from one boot to the
/// next.
pub fn limits(classes: &[Class], gpus: usize) -> String {
    let line = |class: &Class| {
        let Class { name, priority, wall_minutes, .. } = class;
        // A job of more than that would wait for ever. Of more than there are Slurm refuses it by itself, and says so better.
        let most = class.gpus.map_or("MaxTRESPerUser=gres/gpu=-1 Flags=-1".to_owned(), |most| {
            format!("MaxTRESPerUser=gres/gpu={} Flags=DenyOnLimit", (most as usize).min(gpus))
        });
        format!("modify qos {name} set priority={priority} MaxWall={} {most}", wall(*wall_minutes))
    };
    text(&classes.iter().map(line).collect::<Vec<_>>())
}

/// Of those that there are, the names of those that are none of these.
pub fn gone(there: &str, classes: &[Class]) -> Option<String> {
    let gone =
        there.lines().filter(|name| !name.is_empty() && !classes.iter().any(|class| class.name == *name));
    let names = gone.collect::<Vec<_>>().join(",");
    (!names.is_empty()).then_some(names)
}

/// None of them is what somebody has made her own default, which everybody may: Slurm takes no class from an account as long as it
/// is that.
pub fn undefault(project: &str, gone: &str) -> String {
    format!("modify user where account={project} cluster=slice DefaultQOS={gone} set DefaultQOS=-1\n")
}

/// The end of them. Of a job that waits under one Slurm says `InvalidQOS`.
pub fn removal(gone: &str) -> String {
    format!("delete qos where name={gone}\n")
}

/// The names of all that there are, a line each.
pub fn there() -> Outcome<String> {
    run(&within(PATIENCE, &["sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=name"]))
}

fn names(classes: &[Class]) -> String {
    classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(",")
}

/// `2-00:00:00`
fn wall(minutes: u32) -> String {
    format!("{}-{:02}:{:02}:00", minutes / 1440, minutes / 60 % 24, minutes % 60)
}

fn text(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

/// Says it to Slurm's accounting, as soon as that listens; not for longer than `limit`.
pub fn tell(words: &str, limit: Duration) -> Outcome {
    let end = Instant::now() + limit;
    // It has no way to say so. To ask by its own tool costs, where many machines share a processor, what they start with.
    while let Err(error) = TcpStream::connect((ADDRESS, PORT)) {
        if Instant::now() >= end {
            return Err(Failed(format!("Slurm's accounting does not listen: {error}")));
        }
        pause();
    }
    // That something is so already it calls a failure, in its status, and of some things an error: hence a line for each person,
    // for of several in one it then changes none.
    let said = run_with(
        &["sh", "-c", "timeout --kill-after=5 100 sacctmgr --immediate --quiet 2>&1 || [ $? -lt 124 ]"],
        words,
    )?;
    let already = "error: Request didn't affect anything";
    let wrong = said.lines().find(|line| line.contains("error:") && !line.contains(already));
    wrong.map_or(Ok(()), |line| Err(Failed(format!("Slurm's accounting: {}", last(line, 200)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Settings;

    #[test]
    fn of_two_people_and_four_gpus() {
        let users = [("ida", 10_001), ("bo", 10_002)].map(|(name, uid)| User {
            name: name.to_owned(),
            uid,
            read_only: uid == 10_002,
        });
        let classes = Settings::usual().classes;
        let words = account("heart-study", &classes) + &people("heart-study", &users) + &limits(&classes, 4);
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("accounting", words);
        });
    }

    #[test]
    fn no_class_has_more_gpus_than_there_are() {
        for (gpus, most) in [(0, 0), (1, 1), (16, 1)] {
            let words = limits(&Settings::usual().classes, gpus);
            assert_eq!(words.matches("gres/gpu=").count(), 4);
            assert!(words.contains(&format!("gres/gpu={most} ")));
        }
    }

    #[test]
    fn what_is_no_class_any_more_goes_and_nothing_else_does() {
        let classes = Settings::usual().classes;
        let gone_of = |there| gone(there, &classes);
        assert_eq!(gone_of("normal\nold\nallgpus\nolder\n").as_deref(), Some("old,older"));
        assert_eq!((gone_of("normal\n"), gone_of("")), (None, None));
        assert_eq!(removal("old,older"), "delete qos where name=old,older\n");
    }

    #[test]
    fn times_are_said_as_slurm_says_them() {
        for (minutes, said) in
            [(1, "0-00:01:00"), (180, "0-03:00:00"), (20_160, "14-00:00:00"), (525_600, "365-00:00:00")]
        {
            assert_eq!(wall(minutes), said);
        }
    }
}
