//! The methods that take a machine of their own: it gets all devices of a run, holm-scrub cleans them there, and
//! it is gone before anything that it said is believed.
//!
//! ```text
//!   measure image ─▶ start ─▶ order ─▶ report ─▶ end ─▶ judge ─▶ reset each device, see that nothing holds it
//!        │             │        │        │        │                 │
//!        └─────────────┴────────┴────────┴────────┴── a failure: ───┴── none is clean (the last: that one)
//! ```
//!
//! An agent that is killed meanwhile leaves the machine behind. The next one ends it before it asks what holds
//! the devices (see `real`), and does the run again, under its id and with another nonce.

use super::{Sanitiser, dialogue, image::Image, judge, not_cleaned};
use crate::{
    config::{CleanMethod, HostConfig, ScrubVmConfig},
    edge::{EdgeError, Result},
    hypervisor::ScrubSpec,
    inventory::sysfs::PciFunction,
};
use holm_proto::{
    gpu::GpuKind,
    ids::{PciAddress, RunId},
    v1::Evidence,
};
use holm_scrub::protocol::{Expected, Method, Order, Outcome, SLOTS};
use std::{
    any::Any,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What scrubbing machines stand on.
pub trait Ground: Send + Sync {
    /// Starts one. `hold` is kept until the call has really come to its end.
    fn start(&self, spec: &ScrubSpec, hold: Arc<dyn Any + Send + Sync>) -> Result<()>;
    /// Ends it, and returns when its process is gone. Nothing happens where there is none.
    fn end(&self, run: RunId) -> Result<()>;
    /// Resets a device that a machine had, and sees that nothing holds it any more.
    fn let_go(&self, device: PciAddress) -> Result<()>;
}

/// Cleans in a machine.
pub struct ScrubVm {
    config: ScrubVmConfig,
    method: CleanMethod,
    cpu: String,
    /// Where kernel and initrd are copied to.
    directory: PathBuf,
    socket: PathBuf,
    ground: Arc<dyn Ground>,
    /// One machine at a time.
    one: Mutex<()>,
}

impl ScrubVm {
    /// One of the two methods.
    pub fn new(
        host: &HostConfig,
        config: ScrubVmConfig,
        method: CleanMethod,
        ground: Arc<dyn Ground>,
    ) -> Self {
        Self {
            config,
            method,
            cpu: host.guest.cpu.clone(),
            directory: host.slices.join("scrub"),
            socket: host.guest_sockets.join("scrub.sock"),
            ground,
            one: Mutex::default(),
        }
    }

    fn try_run(
        &self,
        run: RunId,
        devices: &[PciFunction],
        hold: Arc<dyn Any + Send + Sync>,
    ) -> Result<(Vec<std::result::Result<Outcome, String>>, String)> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let order = self.order(run, devices)?;
        let image = Image::load(&self.config)?;
        let (kernel, initrd) = image.write(&self.directory)?;
        let spec = ScrubSpec {
            run,
            kernel,
            initrd,
            cmdline: image.cmdline.clone(),
            cpu: self.cpu.clone(),
            vcpus: self.config.vcpus,
            memory_mib: self.config.memory_mib,
            channel: self.socket.clone(),
            devices: devices.iter().map(|device| device.address).collect(),
        };
        let said = self
            .ground
            .start(&spec, hold)
            .and_then(|()| dialogue::speak(&self.socket, &order, Instant::now() + self.limit(&order)));
        // Whatever came of it, even of a start that failed half way.
        let ended = self.ground.end(run);
        for (path, removed) in [
            (&self.directory, super::image::remove(&self.directory)),
            (&self.socket, std::fs::remove_file(&self.socket)),
        ] {
            if let Err(error) = removed.or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }) {
                tracing::warn!(path = %path.display(), %error, "what a scrubbing machine needed stays");
            }
        }
        let report = said?;
        ended?;
        let all = judge::judge(&order, &report).map_err(EdgeError::new)?;
        let short = image.sha256.get(..12).unwrap_or_default().to_owned();
        Ok((all, format!("{}, image {short}", judge::printable(&report.tool, 24))))
    }

    fn order(&self, run: RunId, devices: &[PciFunction]) -> Result<Order> {
        if devices.len() > usize::from(SLOTS) {
            return Err(EdgeError::new(format!("a scrubbing machine takes {SLOTS} devices at most")));
        }
        let expected = (0..).zip(devices).map(|(slot, device)| {
            let bytes = match self.method {
                CleanMethod::Bar | CleanMethod::VmBar => device.memory_bytes(),
                CleanMethod::VmCuda => GpuKind::of(&device.id).map_or(0, |kind| kind.memory_bytes),
            };
            match bytes {
                0 => Err(EdgeError::new(format!(
                    "nobody knows how much memory `{}` ({}) has, so it cannot be said to be clean",
                    device.address, device.id
                ))),
                bytes => Ok(Expected { slot, id: device.id.clone(), bytes }),
            }
        });
        Ok(Order {
            run: run.to_string(),
            nonce: uuid::Uuid::new_v4().to_string(),
            method: match self.method {
                CleanMethod::Bar | CleanMethod::VmBar => Method::Bar,
                CleanMethod::VmCuda => Method::Cuda,
            },
            devices: expected.collect::<Result<_>>()?,
        })
    }

    fn limit(&self, order: &Order) -> Duration {
        let bytes: u64 = order.devices.iter().map(|device| device.bytes).fold(0, u64::saturating_add);
        let seconds = bytes.div_ceil(1 << 30).saturating_mul(self.config.limit_per_gib_s.into());
        // A day is longer than any run.
        Duration::from_secs(u64::from(self.config.start_limit_s).saturating_add(seconds).min(86_400))
    }
}

impl Sanitiser for ScrubVm {
    fn sanitise(
        &self,
        run: RunId,
        devices: &[PciFunction],
        hold: Arc<dyn Any + Send + Sync>,
    ) -> Vec<Evidence> {
        let (method, started) = (self.method.as_str(), Instant::now());
        let (all, tool) = match self.try_run(run, devices, hold) {
            Ok(done) => done,
            Err(error) => {
                let detail = error.chain();
                return devices.iter().map(|one| not_cleaned(one.address, method, detail.clone())).collect();
            }
        };
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let evidence = devices.iter().zip(all).map(|(device, outcome)| {
            let address = device.address;
            let outcome = outcome.and_then(|outcome| match self.ground.let_go(address) {
                Ok(()) => Ok(outcome),
                Err(error) => Err(error.chain()),
            });
            match outcome {
                Ok(outcome) => Evidence {
                    address: address.to_string(),
                    cleaned: true,
                    method: method.to_owned(),
                    bytes_total: outcome.bytes_total,
                    bytes_written: outcome.bytes_written,
                    bytes_verified: outcome.bytes_verified,
                    bytes_unreached: outcome.bytes_unreached,
                    bytes_dirty_before: outcome.bytes_dirty_before.min(outcome.bytes_total),
                    pattern: judge::printable(&outcome.pattern, 64),
                    took_ms: outcome.took_ms.min(took_ms),
                    tool: tool.clone(),
                    ..Default::default()
                },
                Err(why) => Evidence { tool: tool.clone(), ..not_cleaned(address, method, why) },
            }
        });
        evidence.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{inventory::fixture::Machine, sanitise::image};
    use holm_scrub::serve;
    use serde_json::json;
    use std::{
        fs,
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::{UnixListener, UnixStream},
        path::Path,
        thread,
    };

    const ADDRESSES: [&str; 2] = ["0000:34:00.0", "0000:36:00.0"];
    const MEMORY: u64 = 16 << 20;

    /// What a machine does once it has started.
    #[derive(Debug, Clone, Copy)]
    enum Guest {
        /// holm-scrub, on files in the place of devices.
        Real,
        /// Ends without a word.
        Ends,
        /// Says nothing.
        Silent,
        /// Says this in answer to its order; `RUN` and `NONCE` are put in.
        Says(&'static str),
        /// Never says an end of line.
        Floods,
    }

    /// Machines as threads, and what was done with them.
    struct Threads {
        guest: Guest,
        directory: PathBuf,
        done: Mutex<Vec<String>>,
        fails: Option<&'static str>,
    }

    impl Threads {
        fn note(&self, what: String) -> Result<()> {
            let fails = self.fails.is_some_and(|word| what.starts_with(word));
            self.done.lock().unwrap().push(what);
            if fails { Err(EdgeError::new("a fault")) } else { Ok(()) }
        }
    }

    impl Ground for Threads {
        fn start(&self, spec: &ScrubSpec, hold: Arc<dyn Any + Send + Sync>) -> Result<()> {
            assert_eq!(fs::read_to_string(&spec.kernel).unwrap(), "a kernel");
            assert_eq!(spec.cmdline, "quiet");
            let (guest, sysfs) = (self.guest, self.directory.join("sys"));
            let listener = UnixListener::bind(&spec.channel).unwrap();
            thread::spawn(move || {
                let _hold = hold;
                play(guest, listener.accept().unwrap().0, &sysfs);
            });
            self.note("start".to_owned())
        }
        fn end(&self, _: RunId) -> Result<()> {
            self.note("end".to_owned())
        }
        fn let_go(&self, device: PciAddress) -> Result<()> {
            self.note(format!("let go {device}"))
        }
    }

    fn play(guest: Guest, mut port: UnixStream, sysfs: &Path) {
        match guest {
            Guest::Real => {
                let ended = || Err(std::io::Error::other("the host went away"));
                serve::serve(port, sysfs, ended).unwrap();
            }
            Guest::Ends => {}
            Guest::Silent => drop(std::io::copy(&mut port, &mut std::io::sink())),
            Guest::Floods => while port.write_all(&[b'x'; 4096]).is_ok() {},
            Guest::Says(text) => {
                let mut order = String::new();
                BufReader::new(port.try_clone().unwrap()).read_line(&mut order).unwrap();
                let order: Order = serde_json::from_str(&order).unwrap();
                let text = text.replace("RUN", &order.run).replace("NONCE", &order.nonce);
                let _ = port.write_all(text.as_bytes());
                drop(std::io::copy(&mut port, &mut std::io::sink()));
            }
        }
    }

    struct Tried {
        evidence: Vec<Evidence>,
        done: Vec<String>,
        directory: tempfile::TempDir,
    }

    fn run() -> RunId {
        "b4c0a5a0-0000-4000-8000-000000000001".parse().unwrap()
    }

    fn tried(
        guest: Guest,
        fails: Option<&'static str>,
        change: impl FnOnce(&Path, &mut ScrubVmConfig),
    ) -> Tried {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        // As the machine sees its devices: behind the ports of their places.
        for (slot, bus) in [(0, "06"), (1, "07")] {
            let address = format!("0000:{bus}:00.0");
            let device = root.join("sys/bus/pci/devices").join(&address);
            fs::create_dir_all(&device).unwrap();
            fs::create_dir_all(root.join(format!("sys/bus/pci/devices/0000:00:10.{slot}/{address}")))
                .unwrap();
            fs::write(device.join("vendor"), "0x1af4\n").unwrap();
            fs::write(device.join("device"), "0x1110\n").unwrap();
            let bar = "0x0 0xff 0x40200\n0x0 0x0 0x0\n0x380000000000 0x380000ffffff 0x14220c\n";
            fs::write(device.join("resource"), bar).unwrap();
            fs::write(device.join("resource2"), vec![slot + 1; MEMORY as usize]).unwrap();
        }
        let mut config = image::tests::made(&root.join("image"));
        change(root, &mut config);
        let ground = Arc::new(Threads { guest, directory: root.to_owned(), done: Mutex::default(), fails });
        let mut host: HostConfig = toml::from_str(
            "[devices]\n[storage]\nbase_image = \"/b\"\n[guest]\nkernel = \"/k\"\ninitrd = \"/i\"\ncmdline = \"\"",
        )
        .unwrap();
        (host.slices, host.guest_sockets) = (root.join("slices"), root.to_owned());
        let vm = ScrubVm::new(&host, config, CleanMethod::VmBar, Arc::clone(&ground) as _);
        let machine = Machine::dgx2();
        let devices: Vec<PciFunction> = ADDRESSES
            .map(|address| machine.sysfs().function(address.parse().unwrap()).unwrap().unwrap())
            .into();
        let hold: Arc<dyn Any + Send + Sync> = Arc::new(());
        let evidence = vm.sanitise(run(), &devices, hold);
        let done = ground.done.lock().unwrap().clone();
        assert!(!root.join("slices/scrub").exists() && !root.join("scrub.sock").exists());
        Tried { evidence, done, directory }
    }

    fn fails(guest: Guest, word: &str) {
        let tried = tried(guest, None, |_, config| {
            if matches!(guest, Guest::Silent) {
                (config.start_limit_s, config.limit_per_gib_s) = (0, 1);
            }
        });
        assert_eq!(tried.done, ["start", "end"], "{guest:?}");
        for evidence in &tried.evidence {
            assert!(!evidence.cleaned && evidence.detail.contains(word), "{guest:?}: {}", evidence.detail);
            assert_eq!(evidence.bytes_verified, 0);
        }
        assert_eq!(tried.evidence.len(), 2);
    }

    #[test]
    fn both_devices_are_cleaned_in_one_machine() {
        let tried = tried(Guest::Real, None, |_, _| {});
        assert_eq!(tried.done, ["start", "end", "let go 0000:34:00.0", "let go 0000:36:00.0"]);
        for (evidence, address) in tried.evidence.iter().zip(ADDRESSES) {
            assert!(evidence.cleaned, "{}", evidence.detail);
            assert_eq!((evidence.address.as_str(), evidence.method.as_str()), (address, "scrub-vm/bar"));
            let bytes = [evidence.bytes_total, evidence.bytes_written, evidence.bytes_verified];
            assert_eq!(
                (bytes, evidence.bytes_dirty_before, evidence.bytes_unreached),
                ([MEMORY; 3], MEMORY, 0)
            );
            assert!(
                evidence.tool.contains("holm-scrub") && evidence.tool.contains("image "),
                "{}",
                evidence.tool
            );
            assert!(evidence.pattern.ends_with("then zero"));
        }
        for bus in ["06", "07"] {
            let path = format!("sys/bus/pci/devices/0000:{bus}:00.0/resource2");
            assert!(fs::read(tried.directory.path().join(path)).unwrap().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_device_that_is_another_one_is_not_cleaned_and_its_neighbour_is() {
        for (file, text, word) in [
            ("device", "0x1111\n", "the host saw 1af4:1110"),
            (
                "resource",
                "0x0 0xff 0x40200\n0x380000000000 0x3800007fffff 0x14220c\n",
                "the host saw 16777216",
            ),
        ] {
            let tried = tried(Guest::Real, None, |root, _| {
                fs::write(root.join("sys/bus/pci/devices/0000:07:00.0").join(file), text).unwrap();
            });
            assert!(tried.evidence[0].cleaned && !tried.evidence[1].cleaned);
            assert!(tried.evidence[1].detail.contains(word), "{}", tried.evidence[1].detail);
        }
    }

    #[test]
    fn a_machine_that_does_not_report_cleans_nothing() {
        fails(Guest::Ends, "ended without a report");
        fails(Guest::Silent, "in the time that it has");
        fails(Guest::Floods, "says too much");
    }

    #[test]
    fn a_report_that_is_none_cleans_nothing() {
        for text in [
            "\n",
            "cleaned\n",
            "{\"report\":{}}\n",
            "{\"progress\":{\"slot\":0,\"step\":\"x\",\"more\":1}}\n",
        ] {
            fails(Guest::Says(text), "not understood");
        }
        for text in [
            r#"{"report":{"run":"RUN","nonce":"an-earlier-one","tool":"","devices":[]}}"#,
            r#"{"report":{"run":"another","nonce":"NONCE","tool":"","devices":[]}}"#,
        ] {
            let line: &'static str = Box::leak(format!("{text}\n").into_boxed_str());
            fails(Guest::Says(line), "another run's");
        }
        let device = json!({ "slot": 7, "cleaned": true, "bytes_total": 1, "bytes_written": 1, "bytes_verified": 1,
            "bytes_unreached": 0, "bytes_dirty_before": 0, "pattern": "", "took_ms": 0, "detail": "" });
        let report = json!({ "report": { "run": "RUN", "nonce": "NONCE", "tool": "", "devices": [device] } });
        fails(Guest::Says(Box::leak(format!("{report}\n").into_boxed_str())), "where there is none");
    }

    #[test]
    fn a_device_that_the_report_leaves_out_is_not_clean() {
        let said = "{\"report\":{\"run\":\"RUN\",\"nonce\":\"NONCE\",\"tool\":\"\",\"devices\":[]}}\n";
        let tried = tried(Guest::Says(said), None, |_, _| {});
        assert!(tried.evidence.iter().all(|one| !one.cleaned && one.detail.contains("does not speak of it")));
    }

    #[test]
    fn a_machine_that_does_not_end_or_a_device_that_is_held_is_not_clean() {
        for fault in ["start", "end"] {
            let tried = tried(Guest::Real, Some(fault), |_, _| {});
            assert!(tried.evidence.iter().all(|one| !one.cleaned && one.detail == "a fault"), "{fault}");
            // Even a start that failed is ended.
            assert_eq!(tried.done, ["start", "end"]);
        }
        let tried = tried(Guest::Real, Some("let go 0000:34"), |_, _| {});
        assert_eq!(tried.evidence.iter().map(|one| one.cleaned).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn another_image_is_not_started() {
        let tried =
            tried(Guest::Real, None, |root, _| fs::write(root.join("image/vmlinuz"), "evil").unwrap());
        assert!(tried.done.is_empty());
        assert!(tried.evidence.iter().all(|one| !one.cleaned && one.detail.contains("not started")));
    }

    #[test]
    fn what_has_no_known_size_is_not_cleaned_by_cuda() {
        let directory = tempfile::tempdir().unwrap();
        let host: HostConfig = toml::from_str(
            "[devices]\n[storage]\nbase_image = \"/b\"\n[guest]\nkernel = \"/k\"\ninitrd = \"/i\"\ncmdline = \"\"",
        )
        .unwrap();
        let config = image::tests::made(directory.path());
        let ground =
            Threads { guest: Guest::Ends, directory: PathBuf::new(), done: Mutex::default(), fails: None };
        let vm = ScrubVm::new(&host, config, CleanMethod::VmCuda, Arc::new(ground));
        let machine = Machine::dgx2();
        let mut device = machine.sysfs().function(ADDRESSES[0].parse().unwrap()).unwrap().unwrap();
        let evidence = vm.sanitise(run(), &[device.clone()], Arc::new(()));
        assert!(evidence[0].detail.contains("nobody knows how much memory"), "{}", evidence[0].detail);
        device.id = "10de:1db8".to_owned();
        let order = vm.order(run(), &vec![device.clone(); 16]).unwrap();
        assert_eq!(order.devices[15].bytes, 32 << 30);
        assert_eq!(vm.limit(&order), Duration::from_secs(20 + 16 * 32));
        assert!(vm.order(run(), &vec![device; 17]).is_err());
    }
}
