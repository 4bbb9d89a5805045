//! Signs of life on a terminal, for what takes longer than people wait in silence.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressStyle};
use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

/// Silence up to here.
const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(120);

/// Waits for something, and says on standard error for what, if it takes its time.
pub async fn patiently<T>(output: &Output, what: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = tokio::time::sleep(PATIENCE) => {
            let spinner = Spinner::new(output);
            spinner.says(what);
            work.await
        }
    }
}

/// A line that moves, on a terminal; elsewhere nothing. Gone when dropped.
#[derive(Debug)]
pub struct Spinner(Option<ProgressBar>);

impl Spinner {
    /// Says nothing yet.
    pub fn new(output: &Output) -> Self {
        if output.quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        let form = if output.colour_errors {
            "{spinner:.cyan} {msg}  {elapsed:.dim}"
        } else {
            "{spinner} {msg}  {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }

    /// What is going on. The time it takes is counted from when it was said first.
    pub fn says(&self, what: &str) {
        let what = crate::text::plain(what);
        if let Some(bar) = self.0.as_ref().filter(|bar| bar.message() != what) {
            bar.reset_elapsed();
            bar.set_message(what.into_owned());
        }
    }

    /// Does something to the terminal while the line is out of the way.
    pub fn aside<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(act),
            None => act(),
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
