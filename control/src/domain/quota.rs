//! How much disk the slices of a project may have together.
//!
//! What counts is every disk of every slice that was asked for and is not yet taken apart: also of one that waits for
//! an approval, and of one that rests. A quota that is lowered takes nothing away, and lets nothing more be asked for.

use super::records::{Change, Project, Record, Slice};
use super::{Refusal, RefusalKind, State};

/// GiB; more no site has.
pub const MOST_GIB: u64 = 1 << 30;

/// How a project stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// GiB its slices may have together; 0: no limit.
    pub disk_gib: u64,
    /// GiB they have.
    pub used_gib: u64,
    /// Nobody has set it: it is the site's.
    pub of_site: bool,
}

/// How it stands. `site_gib`: what holds for projects of which nobody said anything else; 0: no limit.
pub fn quota(state: &State, project: &Project, site_gib: u64) -> Quota {
    let has_disks = |s: &&Slice| s.project == project.id && !s.state.is_final() && s.detached.is_none();
    Quota {
        disk_gib: project.disk_gib.unwrap_or(site_gib),
        used_gib: state.slices.values().filter(has_disks).map(Slice::disks_gib).fold(0, u64::saturating_add),
        of_site: project.disk_gib.is_none(),
    }
}

/// Refuses what would be beyond it: `more_gib` beside what its slices have.
pub fn demand(state: &State, project: &Project, site_gib: u64, more_gib: u64) -> Result<(), Refusal> {
    let Quota { disk_gib, used_gib, .. } = quota(state, project, site_gib);
    let wanted = used_gib.saturating_add(more_gib);
    if disk_gib == 0 || wanted <= disk_gib {
        return Ok(());
    }
    let text = format!(
        "the slices of `{}` may have {disk_gib} GiB of disks together: they have {used_gib}, and {more_gib} more were \
         asked for",
        project.name
    );
    Err(Refusal::new(RefusalKind::State, text).hint(format!(
        "ask for less (--disk, --home, --scratch), close a slice that is not needed, or have an operator allow more: \
         holm project quota {} --disk-gib {wanted}",
        project.name
    )))
}

/// Set it, or with `None` let it be the site's again.
pub fn set(project: &Project, disk_gib: Option<u64>) -> Result<Vec<Change>, Refusal> {
    if let Some(gib) = disk_gib.filter(|gib| *gib > MOST_GIB) {
        let text = format!("a quota has at most {MOST_GIB} GiB: `{gib}` is not one; 0 is no limit");
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    Ok(vec![Change::Put(Record::Project(Project { disk_gib, ..project.clone() }))])
}
