//! What a person sees while the story runs: who types what, and what came of it.

use crate::Outcome;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read};
use std::process::Child;
use std::thread;

/// A part begins.
pub fn heading(text: &str) {
    println!("\n{}", paint("1", &format!("== {text}")));
}

/// A word of the narrator's.
pub fn say(text: &str) {
    println!("{}", paint("2", &format!("   {text}")));
}

/// What somebody types.
pub fn typed(who: &str, command: &str) {
    println!("{} {}", paint("36", &format!("{who}$")), paint("1", command));
}

/// A line that a program printed.
pub fn printed(line: &str) {
    println!("   {line}");
}

/// What was to be shown has shown itself.
pub fn seen(text: &str) {
    println!("{}", paint("32", &format!("   ✓ {text}")));
}

fn paint(style: &str, text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !io::stdout().is_terminal() {
        text.to_owned()
    } else {
        format!("\u{1b}[{style}m{text}\u{1b}[0m")
    }
}

/// Shows what a process prints, as it prints it, and returns it.
pub fn both(child: &mut Child) -> Outcome<String> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let errors = scope.spawn(move || err.map_or_else(|| Ok(String::new()), lines));
        let printed = out.map_or_else(|| Ok(String::new()), lines)?;
        let errors = errors.join().map_err(|_| "the reader of errors broke off")??;
        Ok(printed + &errors)
    })
}

fn lines(from: impl Read) -> Outcome<String> {
    let mut all = String::new();
    for line in BufReader::new(from).lines() {
        let line = line?;
        printed(&line);
        all.push_str(&line);
        all.push('\n');
    }
    Ok(all)
}
