//! Fixed messages as people and scripts read them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use holm_cli::text::Clock;
use holm_cli::view;
use holm_proto::v1::{
    Agreement, Alert, Approval, Backup, Check, Commissioning, DataSet, Declassification, Device, DeviceKind,
    DeviceState, DiskUse, Explanation, Filed, Guest, Hold, Host, HostReason, Inventory, Job, JobKind, Lock,
    Login, Maintenance, PciDevice, Person, Prevents, ProcessingRecord, Project, QueueEntry, Quota,
    Registration, Slice, SliceState, Step, Tried, Verdict,
};
use prost_types::Timestamp;

fn clock() -> Clock {
    Clock {
        now: "2026-11-03T13:02:11Z".parse().unwrap(),
        zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(1)),
    }
}

fn at(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().unwrap();
    Some(Timestamp { seconds: at.as_second(), nanos: 0 })
}

/// As it is shown where something is locked.
fn lock(subject: &str) -> Option<Lock> {
    let (subject, at) = (subject.to_owned(), at("2026-11-03T12:50:00Z"));
    Some(Lock { subject, by: "frida".to_owned(), at, reason: String::new() })
}

#[test]
fn what_is_locked() {
    let all = [
        Lock { reason: "her laptop was stolen".to_owned(), ..lock("person/ada").unwrap() },
        Lock { reason: "a complaint".to_owned(), ..lock("device/dgx2-1/0000:34:00.0").unwrap() },
    ];
    insta::assert_snapshot!("lock_list", view::locks(&all, &clock()).text(false, None));
    insta::assert_json_snapshot!("lock_json", view::lock_json(&all[0]));
    let locked = Slice { lock: lock("slice/heart-study/main"), ..ready() };
    insta::assert_snapshot!(
        "slice_locked_list",
        view::slices(std::slice::from_ref(&locked), &clock()).text(false, None)
    );
    let sheet = view::slice(&locked, &clock()).text(false);
    assert!(sheet.contains("locked") && sheet.contains("by frida, 2026-11-03 13:50:00"), "{sheet}");
    let mut host = host(true, false);
    host.devices[2].lock = lock("device/dgx2-1/0000:34:00.0");
    let (_, devices) = view::host(&host, &clock());
    assert!(devices.text(false, None).contains("locked by frida, 2026-11-03 13:50:00"));
}

fn slice(name: &str, state: SliceState) -> Slice {
    let mut slice = Slice {
        id: "5f0c7c8e-0000-4000-8000-000000000002".to_owned(),
        project: "heart-study".to_owned(),
        name: name.to_owned(),
        level: "3".to_owned(),
        level_name: "sensitive".to_owned(),
        gpus: 2,
        vcpus: 12,
        memory_mib: 131_072,
        disk_gib: 200,
        requested_by: "ada".to_owned(),
        approvals: vec![Approval {
            by: "frida".to_owned(),
            at: at("2026-11-03T12:30:00Z"),
            comment: "DPIA seen".to_owned(),
        }],
        approvals_needed: 2,
        requested: at("2026-11-03T12:00:00Z"),
        changed: at("2026-11-03T12:58:00Z"),
        ..Slice::default()
    };
    slice.set_state(state);
    slice
}

fn ready() -> Slice {
    let mut slice = slice("main", SliceState::Ready);
    slice.approvals.push(Approval {
        by: "gustav".to_owned(),
        at: at("2026-11-03T12:40:00Z"),
        comment: String::new(),
    });
    slice.host = "dgx2-1".to_owned();
    slice.partition = Some(7);
    slice.devices = vec!["0000:34:00.0".to_owned(), "0000:36:00.0".to_owned()];
    slice.generation = 1;
    slice.key_fingerprint = "00112233445566aa".to_owned();
    slice.steps = vec![
        Step {
            name: "create disk".to_owned(),
            took_ms: 1200,
            done: true,
            started: at("2026-11-03T12:41:00Z"),
        },
        Step {
            name: "start machine".to_owned(),
            took_ms: 0,
            done: false,
            started: at("2026-11-03T12:41:02Z"),
        },
    ];
    slice.guest =
        Some(Guest { ssh_host_key: "ssh-ed25519 AAAA".to_owned(), gpus: 2, slurm: "24.05.4".to_owned() });
    slice
}

fn host(online: bool, simulated: bool) -> Host {
    let device = |address: &str, kind, group, id, state, problem: &str, reason: &str| {
        let mut pci = PciDevice {
            address: address.to_owned(),
            id: "10de:1db8".to_owned(),
            numa_node: 0,
            iommu_group: Some(group),
            physical_id: id,
            driver: "vfio-pci".to_owned(),
            memory_bytes: 32 << 30,
            problem: problem.to_owned(),
            ..PciDevice::default()
        };
        pci.set_kind(kind);
        let mut device = Device { pci: Some(pci), reason: reason.to_owned(), ..Device::default() };
        device.set_state(state);
        device
    };
    let mut devices = vec![
        device("0000:b9:00.0", DeviceKind::Nvswitch, 90, None, DeviceState::Free, "", ""),
        device(
            "0000:36:00.0",
            DeviceKind::Gpu,
            41,
            Some(2),
            DeviceState::Quarantined,
            "",
            "1 byte was not zero",
        ),
        device("0000:34:00.0", DeviceKind::Gpu, 40, Some(1), DeviceState::Free, "", ""),
        device(
            "0000:39:00.0",
            DeviceKind::Gpu,
            41,
            None,
            DeviceState::Dirty,
            "shares IOMMU group 41 with a bridge",
            "",
        ),
    ];
    devices[2].slice = "heart-study/main".to_owned();
    Host {
        name: "dgx2-1".to_owned(),
        online,
        simulated,
        platform: "dgx-2".to_owned(),
        agent_version: "0.1.0".to_owned(),
        inventory: Some(Inventory {
            cpus: 96,
            numa_nodes: 2,
            memory_mib: 1_572_864,
            iommu: true,
            kernel: "6.1.0-37-amd64".to_owned(),
            devices: Vec::new(),
            ..Default::default()
        }),
        devices,
        last_report: at("2026-11-03T13:02:09Z"),
        ..Default::default()
    }
}

#[test]
fn slices() {
    let mut queued = slice("second", SliceState::Approved);
    queued.reason = "queued: no 8 GPUs are free together\u{1b}[2J".to_owned();
    let all = [ready(), queued.clone(), slice("third", SliceState::Requested)];
    let table = view::slices(&all, &clock());
    insta::assert_snapshot!("slice_list", table.text(false, None));
    insta::assert_snapshot!("slice_list_csv", table.csv());
    insta::assert_snapshot!("slice_show", view::slice(&ready(), &clock()).text(false));
    insta::assert_snapshot!("slice_explain", view::explain(&queued, &clock()).text(false));
    // A start that was asked for too late to be held for is not called a reservation.
    let mut early = slice("early", SliceState::Requested);
    early.from = at("2026-11-03T20:00:00Z");
    let shown = |slice: &Slice| view::slice(slice, &clock()).text(false);
    assert!(shown(&early).contains("not before    2026-11-03 21:00:00 (in 6 h 58 min); no reservation"));
    early.reserved = true;
    assert!(shown(&early).contains("reserved from  2026-11-03 21:00:00 (in 6 h 58 min)\n"));
    insta::assert_json_snapshot!("slice_json", view::slice_json(&ready()));
    insta::assert_snapshot!("slice_list_empty", view::slices(&[], &clock()).text(false, None));
}

/// A slice that waits, runs, failed or is gone: what it has, since when, until when, what can be done.
#[test]
fn explanations() {
    let explained = |slice: Slice, earliest: Option<&str>, assumption: &str| {
        let explanation = Explanation {
            slice: Some(slice),
            earliest: earliest.and_then(at),
            assumption: assumption.to_owned(),
            ..Explanation::default()
        };
        view::explained(&explanation, &clock()).text(false)
    };
    let mut running = ready();
    running.placed = at("2026-11-03T12:41:00Z");
    running.until = at("2026-11-10T08:00:00Z");
    running.steps.clear();
    let mut failed = Slice { reason: "its Slurm counts 1 GPUs, 2 were given".to_owned(), ..running.clone() };
    failed.set_state(SliceState::Failed);
    let mut destroyed = Slice { detached: at("2026-11-03T12:55:00Z"), ..running.clone() };
    destroyed.set_state(SliceState::Destroyed);
    let mut waiting = slice("big", SliceState::Approved);
    waiting.reason = "queued: no 16 GPUs are free together".to_owned();
    let reserved =
        Slice { from: at("2026-11-05T08:00:00Z"), reserved: true, reason: String::new(), ..waiting.clone() };
    let all = [
        explained(running, None, ""),
        explained(failed, None, ""),
        explained(destroyed, None, ""),
        explained(reserved, Some("2026-11-05T08:00:00Z"), "GPUs are kept for it from 24 h before"),
        explained(
            waiting.clone(),
            Some("2026-11-06T00:00:00Z"),
            "those in its way end when their leads said",
        ),
        explained(waiting, None, "no host is large enough, whoever leaves"),
    ];
    // Why it does not fit is never said under "may fit".
    assert!(all[4].contains("may fit") && !all[5].contains("may fit"));
    insta::assert_snapshot!(all.join("\n"));
}

/// Who may not know of others' use has no column for it, and who may read hosts reads why they are closed.
#[test]
fn queues() {
    let entry = |share, hosts: &[(&str, &str)]| {
        let mut waiting = slice("big", SliceState::Approved);
        waiting.reason = "queued: the host is not ready".to_owned();
        let reason = |(host, reason): &(&str, &str)| HostReason {
            host: (*host).to_owned(),
            reason: (*reason).to_owned(),
        };
        QueueEntry {
            position: 1,
            slice: Some(waiting),
            department: "health".to_owned(),
            share_permille: share,
            holds: false,
            hosts: hosts.iter().map(reason).collect(),
        }
    };
    let table = |entry| view::queue(&[entry], &clock());
    let lead = table(entry(None, &[]));
    let operator = table(entry(Some(421), &[("dgx2-1", "in maintenance: firmware\u{1b}[2J")]));
    insta::assert_snapshot!("queue_lead", lead.text(false, None));
    insta::assert_snapshot!("queue_operator", operator.text(false, None));
    assert!(!lead.csv().contains("its_share") && operator.csv().contains("its_share"));
}

/// Each state says what it waits for and what comes next, to who may do everything.
fn hold(of_project: bool) -> Hold {
    Hold {
        by: "frida".to_owned(),
        at: at("2026-11-03T12:59:00Z"),
        reason: "a complaint\u{1b}[2J".to_owned(),
        of_project,
    }
}

#[test]
fn on_hold() {
    let mut running = ready();
    running.hold = Some(hold(true));
    let mut kept = slice("second", SliceState::Kept);
    kept.reason = "on hold by frida: a complaint".to_owned();
    kept.closed = at("2026-11-03T12:57:00Z");
    kept.hold = Some(hold(false));
    kept.keep_until = at("2026-12-03T12:57:00Z");
    kept.may = vec!["hold.lift".to_owned()];
    let frozen = Slice { may: vec!["slice.close".to_owned()], ..slice("third", SliceState::Kept) };
    let table = view::slices(&[running, kept.clone(), frozen.clone()], &clock());
    let sheets =
        [view::slice(&kept, &clock()), view::explain(&kept, &clock()), view::explain(&frozen, &clock())];
    let sheets: Vec<String> = sheets.iter().map(|sheet| sheet.text(false)).collect();
    let next = [&kept, &frozen].map(|s| view::next_command(s).unwrap());
    insta::assert_snapshot!(format!(
        "{}\n{}\n{}",
        table.text(false, None),
        sheets.join("\n"),
        next.join("\n")
    ));
}

/// Each state says what it waits for and what comes next.
#[test]
fn states() {
    let all: Vec<String> = (0..=16)
        .map(|n| {
            let state = SliceState::try_from(n).unwrap();
            let stranger = slice("main", state);
            let may = [
                "slice.approve",
                "slice.close",
                "slice.stop",
                "slice.start",
                "slice.connect",
                "slice.certificate",
                "hold.lift",
            ];
            let slice = Slice { may: may.map(str::to_owned).into(), ..stranger.clone() };
            // Nobody is told to run what she may not.
            let next = view::next_command(&stranger);
            assert!(next.is_none_or(|next| next == "holm slice watch heart-study/main"), "{n}");
            let explained = view::explain(&slice, &clock()).text(false);
            let waits = explained
                .lines()
                .find(|l| l.trim_start().starts_with("waits for"))
                .unwrap_or("  waits for  nothing");
            let next = view::next_command(&slice).unwrap_or_default();
            format!("{}\n{waits}\n  next       {next}", view::word(state))
        })
        .collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn hosts() {
    let show = |host: &Host| {
        let (sheet, table) = view::host(host, &clock());
        format!("{}\n{}", sheet.text(false), table.text(false, None))
    };
    insta::assert_snapshot!("host_show", show(&host(true, false)));
    insta::assert_snapshot!("host_show_simulated_and_offline", show(&host(false, true)));
    insta::assert_snapshot!("host_show_unknown", show(&Host { name: "new".to_owned(), ..Host::default() }));
    insta::assert_snapshot!(
        "host_list",
        view::hosts(&[host(true, true), host(false, false)], &clock()).text(false, None)
    );
    let maintenance = |reason: &str| {
        let since = at("2026-11-03T11:00:00Z");
        Some(Maintenance { by: "olga".to_owned(), reason: reason.to_owned(), since })
    };
    let mut part = host(true, false);
    part.devices[2].maintenance = maintenance("a fan");
    let whole = Host { maintenance: maintenance("firmware"), ..host(true, false) };
    insta::assert_snapshot!(
        "host_list_out_of_service",
        view::hosts(&[part.clone(), whole.clone()], &clock()).text(false, None)
    );
    assert!(
        show(&whole).contains("OUT OF SERVICE: nothing new is placed here. By olga 2 h 2 min ago: firmware")
    );
    // Scripts are told of what they asked about, and find a device however it was typed.
    let json = view::service_json(&part, view::named(&part, "34:00.0"));
    assert_eq!(json["device"]["maintenance"]["reason"], "a fan");
    assert_eq!(view::service_json(&whole, None).as_object().unwrap().len(), 2);
    assert!(view::named(&part, "34:00").is_none() && view::named(&part, "ff:00.0").is_none());
    let json = view::gpus_json(&part, "clean");
    assert_eq!(json["gpus"], serde_json::json!({ "dirty": 1, "free": 1, "quarantined": 1 }));
    // An NVSwitch is given to nobody: it has no state, in no form.
    let switch = |json: &serde_json::Value| json["devices"][0]["state"].clone();
    assert_eq!(switch(&view::host_json(&host(true, false))), serde_json::Value::Null);
    assert!(
        view::host(&host(true, false), &clock()).1.csv().contains("0000:b9:00.0,nvswitch,0,90,,,vfio-pci")
    );
    insta::assert_json_snapshot!(
        "host_json",
        view::host_json(&Host { devices: host(true, false).devices[2..3].to_vec(), ..host(true, false) })
    );
}

/// What is wrong comes first, and nothing that is unknown looks well.
#[test]
fn alerts_and_checks() {
    let check = |id: &str, verdict, must, found: &str, mend: &str| {
        let listed = holm_proto::commission::check(id).unwrap();
        let mut check = Check {
            id: id.to_owned(),
            title: listed.title.to_owned(),
            must,
            found: found.to_owned(),
            mend: mend.to_owned(),
            ..Check::default()
        };
        check.set_verdict(verdict);
        check
    };
    let checks = vec![
        check("iommu-on", Verdict::Pass, true, "", ""),
        check("clock-synchronised", Verdict::Unknown, false, "nobody keeps it", "run chrony"),
        check("swap-off", Verdict::Fail, true, "not encrypted: /dev/sda2\u{1b}[2J", "swapoff -a"),
    ];
    let alert = |code: &str, device: &str, text: &str, mend: &str, prevents: &[Prevents]| Alert {
        code: code.to_owned(),
        device: device.to_owned(),
        text: text.to_owned(),
        mend: mend.to_owned(),
        prevents: prevents.iter().map(|one| (*one).into()).collect(),
    };
    let all = [Prevents::Allocation, Prevents::Change, Prevents::Closing];
    let alerts = vec![
        alert("report-stale", "", "its last report is 300 s old", "systemctl status holm-agent", &all),
        alert("commissioning-failed", "", "swap-off: not encrypted: /dev/sda2", "swapoff -a", &all[..1]),
        alert("device-degraded", "0000:34:00.0", "0000:34:00.0: a link is down (nvml)", "look at it", &[]),
    ];
    let report = Commissioning { checks, at: at("2026-11-03T12:00:00Z"), ..Commissioning::default() };
    let host = Host { alerts, commissioning: Some(report), devices: Vec::new(), ..host(true, false) };
    insta::assert_snapshot!("host_alerts", view::alerts(&host).text(false, None));
    insta::assert_snapshot!("host_checks", view::checks(&host).text(false, None));
    insta::assert_snapshot!("host_checks_none", view::checks(&Host::default()).text(false, None));
    insta::assert_json_snapshot!("host_checks_json", view::commissioning_json(&host.commissioning.unwrap()));
}

#[test]
fn people_and_projects() {
    let person = Person {
        name: "ada".to_owned(),
        roles: vec!["lead".to_owned(), "researcher".to_owned()],
        created: at("2026-10-01T08:00:00Z"),
        enrolled: true,
        lock: lock("person/ada"),
        revoked: false,
        waits: None,
        login: Some(Login {
            at: at("2026-11-03T07:10:00Z"),
            second_factor: true,
            how: "amr pwd mfa".to_owned(),
        }),
    };
    let project = Project {
        id: "5f0c7c8e-0000-4000-8000-000000000003".to_owned(),
        name: "heart-study".to_owned(),
        level: "3".to_owned(),
        level_name: "sensitive".to_owned(),
        purpose: "risk of stroke\nfrom ECGs".to_owned(),
        lead: "ada".to_owned(),
        members: vec!["ada".to_owned(), "rosa".to_owned()],
        readers: vec!["rosa".to_owned()],
        etag: "0123456789abcdef".to_owned(),
        created: at("2026-10-02T08:00:00Z"),
        pack: "aau-2018/7".to_owned(),
        department: "health".to_owned(),
        hold: Some(hold(false)),
        quota: Some(Quota {
            project: "heart-study".to_owned(),
            disk_gib: 500,
            used_gib: 300,
            of_site: false,
        }),
        registration: Some(Registration {
            legal_basis: Some("e".to_owned()),
            special_categories: Some(true),
            special_basis: Some("j".to_owned()),
            research: Some(true),
            dpia: Some(Filed { reference: "DPIA-17".to_owned(), expires: at("2026-11-10T00:00:00Z") }),
            ethics: Some(Filed { reference: "N-4711".to_owned(), expires: None }),
            ends: at("2028-01-01T00:00:00Z"),
            recipients: Some("none".to_owned()),
            ..Registration::default()
        }),
        missing: vec!["a data-management plan (--data-management-plan)".to_owned()],
        warnings: vec!["its DPIA ends in 6 days, on 2026-11-10".to_owned()],
        data_sets: vec![DataSet {
            name: "ecgs".to_owned(),
            owner: "the clinic".to_owned(),
            level: "3".to_owned(),
        }],
        declassification: Some(Declassification {
            data_set: "ecgs".to_owned(),
            level: "2".to_owned(),
            reason: "names were removed".to_owned(),
            by: "ada".to_owned(),
            at: at("2026-11-03T12:00:00Z"),
            approvals: vec![Approval {
                by: "frida".to_owned(),
                at: at("2026-11-03T12:30:00Z"),
                comment: "seen".to_owned(),
            }],
            approvals_needed: 2,
            project_level: "2".to_owned(),
        }),
        agreements: vec![Agreement {
            person: "rosa".to_owned(),
            filed: Some(Filed { reference: "AAU-7".to_owned(), expires: at("2027-01-01T00:00:00Z") }),
        }],
        lock: lock("project/heart-study"),
        keys_lock: None,
    };
    insta::assert_snapshot!(
        "person_list",
        view::people(std::slice::from_ref(&person), &clock()).text(false, None)
    );
    insta::assert_snapshot!("person_show", view::person(&person, &clock()).text(false));
    insta::assert_json_snapshot!("person_json", view::person_json(&person));
    insta::assert_snapshot!(
        "project_list",
        view::projects(std::slice::from_ref(&project), Some("heart-study"), &clock()).text(false, None)
    );
    insta::assert_snapshot!("project_show", view::project(&project, &clock()).text(false));
    insta::assert_json_snapshot!("project_json", view::project_json(&project));
    let mut ended = Project { name: "old-study".to_owned(), ..project.clone() };
    ended.registration.as_mut().unwrap().ends = at("2026-11-03T00:00:00Z");
    let both = [project.clone(), ended];
    insta::assert_snapshot!("project_register", view::register(&both, &clock()).csv());
    let json: Vec<_> = both.iter().map(|p| view::entry_json(p, &clock())).collect();
    insta::assert_json_snapshot!("project_register_json", json);
    let record = ProcessingRecord {
        project: "heart-study".to_owned(),
        controller: "Aalborg University".to_owned(),
        lead: "ada".to_owned(),
        department: "health".to_owned(),
        purpose: "risk of stroke".to_owned(),
        legal_bases: vec!["article 6(1)(e)".to_owned(), "article 9(2)(j)".to_owned()],
        categories: "patients: ECGs".to_owned(),
        special_categories: true,
        recipients: "none".to_owned(),
        transfers: "none".to_owned(),
        erased_after: at("2028-01-01T00:00:00Z"),
        erasure: "keys are destroyed".to_owned(),
        measures: vec!["machines reach no network".to_owned(), "names are replaced".to_owned()],
        level_name: "sensitive".to_owned(),
        registration: project.registration.clone(),
        written: at("2026-11-03T13:02:11Z"),
        pack: "aau-2018/7".to_owned(),
    };
    insta::assert_snapshot!("project_record", view::record(&record, &clock()).text(false));
    insta::assert_json_snapshot!("project_record_json", view::record_json(&record));
    let none = Quota { disk_gib: 0, of_site: true, ..project.quota.unwrap() };
    assert_eq!(view::quota(&none), "300 GiB, no limit, as for every project here");
}

#[test]
fn full_disks() {
    let disk = |name: &str, gib: u64, free: u64, files_free| DiskUse {
        name: name.to_owned(),
        bytes: gib << 30,
        free: free << 30,
        files: 1000,
        files_free,
    };
    let slice = Slice {
        home_gib: 100,
        scratch_gib: 200,
        disks: vec![disk("root", 200, 150, 900), disk("data", 100, 8, 900), disk("scratch", 200, 190, 150)],
        warnings: vec![
            "/home and /project are 92 % full: delete what is not needed".to_owned(),
            "/raid is 85 % full of files: delete what is not needed".to_owned(),
        ],
        ..ready()
    };
    let paused = Slice { paused: true, ..slice.clone() };
    insta::assert_snapshot!("slice_full_show", view::slice(&slice, &clock()).text(false));
    let full = Slice { warnings: Vec::new(), disks: vec![disk("scratch", 10, 2, 900)], ..slice.clone() };
    let list = [ready(), full, slice.clone(), paused];
    insta::assert_snapshot!("slice_full_list", view::slices(&list, &clock()).text(false, None));
    let json = view::slice_json(&slice);
    insta::assert_json_snapshot!("slice_full_json", [&json["disks"], &json["warnings"], &json["paused"]]);
}

#[test]
fn key_providers() {
    use holm_proto::v1::{Keys, ProviderDown};
    let mut keys = Keys {
        provider: "tpm2".to_owned(),
        place: "/dev/tpmrm0".to_owned(),
        kek_generation: 2,
        former_provider: "vault".to_owned(),
        ..Keys::default()
    };
    insta::assert_snapshot!("keys_show", view::keys(&keys, &clock()).text(false));
    keys.former_down =
        Some(ProviderDown { since: at("2026-11-03T12:40:00Z"), why: "Vault is sealed".to_owned() });
    insta::assert_snapshot!("keys_show_former_down", view::keys(&keys, &clock()).text(false));
    insta::assert_json_snapshot!("keys_json", view::keys_json(&keys));
}

fn backup(id: u8, made: bool) -> Backup {
    Backup {
        id: format!("5f0c7c8e-0000-4000-8000-0000000000{id:02}"),
        project: "heart-study".to_owned(),
        slice: "main".to_owned(),
        host: "dgx2-1".to_owned(),
        by: "ada".to_owned(),
        begun: at("2026-11-03T10:00:00Z"),
        made: at("2026-11-03T11:00:00Z").filter(|_| made),
        bytes: if made { 300 << 30 } else { 0 },
        stored_bytes: if made { (40 << 30) + (1 << 29) } else { 0 },
        sha256: if made { "ab".repeat(32) } else { String::new() },
        ..Backup::default()
    }
}

#[test]
fn backups() {
    let mut passed = backup(1, true);
    let drill = Tried {
        at: at("2026-11-03T12:00:00Z"),
        passed: true,
        detail: "sha-256, header, key, image".to_owned(),
        by: "olga".to_owned(),
    };
    passed.drill = Some(drill.clone());
    let mut failed = backup(2, true);
    let why = "a chunk is not what was written".to_owned();
    failed.drill = Some(Tried { passed: false, detail: why, ..drill });
    let half = Backup { reason: "not whole: the store fails".to_owned(), ..backup(3, false) };
    let all = [passed, failed, half];
    insta::assert_snapshot!("backup_list", view::backups(&all, &clock()).text(false, None));
    insta::assert_snapshot!("backup_list_csv", view::backups(&all, &clock()).csv());
    insta::assert_json_snapshot!("backup_json", view::backup_json(&all[0]));
    let mut rests = slice("main", SliceState::Stopped);
    let mut job = Job { done_bytes: 3 << 30, total_bytes: 12 << 30, by: "ada".to_owned(), ..Job::default() };
    job.set_kind(JobKind::Backup);
    assert_eq!(view::job(&job), "backup: 3 GiB of 12 GiB");
    assert_eq!(
        view::outcome(Some(&job), &all[2]),
        (false, "no backup was made: not whole: the store fails".to_owned())
    );
    job.set_kind(JobKind::Drill);
    assert!(view::outcome(Some(&job), &all[0]).0 && !view::outcome(Some(&job), &all[1]).0);
    let mut restored = all[0].clone();
    job.set_kind(JobKind::Restore);
    assert_eq!(view::outcome(Some(&job), &restored), (false, "the restore was given up".to_owned()));
    restored.restore = restored.drill.clone();
    assert!(view::outcome(Some(&job), &restored).0);
    // One that passed before is not this one.
    job.since = at("2026-11-03T12:00:01Z");
    assert_eq!(view::outcome(Some(&job), &restored), (false, "the restore was given up".to_owned()));
    job.set_kind(JobKind::Drill);
    assert_eq!(view::outcome(Some(&job), &restored), (false, "the drill was given up".to_owned()));
    job.since = None;
    rests.job = Some(job);
    insta::assert_snapshot!("slice_show_drill", view::slice(&rests, &clock()).text(false));
}
