//! What the way into a slice carries by itself, on this machine and without emulation: `holm slice tunnel` through holmd and
//! holm-agent to a simulated guest that says back what it hears, beside a relay over loopback TCP that only copies. SSH is in
//! neither. Where `tests/slice/run --bench` has booted a machine, SSH to it, straight and through `holm slice tunnel`, is
//! measured as well: the machine is emulated, and all else is not.

use holm_tests::simulated::Simulated;
use holm_tests::site::{Daemon, OFFICERS, OPERATOR, Site};
use holm_tests::{Outcome, demand};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 256;
const ROUNDS: usize = 3;
const ECHOES: usize = 500;
const SESSIONS: usize = 50;
const SLICE: &str = "heart-study/main";

fn main() -> Outcome {
    // `cargo test` builds and runs it as well; it is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Simulated { _files, site } = Simulated::open()?;
    site.invite(OPERATOR, "ada", Some("lead"))?;
    site.project("ada", "heart-study", "2", "strokes")?;
    site.ok("ada", &["slice", "request", SLICE, "--gpus", "1"])?;
    site.ok(OFFICERS[0], &["slice", "approve", SLICE])?;
    site.ok("ada", &["wait", SLICE, "ready", "--timeout", "1m"])?;

    let relay = relayed()?;
    let (mut straight, mut holm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let there = TcpStream::connect(("127.0.0.1", relay))?;
        there.set_nodelay(true)?;
        straight.push(measured(there.try_clone()?, there)?);
        let (_ends, to, from) = tunnel(&site)?;
        holm.push(measured(to, from)?);
    }
    let median = |mut all: Vec<(f64, f64)>| {
        let mut column = |of: fn(&(f64, f64)) -> f64| {
            all.sort_by(|a, b| of(a).total_cmp(&of(b)));
            all.get(ROUNDS / 2).map_or(f64::NAN, of)
        };
        (column(|row| row.0), column(|row| row.1))
    };
    let (straight, holm) = (median(straight), median(holm));
    println!("{:<42}{:>10}{:>10}{:>8}", format!("median of {ROUNDS} rounds"), "relay", "tunnel", "ratio");
    for (name, one, other) in
        [("to a guest and back, MiB/s", straight.0, holm.0), ("a line and its echo, µs", straight.1, holm.1)]
    {
        println!("{name:<42}{one:>10.0}{other:>10.0}{:>8.2}", other / one);
    }

    let began = Instant::now();
    let mut all = (0..SESSIONS).map(|_| tunnel(&site)).collect::<Outcome<Vec<_>>>()?;
    for (number, (_, to, from)) in all.iter_mut().enumerate() {
        let said = format!("{number:04}");
        to.write_all(said.as_bytes())?;
        let mut heard = [0; 4];
        from.read_exact(&mut heard)?;
        demand(heard == said.as_bytes(), "another's bytes")?;
    }
    println!("{SESSIONS} tunnels at once: all answer, {:.1} s", began.elapsed().as_secs_f64());
    drop(all);
    match (std::env::var("HOLM_BENCH_SSH_CONFIG"), std::env::var("HOLM_BENCH_SOCKET")) {
        (Ok(config), Ok(socket)) => beside(&site, &config, &socket),
        _ => Ok(()),
    }
}

/// SSH to a machine that is there, instead of the simulated one.
fn beside(site: &Site, config: &str, socket: &str) -> Outcome {
    site.kill(Daemon::Agent)?;
    let root = site.root().display();
    site.host(&format!("printf '[simulate]\\nssh = \"{socket}\"\\n' >>{root}/agent.toml"))?;
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)?;
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/virtual-dgx2/ssh-bench");
    let holm = site.command("ada", &[]);
    let mut bench = Command::new(tool);
    bench.envs(holm.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = bench.arg("--beside").arg(holm.get_program()).args([SLICE, config, socket]).status()?;
    demand(done.success(), "it was not measured")
}

/// A process that is ended and waited for.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tunnel(site: &Site) -> Outcome<(Ends, impl Write + Send + 'static, impl Read)> {
    let mut command: Command = site.command("ada", &["--quiet", "slice", "tunnel", SLICE]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let to = child.stdin.take().ok_or("no input")?;
    let from = child.stdout.take().ok_or("no output")?;
    Ok((Ends(child), to, from))
}

/// The port of a relay to what says back what it hears.
fn relayed() -> Outcome<u16> {
    let (front, back) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (port, behind) = (front.local_addr()?.port(), back.local_addr()?);
    std::thread::spawn(move || {
        for stream in back.incoming().flatten() {
            std::thread::spawn(move || copied(&stream, &stream));
        }
    });
    std::thread::spawn(move || {
        for client in front.incoming().flatten() {
            let Ok(guest) = TcpStream::connect(behind) else { return };
            for stream in [&client, &guest] {
                let _ = stream.set_nodelay(true);
            }
            std::thread::spawn(move || {
                std::thread::scope(|both| {
                    both.spawn(|| copied(&client, &guest));
                    both.spawn(|| copied(&guest, &client));
                });
            });
        }
    });
    Ok(port)
}

fn copied(mut from: &TcpStream, mut to: &TcpStream) {
    let mut piece = vec![0; 32 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let Some(said) = piece.get(..length) else { return };
        if to.write_all(said).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// MiB a second there and back, and microseconds for four bytes.
fn measured(mut to: impl Write + Send + 'static, mut from: impl Read) -> Outcome<(f64, f64)> {
    let mut small = [0; 4];
    let mut took = Vec::new();
    for _ in 0..ECHOES {
        let began = Instant::now();
        to.write_all(b"echo")?;
        from.read_exact(&mut small)?;
        took.push(began.elapsed());
    }
    took.sort();
    let echo = took.get(ECHOES / 2).copied().unwrap_or(Duration::MAX);
    let began = Instant::now();
    let sends = std::thread::spawn(move || -> std::io::Result<()> {
        let piece = vec![7; 1 << 20];
        (0..MIB).try_for_each(|_| to.write_all(&piece))
    });
    let mut piece = vec![0; 1 << 20];
    for _ in 0..MIB {
        from.read_exact(&mut piece)?;
        demand(piece.iter().all(|byte| *byte == 7), "other bytes came back")?;
    }
    let rate = MIB as f64 / began.elapsed().as_secs_f64();
    sends.join().map_err(|_| "the sender")??;
    Ok((rate, echo.as_secs_f64() * 1e6))
}
