//! What Holm does, whatever a pack says, and what it can be told to do: the words that a pack's `[[rule]]` may
//! point at. A rule that points at nothing here is refused when the pack is loaded.

use serde::{Deserialize, Serialize};

macro_rules! obligations {
    ($($(#[$doc:meta])* $name:ident = $text:literal by $component:literal,)*) => {
        /// What a level can demand of a slice. One that no component enforces is no obligation but an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Obligation {
            $($(#[$doc])* $name,)*
        }

        impl Obligation {
            /// Every obligation there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As a pack writes it.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The component that sees to it.
            pub fn enforced_by(self) -> &'static str {
                match self {
                    $(Self::$name => $component,)*
                }
            }
        }
    };
}

obligations! {
    /// Its disks are encrypted with keys of its own, under its project's.
    EncryptedVolume = "encrypted_volume" by "hypervisor-agent/src/storage, which makes no other",
    /// Its memory is its own and never swapped.
    LockedMemory = "locked_memory" by "hypervisor-agent/src/hypervisor, in each machine's definition",
    /// It reaches no network.
    NoNetwork = "no_network" by "hypervisor-agent/src/hypervisor, which gives no machine an interface",
    /// Nobody else's GPU, core or memory is on the NUMA nodes that it is on; on a DGX-2, on its boards.
    OwnNode = "own_node" by "control/src/placement, which gives them to nobody else while it has them",
    /// One of those who approve it is outside its project.
    OutsideApprover = "outside_approver" by "control/src/domain/slice, at the last approval",
    /// What its terminals show is kept in it, and officers play it.
    RecordedTerminals = "recorded_terminals" by "guest/src/recordings, and the forced command of its sshd, which opens no terminal without",
    /// Its people have a terminal there and bring data in: over SSH no command without a terminal, nothing copied out, no
    /// port forwarded.
    TerminalOnly = "terminal_only" by "control/src/identity/ssh, in each SSH certificate, and guest/src/ssh, in its sshd",
    /// It has a virtual TPM.
    Vtpm = "vtpm" by "hypervisor-agent/src/hypervisor, in each machine's definition",
}

/// What no pack can switch off: its name, what it is, and the component that sees to it.
pub const ALWAYS: &[(&str, &str, &str)] = &[
    ("audit-before-effect", "nothing happens that is not in the log first", "control/src/ledger"),
    (
        "incident-clock",
        "an incident freezes its project, and the 72 hours in which the authority is to be told are counted and told",
        "control/src/domain/incident",
    ),
    ("key-of-project", "a disk's key opens under the key of its project alone", "control/src/keys"),
    (
        "level-lowered-by-two",
        "no level is raised, and none lowered but by two officers outside the project; a slice keeps its own",
        "control/src/domain/declassify",
    ),
    (
        "level-shown",
        "the level is in the slice's records, its machine's definition and its login banner",
        "control, hypervisor-agent",
    ),
    (
        "log",
        "every change and every refusal is an entry, and every read by an officer or auditor",
        "control/src/api",
    ),
    (
        "one-voice",
        "a code that makes an officer, or replaces another's certificate, takes a second person's word",
        "control/src/domain/people",
    ),
    ("roster", "who is not enrolled, or not of the project, reaches nothing of it", "control/src/api"),
    (
        "sample-review",
        "of every period a sample of accesses is drawn for officers, and one that is overdue is told",
        "control/src/review",
    ),
    ("sanitising", "no device or disk changes owner without evidence", "control/src/domain/device"),
    (
        "subject-extract",
        "an extract for a data subject has dates and purposes, and no names of staff unless they are asked for",
        "control/cli/src/run/audit/extract",
    ),
];
