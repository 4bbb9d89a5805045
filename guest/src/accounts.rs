//! The people of the seed and no others. Nobody has a password; `*` matches none and is not `locked`.

use crate::{
    disks::PROJECT_GROUP,
    failed::{Failed, Of as _, Outcome},
    files::{self, Owner, ROOT},
    readers::READERS_GROUP,
    recordings,
    seed::User,
};
use std::{collections::BTreeSet, fs, io, ops::Range, os::unix::fs::chown, path::Path};

/// Whose user ids are people's.
pub const PEOPLE: Range<u32> = 1000..60_000;
/// Where terminals are recorded, people come by doors, each with an id so much larger: what runs between a connection and the
/// recorder runs as nobody who runs anything else.
const DOOR: u32 = 100_000;
const DOORS: Range<u32> = DOOR + PEOPLE.start..DOOR + PEOPLE.end;
/// Who may use sudo then.
pub const DOORS_GROUP: u32 = 60_002;
const SUDOERS: &str = "/etc/sudoers.d/holm";

/// The name that somebody comes by. No person's name has a `_`.
fn door(name: &str) -> String {
    format!("_{name}")
}

/// Which door leads to whom, and to nothing but a terminal that is recorded, or to what there is without one.
fn sudoers(people: &[User]) -> String {
    let line = |User { name, .. }: &User| {
        format!("{} ALL=({name}) /usr/lib/holm/terminal \"\", /usr/lib/holm/unrecorded \"\"\n", door(name))
    };
    people.iter().map(line).collect()
}

/// What becomes of the account of who is nobody here any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Nobody comes in by it, and what still runs of it has a name.
    Locked,
    /// It is gone.
    Removed,
}

/// The three files.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    passwd: String,
    group: String,
    shadow: String,
}

impl Tables {
    /// With these people in the place of those who were there, of whom what becomes is `gone`.
    fn with(&self, people: &[User], gone: Gone, doors: bool) -> Outcome<Self> {
        let groups = [PROJECT_GROUP, READERS_GROUP, DOORS_GROUP];
        let of_people = |id: &str| {
            id.parse().is_ok_and(|id| PEOPLE.contains(&id) || DOORS.contains(&id) || groups.contains(&id))
        };
        let keep = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.split(':').nth(2).is_some_and(of_people));
            lines.map(str::to_owned).collect()
        };
        let (mut passwd, mut group) = (keep(&self.passwd), keep(&self.group));
        let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let system: BTreeSet<String> = passwd.iter().chain(&group).map(|line| name(line)).collect();
        let mut shadow: Vec<String> = Vec::new();
        for line in self.shadow.lines().filter(|line| system.contains(&name(line))) {
            let locked = line.strip_prefix("root:").and_then(|rest| rest.split_once(':'));
            shadow.push(locked.map_or_else(|| line.to_owned(), |(_, rest)| format!("root:!*:{rest}")));
        }
        for User { name, uid, .. } in people {
            if system.contains(name) {
                return Err(Failed(format!("the name {name} belongs to the system")));
            }
            passwd.push(format!("{name}:x:{uid}:{uid}::/home/{name}:/bin/bash"));
            group.push(format!("{name}:x:{uid}:"));
            shadow.push(format!("{name}:*:1:0:99999:7:::"));
        }
        for User { name, uid, .. } in people.iter().filter(|_| doors) {
            let (name, uid) = (door(name), DOOR + uid);
            passwd.push(format!("{name}:x:{uid}:{uid}::/usr/lib/holm:/bin/sh"));
            group.push(format!("{name}:x:{uid}:"));
            shadow.push(format!("{name}:*:1:0:99999:7:::"));
        }
        let all: Vec<&str> = people.iter().map(|user| user.name.as_str()).collect();
        for User { name, uid, .. } in self.people().iter().filter(|_| gone == Gone::Locked) {
            if !people.iter().any(|user| user.name == *name || user.uid == *uid) {
                passwd.push(format!("{name}:x:{uid}:{uid}::/home/{name}:/usr/sbin/nologin"));
                group.push(format!("{name}:x:{uid}:"));
                shadow.push(format!("{name}:!*:1:0:99999:7:::"));
            }
        }
        group.push(format!("project:x:{PROJECT_GROUP}:{}", all.join(",")));
        // Also by her door she comes to where she changes nothing.
        let readers = people.iter().filter(|user| user.read_only);
        let readers = readers.flat_map(|User { name, .. }| {
            [Some(name.clone()), doors.then(|| door(name))].into_iter().flatten()
        });
        group.push(format!("readers:x:{READERS_GROUP}:{}", readers.collect::<Vec<_>>().join(",")));
        if doors {
            let doors: Vec<String> = people.iter().map(|user| door(&user.name)).collect();
            group.push(format!("holm_doors:x:{DOORS_GROUP}:{}", doors.join(",")));
        }
        let text = |lines: Vec<String>| lines.into_iter().map(|line| line + "\n").collect();
        Ok(Self { passwd: text(passwd), group: text(group), shadow: text(shadow) })
    }

    /// Those who are there.
    fn people(&self) -> Vec<User> {
        let user = |line: &str| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?);
            PEOPLE.contains(&uid).then_some(User { name, uid, read_only: false })
        };
        self.passwd.lines().filter_map(user).collect()
    }
}

/// The number in the third place of who has this name in a table.
pub fn number(table: &str, name: &str) -> Outcome<u32> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    };
    table.lines().find_map(of).ok_or_else(|| Failed(format!("there is no {name}")))
}

/// User and group of one of the system's own accounts.
pub fn system(name: &str) -> Outcome<Owner> {
    Ok((number(&files::read("/etc/passwd")?, name)?, number(&files::read("/etc/group")?, name)?))
}

/// Makes them the people of this machine.
pub fn make(people: &[User], gone: Gone) -> Outcome {
    let tables = Tables {
        passwd: files::read("/etc/passwd")?,
        group: files::read("/etc/group")?,
        shadow: files::read("/etc/shadow")?,
    };
    let doors = recordings::are_made();
    let Tables { passwd, group, shadow } = tables.with(people, gone, doors)?;
    let keeper = (0, number(&group, "shadow")?);
    files::write("/etc/shadow", shadow, 0o640, keeper).of("/etc/shadow")?;
    // Before she is there it is said where sshd puts her.
    files::write("/etc/group", group, 0o644, ROOT).of("/etc/group")?;
    files::write("/etc/passwd", passwd, 0o644, ROOT).of("/etc/passwd")?;
    if doors {
        files::write(SUDOERS, sudoers(people), 0o440, ROOT).of(SUDOERS)?;
    }
    let ranges: String = people.iter().map(|user| range(user) + "\n").collect();
    for path in ["/etc/subuid", "/etc/subgid"] {
        files::write(path, &ranges, 0o644, ROOT).of(path)?;
    }
    files::directory("/project", 0o2770, (0, PROJECT_GROUP)).of("/project")?;
    for User { name, uid, .. } in people {
        // A full disk keeps nobody else out, and her neither: she begins in "/".
        if let Err(error) = home(Path::new("/home"), name, (*uid, *uid), Path::new("/etc/skel")) {
            eprintln!("no home for {name}: {error}");
        }
    }
    Ok(())
}

/// From there on ids are somebody's to be in containers that she builds, so many each.
const FIRST: u32 = 1_000_000;
const EACH: u32 = 1 << 16;

/// The ids that are hers to be in containers that she builds, and nobody else's.
fn range(User { name, uid, .. }: &User) -> String {
    let first = FIRST + uid.saturating_sub(PEOPLE.start).min(PEOPLE.end - PEOPLE.start) * EACH;
    format!("{name}:{first}:{EACH}")
}

/// Whose a user id is, of a person's own, of her door and of those that are hers to be.
pub fn person(uid: u32) -> Option<u32> {
    let own = if DOORS.contains(&uid) { uid - DOOR } else { uid };
    let whose = uid.checked_sub(FIRST).map_or(own, |beyond| PEOPLE.start + beyond / EACH);
    PEOPLE.contains(&whose).then_some(whose)
}

/// Where there is none yet.
fn home(homes: &Path, name: &str, owner: Owner, skeleton: &Path) -> io::Result<()> {
    let home = homes.join(name);
    if home.is_dir() {
        return Ok(());
    }
    // No person's name has a dot.
    let making = homes.join(format!("{name}.new"));
    fs::create_dir_all(&making)?;
    for file in files::names(skeleton)? {
        files::write(making.join(&file), fs::read(skeleton.join(&file))?, 0o644, owner)?;
    }
    if owner != (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()) {
        chown(&making, Some(owner.0), Some(owner.1))?;
    }
    files::directory(&making, 0o700, owner)?;
    fs::rename(making, home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_shares_the_ids_of_her_containers() {
        let first = |uid| -> u64 {
            let line = range(&user("ida", uid));
            line.split(':').nth(1).unwrap().parse().unwrap()
        };
        assert_eq!(range(&user("ida", 1001)), "ida:1065536:65536");
        for uid in PEOPLE.start..PEOPLE.end - 1 {
            assert_eq!(first(uid) + 65_536, first(uid + 1));
            let hers = u32::try_from(first(uid)).unwrap();
            assert_eq!([uid, hers, hers + 65_535].map(person), [Some(uid); 3]);
        }
        assert!(first(PEOPLE.end - 1) + 65_536 < u64::from(u32::MAX));
    }
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn before() -> Tables {
        Tables {
            passwd: "root:x:0:0:root:/root:/bin/bash\nmunge:x:101:103::/x:/bin/false\nold:x:1000:1000::/home/old:/bin/sh\n\
                nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
                .to_owned(),
            group: "root:x:0:\nshadow:x:42:\nmunge:x:103:\nold:x:1000:\nproject:x:60000:old\nslurm:x:64030:\n".to_owned(),
            shadow: "root:secret:19000:0:99999:7:::\nmunge:!:19000::::::\nold:*:1:0:99999:7:::\ngone:*:1::::::\n".to_owned(),
        }
    }

    fn user(name: &str, uid: u32) -> User {
        User { name: name.to_owned(), uid, read_only: false }
    }

    #[test]
    fn the_people_of_the_seed_and_no_others() {
        let made =
            before().with(&[user("ida", 10_001), user("frida", 10_002)], Gone::Removed, false).unwrap();
        assert_eq!(
            made,
            Tables {
                passwd: "root:x:0:0:root:/root:/bin/bash\nmunge:x:101:103::/x:/bin/false\n\
                    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
                    ida:x:10001:10001::/home/ida:/bin/bash\nfrida:x:10002:10002::/home/frida:/bin/bash\n"
                    .to_owned(),
                group: "root:x:0:\nshadow:x:42:\nmunge:x:103:\nslurm:x:64030:\nida:x:10001:\nfrida:x:10002:\n\
                    project:x:60000:ida,frida\nreaders:x:60001:\n"
                    .to_owned(),
                shadow: "root:!*:19000:0:99999:7:::\nmunge:!:19000::::::\nida:*:1:0:99999:7:::\nfrida:*:1:0:99999:7:::\n"
                    .to_owned(),
            }
        );
        for name in ["root", "munge", "slurm", "shadow"] {
            let failed = before().with(&[user(name, 10_001)], Gone::Locked, false).unwrap_err();
            assert_eq!(failed.0, format!("the name {name} belongs to the system"));
        }
        assert_eq!(number(&made.group, "shadow"), Ok(42));
        assert_eq!(number(&made.passwd, "ida"), Ok(10_001));
        assert!(number(&made.passwd, "id").is_err());
    }

    #[test]
    fn who_only_reads_is_of_one_more_group() {
        let reads = User { read_only: true, ..user("frida", 10_002) };
        let made = before().with(&[user("ida", 10_001), reads], Gone::Removed, false).unwrap();
        assert!(
            made.group.ends_with("\nproject:x:60000:ida,frida\nreaders:x:60001:frida\n"),
            "{}",
            made.group
        );
        let changes = made.with(&[user("ida", 10_001), user("frida", 10_002)], Gone::Locked, false).unwrap();
        assert!(changes.group.ends_with("\nproject:x:60000:ida,frida\nreaders:x:60001:\n"));
    }

    #[test]
    fn where_it_is_recorded_each_comes_by_a_door_of_her_own_that_leads_to_her_alone() {
        let reads = User { read_only: true, ..user("frida", 10_002) };
        let people = [user("ida", 10_001), reads];
        let made = before().with(&people, Gone::Removed, true).unwrap();
        assert!(made.passwd.ends_with(
            "\n_ida:x:110001:110001::/usr/lib/holm:/bin/sh\n_frida:x:110002:110002::/usr/lib/holm:/bin/sh\n"
        ));
        let groups =
            "\nproject:x:60000:ida,frida\nreaders:x:60001:frida,_frida\nholm_doors:x:60002:_ida,_frida\n";
        assert!(made.group.ends_with(groups), "{}", made.group);
        assert!(made.shadow.ends_with("\n_ida:*:1:0:99999:7:::\n_frida:*:1:0:99999:7:::\n"));
        assert_eq!([110_001, 110_002, 100_000, 60_002].map(person), [Some(10_001), Some(10_002), None, None]);
        assert_eq!(
            sudoers(&people[..1]),
            "_ida ALL=(ida) /usr/lib/holm/terminal \"\", /usr/lib/holm/unrecorded \"\"\n"
        );
        // Where it is recorded no more, there are none.
        assert_eq!(
            made.with(&people, Gone::Removed, false).unwrap(),
            before().with(&people, Gone::Removed, false).unwrap()
        );
    }

    #[test]
    fn of_who_goes_the_account_is_locked_and_then_removed_and_she_may_come_back() {
        let (ida, frida) = (user("ida", 10_001), user("frida", 10_002));
        let both = before().with(&[ida.clone(), frida.clone()], Gone::Removed, false).unwrap();
        let one = both.with(std::slice::from_ref(&ida), Gone::Removed, false).unwrap();
        let locked = both.with(std::slice::from_ref(&ida), Gone::Locked, false).unwrap();
        assert!(locked.passwd.ends_with("\nfrida:x:10002:10002::/home/frida:/usr/sbin/nologin\n"));
        assert!(locked.shadow.ends_with("\nfrida:!*:1:0:99999:7:::\n"));
        assert!(locked.group.ends_with("\nfrida:x:10002:\nproject:x:60000:ida\nreaders:x:60001:\n"));
        assert_eq!(locked.with(std::slice::from_ref(&ida), Gone::Removed, false).unwrap(), one);
        for before in [locked, one] {
            assert_eq!(before.with(&[ida.clone(), frida.clone()], Gone::Locked, false).unwrap(), both);
        }
    }

    #[test]
    fn a_home_is_made_once() {
        let place = tempfile::tempdir().unwrap();
        let (homes, skeleton) = (place.path().join("home"), place.path().join("skel"));
        fs::create_dir_all(homes.join("ida.new")).unwrap();
        fs::create_dir(&skeleton).unwrap();
        fs::write(skeleton.join(".bashrc"), "umask 007\n").unwrap();
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        home(&homes, "ida", owner, &skeleton).unwrap();
        assert_eq!(fs::metadata(homes.join("ida")).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(homes.join("ida/.bashrc"), "hers\n").unwrap();
        home(&homes, "ida", owner, &skeleton).unwrap();
        assert_eq!(fs::read_to_string(homes.join("ida/.bashrc")).unwrap(), "hers\n");
        assert_eq!(files::names(&homes).unwrap(), ["ida"]);
    }

    proptest! {
        #[test]
        fn whoever_came_and_went_before(some in proptest::collection::btree_map("[a-z]{4,9}", PEOPLE, 0..9), more in any::<bool>()) {
            let people: Vec<User> = some.iter().map(|(name, uid)| user(name, *uid)).collect();
            let others = if more { vec![user("somebody-else", 2000)] } else { Vec::new() };
            if let Ok(made) = before().with(&people, Gone::Removed, false) {
                let later = before().with(&others, Gone::Locked, false).unwrap().with(&people, Gone::Removed, false).unwrap();
                prop_assert_eq!(&made, &later);
                prop_assert_eq!(made.with(&people, Gone::Locked, false).unwrap(), later);
            }
        }
    }
}
