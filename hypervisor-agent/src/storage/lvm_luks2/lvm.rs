//! Logical volumes, by LVM's own program.

use super::super::{GIB, tool};
use super::crypt;
use holm_proto::ids::VolumeId;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The program.
pub const LVM: &str = "/usr/sbin/lvm";
/// What tenants write is behind devices of this name. A volume group in there is no business of the host's, and one
/// with the name of the host's own would take its place.
const NOT_TENANTS: &str = r#"devices { global_filter = [ "r|^/dev/mapper/holm-|" ] }"#;

/// The volume group that a host keeps volumes in.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The thin pool in it that volumes come from; where there is none they are linear.
    pub pool: Option<String>,
}

/// A logical volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is noted on it.
    pub tags: BTreeSet<String>,
    /// Its size.
    pub bytes: u64,
    /// Its device is there.
    pub active: bool,
}

impl Group {
    /// Where a volume's device is.
    pub fn path(&self, volume: VolumeId) -> PathBuf {
        Path::new("/dev").join(&self.name).join(crypt::name(volume))
    }

    /// Looks for a volume.
    pub fn find(&self, volume: VolumeId) -> io::Result<Option<Found>> {
        let select = format!("lv_name={}", crypt::name(volume));
        let answer = lvm(&[
            "lvs",
            "--reportformat",
            "json",
            "--units",
            "b",
            "--nosuffix",
            "--options",
            "lv_name,lv_size,lv_tags,lv_active",
            "--select",
            &select,
            &self.name,
        ])?;
        let rows: Vec<LvRow> =
            read::<LvReport>(&answer)?.report.into_iter().flat_map(|report| report.lv).collect();
        rows.into_iter()
            .next()
            .map(|row| {
                Ok(Found {
                    tags: row.lv_tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
                    bytes: number(&row.lv_size)?,
                    active: row.lv_active == "active",
                })
            })
            .transpose()
    }

    /// Makes a volume of at least `bytes` with these tags, and its device. Nothing is written to it.
    pub fn make(&self, volume: VolumeId, bytes: u64, tags: &[&str]) -> io::Result<Found> {
        let (name, size) = (crypt::name(volume), format!("{bytes}b"));
        let pool = self.pool.as_ref().map(|pool| format!("{}/{pool}", self.name));
        let mut words = vec!["lvcreate", "--yes", "--quiet", "--wipesignatures", "n", "--name", &name];
        tags.iter().for_each(|tag| words.extend(["--addtag", tag]));
        match &pool {
            Some(pool) => words.extend(["--virtualsize", &size, "--thinpool", pool]),
            None => words.extend(["--zero", "n", "--type", "linear", "--size", &size, &self.name]),
        }
        lvm(&words)?;
        Ok(Found { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), bytes, active: true })
    }

    /// Changes its tags, all at once.
    pub fn tag(&self, volume: VolumeId, add: &[&str], remove: &[&str]) -> io::Result<()> {
        let name = self.full(volume);
        let mut words = vec!["lvchange", "--quiet"];
        add.iter().for_each(|tag| words.extend(["--addtag", tag]));
        remove.iter().for_each(|tag| words.extend(["--deltag", tag]));
        words.push(&name);
        lvm(&words).map(drop)
    }

    /// Makes its device appear.
    pub fn activate(&self, volume: VolumeId) -> io::Result<()> {
        lvm(&["lvchange", "--quiet", "--activate", "y", &self.full(volume)]).map(drop)
    }

    /// Makes it larger, to at least `bytes`.
    pub fn extend(&self, volume: VolumeId, bytes: u64) -> io::Result<()> {
        lvm(&["lvextend", "--quiet", "--size", &format!("{bytes}b"), &self.full(volume)]).map(drop)
    }

    /// Removes it.
    pub fn remove(&self, volume: VolumeId) -> io::Result<()> {
        lvm(&["lvremove", "--yes", "--quiet", &self.full(volume)]).map(drop)
    }

    /// Whether `more` bytes can be promised. A thin pool would promise any number; where there is none LVM refuses by
    /// itself what it has not.
    pub fn has_room(&self, more: u64) -> io::Result<()> {
        let Some(pool) = &self.pool else { return Ok(()) };
        let options = ["--units", "b", "--nosuffix", "--options", "lv_name,lv_size,lv_tags,lv_active"];
        let select = format!("pool_lv={pool}");
        let answer =
            lvm(&[&["lvs", "--reportformat", "json"][..], &options, &["--select", &select, &self.name]]
                .concat())?;
        let mut volumes = read::<LvReport>(&answer)?.report.into_iter().flat_map(|report| report.lv);
        let promised = volumes
            .try_fold(0_u64, |sum, row| Ok::<_, io::Error>(sum.saturating_add(number(&row.lv_size)?)))?;
        let capacity = self.capacity()?;
        if promised.saturating_add(more) <= capacity {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "thin pool `{}/{pool}` has {} GiB, {} of them promised to volumes: there is no room for {} more; make it \
             larger (`lvextend`), or destroy a slice that is not needed",
            self.name,
            capacity / GIB,
            promised.div_ceil(GIB),
            more.div_ceil(GIB)
        )))
    }

    /// Room for volumes, used by volumes or by nothing, bytes.
    pub fn capacity(&self) -> io::Result<u64> {
        if let Some(pool) = &self.pool {
            let select = format!("lv_name={pool} && segtype=thin-pool");
            let options = ["--units", "b", "--nosuffix", "--options", "lv_name,lv_size,lv_tags,lv_active"];
            let answer =
                lvm(&[&["lvs", "--reportformat", "json"][..], &options, &["--select", &select, &self.name]]
                    .concat())?;
            let mut rows = read::<LvReport>(&answer)?.report.into_iter().flat_map(|report| report.lv);
            let none =
                || io::Error::other(format!("`{pool}` is no thin pool of volume group `{}`", self.name));
            return number(&rows.next().ok_or_else(none)?.lv_size);
        }
        let units = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options"];
        let answer = lvm(&[&["vgs"][..], &units, &["vg_free", &self.name]].concat())?;
        let free = read::<VgReport>(&answer)?.report.into_iter().flat_map(|report| report.vg).next();
        let free = number(&free.ok_or_else(|| io::Error::other("LVM says nothing of it"))?.vg_free)?;
        let answer =
            lvm(&[&["lvs"][..], &units, &["lv_name,lv_size,lv_tags,lv_active", &self.name]].concat())?;
        let ours = read::<LvReport>(&answer)?.report.into_iter().flat_map(|report| report.lv);
        ours.filter(|row| row.lv_name.starts_with("holm-"))
            .try_fold(free, |sum, row| Ok(sum.saturating_add(number(&row.lv_size)?)))
    }

    fn full(&self, volume: VolumeId) -> String {
        format!("{}/{}", self.name, crypt::name(volume))
    }
}

fn lvm(words: &[&str]) -> io::Result<Vec<u8>> {
    let (first, rest) = words.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut command = Command::new(LVM);
    tool::run(command.arg(first).args(["--config", NOT_TENANTS]).args(rest), None)?.answer()
}

#[derive(Deserialize)]
struct LvReport {
    report: Vec<LvRows>,
}

#[derive(Deserialize)]
struct LvRows {
    lv: Vec<LvRow>,
}

#[derive(Deserialize)]
struct LvRow {
    lv_name: String,
    lv_size: String,
    lv_tags: String,
    lv_active: String,
}

#[derive(Deserialize)]
struct VgReport {
    report: Vec<VgRows>,
}

#[derive(Deserialize)]
struct VgRows {
    vg: Vec<VgRow>,
}

#[derive(Deserialize)]
struct VgRow {
    vg_free: String,
}

fn read<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> io::Result<T> {
    serde_json::from_slice(answer)
        .map_err(|error| io::Error::other(format!("LVM's answer is not understood: {error}")))
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("LVM gives `{}` as a size", text.escape_debug())))
}
