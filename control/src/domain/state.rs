//! Everything Holm knows at one moment, and the one way it changes.

use super::image::Image;
use super::incident::Incident;
use super::lock::Subject;
use super::oversight::Oversight;
use super::records::{
    Change, Claims, Device, Host, Invitation, Lock, Once, Person, Policy, Project, Record, Run, Slice,
};
use super::retention::Retention;
use super::review::Review;
use holm_proto::ids::{Name, PciAddress, ProjectId, RunId, SliceId};
use newtype_uuid::GenericUuid;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One kind of record. To clone it costs nothing; a change copies it where a reader still has what was before.
pub type Table<K, V> = Arc<BTreeMap<K, V>>;

/// All records, by key.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "each is the table of that record")]
pub struct State {
    pub people: Table<Name, Person>,
    pub invitations: Table<String, Invitation>,
    pub projects: Table<ProjectId, Project>,
    pub slices: Table<SliceId, Slice>,
    pub hosts: Table<Name, Host>,
    pub devices: Table<(Name, PciAddress), Device>,
    pub runs: Table<RunId, Run>,
    pub locks: Table<Subject, Lock>,
    pub claims: Table<SliceId, Claims>,
    pub reviews: Table<u32, Review>,
    pub incidents: Table<u32, Incident>,
    pub images: Table<String, Image>,
    pub once: Table<String, Once>,
    pub policy: Option<Policy>,
    pub oversight: Option<Oversight>,
    pub retention: Option<Retention>,
    /// A project is asked for by its name with each call.
    named: Table<Name, ProjectId>,
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
        all.extend(self.policy.iter().cloned().map(Record::Policy));
        all.extend(self.oversight.iter().cloned().map(Record::Oversight));
        all.extend(self.runs.values().cloned().map(Record::Run));
        all.extend(self.locks.values().cloned().map(Record::Lock));
        all.extend(self.claims.values().cloned().map(Record::Claims));
        all.extend(self.reviews.values().cloned().map(Record::Review));
        all.extend(self.incidents.values().cloned().map(Record::Incident));
        all.extend(self.images.values().cloned().map(|image| Record::Image(Box::new(image))));
        all.extend(self.once.values().cloned().map(Record::Once));
        all.extend(self.retention.iter().cloned().map(Record::Retention));
        all
    }

    /// The record with the key of this one, as it is now.
    pub fn current(&self, record: &Record) -> Option<Record> {
        Some(match record {
            Record::Person(r) => Record::Person(self.people.get(&r.name)?.clone()),
            Record::Invitation(r) => Record::Invitation(self.invitations.get(&r.hash)?.clone()),
            Record::Project(r) => Record::Project(self.projects.get(&r.id)?.clone()),
            Record::Slice(r) => Record::Slice(Box::new(self.slices.get(&r.id)?.clone())),
            Record::Host(r) => Record::Host(self.hosts.get(&r.name)?.clone()),
            Record::Device(r) => Record::Device(self.devices.get(&(r.host.clone(), r.address))?.clone()),
            Record::Run(r) => Record::Run(self.runs.get(&r.id)?.clone()),
            Record::Policy(_) => Record::Policy(self.policy.clone()?),
            Record::Lock(r) => Record::Lock(self.locks.get(&r.subject)?.clone()),
            Record::Claims(r) => Record::Claims(self.claims.get(&r.slice)?.clone()),
            Record::Review(r) => Record::Review(self.reviews.get(&r.number)?.clone()),
            Record::Incident(r) => Record::Incident(self.incidents.get(&r.number)?.clone()),
            Record::Oversight(_) => Record::Oversight(self.oversight.clone()?),
            Record::Image(r) => Record::Image(Box::new(self.images.get(&r.id)?.clone())),
            Record::Once(r) => Record::Once(self.once.get(&r.id)?.clone()),
            Record::Retention(_) => Record::Retention(self.retention.clone()?),
        })
    }

    /// The project of that name.
    pub fn project(&self, name: &Name) -> Option<&Project> {
        self.named.get(name).and_then(|id| self.projects.get(id))
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
            Record::Person(r) => drop(Arc::make_mut(&mut self.people).insert(r.name.clone(), r)),
            Record::Invitation(r) => drop(Arc::make_mut(&mut self.invitations).insert(r.hash.clone(), r)),
            Record::Project(r) => {
                if self.projects.get(&r.id).is_none_or(|before| before.name != r.name) {
                    let named = Arc::make_mut(&mut self.named);
                    named.retain(|_, id| *id != r.id);
                    named.insert(r.name.clone(), r.id);
                }
                Arc::make_mut(&mut self.projects).insert(r.id, r);
            }
            Record::Slice(r) => drop(Arc::make_mut(&mut self.slices).insert(r.id, *r)),
            Record::Host(r) => drop(Arc::make_mut(&mut self.hosts).insert(r.name.clone(), r)),
            Record::Device(r) => {
                drop(Arc::make_mut(&mut self.devices).insert((r.host.clone(), r.address), r))
            }
            Record::Run(r) => drop(Arc::make_mut(&mut self.runs).insert(r.id, r)),
            Record::Lock(r) => drop(Arc::make_mut(&mut self.locks).insert(r.subject.clone(), r)),
            Record::Claims(r) => drop(Arc::make_mut(&mut self.claims).insert(r.slice, r)),
            Record::Review(r) => drop(Arc::make_mut(&mut self.reviews).insert(r.number, r)),
            Record::Incident(r) => drop(Arc::make_mut(&mut self.incidents).insert(r.number, r)),
            Record::Image(r) => drop(Arc::make_mut(&mut self.images).insert(r.id.clone(), *r)),
            Record::Once(r) => drop(Arc::make_mut(&mut self.once).insert(r.id.clone(), r)),
            Record::Oversight(r) => self.oversight = Some(r),
            Record::Policy(r) => self.policy = Some(r),
            Record::Retention(r) => self.retention = Some(r),
        }
    }

    fn delete(&mut self, key: &str) {
        if let Some(id) = key.strip_prefix("once/") {
            Arc::make_mut(&mut self.once).remove(id);
            return;
        }
        // Few kinds are ever deleted; looking through the table keeps keys in one place, `Record::key`.
        Arc::make_mut(&mut self.invitations).retain(|_, r| Record::Invitation(r.clone()).key() != key);
        Arc::make_mut(&mut self.runs).retain(|_, r| Record::Run(r.clone()).key() != key);
        // There are too many slices to look through.
        let slice = |kind| key.strip_prefix(kind)?.parse().ok().map(SliceId::from_untyped_uuid);
        if let Some(id) = slice("slice/") {
            Arc::make_mut(&mut self.slices).remove(&id);
        }
        if let Some(id) = slice("claims/") {
            Arc::make_mut(&mut self.claims).remove(&id);
        }
        if let Some(id) = key.strip_prefix("image/") {
            Arc::make_mut(&mut self.images).remove(id);
        }
        Arc::make_mut(&mut self.locks).retain(|_, r| Record::Lock(r.clone()).key() != key);
    }
}
