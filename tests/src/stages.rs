//! How long each part took, as a table at the end.

use std::time::{Duration, Instant};

/// The parts so far, in order.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<(String, Duration)>,
    notes: Vec<String>,
}

impl Stages {
    /// Times one part and prints its heading.
    pub fn time<T>(&mut self, name: &str, part: impl FnOnce() -> T) -> T {
        crate::show::heading(name);
        let started = Instant::now();
        let outcome = part();
        self.done.push((name.to_owned(), started.elapsed()));
        outcome
    }

    /// A figure that is no stage.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// The table.
    pub fn table(&self) -> String {
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        let widest = self.done.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(5);
        let row = |name: &str, took: Duration| format!("  {name:<widest$}  {:>8.1} s\n", took.as_secs_f64());
        let mut text: String = self.done.iter().map(|(name, took)| row(name, *took)).collect();
        text.push_str(&row("all", total));
        for line in &self.notes {
            text.push_str(&format!("  {line}\n"));
        }
        text
    }
}
