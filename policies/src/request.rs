//! The question: may this one do this to that?

use holm_proto::ids::Name;

/// One question to a pack.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// To do what.
    pub action: Action,
    /// To what.
    pub resource: Resource,
}

/// Who asks, as the certificate names them and the store knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Who.
    pub identity: Identity,
    /// Enrolled and not removed since. Who is not is refused everything.
    pub known: bool,
}

/// A person or a host, never both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each field says what it is by its name")]
pub enum Identity {
    Person { name: Name, roles: Vec<String> },
    Host { name: Name },
}

impl Identity {
    /// The name in the certificate.
    pub fn name(&self) -> &Name {
        match self {
            Self::Person { name, .. } | Self::Host { name } => name,
        }
    }
}

/// What is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Holm as a whole: may all people, all hosts be listed?
    System,
    /// A project; for [`Action::ProjectCreate`] the one that is to be.
    Project {
        /// Its name.
        name: Name,
        /// As the pack names it.
        level: String,
        /// Who answers for it.
        lead: Name,
        /// Who is in it.
        members: Vec<Name>,
        /// Those of them who change nothing.
        readers: Vec<Name>,
        /// Who has put it on hold.
        held_by: Vec<Name>,
        /// What its level demands and it has not filed, or what of that has run out, in words for its lead.
        missing: Vec<String>,
        /// Members from outside whose agreement has ended.
        lapsed: Vec<Name>,
    },
    /// A slice of a project.
    Slice {
        /// Whose it is.
        project: Name,
        /// Its name in the project.
        name: Name,
        /// As the pack names it.
        level: String,
        /// Of the project.
        lead: Name,
        /// Of the project.
        members: Vec<Name>,
        /// Of the project: members who change nothing.
        readers: Vec<Name>,
        /// Who asked for it; where a longer lease is asked for, who asked for that.
        requested_by: Name,
        /// Who has approved it so far.
        approved_by: Vec<Name>,
        /// Who has put it on hold, and not its whole project.
        held_by: Vec<Name>,
        /// What the slice's level demands and the project has not filed, or what of that has run out.
        missing: Vec<String>,
        /// Members from outside whose agreement has ended.
        lapsed: Vec<Name>,
        /// The time for which it was approved is over.
        lease_over: bool,
    },
    /// A host and its devices; for [`Action::PersonInviteHost`] the one that is to be.
    Host {
        /// Its name.
        name: Name,
    },
    /// A person's entry.
    Person {
        /// Her name.
        name: Name,
        /// The roles she has **and** those she is to get: an invitation of one who is an officer already is
        /// an invitation of an officer.
        roles: Vec<String>,
    },
    /// The audit log.
    Log,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident = $text:literal;)*) => {
        /// What can be done. The text is stable: it is in the policies and in the log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action {
            $($(#[$doc])* $action,)*
        }

        impl Action {
            /// Every action there is.
            pub const ALL: &'static [Self] = &[$(Self::$action),*];

            /// The stable text.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$action => $text,)*
                }
            }
        }
    };
}

actions! {
    /// Register a project.
    ProjectCreate = "project.create";
    /// See that a project exists, and what it is.
    ProjectRead = "project.read";
    /// Add a person to a project, or say whether she changes anything there.
    ProjectAddMember = "project.add-member";
    /// Take a person out of a project.
    ProjectRemoveMember = "project.remove-member";
    /// File what a project's level demands.
    ProjectFile = "project.file";
    /// Say what data a project works with.
    ProjectAddData = "project.add-data";
    /// Ask for a level of a project's data to be lowered, or take that back.
    ProjectDeclassify = "project.declassify";
    /// Approve or reject that a level is lowered.
    ProjectDeclassifyDecide = "project.declassify-decide";
    /// Have a project's record of processing written.
    ProjectRecord = "project.record";
    /// Say how much disk a project's slices may have together.
    ProjectQuota = "project.quota";
    /// Ask for a slice; the resource is the **project**.
    SliceRequest = "slice.request";
    /// See that a slice exists, and its state.
    SliceRead = "slice.read";
    /// Approve a requested slice.
    SliceApprove = "slice.approve";
    /// Reject a requested slice.
    SliceReject = "slice.reject";
    /// Take a request back.
    SliceWithdraw = "slice.withdraw";
    /// Ask for a slice to run longer than it was approved for.
    SliceExtend = "slice.extend";
    /// Destroy a slice.
    SliceClose = "slice.close";
    /// Stop a slice: its devices go to others, its disk stays.
    SliceStop = "slice.stop";
    /// Start a slice that was stopped.
    SliceStart = "slice.start";
    /// Start a slice with a new root disk; the one that it has is destroyed.
    SliceRebuild = "slice.rebuild";
    /// Have no job begin in a slice, or have them begin again.
    SliceDrain = "slice.drain";
    /// Say which classes of jobs a slice has.
    SliceSchedule = "slice.schedule";
    /// Make a slice's disks larger.
    SliceGrow = "slice.grow";
    /// Put a slice's disks under other keys.
    SliceRekey = "slice.rekey";
    /// Have a slice's disks copied to the store of backups.
    SliceBackup = "slice.backup";
    /// Have a slice's disks become what they were.
    SliceRestore = "slice.restore";
    /// Have it tried whether a slice's disks could be restored.
    SliceDrill = "slice.drill";
    /// Put a project or a slice on hold: nothing of it is destroyed.
    HoldSet = "hold.set";
    /// Lift a hold.
    HoldLift = "hold.lift";
    /// Lock a person, a project, a slice, a device (the resource is its host) or a project's keys (its project).
    LockSet = "lock.set";
    /// Lift a lock.
    LockLift = "lock.lift";
    /// List what is locked, by whom and why.
    LockRead = "lock.read";
    /// Read a slice at each change.
    SliceWatch = "slice.watch";
    /// See which guest images there are, and what is in them.
    ImageRead = "image.read";
    /// Make a guest image known.
    ImageAdd = "image.add";
    /// Have root disks made over a guest image.
    ImagePromote = "image.promote";
    /// Log in to a slice: a signed SSH key, a tunnel.
    SliceConnect = "slice.connect";
    /// Play what terminals of a slice showed.
    SliceRecordings = "slice.recordings";
    /// Read a slice's deletion certificate.
    SliceCertificate = "slice.certificate";
    /// Invite a person who has no certificate, is no officer, and will be none.
    PersonInvite = "person.invite";
    /// Invite an officer who has no certificate.
    PersonInviteOfficer = "person.invite-officer";
    /// Give somebody who has a certificate another: whoever uses the code is her.
    PersonRenew = "person.renew";
    /// Confirm a code that somebody else gave out.
    PersonConfirm = "person.confirm";
    /// Take away the certificates of a person.
    PersonRevoke = "person.revoke";
    /// Take away those of a host.
    HostRevoke = "host.revoke";
    /// Get a new certificate for the one that one has.
    CertificateRenew = "certificate.renew";
    /// Invite a host.
    PersonInviteHost = "person.invite-host";
    /// Read a person's entry; of the system: list them all.
    PersonRead = "person.read";
    /// Read a host and its devices; of the system: list them all.
    HostRead = "host.read";
    /// Take a host or a device of it out of service, or put it back.
    HostMaintain = "host.maintain";
    /// Have a quarantined device sanitised again.
    DeviceRelease = "device.release";
    /// Open an incident of a project, which freezes it.
    IncidentOpen = "incident.open";
    /// Say that the authority was told of an incident; the resource is its project.
    IncidentNotify = "incident.notify";
    /// Close an incident; the resource is its project.
    IncidentClose = "incident.close";
    /// Read and verify the log.
    AuditRead = "audit.read";
    /// Say of an entry of a sample of the log that it is in order, or not.
    AuditReview = "audit.review";
    /// Read the rules in force, and ask what they would answer.
    PolicyRead = "policy.read";
    /// Put other rules in force.
    PolicyLoad = "policy.load";
    /// See who holds the keys, and how often they were rotated.
    KeysRead = "keys.read";
    /// Rotate a project's key, or the key-encryption key.
    KeysRotate = "keys.rotate";
    /// Have a project's keys written to recipients outside Holm; the resource is the project.
    KeysEscrow = "keys.escrow";
    /// An agent's stream.
    AgentSession = "agent.session";
    /// An agent asks for a volume key of a slice on its host.
    AgentKey = "agent.key";
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl Action {
    /// The resource is what the caller describes and is not there yet: that it is refused tells her nothing.
    pub(crate) fn creates(self) -> bool {
        matches!(
            self,
            Self::ProjectCreate | Self::PersonInvite | Self::PersonInviteOfficer | Self::PersonInviteHost
        )
    }
}

impl Resource {
    /// Who may do this may know that the resource exists. `None`: that it exists is no secret.
    pub fn read_by(&self) -> Option<Action> {
        match self {
            Self::System | Self::Log => None,
            Self::Project { .. } => Some(Action::ProjectRead),
            Self::Slice { .. } => Some(Action::SliceRead),
            Self::Host { .. } => Some(Action::HostRead),
            Self::Person { .. } => Some(Action::PersonRead),
        }
    }

    /// The level it has, as the pack names it.
    pub fn level(&self) -> Option<&str> {
        match self {
            Self::Project { level, .. } | Self::Slice { level, .. } => Some(level),
            Self::System | Self::Host { .. } | Self::Person { .. } | Self::Log => None,
        }
    }

    /// PROJECT/NAME of a slice.
    pub(crate) fn slice(&self) -> Option<String> {
        match self {
            Self::Slice { project, name, .. } => Some(format!("{project}/{name}")),
            Self::System | Self::Project { .. } | Self::Host { .. } | Self::Person { .. } | Self::Log => None,
        }
    }

    /// What its project has yet to file.
    pub(crate) fn missing(&self) -> &[String] {
        match self {
            Self::Project { missing, .. } | Self::Slice { missing, .. } => missing,
            Self::System | Self::Host { .. } | Self::Person { .. } | Self::Log => &[],
        }
    }

    /// The project that it is, or is of.
    pub(crate) fn project(&self) -> Option<&Name> {
        match self {
            Self::Project { name, .. } | Self::Slice { project: name, .. } => Some(name),
            Self::System | Self::Host { .. } | Self::Person { .. } | Self::Log => None,
        }
    }

    /// One resource of each kind, for questions put to a new pack.
    pub(crate) fn samples(name: &Name, level: &str) -> Vec<Self> {
        let (level, members) = (level.to_owned(), vec![name.clone()]);
        vec![
            Self::System,
            Self::Project {
                name: name.clone(),
                level: level.clone(),
                lead: name.clone(),
                members: members.clone(),
                readers: Vec::new(),
                held_by: Vec::new(),
                missing: Vec::new(),
                lapsed: Vec::new(),
            },
            Self::Slice {
                project: name.clone(),
                name: name.clone(),
                level,
                lead: name.clone(),
                members,
                readers: Vec::new(),
                requested_by: name.clone(),
                approved_by: Vec::new(),
                held_by: Vec::new(),
                missing: Vec::new(),
                lapsed: Vec::new(),
                lease_over: false,
            },
            Self::Host { name: name.clone() },
            Self::Person { name: name.clone(), roles: Vec::new() },
            Self::Log,
        ]
    }
}
