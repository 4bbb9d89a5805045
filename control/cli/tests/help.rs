//! The grammar, whole: what `--help` says of every command. It stays as it is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use clap::CommandFactory;
use holm_cli::args::Cli;

fn walk(mut command: clap::Command, path: &str, out: &mut String) {
    let path = if path.is_empty() {
        command.get_name().to_owned()
    } else {
        format!("{path} {}", command.get_name())
    };
    let children: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    let help = command.clone().bin_name(&path).term_width(100).render_long_help();
    out.push_str(&format!("━━━ {path}\n{help}\n"));
    command = command.term_width(100);
    drop(command);
    for child in children {
        walk(child, &path, out);
    }
}

#[test]
fn every_command() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut out = String::new();
    walk(command, "", &mut out);
    insta::assert_snapshot!(out);
}

#[test]
fn the_grammar_holds_together() {
    Cli::command().debug_assert();
}
