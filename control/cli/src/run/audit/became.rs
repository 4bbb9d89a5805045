//! What an entry changed, as far as people want to follow it: slices and devices and where they stand. Read as JSON, not as
//! records: what a later holmd adds to those does not keep this one from reading its log.

use holm_control::audit::Entry;
use serde_json::Value;

/// Where something stands after an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Became {
    /// A slice.
    Slice { id: String, name: String, state: String },
    /// A device, and the slice whose it is or was last.
    Device { name: String, gpu: bool, state: String, slice: Option<String>, reason: String },
}

/// All that an entry says of slices and devices, in its order.
pub(super) fn of(entry: &Entry) -> Vec<Became> {
    let records = entry.changes.iter().filter_map(|change| change.get("of"));
    records.filter_map(one).collect()
}

fn one(record: &Value) -> Option<Became> {
    let text = |field: &str| record.get(field).and_then(Value::as_str).map(str::to_owned);
    match record.get("kind")?.as_str()? {
        "slice" => Some(Became::Slice { id: text("id")?, name: text("name")?, state: text("state")? }),
        "device" => Some(Became::Device {
            name: format!("{}/{}", text("host")?, text("address")?),
            gpu: record.get("gpu").and_then(Value::as_bool).unwrap_or(false),
            state: text("state")?,
            slice: text("slice"),
            reason: text("reason").unwrap_or_default(),
        }),
        _ => None,
    }
}

/// In a few words: `main is ready; 2 GPUs are assigned`.
pub(super) fn words(all: &[Became]) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut gpus: Vec<(&str, usize)> = Vec::new();
    for became in all {
        match became {
            Became::Slice { name, state, .. } => words.push(format!("{name} is {state}")),
            Became::Device { gpu: true, state, .. } => match gpus.iter_mut().find(|(of, _)| of == state) {
                Some((_, count)) => *count += 1,
                None => gpus.push((state, 1)),
            },
            Became::Device { gpu: false, .. } => {}
        }
    }
    words.extend(gpus.iter().map(|(state, count)| match count {
        1 => format!("1 GPU is {state}"),
        _ => format!("{count} GPUs are {state}"),
    }));
    words.join("; ")
}
