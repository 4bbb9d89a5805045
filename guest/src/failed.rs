//! What keeps this machine from being a slice, in words for the host to show.

use std::{fmt::Display, io};

/// Why.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed(pub String);

/// The outcome of a step.
pub type Outcome<T = ()> = Result<T, Failed>;

impl Failed {
    /// In these words.
    pub fn because(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

/// Says what an error is of.
pub trait Of<T> {
    /// `what: error`.
    fn of(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Into<io::Error>> Of<T> for Result<T, E> {
    fn of(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| Failed(format!("{what}: {}", error.into())))
    }
}

/// On one line, the last so many characters of it: what a program says last says most.
pub fn last(text: &str, most: usize) -> String {
    let line: Vec<char> = one_line(text).chars().collect();
    line.get(line.len().saturating_sub(most)..).unwrap_or_default().iter().collect()
}

/// On one line.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_said_is_kept() {
        assert_eq!(last("a\n  b\tæøå\n", 3), "æøå");
        assert_eq!(last("a\n  b\n", 300), "a b");
    }
}
