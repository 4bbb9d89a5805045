//! How much of its room a host promises: `[host.storage] overcommit`.

use serde::Deserialize;

/// The least and the most that make sense, in hundredths. Below 1 some room is kept for others.
const BOUNDS: std::ops::RangeInclusive<u64> = 10..=1000;

/// So many times what there is may be promised to volumes together, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Overcommit(u64);

impl Default for Overcommit {
    fn default() -> Self {
        Self(100)
    }
}

impl Overcommit {
    /// What may be promised of so much.
    pub fn of(self, room: u64) -> u64 {
        u64::try_from(u128::from(room) * u128::from(self.0) / 100).unwrap_or(u64::MAX)
    }

    /// Just what there is.
    pub fn is_one(self) -> bool {
        self == Self::default()
    }
}

impl TryFrom<f64> for Overcommit {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        // As written, to the hundredth: a number that is none, or endless, is in no bounds.
        let hundredths = format!("{:.0}", ratio * 100.0).parse().ok().filter(|n| BOUNDS.contains(n));
        hundredths.map(Self).ok_or_else(|| {
            format!("`{ratio}` is no `overcommit`: 1.0 promises what there is; 0.1 to 10 can be said")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Overcommit, String> {
        #[derive(Debug, Deserialize)]
        struct File {
            overcommit: Overcommit,
        }
        let file: Result<File, _> = toml::from_str(&format!("overcommit = {text}"));
        file.map(|file| file.overcommit).map_err(|error| error.to_string())
    }

    #[test]
    fn a_ratio_is_a_ratio() {
        for (text, of_1000) in [("1.0", 1000), ("1", 1000), ("1.25", 1250), ("0.1", 100), ("10", 10_000)] {
            assert_eq!(read(text).unwrap().of(1000), of_1000, "{text}");
        }
        assert_eq!(read("10").unwrap().of(u64::MAX), u64::MAX);
        assert!(Overcommit::default().is_one() && read("1.0").unwrap().is_one());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["0", "0.0", "-1.0", "0.09", "10.01", "nan", "-nan", "inf", "-inf", "1e300", "1e-300"] {
            let error = read(text).unwrap_err();
            assert!(error.contains("0.1 to 10"), "{text}: {error}");
        }
        for text in ["\"1.5\"", "true", "[1.0]", "{}"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
