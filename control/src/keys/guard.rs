//! A provider on a thread of its own: who asks it waits for a bounded time, whatever it does.
//!
//! Who asks has her turn after those who asked before, and from then on that time: one that is slow is not down.
//! One that cannot be reached is down until a check finds it up again; until then nobody but the check asks it, so
//! that callers do not queue up behind what does not answer.

use super::wrapped::By;
use super::{Key, KeyError, Provider, again};
use jiff::Timestamp;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tokio::sync::watch;

/// How long the provider may take for one key.
#[cfg(not(test))]
const LIMIT: Duration = Duration::from_secs(10);
// What is not about being late is not to fail because a busy machine is.
#[cfg(test)]
const LIMIT: Duration = Duration::from_secs(120);

/// How the provider is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Since when it is down, and why.
    pub down: Option<(Timestamp, String)>,
    /// What is not as it should be with one that is up; may be empty.
    pub remark: String,
}

type Job = Box<dyn FnOnce(&mut dyn Provider) + Send>;

pub(super) struct Guard {
    pub(super) by: By,
    /// Where it is, for people.
    pub(super) place: String,
    jobs: mpsc::Sender<Job>,
    health: watch::Sender<Health>,
    limit: Duration,
}

impl Guard {
    pub(super) fn new(by: By, place: String, provider: Box<dyn Provider>) -> Result<Self, KeyError> {
        Self::with_limit(by, place, provider, LIMIT)
    }

    fn with_limit(
        by: By,
        place: String,
        provider: Box<dyn Provider>,
        limit: Duration,
    ) -> Result<Self, KeyError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let health = Health { down: None, remark: provider.remark() };
        let mut provider = provider;
        let work = move || queue.into_iter().for_each(|job| job(provider.as_mut()));
        thread::Builder::new()
            .name("keys".to_owned())
            .spawn(work)
            .map_err(|e| KeyError::because("the key provider cannot be given a thread", e))?;
        Ok(Self { by, place, jobs, health: watch::Sender::new(health), limit })
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(super) fn generation(&self) -> Result<u32, KeyError> {
        self.call(|p| p.generation())
    }

    pub(super) fn wrap(&self, key: &Key, generation: u32, about: Vec<u8>) -> Result<Vec<u8>, KeyError> {
        let key = again(key);
        self.call(move |p| p.wrap(&key, generation, &about))
    }

    pub(super) fn unwrap(&self, sealed: Vec<u8>, generation: u32, about: Vec<u8>) -> Result<Key, KeyError> {
        self.call(move |p| p.unwrap(&sealed, generation, &about))
    }

    pub(super) fn rotate(&self) -> Result<u32, KeyError> {
        self.call(|p| p.rotate())
    }

    pub(super) fn retire(&self, below: u32) -> Result<(), KeyError> {
        self.call(move |p| p.retire(below))
    }

    pub(super) fn own(&self) -> Result<Vec<(String, Key)>, KeyError> {
        self.call(|p| Ok(p.own()))
    }

    /// Whoever follows its health looks again.
    pub(super) fn wake(&self) {
        self.health.send_modify(|_| {});
    }

    pub(super) fn is_down(&self) -> bool {
        self.health.borrow().down.is_some()
    }

    /// Ask it, also where it is down.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let done = self.ask(|p| Ok((p.check(), p.remark())));
        let (checked, remark) = match done {
            Ok((checked, remark)) => (checked, remark),
            Err(failure) => (Err(failure), String::new()),
        };
        // One that refuses a probe does not do what it is for.
        let down = checked.as_ref().err().map(|failure| crate::ledger::chain(failure));
        self.note(down, Some(remark));
        checked
    }

    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Provider) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        if let Some((_, why)) = &self.health.borrow().down {
            return Err(KeyError::unreachable(why.clone()));
        }
        let done = self.ask(work);
        if let Err(failure) = &done
            && failure.unreachable
        {
            self.note(Some(crate::ledger::chain(failure)), None);
        }
        done
    }

    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Provider) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let (begin, begun) = mpsc::sync_channel(1);
        let (tell, hear) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |provider| {
            // Where nobody waits for it any more, it must not happen behind the log's back.
            if begin.send(()).is_ok() {
                let _ = tell.send(work(provider));
            }
        });
        let late = || {
            let text = format!("the key provider did not answer within {} s", self.limit.as_secs());
            KeyError::unreachable(text)
        };
        let ended = || KeyError::unreachable("the key provider failed; holmd has to be started again");
        self.jobs.send(job).map_err(|_| ended())?;
        // Those before have the same time, each of them. Where one is not answered it is down, and nobody waits on.
        while let Err(e) = begun.recv_timeout(self.limit) {
            match e {
                mpsc::RecvTimeoutError::Disconnected => return Err(ended()),
                mpsc::RecvTimeoutError::Timeout if self.is_down() => return Err(late()),
                mpsc::RecvTimeoutError::Timeout => {}
            }
        }
        hear.recv_timeout(self.limit).map_err(|e| match e {
            mpsc::RecvTimeoutError::Timeout => late(),
            mpsc::RecvTimeoutError::Disconnected => ended(),
        })?
    }

    fn note(&self, down: Option<String>, remark: Option<String>) {
        self.health.send_if_modified(|health| {
            let since = health.down.as_ref().map_or_else(Timestamp::now, |(since, _)| *since);
            let next = Health {
                down: down.map(|why| (since, why)),
                remark: remark.unwrap_or_else(|| health.remark.clone()),
            };
            let changed = *health != next;
            *health = next;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::random;
    use secrecy::ExposeSecret;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    /// Hangs as long as a test holds the lock, and counts what it made.
    #[derive(Clone, Default)]
    struct Hangs(Arc<(Mutex<()>, AtomicU32)>);

    impl Provider for Hangs {
        fn generation(&mut self) -> Result<u32, KeyError> {
            drop(self.0.0.lock().unwrap());
            Ok(1)
        }
        fn wrap(&mut self, key: &Key, _: u32, _: &[u8]) -> Result<Vec<u8>, KeyError> {
            Ok(key.expose_secret().to_vec())
        }
        fn unwrap(&mut self, sealed: &[u8], _: u32, _: &[u8]) -> Result<Key, KeyError> {
            crate::keys::as_key(sealed).ok_or_else(|| KeyError::new("no"))
        }
        fn rotate(&mut self) -> Result<u32, KeyError> {
            self.0.1.fetch_add(1, SeqCst);
            Ok(2)
        }
        fn retire(&mut self, _: u32) -> Result<(), KeyError> {
            Ok(())
        }
    }

    #[test]
    fn one_that_hangs_holds_up_nobody_and_does_nothing_late() {
        let hangs = Hangs::default();
        let limit = Duration::from_secs(2);
        let guard = Guard::with_limit(By::Vault, String::new(), Box::new(hangs.clone()), limit).unwrap();
        guard.check().unwrap();
        let held = hangs.0.0.lock().unwrap();
        assert!(guard.generation().unwrap_err().unreachable);
        assert!(guard.health().borrow().down.is_some());
        // What is asked while it hangs is refused at once.
        let began = Instant::now();
        for _ in 0..10 {
            assert!(guard.wrap(&random().unwrap(), 1, Vec::new()).unwrap_err().unreachable);
        }
        assert!(began.elapsed() < limit);
        // But for the check, which waits; and what nobody waits for any more is not done.
        assert!(guard.ask(|p| p.rotate()).unwrap_err().unreachable);
        drop(held);
        guard.check().unwrap();
        assert_eq!(guard.health().borrow().down, None);
        assert_eq!(hangs.0.1.load(SeqCst), 0, "it was rotated after nobody waited for it");
        assert_eq!(guard.generation().unwrap(), 1);
    }

    #[test]
    fn one_that_is_slow_is_not_down_however_many_wait() {
        let (hangs, many) = (Hangs::default(), 6);
        let limit = Duration::from_millis(500);
        let guard = Guard::with_limit(By::Vault, String::new(), Box::new(hangs), limit).unwrap();
        let (_never, silence) = mpsc::channel::<()>();
        let silence = Mutex::new(silence);
        thread::scope(|scope| {
            let (guard, silence) = (&guard, Arc::new(silence));
            let asked: Vec<_> = (0..many)
                .map(|_| {
                    let silence = Arc::clone(&silence);
                    let slow = move |p: &mut dyn Provider| {
                        let _ = silence.lock().unwrap().recv_timeout(Duration::from_millis(300));
                        p.generation()
                    };
                    scope.spawn(move || guard.call(slow))
                })
                .collect();
            // Together they take several times the limit.
            asked.into_iter().for_each(|one| assert_eq!(one.join().unwrap().unwrap(), 1));
        });
        assert_eq!(guard.health().borrow().down, None);
    }
}
