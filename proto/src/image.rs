//! What a guest image is made of, as its `manifest` says: what the recipe writes, and holmd, agents and people go by.
//!
//! ```text
//! recipe 1f0c2d3e4a5b6c7d
//! version 2026-11-27
//! SHA-256, 64 hexadecimal digits, two spaces, the name of a file beside the manifest
//! PACKAGE VERSION [SOURCE [SOURCE-VERSION]]
//! ```
//!
//! An image is called by the SHA-256 of its manifest, which says the SHA-256 of all else: whoever has the one name can check
//! all of it.

use std::collections::BTreeMap;

/// The files that an image has, and no others.
pub const FILES: [&str; 4] = ["base.raw", "vmlinuz", "initrd.img", "cmdline"];
/// A manifest is no longer.
pub const MANIFEST_MAX: usize = 32 * 1024;
/// Packages of one image.
const PACKAGES_MAX: usize = 1000;
const WORD_MAX: usize = 128;
const DIGITS: usize = 64;

/// A manifest, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it was made from, 16 hexadecimal digits.
    pub recipe: String,
    /// As people call it; the recipe, where it says nothing.
    pub version: String,
    /// SHA-256 of each of its files, hexadecimal.
    pub files: BTreeMap<String, String>,
    /// What is installed in it.
    pub packages: Vec<Package>,
}

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Binary package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The source package that it is of.
    pub source: String,
    /// That one's version.
    pub source_version: String,
}

/// An image's name: SHA-256 of its manifest, in lower-case hexadecimal.
pub fn is_digest(text: &str) -> bool {
    text.len() == DIGITS && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Manifest {
    /// Reads one; an error says which line is none.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > MANIFEST_MAX {
            return Err(format!("a manifest has {MANIFEST_MAX} bytes at most, and not {}", text.len()));
        }
        let (mut recipe, mut version) = (String::new(), String::new());
        let (mut files, mut packages) = (BTreeMap::new(), Vec::new());
        for (number, line) in text.lines().enumerate() {
            let bad = || format!("line {} of the manifest is none", number + 1);
            let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
            let sane = |word: &&str| word.len() <= WORD_MAX && word.bytes().all(|b| b.is_ascii_graphic());
            if !words.iter().all(sane) {
                return Err(bad());
            }
            match words.as_slice() {
                [] => {}
                ["recipe", of] if recipe.is_empty() && of.len() <= DIGITS && is_hex(of) => {
                    recipe = (*of).to_owned()
                }
                ["version", of] if version.is_empty() => version = (*of).to_owned(),
                [sha256, file] if is_digest(sha256) => {
                    let twice = files.insert((*file).to_owned(), (*sha256).to_owned()).is_some();
                    if twice || !FILES.contains(file) {
                        return Err(bad());
                    }
                }
                [name, version, rest @ ..] if rest.len() <= 2 => packages.push(Package {
                    name: (*name).to_owned(),
                    version: (*version).to_owned(),
                    source: (*rest.first().unwrap_or(name)).to_owned(),
                    source_version: (*rest.get(1).unwrap_or(version)).to_owned(),
                }),
                _ => return Err(bad()),
            }
        }
        if recipe.is_empty() {
            return Err("the manifest does not say from which recipe it is".to_owned());
        }
        if let Some(missing) = FILES.iter().find(|file| !files.contains_key(**file)) {
            return Err(format!("the manifest does not say what `{missing}` is"));
        }
        if packages.len() > PACKAGES_MAX {
            return Err(format!("an image has {PACKAGES_MAX} packages at most, and not {}", packages.len()));
        }
        if version.is_empty() {
            version.clone_from(&recipe);
        }
        Ok(Self { recipe, version, files, packages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> String {
        let files: String = FILES.iter().map(|file| format!("{}  {file}\n", "a".repeat(64))).collect();
        format!(
            "recipe 1f0c2d3e4a5b6c7d\nversion 2026-11-27\n{files}slurmd 24.11.5-4 slurm-wlm\nlinux 6.12.1 linux-signed 6.12.1+1\n"
        )
    }

    #[test]
    fn a_manifest_says_what_an_image_is_made_of() {
        let read = Manifest::read(&manifest()).unwrap();
        assert_eq!(
            (read.recipe.as_str(), read.version.as_str(), read.files.len()),
            ("1f0c2d3e4a5b6c7d", "2026-11-27", 4)
        );
        assert_eq!(
            (read.packages[0].source.as_str(), read.packages[0].source_version.as_str()),
            ("slurm-wlm", "24.11.5-4")
        );
        assert_eq!(read.packages[1].source_version, "6.12.1+1");
        assert_eq!(
            Manifest::read(&manifest().replace("version 2026-11-27\n", "")).unwrap().version,
            read.recipe
        );
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let good = manifest();
        for bad in [
            String::new(),
            good.replace("recipe ", "recipe X"),
            good.replace("  cmdline", "  ../cmdline"),
            good.replace("  cmdline", "  vmlinuz"),
            good.replace("slurmd", "slurm\u{1b}d"),
            good.replace("slurmd", &"s".repeat(200)),
            format!("{good}a b c d e\n"),
            format!("{good}alone\n"),
            format!("{good}{}", "p 1\n".repeat(1001)),
            format!("{good}{}", " ".repeat(MANIFEST_MAX)),
        ] {
            assert!(Manifest::read(&bad).is_err(), "{}", &bad[..bad.len().min(300)]);
        }
    }
}
