//! What Holm is measured against, and warned by: the same steps done by hand on the same host, with
//! `qemu-img` and `virsh`. Nothing cleans a GPU between two machines there.

use crate::site::{Daemon, HOST, OPERATOR, Site, list, text};
use crate::story::PATTERN;
use crate::{Outcome, demand, show};

/// Seconds from `qemu-img create` to the started machine, for the machine of this slice once more, on as many
/// other GPUs. The agent is stopped meanwhile, as on a host without Holm.
pub fn start(site: &Site, lead: &str, slice: &str) -> Outcome<f64> {
    let slice = site.json(lead, &["slice", "show", slice])?;
    let gpus = free(site, list(&slice, "devices")?.len())?.join(" ");
    let id = text(&slice, "id")?;
    show::typed(
        &format!("root@{HOST}"),
        "qemu-img create … && virsh secret-define … && virsh define … && virsh start …",
    );
    site.kill(Daemon::Agent)?;
    let said = site.by_hand(&format!("start {id} {gpus}"))?;
    said.lines().for_each(show::printed);
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)?;
    let seconds = said.lines().find_map(|line| line.strip_prefix("started="));
    Ok(seconds.ok_or("no time was printed")?.trim().parse()?)
}

/// A GPU goes from one machine to the next, and what the first wrote is there for the second to read. The agent
/// is stopped meanwhile: it would notice that somebody else uses the GPU, and clean it. When it is back, every
/// free GPU is cleaned again, because nobody watched it.
pub fn hand_over(site: &Site) -> Outcome {
    let gpu = free(site, 1)?.join("");
    show::say("with the agent stopped: it would notice, and clean the GPU in between");
    site.kill(Daemon::Agent)?;
    let secret = PATTERN.get(..16).ok_or("a pattern of 16 bytes")?;
    show::typed(&format!("root@{HOST}"), "virsh start first; virsh destroy first; virsh start second");
    let said = site.by_hand(&format!("hand-over {gpu} '{secret}'"))?;
    said.lines().for_each(show::printed);
    demand(
        said.contains(&format!("by-hand-second finds [{secret}]")),
        "the negative control failed: by hand, the second machine did not read what the first one wrote",
    )?;
    show::seen("by hand, the second machine reads what the first one wrote: VFIO cleans no memory");
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)?;
    let dirty = site.json(OPERATOR, &["host", "show", HOST])?;
    let evidence = list(&dirty, "devices")?.iter().find(|d| d["pci"]["address"] == gpu.as_str());
    let before = evidence.and_then(|d| d["evidence"]["bytes_dirty_before"].as_u64()).unwrap_or(0);
    demand(before > 0, format!("the agent cleaned {gpu} again and found {before} bytes"))?;
    show::seen("back again, Holm cleans every free GPU once more, and finds what was left in this one");
    Ok(())
}

/// Free GPUs of the host, by address.
pub fn free(site: &Site, count: usize) -> Outcome<Vec<String>> {
    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    let free: Vec<String> = list(&host, "devices")?
        .iter()
        .filter(|device| device["state"] == "free")
        .filter_map(|device| device["pci"]["address"].as_str().map(str::to_owned))
        .rev()
        .take(count)
        .collect();
    demand(free.len() == count, format!("{} of {count} GPUs are free", free.len()))?;
    Ok(free)
}
