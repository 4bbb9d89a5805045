//! Who may run jobs here, and of which classes, in the words of Slurm's own tool. What is so already stays so.

use super::{LIMIT, configuration::ADDRESS, pause};
use crate::{
    command::run_with,
    failed::{Failed, Outcome, last},
    seed::User,
};
use std::{net::TcpStream, time::Instant};

/// slurmdbd's, where its configuration names no other.
const PORT: u16 = 6819;

/// A quality of service, as Slurm calls it.
struct Class {
    name: &'static str,
    priority: u32,
    /// GPUs of one person at once; all where it is none.
    gpus: Option<usize>,
    wall: &'static str,
}

/// As on the shared clusters that people come from: `normal` where nothing is said.
const CLASSES: [Class; 4] = [
    Class { name: "normal", priority: 100, gpus: None, wall: "2-00:00:00" },
    Class { name: "short", priority: 500, gpus: None, wall: "03:00:00" },
    Class { name: "1gpulong", priority: 50, gpus: Some(1), wall: "14-00:00:00" },
    Class { name: "allgpus", priority: 0, gpus: None, wall: "21-00:00:00" },
];

/// The project's account and its people. The cluster and the names of the classes are in the image.
pub fn people(project: &str, users: &[User]) -> String {
    let mut lines = vec![format!("add account {project} cluster=slice")];
    let names = CLASSES.map(|class| class.name).join(",");
    lines.push(format!("modify account {project} set qos={names} DefaultQOS=normal"));
    lines.extend(users.iter().map(|user| format!("add user {} account={project} cluster=slice", user.name)));
    text(&lines)
}

/// What the classes may have of that many GPUs.
pub fn classes(gpus: usize) -> String {
    let line = |class: &Class| {
        let Class { name, priority, wall, .. } = class;
        // A job of more than that would wait for ever. Of more than there are Slurm refuses it by itself, and says so better.
        let most =
            class.gpus.map(|most| format!(" MaxTRESPerUser=gres/gpu={} Flags=DenyOnLimit", most.min(gpus)));
        format!("modify qos {name} set priority={priority} MaxWall={wall}{}", most.unwrap_or_default())
    };
    text(&CLASSES.iter().map(line).collect::<Vec<_>>())
}

fn text(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

/// Says it to Slurm's accounting, as soon as that listens.
pub fn tell(words: &str) -> Outcome {
    let end = Instant::now() + LIMIT;
    // It has no way to say so. To ask by its own tool costs, where many machines share a processor, what they start with.
    while let Err(error) = TcpStream::connect((ADDRESS, PORT)) {
        if Instant::now() >= end {
            return Err(Failed(format!("Slurm's accounting does not listen: {error}")));
        }
        pause();
    }
    // That something is so already it calls a failure, in its status alone.
    let said = run_with(&["sh", "-c", "sacctmgr --immediate --quiet 2>&1 || :"], words)?;
    let wrong = said.lines().find(|line| line.contains("error:"));
    wrong.map_or(Ok(()), |line| Err(Failed(format!("Slurm's accounting: {}", last(line, 200)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_people_and_four_gpus() {
        let users = [("ida", 10_001), ("bo", 10_002)].map(|(name, uid)| User { name: name.to_owned(), uid });
        let words = people("heart-study", &users) + &classes(4);
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("accounting", words);
        });
    }

    #[test]
    fn no_class_has_more_gpus_than_there_are() {
        for (gpus, most) in [(0, 0), (1, 1), (16, 1)] {
            let words = classes(gpus);
            assert_eq!(words.matches("gres/gpu=").count(), 1);
            assert!(words.contains(&format!("gres/gpu={most} ")));
        }
    }
}
