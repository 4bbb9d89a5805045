//! Why a pack is not accepted: in which file, on which line, and what is wrong there.

use std::path::{Path, PathBuf};

/// A pack that is not accepted. holmd does not start with one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", place(.file, *.line))]
pub struct PackError {
    file: PathBuf,
    line: Option<usize>,
    problem: String,
    #[source]
    cause: Option<std::io::Error>,
}

impl PackError {
    /// The file that is wrong.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, from 1; `None` where the whole file is meant.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// A file that cannot be read.
    pub(crate) fn unreadable(file: &Path, cause: std::io::Error) -> Self {
        Self { file: file.to_owned(), line: None, problem: "cannot be read".to_owned(), cause: Some(cause) }
    }

    /// Something wrong in a file as a whole.
    pub(crate) fn whole(file: &Path, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, problem: problem.into(), cause: None }
    }

    /// Something wrong at a byte offset of a file's text.
    pub(crate) fn at(file: &Path, text: &str, offset: usize, problem: impl Into<String>) -> Self {
        let line = text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
        Self { line: Some(line), ..Self::whole(file, problem) }
    }

    /// What Cedar says is wrong, where it says so.
    pub(crate) fn cedar(file: &Path, text: &str, diagnostic: &dyn miette::Diagnostic) -> Self {
        let mut problem = diagnostic.to_string();
        if let Some(help) = diagnostic.help() {
            problem = format!("{problem}: {help}");
        }
        match diagnostic.labels().and_then(|mut labels| labels.next()) {
            Some(label) => Self::at(file, text, label.offset(), problem),
            None => Self::whole(file, problem),
        }
    }
}

fn place(file: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    }
}
