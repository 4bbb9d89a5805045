//! Is a key left anywhere on a host? Every key that holmd had whenever it was asked, looked for in every block of its disk, used or not, in
//! what its processes were started with and what lies in its memory file systems.

use crate::site::Site;
use crate::{Outcome, demand, show};
use aho_corasick::AhoCorasick;
use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use holm_control::keys::{Keyring, ProviderConfig};
use rustix::fs::{SeekFrom, seek};
use secrecy::{ExposeSecret as _, SecretBox};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

/// Of each key so many bytes are looked for: of half a key that lies somewhere nothing more is needed.
const PART: usize = 15;
/// Read at a time.
const PIECE: usize = 4 << 20;

/// What must be nowhere.
#[derive(Debug, Default)]
pub struct Known {
    /// Keys that there were, by their names in holmd's directory.
    keys: Vec<(String, SecretBox<[u8; 32]>)>,
    /// What tenants wrote on their disks.
    texts: Vec<String>,
}

impl Known {
    /// Take in those that there are now. Only the test can: it reads holmd's directory, and its provider is a file.
    pub fn learn(&mut self, site: &Site) -> Outcome {
        let copy = tempfile::tempdir()?;
        let packed = site.ground().attempt(&format!("tar -C {}/holmd/keys -c .", site.root().display()))?;
        demand(packed.status.success(), String::from_utf8_lossy(&packed.stderr))?;
        let unpack = ["-C", &copy.path().display().to_string(), "-x"].map(str::to_owned);
        let mut tar = Command::new("tar").args(unpack).stdin(Stdio::piped()).spawn()?;
        tar.stdin.take().ok_or("no standard input")?.write_all(&packed.stdout)?;
        demand(tar.wait()?.success(), "holmd's keys cannot be unpacked")?;
        let ring = Keyring::load(copy.path(), &ProviderConfig::default(), None)?;
        for (name, key) in ring.all()? {
            if !self.keys.iter().any(|(_, known)| known.expose_secret() == key.expose_secret()) {
                self.keys.push((name, key));
            }
        }
        Ok(())
    }

    /// A tenant wrote this on a disk of hers.
    pub fn written(&mut self, text: String) {
        self.texts.push(text);
    }

    /// None of them is anywhere, and libvirt holds none: but for the key-encryption key, which lies in a file here, and must be found, or this
    /// search finds nothing.
    pub fn are_nowhere(&self, site: &Site) -> Outcome {
        let machine = site.ground().machine().ok_or("there is no disk to search")?;
        let keys = self.keys.iter().flat_map(|(_, key)| forms(key.expose_secret()));
        let patterns: Vec<Vec<u8>> =
            keys.chain(self.texts.iter().map(|text| text.as_bytes().to_vec())).collect();
        let search = AhoCorasick::new(&patterns)?;
        let name = |pattern: usize| {
            self.keys.get(pattern / FORMS).map_or("a text of a tenant's/", |(name, _)| name.as_str())
        };
        let is_kek = |pattern: usize| !name(pattern).contains('/');
        site.host("sync")?;
        let (searched, found) = disk(&machine.disk(), &search)?;
        let (kek, left): (Vec<usize>, Vec<usize>) = found.into_iter().partition(|pattern| is_kek(*pattern));
        demand(!kek.is_empty(), "the search does not find the key-encryption key, which lies in a file")?;
        let canary = self.keys.iter().find(|(name, _)| !name.contains('/')).ok_or("holmd has no keys")?;
        let canary = HEXLOWER.encode(canary.1.expose_secret());
        let memory = site.ground().attempt(&format!(
            "echo {canary} >/dev/shm/canary; echo {canary} >/run/canary
             (exec -a {canary} sleep 600) & canary=$!
             cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || true
             for place in /run /tmp /dev/shm /etc/libvirt /var/log /var/lib/libvirt $(findmnt -rn -o TARGET -t tmpfs,ramfs); do
                 find $place -xdev -type f -size -64M -exec cat {{}} + 2>/dev/null || true
             done
             kill $canary; rm /dev/shm/canary /run/canary
             virsh -q -c qemu:///system list --all --name | while read -r domain; do
                 [ -z \"$domain\" ] || virsh -c qemu:///system dumpxml --security-info \"$domain\"
             done
             dmesg"
        ))?;
        let (planted, held): (Vec<usize>, Vec<usize>) = search
            .find_iter(&memory.stdout)
            .map(|m| m.pattern().as_usize())
            .partition(|pattern| is_kek(*pattern));
        demand(planted.len() >= 3, format!("of three canaries {} are found", planted.len()))?;
        let secrets = site.host("virsh -q -c qemu:///system secret-list")?;
        demand(secrets.trim().is_empty(), format!("libvirt holds secrets while machines run: {secrets}"))?;
        let left: std::collections::BTreeSet<&str> = left.into_iter().chain(held).map(name).collect();
        demand(left.is_empty(), format!("these are left on the host: {left:?}"))?;
        show::seen(&format!(
            "none of {} keys and nothing that a tenant wrote is in {} MiB of the host's disk, in its processes' arguments and environment, memory file \
             systems, logs, libvirt's files; what was planted there is found, and the key-encryption key on the disk",
            self.keys.len() - 1,
            searched >> 20
        ));
        Ok(())
    }
}

const FORMS: usize = 4;

/// As a key could be written.
fn forms(key: &[u8; 32]) -> [Vec<u8>; FORMS] {
    let part = key.get(..PART).unwrap_or_default();
    [part.to_vec(), HEXLOWER.encode(part).into(), HEXUPPER.encode(part).into(), BASE64.encode(part).into()]
}

/// What there is of a sparse disk: how much of it, and which patterns were found in it.
fn disk(path: &std::path::Path, search: &AhoCorasick) -> Outcome<(u64, Vec<usize>)> {
    let file = File::open(path)?;
    let (mut piece, mut found, mut searched) = (vec![0; PIECE], Vec::new(), 0);
    let mut end = 0;
    // Where nothing more was ever written there is no more data.
    while let Ok(start) = seek(&file, SeekFrom::Data(end)) {
        end = seek(&file, SeekFrom::Hole(start))?;
        let mut at = start;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let read = piece.get_mut(..length).unwrap_or_default();
            file.read_exact_at(read, at)?;
            found.extend(search.find_iter(&*read).map(|m| m.pattern().as_usize()));
            searched += length as u64;
            if length < PIECE {
                break;
            }
            // What lies across the border is seen again.
            at += (PIECE - 4 * PART) as u64;
        }
    }
    Ok((searched, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_any_form_is_found_in_a_sparse_disk() {
        let key: [u8; 32] = std::array::from_fn(|n| u8::try_from(n * 7 + 3).unwrap());
        let search = AhoCorasick::new(forms(&key)).unwrap();
        let whole = [
            key.to_vec(),
            HEXLOWER.encode(&key).into(),
            HEXUPPER.encode(&key).into(),
            BASE64.encode(&key).into(),
        ];
        // In the middle of nothing, and across the border between two pieces.
        for (at, form) in
            [1 << 30, PIECE as u64 - 20, 0].into_iter().flat_map(|at| (0..FORMS).map(move |f| (at, f)))
        {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![1; PIECE + 100]).unwrap();
            file.as_file().write_all_at(&whole[form], at).unwrap();
            let (searched, found) = disk(file.path(), &search).unwrap();
            assert!(found.contains(&form), "{at} {form}");
            assert!(searched < 16 << 20, "what was never written is not read");
        }
        let mut empty = tempfile::NamedTempFile::new().unwrap();
        empty.write_all(&[0; 4096]).unwrap();
        assert_eq!(disk(empty.path(), &search).unwrap().1, Vec::<usize>::new());
    }
}
