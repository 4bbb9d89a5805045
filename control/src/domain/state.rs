//! Everything Holm knows at one moment, and the one way it changes.

use super::records::{Change, Device, Host, Invitation, Person, Project, Record, Run, Slice};
use holm_proto::ids::{Name, PciAddress, ProjectId, RunId, SliceId};
use std::collections::BTreeMap;

/// All records, by key.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "each is the table of that record")]
pub struct State {
    pub people: BTreeMap<Name, Person>,
    pub invitations: BTreeMap<String, Invitation>,
    pub projects: BTreeMap<ProjectId, Project>,
    pub slices: BTreeMap<SliceId, Slice>,
    pub hosts: BTreeMap<Name, Host>,
    pub devices: BTreeMap<(Name, PciAddress), Device>,
    pub runs: BTreeMap<RunId, Run>,
}

impl State {
    /// Apply changes in order. A delete of what is not there is nothing.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(record) => self.put(record.clone()),
                Change::Delete(key) => self.delete(key),
            }
        }
    }

    /// Every record, in key order: what a store holds.
    pub fn records(&self) -> Vec<Record> {
        let mut all: Vec<Record> = Vec::new();
        all.extend(self.people.values().cloned().map(Record::Person));
        all.extend(self.invitations.values().cloned().map(Record::Invitation));
        all.extend(self.projects.values().cloned().map(Record::Project));
        all.extend(self.slices.values().cloned().map(|s| Record::Slice(Box::new(s))));
        all.extend(self.hosts.values().cloned().map(Record::Host));
        all.extend(self.devices.values().cloned().map(Record::Device));
        all.extend(self.runs.values().cloned().map(Record::Run));
        all
    }

    /// The project of that name.
    pub fn project(&self, name: &Name) -> Option<&Project> {
        self.projects.values().find(|p| &p.name == name)
    }

    /// The slice of that name in the project. Of several with one name the living one, else the newest.
    pub fn slice(&self, project: ProjectId, name: &Name) -> Option<&Slice> {
        self.slices
            .values()
            .filter(|s| s.project == project && &s.name == name)
            .max_by_key(|s| (!s.state.is_final(), s.requested))
    }

    /// PROJECT/NAME of a slice, for logs and tables.
    pub fn slice_label(&self, slice: &Slice) -> String {
        let project = self.projects.get(&slice.project).map_or("?", |p| p.name.as_str());
        format!("{project}/{}", slice.name)
    }

    /// The devices of one host.
    pub fn host_devices<'a>(&'a self, host: &'a Name) -> impl Iterator<Item = &'a Device> {
        let first = PciAddress { domain: 0, bus: 0, device: 0, function: 0 };
        self.devices.range((host.clone(), first)..).map(|(_, d)| d).take_while(move |d| &d.host == host)
    }

    fn put(&mut self, record: Record) {
        match record {
            Record::Person(r) => drop(self.people.insert(r.name.clone(), r)),
            Record::Invitation(r) => drop(self.invitations.insert(r.hash.clone(), r)),
            Record::Project(r) => drop(self.projects.insert(r.id, r)),
            Record::Slice(r) => drop(self.slices.insert(r.id, *r)),
            Record::Host(r) => drop(self.hosts.insert(r.name.clone(), r)),
            Record::Device(r) => drop(self.devices.insert((r.host.clone(), r.address), r)),
            Record::Run(r) => drop(self.runs.insert(r.id, r)),
        }
    }

    fn delete(&mut self, key: &str) {
        // Few kinds are ever deleted; looking through the table keeps keys in one place, `Record::key`.
        self.invitations.retain(|_, r| Record::Invitation(r.clone()).key() != key);
        self.runs.retain(|_, r| Record::Run(r.clone()).key() != key);
    }
}
