//! Files to a slice and back: the system's scp, the same way as ssh.

use super::{Session, ssh};
use crate::Failure;
use crate::args::Copy;
use std::ffi::OsString;
use tokio::process::Command;

pub(super) async fn run(session: &Session, args: Copy) -> Result<u8, Failure> {
    let mut slices = Vec::new();
    let mut files = Vec::new();
    for argument in args.from.iter().chain([&args.to]) {
        let side = Side::parse(argument);
        if let Side::Slice { slice, .. } = &side {
            slices.push(session.slice(slice, &args.project)?);
        }
        files.push(side);
    }
    let is_slice = |side: &Side| matches!(side, Side::Slice { .. });
    let mixed = files.split_last().is_some_and(|(to, from)| from.iter().any(|s| is_slice(s) == is_slice(to)));
    slices.dedup();
    let [slice] = slices.as_slice() else {
        return Err(both_or_none(slices.len()));
    };
    if mixed {
        return Err(both_or_none(2));
    }
    let prepared = ssh::Prepared::new(session, slice).await?;
    let mut command = Command::new("scp");
    command.args(prepared.options());
    if args.recursive {
        command.arg("-r");
    }
    if session.output.quiet {
        command.arg("-q");
    }
    command.args(["-o", "ClearAllForwardings=yes"]);
    command.arg("--").args(files.iter().map(Side::for_scp));
    let code = ssh::finish(command, "scp").await?;
    // The slice refuses it, in words that say nothing of why.
    if code != 0 && prepared.terminal_only && files.first().is_some_and(is_slice) {
        let label = format!("{}/{}", slice.project, slice.name);
        return Err(Failure::new(format!(
            "the level of `{label}` allows a terminal alone: nothing is copied out"
        ))
        .hint(format!("holm ssh {label}, and read it there")));
    }
    Ok(code)
}

fn both_or_none(slices: usize) -> Failure {
    let what = if slices == 0 { "neither side is on a slice" } else { "exactly one side can be on a slice" };
    Failure::usage(what)
        .hint("holm slice copy FILE PROJECT/NAME:PATH, or holm slice copy PROJECT/NAME:PATH FILE")
}

#[derive(Debug, PartialEq, Eq)]
enum Side {
    Here(String),
    Slice { slice: String, path: String },
}

impl Side {
    /// Before the colon stands PROJECT/NAME or NAME; a local name with a colon begins with `./` or `/`.
    fn parse(text: &str) -> Self {
        let plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let slice = text.split_once(':').filter(|(slice, _)| match slice.split_once('/') {
            Some((project, name)) => plain(project) && plain(name),
            None => plain(slice),
        });
        match slice {
            Some((slice, path)) => Self::Slice { slice: slice.to_owned(), path: path.to_owned() },
            None => Self::Here(text.to_owned()),
        }
    }

    fn for_scp(&self) -> OsString {
        match self {
            Self::Slice { path, .. } => format!("slice:{path}").into(),
            // Without a slash before it scp would take what precedes a colon for a host.
            Self::Here(path) if path.contains(':') && !path.starts_with(['/', '.']) => {
                format!("./{path}").into()
            }
            Self::Here(path) => path.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides() {
        let slice = |slice: &str, path: &str| Side::Slice { slice: slice.to_owned(), path: path.to_owned() };
        assert_eq!(Side::parse("heart-study/main:"), slice("heart-study/main", ""));
        assert_eq!(Side::parse("main:a:b"), slice("main", "a:b"));
        for here in ["data.tar", "./a:b", "/a/b:c", "a/b/c:d", "A:b", ":x", "a/:x"] {
            assert_eq!(Side::parse(here), Side::Here(here.to_owned()), "{here}");
        }
        assert_eq!(Side::parse("main:x").for_scp(), "slice:x");
        assert_eq!(Side::parse("A:b").for_scp(), "./A:b");
    }
}
