//! The key hierarchy: who holds what, and of which generation. No key is in it.

use super::{plural, time_json, when_full, yes_no};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::Clock;
use holm_proto::v1::{Keys, ProjectKey, ProviderDown};
use serde_json::{Value, json};

/// The provider.
pub fn keys(k: &Keys, clock: &Clock) -> Sheet {
    let state = match &k.down {
        Some(_) => Cell::new("CANNOT BE REACHED").tone(Tone::Bad),
        None => Cell::new("reachable").tone(Tone::Good),
    };
    let mut sheet = Sheet::new(format!("key provider {}", k.provider)).state(state);
    let generation =
        if k.kek_generation == 0 { "not known".to_owned() } else { k.kek_generation.to_string() };
    let behind = k.projects.iter().filter(|one| is_behind(k, one)).count() as u64;
    sheet
        .line("where", k.place.as_str())
        .line("generation of its key", generation)
        .line("before it", k.former_provider.as_str());
    if let Some(down) = &k.former_down {
        let text = "the one before CANNOT BE REACHED; what it still wraps waits for it";
        sheet
            .line("alert", Cell::new(text).tone(Tone::Bad))
            .line("since", when_full(down.since.as_ref(), clock))
            .line("why", down.why.as_str());
    }
    if let Some(down) = &k.down {
        sheet
            .line("alert", Cell::new("nothing starts; what runs runs on; it goes by itself").tone(Tone::Bad))
            .line("since", when_full(down.since.as_ref(), clock))
            .line("why", down.why.as_str());
    }
    if !k.remark.is_empty() {
        sheet.line("remark", Cell::new(&k.remark).tone(Tone::Busy));
    }
    if behind > 0 {
        let text = format!("{} wrapped by an older key", plural(behind, "project key"));
        sheet.line("behind", Cell::new(text).tone(Tone::Busy));
    }
    sheet
}

/// The projects that have a key.
pub fn project_keys(k: &Keys) -> Table {
    let row = |one: &ProjectKey| {
        vec![
            Cell::from(one.project.as_str()),
            one.generation.to_string().into(),
            one.provider.as_str().into(),
            one.kek_generation.to_string().into(),
            one.volumes.to_string().into(),
            yes_no(one.rotating),
        ]
    };
    Table {
        columns: vec!["project", "generation", "wrapped by", "its generation", "volumes", "rotating"],
        rows: k.projects.iter().map(row).collect(),
        empty: "no project has a key: its first slice gets it one",
    }
}

/// As `holm.v1.Keys` has it.
pub fn keys_json(k: &Keys) -> Value {
    let projects: Vec<Value> = k
        .projects
        .iter()
        .map(|one| {
            json!({
                "project": one.project,
                "generation": one.generation,
                "provider": one.provider,
                "kek_generation": one.kek_generation,
                "volumes": one.volumes,
                "rotating": one.rotating,
            })
        })
        .collect();
    let down = |down: &Option<ProviderDown>| {
        down.as_ref().map(|down| json!({ "since": time_json(down.since.as_ref()), "why": down.why }))
    };
    json!({
        "provider": k.provider,
        "place": k.place,
        "kek_generation": k.kek_generation,
        "former_provider": k.former_provider,
        "down": down(&k.down),
        "former_down": down(&k.former_down),
        "remark": k.remark,
        "projects": projects,
    })
}

fn is_behind(k: &Keys, one: &ProjectKey) -> bool {
    one.provider != k.provider || one.kek_generation < k.kek_generation
}
