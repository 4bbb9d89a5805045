//! JSON lines in a file: whole ones, durable before they count.

use super::record::Record;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes that are looked at in one go for the end of the last whole line.
const STEP: u64 = 64 * 1024;

/// Appended, one a line. What a kill left of a line goes first; a file that was moved away is made anew.
pub(super) fn append(path: &Path, records: &[Record]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    let whole = whole(&mut file, size)?;
    if whole < size {
        file.set_len(whole)?;
    }
    let lines: String = records.iter().flat_map(|record| [record.json.as_str(), "\n"]).collect();
    file.write_all(lines.as_bytes())?;
    file.sync_all()?;
    if size == 0 {
        // It may be new.
        let directory = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Up to where there are whole lines.
fn whole(file: &mut File, size: u64) -> io::Result<u64> {
    let mut end = size;
    while end > 0 {
        let from = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        Read::by_ref(file).take(end - from).read_to_end(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}
