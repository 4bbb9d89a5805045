//! Guest images, what is in them, and what is known to be wrong with that.

use super::{time_json, when, when_full};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::Clock;
use holm_proto::image::{Manifest, Package};
use holm_proto::v1::Image;
use serde::Deserialize;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Digits of an id that are shown.
const SHORT: usize = 12;

/// As much of an id as tells it from others.
pub fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

fn state(image: &Image) -> Cell {
    if image.current {
        Cell::new("current").tone(Tone::Good)
    } else if image.promoted.is_some() {
        Cell::new("former").tone(Tone::Dim)
    } else {
        Cell::new("added").tone(Tone::Busy)
    }
}

/// A list.
pub fn images(all: &[Image], clock: &Clock) -> Table {
    let row = |image: &Image| {
        vec![
            Cell::both(short(&image.id), &image.id),
            image.version.as_str().into(),
            state(image),
            when(image.added.as_ref(), clock),
            when(image.promoted.as_ref(), clock),
            image.slices.len().to_string().into(),
            hosts(image),
        ]
    };
    Table {
        columns: vec!["image", "version", "state", "added", "promoted", "slices", "hosts"],
        rows: all.iter().map(row).collect(),
        empty: "no images: each host makes root disks over the one that it is configured with",
    }
}

fn hosts(image: &Image) -> Cell {
    let mut text = image.hosts.join(", ");
    if image.missing_on > 0 {
        let which = if image.missing_hosts.is_empty() {
            image.missing_on.to_string()
        } else {
            image.missing_hosts.join(", ")
        };
        let missing = format!("missing on {which}");
        text = if text.is_empty() { missing } else { format!("{text}; {missing}") };
    }
    let cell = Cell::both(text, image.hosts.join(" "));
    if image.current && image.missing_on > 0 { cell.tone(Tone::Bad) } else { cell }
}

/// One.
pub fn image(image: &Image, manifest: &Manifest, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(image.version.clone()).state(state(image));
    sheet.line("id", image.id.as_str());
    sheet.line("recipe", image.recipe.as_str());
    sheet.line("signed by", image.signer.as_str());
    sheet.line("added by", image.added_by.as_str());
    sheet.line("added", when_full(image.added.as_ref(), clock));
    sheet.line("promoted by", image.promoted_by.as_str());
    sheet.line("promoted", when_full(image.promoted.as_ref(), clock));
    sheet.line("comment", image.comment.as_str());
    sheet.line("hosts", hosts(image));
    sheet.line("packages", manifest.packages.len().to_string());
    for (at, slice) in image.slices.iter().enumerate() {
        sheet.line(if at == 0 { "slices" } else { "" }, slice.as_str());
    }
    sheet
}

/// What is installed in it.
pub fn packages(manifest: &Manifest) -> Table {
    let row = |p: &Package| vec![p.name.as_str().into(), p.version.as_str().into(), p.source.as_str().into()];
    Table {
        columns: vec!["package", "version", "source"],
        rows: manifest.packages.iter().map(row).collect(),
        empty: "its manifest names no packages",
    }
}

/// As `holm.v1.Image` has it.
pub fn image_json(image: &Image) -> Value {
    json!({
        "id": image.id, "version": image.version, "recipe": image.recipe, "signer": image.signer,
        "added_by": image.added_by, "added": time_json(image.added.as_ref()),
        "promoted_by": image.promoted_by, "promoted": time_json(image.promoted.as_ref()),
        "comment": image.comment, "current": image.current, "hosts": image.hosts,
        "missing_on": image.missing_on, "missing_hosts": image.missing_hosts, "slices": image.slices,
    })
}

/// With what is in it, and what is known of that; `None`: nobody looked.
pub fn image_json_whole(image: &Image, manifest: &Manifest, known: Option<&[Advisory]>) -> Value {
    let mut all = image_json(image);
    let package = |p: &Package| json!({ "name": p.name, "version": p.version, "source": p.source, "source_version": p.source_version });
    if let Some(all) = all.as_object_mut() {
        all.insert("packages".to_owned(), manifest.packages.iter().map(package).collect());
        let advisory = |a: &Advisory| json!({ "id": a.id, "source": a.source, "version": a.version, "mended_in": a.mended_in, "urgency": a.urgency });
        all.insert(
            "advisories".to_owned(),
            known.map_or(Value::Null, |all| all.iter().map(advisory).collect()),
        );
    }
    all
}

/// Something known to be wrong with a package of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advisory {
    /// `CVE-2026-1234`.
    pub id: String,
    /// The source package.
    pub source: String,
    /// Its version in the image.
    pub version: String,
    /// Where it is mended; empty: nowhere yet.
    pub mended_in: String,
    /// As Debian says.
    pub urgency: String,
}

/// Debian's list: package → advisory → release → how it stands there.
type Tracker = BTreeMap<String, BTreeMap<String, Entry>>;

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default)]
    releases: BTreeMap<String, Standing>,
}

#[derive(Debug, Deserialize)]
struct Standing {
    #[serde(default)]
    status: String,
    #[serde(default)]
    fixed_version: String,
    #[serde(default)]
    urgency: String,
}

/// What the list says of an image's packages in this release: first what a later version mends.
pub fn advisories(manifest: &Manifest, list: &str, release: &str) -> Result<Vec<Advisory>, String> {
    let tracker: Tracker = serde_json::from_str(list)
        .map_err(|error| format!("it is no list of Debian's security tracker: {error}"))?;
    let known = tracker.values().flat_map(BTreeMap::values).any(|entry| entry.releases.contains_key(release));
    if !known {
        let release: String = release.escape_debug().take(40).collect();
        return Err(format!("it says nothing of a release `{release}`"));
    }
    let sources = sources(manifest);
    let mut found = Vec::new();
    for (source, version) in sources {
        for (id, entry) in tracker.get(source).into_iter().flatten() {
            let Some(standing) = entry.releases.get(release) else { continue };
            let mended = &standing.fixed_version;
            // The comparison takes nothing else apart.
            let later = mended.is_ascii() && deb_version::compare_versions(version, mended) == Ordering::Less;
            let open = match standing.status.as_str() {
                // "0": never was in it.
                "resolved" => mended != "0" && later,
                "open" => true,
                _ => false,
            };
            if open {
                found.push(Advisory {
                    id: id.clone(),
                    source: source.to_owned(),
                    version: version.to_owned(),
                    mended_in: if standing.status == "resolved" { mended.clone() } else { String::new() },
                    urgency: standing.urgency.clone(),
                });
            }
        }
    }
    found.sort_by(|a, b| {
        (a.mended_in.is_empty(), &a.source, &a.id).cmp(&(b.mended_in.is_empty(), &b.source, &b.id))
    });
    Ok(found)
}

/// What its packages are made of, as the list calls that: the signed kernel is of `linux`.
fn sources(manifest: &Manifest) -> BTreeSet<(&str, &str)> {
    let of = |p: &'_ Package| p.name.starts_with("linux-image-");
    let one = |p| {
        if of(p) { ("linux", p.version.as_str()) } else { (p.source.as_str(), p.source_version.as_str()) }
    };
    manifest.packages.iter().map(one).collect()
}

/// `12 known, 3 of them mended in later versions; the list names 90 of 104 source packages`.
pub fn advisories_in_short(manifest: &Manifest, list: &str, found: &[Advisory]) -> String {
    let tracker: Tracker = serde_json::from_str(list).unwrap_or_default();
    let all = sources(manifest);
    let named = all.iter().filter(|(source, _)| tracker.contains_key(*source)).count();
    let mended = found.iter().filter(|advisory| !advisory.mended_in.is_empty()).count();
    format!(
        "{} known, {mended} of them mended in later versions; the list names {named} of {} source packages",
        found.len(),
        all.len()
    )
}

/// Those that were found.
pub fn known(all: &[Advisory]) -> Table {
    let row = |a: &Advisory| {
        let mended = match a.mended_in.as_str() {
            "" => Cell::both("not yet", "").tone(Tone::Busy),
            version => Cell::new(version).tone(Tone::Bad),
        };
        vec![
            a.id.as_str().into(),
            a.source.as_str().into(),
            a.version.as_str().into(),
            mended,
            a.urgency.as_str().into(),
        ]
    };
    Table {
        columns: vec!["advisory", "source", "in the image", "mended in", "urgency"],
        rows: all.iter().map(row).collect(),
        empty: "nothing in the list is about what is installed in it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let files: String =
            holm_proto::image::FILES.iter().map(|file| format!("{}  {file}\n", "a".repeat(64))).collect();
        Manifest::read(&format!(
            "recipe ab\n{files}libssl3 3.5.0-1 openssl\nopenssl 3.5.0-1\nslurmd 24.11.5-4+deb13u1 slurm-wlm\nbash 5.2-1+b2 bash 5.2-1\nlinux-image-6.12-cloud-amd64 6.12.118-1\n"
        ))
        .unwrap()
    }

    #[test]
    fn what_a_later_version_mends_comes_first_and_what_was_never_in_it_not_at_all() {
        let list = json!({
            "openssl": {
                "CVE-1": { "releases": { "trixie": { "status": "resolved", "fixed_version": "3.5.0-1+deb13u1", "urgency": "high" } } },
                "CVE-2": { "releases": { "trixie": { "status": "resolved", "fixed_version": "3.5.0-1~rc1" } } },
                "CVE-3": { "releases": { "trixie": { "status": "resolved", "fixed_version": "0" } } },
                "CVE-4": { "releases": { "sid": { "status": "open" } } },
                "CVE-5": { "releases": { "trixie": { "status": "open" } } },
                "CVE-6": { "releases": { "trixie": { "status": "resolved", "fixed_version": "3.ø" } } },
            },
            "slurm-wlm": { "CVE-7": { "releases": { "trixie": { "status": "resolved", "fixed_version": "24.11.5-4+deb13u2" } } } },
            "linux": { "CVE-10": { "releases": { "trixie": { "status": "resolved", "fixed_version": "6.12.119-1" } } } },
            "bash": { "CVE-8": { "releases": { "trixie": { "status": "resolved", "fixed_version": "5.2-1" } } } },
            "libssl3": { "CVE-9": { "releases": { "trixie": { "status": "open" } } } },
        });
        let found = advisories(&manifest(), &list.to_string(), "trixie").unwrap();
        let ids: Vec<&str> = found.iter().map(|a| a.id.as_str()).collect();
        assert_eq!(ids, ["CVE-10", "CVE-1", "CVE-7", "CVE-5"]);
        let short = advisories_in_short(&manifest(), &list.to_string(), &found);
        assert_eq!(
            short,
            "4 known, 3 of them mended in later versions; the list names 4 of 4 source packages"
        );
        assert_eq!(found[1].mended_in, "3.5.0-1+deb13u1");
        assert!(advisories(&manifest(), &list.to_string(), "bookworm").is_err());
        for bad in ["", "[]", "{\"openssl\":[]}", "<html>"] {
            assert!(advisories(&manifest(), bad, "trixie").is_err(), "{bad}");
        }
    }
}
