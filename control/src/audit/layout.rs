//! Where C2SP tlog-tiles puts what, and the form of a bundle of entries. Pure.

use super::tree::{Hash, WIDTH};

/// A tile of hashes or a bundle of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tile {
    /// `None`: entries. Otherwise hashes, of this level.
    level: Option<u8>,
    /// Counted within the level.
    index: u64,
    /// 1 to 256; below 256 the tile is partial.
    width: u64,
}

impl Tile {
    /// The bundle `index` of a log of `size` entries; `None` where it would be empty.
    pub(super) fn entries(index: u64, size: u64) -> Option<Self> {
        Self::hashes(0, index, size).map(|tile| Self { level: None, ..tile })
    }

    /// The tile `index` of `level` in a log of `size` entries; `None` where it would be empty.
    pub(super) fn hashes(level: u8, index: u64, size: u64) -> Option<Self> {
        let at_level = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
        let width = at_level.saturating_sub(index.saturating_mul(WIDTH)).min(WIDTH);
        (width > 0).then_some(Self { level: Some(level), index, width })
    }

    /// The tile that lies at this path, whatever log it is of.
    pub(super) fn at(path: &str) -> Option<Self> {
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let level = if level == "entries" { None } else { Some(level.parse().ok()?) };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|width| *width > 0)?),
            None => (rest, WIDTH),
        };
        let index = number.split('/').try_fold(0_u64, |sum, part| {
            let digits: u64 = part.trim_start_matches('x').parse().ok()?;
            sum.checked_mul(1000)?.checked_add(digits)
        })?;
        let tile = Self { level, index, width };
        // Written again it must be the same.
        (tile.path() == path).then_some(tile)
    }

    /// As it is in a log of `size` entries; `None` where it would be empty.
    pub(super) fn of_size(&self, size: u64) -> Option<Self> {
        match self.level {
            Some(level) => Self::hashes(level, self.index, size),
            None => Self::entries(self.index, size),
        }
    }

    /// Whether a log of `size` entries has it as it is.
    pub(super) fn is_of(&self, size: u64) -> bool {
        self.of_size(size) == Some(*self)
    }

    /// The tile to the left of it, which is full.
    pub(super) fn before(&self) -> Option<Self> {
        Some(Self { index: self.index.checked_sub(1)?, width: WIDTH, ..*self })
    }

    /// The entry that the one at `position` in this tile is, or stands over as the first of many.
    pub(super) fn entry(&self, position: u64) -> u64 {
        let place = self.index.saturating_mul(WIDTH).saturating_add(position);
        place.saturating_mul(1_u64.checked_shl(8 * u32::from(self.level.unwrap_or(0))).unwrap_or(u64::MAX))
    }

    /// The bundle of the entries whose hashes it holds.
    pub(super) const fn bundle(&self) -> Self {
        Self { level: None, ..*self }
    }

    /// The tile of the hashes of its entries.
    pub(super) const fn over_entries(&self) -> Self {
        Self { level: Some(0), ..*self }
    }

    /// Hashes, not entries.
    pub(super) const fn is_hashes(&self) -> bool {
        self.level.is_some()
    }

    /// Hashes of entries, not of tiles.
    pub(super) const fn is_over_entries(&self) -> bool {
        matches!(self.level, Some(0))
    }

    pub(super) const fn width(&self) -> u64 {
        self.width
    }

    pub(super) const fn is_partial(&self) -> bool {
        self.width < WIDTH
    }

    /// Bytes that it has at most.
    pub(super) const fn limit(&self) -> u64 {
        match self.level {
            Some(_) => self.width * size_of::<Hash>() as u64,
            None => self.width * (2 + u16::MAX as u64),
        }
    }

    /// Below the log's directory.
    pub(super) fn path(&self) -> String {
        match self.is_partial() {
            true => format!("{}/{}", self.partial_directory(), self.width),
            false => self.full_path(),
        }
    }

    /// Where the partial forms of this tile lie.
    pub(super) fn partial_directory(&self) -> String {
        format!("{}.p", self.full_path())
    }

    fn full_path(&self) -> String {
        let mut number = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            number = format!("x{:03}/{number}", rest % 1000);
            rest /= 1000;
        }
        match self.level {
            Some(level) => format!("tile/{level}/{number}"),
            None => format!("tile/entries/{number}"),
        }
    }
}

/// Add an entry to a bundle; `false`, and nothing added, where it is too long.
pub(super) fn add_entry(bundle: &mut Vec<u8>, body: &[u8]) -> bool {
    let Ok(length) = u16::try_from(body.len()) else { return false };
    bundle.extend(length.to_be_bytes());
    bundle.extend(body);
    true
}

/// A bundle of entries, none of which is too long.
pub(super) fn bundle_of(entries: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bundle = Vec::with_capacity(entries.iter().map(|body| 2 + body.as_ref().len()).sum());
    for body in entries {
        add_entry(&mut bundle, body.as_ref());
    }
    bundle
}

/// The entries of a bundle, and whether it ended where an entry ends.
pub(super) fn entries_of(mut bundle: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bundle.split_first_chunk::<2>() {
        let Some((body, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            break;
        };
        entries.push(body);
        bundle = rest;
    }
    (entries, bundle.is_empty())
}

/// The hashes of a tile.
pub(super) fn hashes_of(tile: &[u8]) -> Vec<Hash> {
    tile.as_chunks::<{ size_of::<Hash>() }>().0.to_vec()
}
