//! What goes on once the slice is there: what the host orders, how full the disks are when that is news, and now and then that
//! this machine lives.

use crate::{
    disks::{self, Mounted},
    event,
    failed::{Failed, Of as _, Outcome},
    fullness::{self, Fullness},
    port::Port,
    words::Order,
};
use std::{
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

/// How often it is looked how full disks are.
const LOOK: Duration = Duration::from_secs(60);
const ALIVE: Duration = Duration::from_secs(300);

/// Does it.
pub fn for_ever(port: Option<&Port>, run: &Path, mounted: &[Mounted], orders: &Receiver<Order>) -> Outcome {
    let (mut said, mut lived, mut looked) = (None, None::<Instant>, None::<Instant>);
    let since = |at: Option<Instant>, limit| at.is_none_or(|at: Instant| at.elapsed() >= limit);
    loop {
        if since(looked, LOOK) {
            looked = Some(Instant::now());
            if let Some(port) = port.filter(|_| !mounted.is_empty() && since(lived, ALIVE)) {
                lived = Some(Instant::now());
                port.say_alive().of("the port")?;
            }
            // What cannot be found out now may be later, and the slice runs on.
            if let Err(Failed(why)) = look(port, run, mounted, &mut said) {
                eprintln!("disks: {why}");
            }
        }
        let left = LOOK.saturating_sub(looked.map_or(LOOK, |at| at.elapsed()));
        match orders.recv_timeout(left) {
            Ok(Order::Grow) => mounted.iter().for_each(disks::grow),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            // Without a port nobody orders anything.
            Err(RecvTimeoutError::Disconnected) => {
                let _ = rustix::event::poll(&mut [], rustix::event::Timespec::try_from(left).ok().as_ref());
            }
        }
    }
}

/// Says how full they are, if that is news.
fn look(port: Option<&Port>, run: &Path, mounted: &[Mounted], said: &mut Option<Vec<(u64, u64)>>) -> Outcome {
    let disks = mounted.iter().map(Fullness::of).collect::<Outcome<Vec<_>>>()?;
    let news: Vec<_> = disks.iter().map(|disk| (disk.bytes, disk.percent())).collect();
    if !disks.is_empty() && said.as_ref() != Some(&news) {
        if let Some(port) = port {
            port.say_disks(event::disks(&disks)).of("the port")?;
        }
        fullness::notice(run, &disks)?;
        *said = Some(news);
    }
    Ok(())
}
