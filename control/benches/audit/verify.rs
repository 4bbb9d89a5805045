//! Verifying a copy of the log offline: a tenth of it and all of it, so that memory can be compared, and the tenth by
//! `deploy/docs/verify-log.py` as well. `HOLM_BENCH_ENTRIES` makes it shorter than 10 million.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use holm_control::audit::{Entry, Hash, SigningKey, note, verify};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

pub const ORIGIN: &str = "holm.example/log";
pub const ENTRIES: u64 = 10_000_000;
const VERIFIER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docs/verify-log.py");

pub fn run() {
    let entries = std::env::var("HOLM_BENCH_ENTRIES").map_or(ENTRIES, |n| n.parse().unwrap());
    // Gigabytes: not where there may be only memory.
    let place = Path::new(&std::env::var("HOME").unwrap()).join(".cache/holm/bench-audit");
    fs::create_dir_all(&place).unwrap();
    let scratch = tempfile::tempdir_in(&place).unwrap();
    let key = SigningKey::create(&scratch.path().join("key")).unwrap();
    let mut rows = Vec::new();
    for size in [entries / 10, entries] {
        let dir = scratch.path().join("log");
        println!("writing a log of {size} entries");
        let bytes = write(&dir, size, &key);
        // Else what is still to be written counts as reading.
        assert!(Command::new("sync").status().unwrap().success());
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let started = Instant::now();
        let verified = verify::directory(&dir, &key.vkey(ORIGIN)).unwrap();
        assert_eq!(verified.entries, size);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        rows.push(("holm audit verify", size, bytes, started.elapsed(), status));
        if size < entries {
            let started = Instant::now();
            let mut python = Command::new("python3");
            let python = python.args(["-c", PYTHON, VERIFIER, dir.to_str().unwrap(), &key.vkey(ORIGIN)]);
            let said = python.output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            let status = String::from_utf8(said.stdout).unwrap();
            rows.push(("verify-log.py", size, bytes, started.elapsed(), status));
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    println!(
        "\n{:<20} {:>11} {:>8} {:>9} {:>11} {:>8} {:>9}  wanted",
        "verifying a log", "entries", "GB", "seconds", "entries/s", "MB/s", "peak MiB"
    );
    for (what, size, bytes, took, status) in rows {
        let took = took.as_secs_f64();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        let wanted = if what == "holm audit verify" && size == ENTRIES { "60 s, on 2 cores" } else { "" };
        println!(
            "{what:<20} {size:>11} {:>8.2} {took:>9.1} {:>11.0} {:>8.0} {:>9.1}  {wanted}",
            bytes as f64 / 1e9,
            size as f64 / took,
            bytes as f64 / took / 1e6,
            peak / 1024.0,
        );
    }
    let cores = std::thread::available_parallelism().unwrap();
    println!("on {cores} cores; the log was written just before, so the kernel may have had it in memory");
}

/// Runs the verifier, and then says what memory it took.
const PYTHON: &str = r#"
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(open("/proc/self/status").read())
"#;

/// Write a log of so many entries where nothing is yet; how many bytes its entries have.
pub fn write(dir: &Path, size: u64, key: &SigningKey) -> u64 {
    let mut rows: Vec<Vec<Hash>> = vec![Vec::new(); 8];
    let (mut bundle, mut bytes) = (Vec::new(), 0);
    for index in 0..size {
        let body = entry(index);
        if index < 3 {
            Entry::from_bytes(body.as_bytes()).unwrap();
        }
        bytes += body.len() as u64;
        bundle.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bundle.extend(body.as_bytes());
        rows[0].push(hash(&[&[0], body.as_bytes()]));
        let mut level = 0;
        while rows[level].len() == 256 {
            let tile = ((index + 1) >> (8 * (level + 1))) - 1;
            if level == 0 {
                put(dir, "entries", tile, 256, &std::mem::take(&mut bundle));
            }
            put(dir, &level.to_string(), tile, 256, &rows[level].concat());
            let over = root_of(&rows[level]);
            rows[level].clear();
            level += 1;
            rows[level].push(over);
        }
    }
    if !bundle.is_empty() {
        put(dir, "entries", size >> 8, size % 256, &bundle);
    }
    let mut root = None;
    for (level, row) in rows.iter().enumerate() {
        if !row.is_empty() {
            put(dir, &level.to_string(), size >> (8 * (level + 1)), row.len() as u64, &row.concat());
        }
        let row: Vec<Hash> = row.iter().copied().chain(root).collect();
        root = (!row.is_empty()).then(|| root_of(&row));
    }
    let text = format!("{ORIGIN}\n{size}\n{}\n", BASE64.encode(&root.unwrap()));
    fs::write(dir.join("checkpoint"), note::sign(key, ORIGIN, &text)).unwrap();
    bytes
}

fn put(dir: &Path, kind: &str, index: u64, width: u64, bytes: &[u8]) {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width < 256 {
        write!(path, ".p/{width}").unwrap();
    }
    let path = dir.join("tile").join(kind).join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn hash(parts: &[&[u8]]) -> Hash {
    digest(&SHA256, &parts.concat()).as_ref().try_into().unwrap()
}

fn root_of(row: &[Hash]) -> Hash {
    let mut row = row.to_vec();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => hash(&[&[1], left, right]),
                _ => pair[0],
            })
            .collect();
    }
    row[0]
}

/// Of three kinds, as holmd writes them: a refusal, an approval with its change, a host's observation with two.
pub fn entry(index: u64) -> String {
    let time = jiff::Timestamp::from_second(1_790_000_000 + i64::try_from(index).unwrap()).unwrap();
    let id = format!(
        "{:08x}-6f5d-4f0e-9d43-{:012x}",
        index & 0xffff_ffff,
        index.wrapping_mul(0x9e37_79b9) & 0xffff_ffff_ffff
    );
    let (project, slice) = (format!("study-{}", index % 997), format!("n{}", index % 13));
    let level = 1 + index % 997 % 3;
    let head = format!(r#"{{"v":1,"index":{index},"time":"{time}","request":"{id}","#);
    match index % 3 {
        0 => format!(
            r#"{head}"actor":"person/p{n}","peer":"192.0.2.{host}:{port}","action":"slice.connect","resource":"slice/{project}/{slice}","project":"{project}","level":"{level}","outcome":"refused","reasons":["members-connect","the agreement of `p{n}` ended on 2026-10-01: file a new one with `holm project add {project} p{n} --agreement`"],"pack":"aau-2026/6","detail":{{"level":"3","second_factor":null,"sessions":{n}}}}}"#,
            n = index % 5003,
            host = index % 250,
            port = 1024 + index % 60_000,
        ),
        1 => format!(
            r#"{head}"actor":"person/frida","peer":"192.0.2.9:{port}","action":"slice.approve","resource":"slice/{project}/{slice}","project":"{project}","level":"{level}","outcome":"allowed","reasons":["officers-approve","another-than-who-asked"],"pack":"aau-2026/6","detail":{{"approvals":2,"of":2,"comment":"read what was filed; the DPIA covers it"}},"changes":[{{"op":"put","of":{{"kind":"slice","id":"{id}","project":"{project}","name":"{slice}","level":"3","gpus":4,"cores":24,"memory_gib":360,"disks":[{{"name":"root","gib":64}},{{"name":"data","gib":2048}}],"asked":"{time}","by":"person/lead{n}","approvals":["person/frida","person/gustav"],"state":"approved","until":"2027-02-24T12:00:00Z"}}}}]}}"#,
            n = index % 997,
            port = 1024 + index % 60_000,
        ),
        _ => format!(
            r#"{head}"actor":"host/dgx2-{host}","peer":"198.51.100.{host}:{port}","action":"host.sanitised","resource":"device/dgx2-{host}/0000:{bus:02x}:00.0","outcome":"observed","detail":{{"run":"{id}","bytes":34359738368,"read_back":34359738368,"mismatches":0,"seconds":{n}}},"changes":[{{"op":"put","of":{{"kind":"device","host":"dgx2-{host}","address":"0000:{bus:02x}:00.0","model":"v100-sxm3-32gb","state":"free","evidence":{{"run":"{id}","at":"{time}","bytes":34359738368}},"serial":"0324{index:012}"}}}},{{"op":"delete","of":"claim/{id}"}}]}}"#,
            host = index % 7,
            port = 1024 + index % 60_000,
            bus = index % 256,
            n = 20 + index % 40,
        ),
    }
}
