//! holmd's messages as tables, sheets and JSON.
//!
//! JSON has the fields of the `.proto` files under their names; states are words, times RFC 3339.

mod alert;
mod backup;
mod batch;
mod certificate;
mod fullness;
mod host;
mod image;
mod incident;
mod keys;
mod lock;
mod policy;
mod queue;
mod recording;
mod registration;
mod review;
mod sample;
mod slice;
mod svg;
mod things;
mod topology;
mod usage;

pub use alert::{alerts, checks, commissioning_json};
pub use backup::{backup_json, backups, job, outcome};
pub use batch::{Batch, batch, batch_json, batches};
pub use certificate::{Deletion, NotADeletion, note_in, page};
pub use fullness::{quota, quota_json};
pub use host::{closed, device_state, gpus_json, host, host_json, hosts, named, service_json, topology_json};
pub use image::{
    Advisory, advisories, advisories_in_short, image, image_json, image_json_whole, images, known, packages,
    short,
};
pub use incident::{incident_json, incidents};
pub use keys::{keys, keys_json, project_keys};
pub use lock::{lock_json, locks};
pub use policy::{
    changes, difference, difference_json, explanation, explanation_json, levels, pack_json, policy_json,
    policy_remark, site_rules,
};
pub use queue::{explained, explained_json, queue, queue_json};
pub use recording::{Recording, parse_recordings, recording_json, recordings, shown};
pub use registration::{entry_json, record, record_json, register};
pub use review::{review, review_json};
pub use sample::{sample, sample_json, samples};
pub use slice::{
    approvals, asks_for, explain, has, label, next_command, size, sizes, slice, slice_json, slices, state,
    state_tone, step_text, word,
};
pub use svg::svg;
pub use things::{
    invitation_json, members, people, person, person_json, project, project_json, projects, short_identity,
};
pub use topology::{Branch, Topology, health_word, paths, paths_json};

pub use usage::{
    class_json, classes, report, report_json, report_page, summed, usage, usage_hours, usage_json,
};

use crate::output::{Cell, Tone};
use crate::text::{Clock, instant};
use serde_json::Value;

/// A time of the wire for JSON.
pub(crate) fn time_json(at: Option<&prost_types::Timestamp>) -> Value {
    instant(at).map_or(Value::Null, |at| at.to_string().into())
}

/// A time of the wire in a column.
pub(crate) fn when(at: Option<&prost_types::Timestamp>, clock: &Clock) -> Cell {
    match instant(at) {
        Some(at) => Cell::both(clock.relative(at), at.to_string()),
        None => Cell::default(),
    }
}

/// A time of the wire where there is room.
fn when_full(at: Option<&prost_types::Timestamp>, clock: &Clock) -> Cell {
    match instant(at) {
        Some(at) => Cell::both(clock.full(at), at.to_string()),
        None => Cell::default(),
    }
}

fn yes_no(yes: bool) -> Cell {
    if yes { Cell::both("yes", "true") } else { Cell::both("no", "false").tone(Tone::Dim) }
}

pub fn plural(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

#[cfg(test)]
pub(crate) use certificate::sample as sample_deletion;
