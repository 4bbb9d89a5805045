//! Logical volumes, by LVM's own program.

use super::super::{refuse_promise, tool};
use super::crypt;
use crate::{config::Overcommit, edge::Room};
use holm_proto::ids::VolumeId;
use serde::{Deserialize, de::DeserializeOwned};
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

/// What is asked of a volume: the fields of [`LvRow`].
const VOLUME: &str = "lv_name,lv_size,lv_tags,lv_active";
/// What is asked of a thin pool: the fields of [`PoolRow`].
const POOL: &str = "lv_size,data_percent,metadata_percent,lv_when_full";

/// How LVM is to answer; the fields that are asked for come next.
const JSON: [&str; 6] = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options"];

/// The volume group that a host keeps volumes in.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The thin pool in it that volumes come from; where there is none they are linear.
    pub pool: Option<String>,
    /// How much of the pool may be promised.
    pub overcommit: Overcommit,
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

    /// Every volume that has a name as Holm gives them.
    pub fn all(&self) -> io::Result<Vec<VolumeId>> {
        let rows = self.volumes::<LvRow>(VOLUME, None)?;
        Ok(rows.filter_map(|row| row.lv_name.strip_prefix("holm-")?.parse().ok()).collect())
    }

    /// Looks for a volume.
    pub fn find(&self, volume: VolumeId) -> io::Result<Option<Found>> {
        let select = format!("lv_name={}", crypt::name(volume));
        self.volumes::<LvRow>(VOLUME, Some(&select))?
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

    /// Gives it another name.
    pub fn rename(&self, volume: VolumeId, to: VolumeId) -> io::Result<()> {
        lvm(&["lvrename", "--quiet", &self.name, &crypt::name(volume), &crypt::name(to)]).map(drop)
    }

    /// Removes it.
    pub fn remove(&self, volume: VolumeId) -> io::Result<()> {
        lvm(&["lvremove", "--yes", "--quiet", &self.full(volume)]).map(drop)
    }

    /// Whether `more` bytes can be promised. A thin pool would promise any number; where there is none LVM refuses by
    /// itself what it has not.
    pub fn has_room(&self, more: u64) -> io::Result<()> {
        let Some(pool) = &self.pool else { return Ok(()) };
        let promised = self
            .volumes::<LvRow>(VOLUME, Some(&format!("pool_lv={pool}")))?
            .try_fold(0_u64, |sum, row| Ok::<_, io::Error>(sum.saturating_add(number(&row.lv_size)?)))?;
        let what = format!("thin pool `{}/{pool}`", self.name);
        refuse_promise((&what, " (`lvextend`)"), self.capacity()?, self.overcommit, promised, more)
    }

    /// How full its thin pool is: as full as the fuller of its data and of its tables. `None` where there is none.
    pub fn room(&self) -> io::Result<Option<Room>> {
        let Some(pool) = &self.pool else { return Ok(None) };
        let row = self.ask_pool(pool)?;
        let bytes = number(&row.lv_size)?;
        let used = hundredths(&row.data_percent)?.max(hundredths(&row.metadata_percent)?).min(10_000);
        let free = u128::from(bytes) * u128::from(10_000 - used) / 10_000;
        Ok(Some(Room { bytes, free: u64::try_from(free).unwrap_or(bytes) }))
    }

    /// Whether who writes to its full thin pool is told at once, rather than kept waiting.
    pub fn tells_when_full(&self) -> io::Result<bool> {
        let Some(pool) = &self.pool else { return Ok(true) };
        let row = self.ask_pool(pool)?;
        Ok(row.lv_when_full == "error")
    }

    /// One row about the thin pool.
    fn ask_pool(&self, pool: &str) -> io::Result<PoolRow> {
        let select = format!("lv_name={pool} && segtype=thin-pool");
        let none = || io::Error::other(format!("`{pool}` is no thin pool of volume group `{}`", self.name));
        self.volumes(POOL, Some(&select))?.next().ok_or_else(none)
    }

    /// These fields of the group's logical volumes, or of those selected.
    fn volumes<T: DeserializeOwned>(
        &self,
        fields: &str,
        select: Option<&str>,
    ) -> io::Result<impl Iterator<Item = T> + use<T>> {
        let mut words = [&["lvs"][..], &JSON, &[fields]].concat();
        words.extend(select.iter().flat_map(|select| ["--select", select]));
        words.push(&self.name);
        Ok(read::<LvReport<T>>(&lvm(&words)?)?.report.into_iter().flat_map(|report| report.lv))
    }

    /// Room for volumes, used by volumes or by nothing, bytes.
    pub fn capacity(&self) -> io::Result<u64> {
        if let Some(pool) = &self.pool {
            return number(&self.ask_pool(pool)?.lv_size);
        }
        let answer = lvm(&[&["vgs"][..], &JSON, &["vg_free", &self.name]].concat())?;
        let free = read::<VgReport>(&answer)?.report.into_iter().flat_map(|report| report.vg).next();
        let free = number(&free.ok_or_else(|| io::Error::other("LVM says nothing of it"))?.vg_free)?;
        self.volumes::<LvRow>(VOLUME, None)?
            .filter(|row| row.lv_name.starts_with("holm-"))
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
struct LvReport<T> {
    report: Vec<LvRows<T>>,
}

#[derive(Deserialize)]
struct LvRows<T> {
    lv: Vec<T>,
}

#[derive(Deserialize)]
struct LvRow {
    lv_name: String,
    lv_size: String,
    lv_tags: String,
    lv_active: String,
}

#[derive(Deserialize)]
struct PoolRow {
    lv_size: String,
    data_percent: String,
    metadata_percent: String,
    lv_when_full: String,
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

/// `12.34` per cent as 1234; an empty text, of a pool that is not active, is an error.
fn hundredths(text: &str) -> io::Result<u64> {
    let bad = || io::Error::other(format!("LVM gives `{}` as a percentage", text.escape_debug()));
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let part = format!("{part:0<2}");
    let part: u64 = part.get(..2).and_then(|part| part.parse().ok()).ok_or_else(bad)?;
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    // A fraction of a hundredth is used, too.
    Ok(whole.saturating_mul(100).saturating_add(part))
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("LVM gives `{}` as a size", text.escape_debug())))
}
