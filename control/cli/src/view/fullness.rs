//! What a project may have of disks.

use holm_proto::v1::Quota;
use serde_json::{Value, json};

/// `300 of 500 GiB`.
pub fn quota(q: &Quota) -> String {
    let whose = if q.of_site { ", as for every project here" } else { "" };
    match q.disk_gib {
        0 => format!("{} GiB, no limit{whose}", q.used_gib),
        most => format!("{} of {most} GiB{whose}", q.used_gib),
    }
}

/// As `holm.v1.Quota` has it.
pub fn quota_json(q: &Quota) -> Value {
    json!({ "project": q.project, "disk_gib": q.disk_gib, "used_gib": q.used_gib, "of_site": q.of_site })
}
