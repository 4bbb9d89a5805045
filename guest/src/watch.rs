//! What goes on once the slice is there: what the host orders, how full the disks are when that is news, and now and then that
//! this machine lives.

use crate::{
    Slice,
    disks::{self, Mounted},
    event,
    failed::{Failed, Of as _, Outcome},
    fullness::{self, Fullness},
    members::Members,
    port::Port,
    scheduler::{self, Scheduler},
    words::Order,
};
use std::{
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

/// How often it is looked how full disks are.
const LOOK: Duration = Duration::from_secs(60);
const ALIVE: Duration = Duration::from_secs(300);

/// Something that is done again and again.
#[derive(Debug, Default)]
struct Due(Option<Instant>);

impl Due {
    /// True where it is time, and then not before another `every`.
    fn is(&mut self, now: Instant, every: Duration) -> bool {
        let due = self.0.is_none_or(|at| now >= at);
        if due {
            self.0 = Some(now + every);
        }
        due
    }

    fn left(&self, now: Instant) -> Duration {
        self.0.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

/// Does it.
pub fn for_ever(
    port: Option<&Port>,
    run: &Path,
    slice: Slice,
    orders: &Receiver<Order>,
    drains: &Sender<bool>,
) -> Outcome {
    let Slice { mounted, project, people, gpus, settings, serves, .. } = slice;
    let mut scheduler = settings.map(|settings| Scheduler::new(project.clone(), gpus, settings));
    // Where it is not known who they are, nobody was let in.
    let mut members = people.map(|people| Members::new(project, people));
    let (mut said, mut alive, mut look) = (None, Due::default(), Due::default());
    let mut said_drains = None;
    loop {
        let now = Instant::now();
        if serves && look.is(now, LOOK) {
            if let Some(port) = port.filter(|_| alive.is(now, ALIVE)) {
                port.say_alive().of("the port")?;
            }
            if let Some(members) = members.as_mut() {
                members.look_again();
            }
            // What cannot be found out now may be later, and the slice runs on.
            if let Err(Failed(why)) = how_full(port, run, &mounted, &mut said) {
                eprintln!("disks: {why}");
            }
        }
        let next = port.zip(members.as_mut()).and_then(|(port, members)| members.turn(port, serves));
        if let Some(scheduler) =
            scheduler.as_ref().filter(|scheduler| said_drains != Some(scheduler.drains()))
        {
            said_drains = Some(scheduler.drains());
            // Where nobody counts jobs nobody listens.
            let _ = drains.send(scheduler.drains());
        }
        let settles = port.zip(scheduler.as_mut()).and_then(|(port, scheduler)| scheduler.turn(port));
        let looks = if serves { look.left(Instant::now()) } else { LOOK };
        let left = [next, settles].into_iter().flatten().fold(looks, Duration::min);
        match orders.recv_timeout(left) {
            Ok(Order::Grow) => mounted.iter().for_each(disks::grow),
            Ok(Order::People(people)) => {
                if let Some((port, members)) = port.zip(members.as_mut())
                    && let Err(Failed(why)) = members.want(people, run, port)
                {
                    eprintln!("people: {why}");
                }
            }
            Ok(Order::Scheduler(settings)) => {
                let done = match scheduler.as_mut() {
                    Some(scheduler) => scheduler.want(settings, run),
                    // For whoever begins anew: Slurm does not run.
                    None => scheduler::keep(&settings, run),
                };
                if let Err(Failed(why)) = done {
                    eprintln!("scheduler: {why}");
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            // Without a port nobody orders anything.
            Err(RecvTimeoutError::Disconnected) => {
                let _ = rustix::event::poll(&mut [], rustix::event::Timespec::try_from(left).ok().as_ref());
            }
        }
    }
}

/// Says how full they are, if that is news.
fn how_full(
    port: Option<&Port>,
    run: &Path,
    mounted: &[Mounted],
    said: &mut Option<Vec<(u64, u64)>>,
) -> Outcome {
    let disks = mounted.iter().map(Fullness::of).collect::<Outcome<Vec<_>>>()?;
    let news: Vec<_> = disks.iter().map(|disk| (disk.bytes, disk.percent())).collect();
    if said.as_ref() != Some(&news) {
        if let Some(port) = port {
            port.say_disks(event::disks(&disks)).of("the port")?;
        }
        fullness::notice(run, &disks)?;
        *said = Some(news);
    }
    Ok(())
}
