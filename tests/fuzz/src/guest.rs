//! What a guest says over its port, to the agent of its host: any bytes, cut in any way. What is taken for an event is
//! what such an event can be, and safe to show; what is held of a line is bounded; how the bytes were cut changes nothing.
//!
//! The first byte says in pieces of how many bytes the rest comes.

#![no_main]

use holm_agent::{
    edge::GuestEvent,
    guest::{Lines, MAX_LINE_BYTES, parse},
};
use holm_proto::{fullness, guest, jobs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = heard(&mut Lines::default(), [bytes].into_iter());
    let cut = heard(&mut Lines::default(), bytes.chunks(usize::from(*piece) + 1));
    assert_eq!(whole, cut);
    whole.into_iter().flatten().for_each(possible);
});

/// Of each line what event it is.
fn heard<'a>(lines: &mut Lines, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Option<GuestEvent>> {
    let mut events = Vec::new();
    for piece in pieces {
        lines.push(piece, |line| {
            assert!(line.is_none_or(|line| line.len() <= MAX_LINE_BYTES));
            events.push(line.and_then(parse));
        });
    }
    events
}

fn possible(event: GuestEvent) {
    match event {
        GuestEvent::Boot | GuestEvent::Alive => {}
        GuestEvent::Ready(guest) => {
            assert!(guest.gpus <= 64);
            text(&guest.slurm, 64);
            text(&guest.ssh_host_key, MAX_LINE_BYTES);
        }
        GuestEvent::Failed(reason) => text(&reason, 512),
        GuestEvent::Disks(disks) => {
            assert_eq!(fullness::plausible(disks.clone()).as_ref(), Some(&disks));
        }
        GuestEvent::People(of) | GuestEvent::Scheduler(of) => assert!(guest::is_told(&of)),
        GuestEvent::Jobs(used) => assert!(jobs::is_plausible(&used)),
        GuestEvent::Claim { boot, claim } => {
            assert!(guest::is_boot(&boot) && guest::is_plausible(&claim));
            assert!(format!("{claim:?}").bytes().all(|byte| matches!(byte, b' '..=b'~')));
        }
        GuestEvent::Lost(lines) => panic!("no line says that {lines} are lost"),
    }
}

fn text(text: &str, most: usize) {
    assert!(text.len() <= most && text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
}
