//! A tar file (POSIX.1-1988, ustar) of plain files, in one form only: of the same files come the same bytes, and what is of
//! another form is refused.

use std::io::{self, Read};

/// Bytes of a block.
const BLOCK: usize = 512;
/// The longest name.
const NAME: usize = 99;
/// Bytes of one file: more than any part of a bundle has.
const SIZE: u64 = 1 << 32;

/// A file, with what goes before and after it.
pub(super) fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut all = header(name, bytes.len() as u64).to_vec();
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(BLOCK), 0);
    all
}

/// What comes after the last file.
pub(super) fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

/// By nobody, of no time: only the name and the size differ.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        for (to, from) in block.iter_mut().skip(at).zip(text.bytes()) {
            *to = from;
        }
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The sum is made as if it were blank.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(265, "root");
    put(297, "root");
    put(329, "0000000\0");
    put(337, "0000000\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    for (to, from) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *to = from;
    }
    block
}

/// The next file; `None` after the last, behind which there must be nothing.
pub(super) fn next(from: &mut impl Read) -> io::Result<Option<(String, Vec<u8>)>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut block = [0; BLOCK];
    from.read_exact(&mut block)?;
    if block == [0; BLOCK] {
        from.read_exact(&mut block)?;
        let more = from.read(&mut [0])?;
        return if block == [0; BLOCK] && more == 0 {
            Ok(None)
        } else {
            Err(bad("something lies behind its end"))
        };
    }
    let text = |at: usize, most: usize| {
        let field: Vec<u8> =
            block.iter().skip(at).take(most).copied().take_while(|byte| *byte != 0).collect();
        String::from_utf8(field).map_err(|_| bad("a name in it is no text"))
    };
    let (name, size) = (text(0, NAME)?, text(124, 11)?);
    let size = u64::from_str_radix(&size, 8)
        .ok()
        .filter(|size| *size <= SIZE)
        .ok_or_else(|| bad("a size in it is none"))?;
    if header(&name, size) != block {
        return Err(bad("it is not in the form in which bundles are written"));
    }
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes)?;
    let mut padding = vec![0; (size as usize).next_multiple_of(BLOCK) - size as usize];
    from.read_exact(&mut padding)?;
    match bytes.len() as u64 == size && padding.iter().all(|byte| *byte == 0) {
        true => Ok(Some((name, bytes))),
        false => Err(bad("it was cut short, or changed")),
    }
}
