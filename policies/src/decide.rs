//! The answer: a [`Request`] in Cedar's terms, Cedar's verdict in a person's.

use crate::{
    manifest::shown,
    pack::Pack,
    request::{Action, Identity, Request, Resource},
    rules::{Rule, fill, uid},
};
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityTypeName, EntityUid, RestrictedExpression, Schema,
};
use holm_proto::ids::Name;
use std::collections::{BTreeSet, HashMap, HashSet};

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// It may be done.
    pub allow: bool,
    /// The principal may know that the resource exists. Where not, the answer to give is *not found*, and the
    /// reasons are for the log alone.
    pub visible: bool,
    /// Allowed: the ids of the rules that allow it. Refused: why, and what to do next, each with the id of
    /// its rule. Never empty.
    pub reasons: Vec<String>,
    /// The pack that decided, NAME/VERSION.
    pub pack: String,
}

impl Pack {
    /// Answer one question.
    pub fn decide(&self, request: &Request) -> Decision {
        self.answered.or(request, || self.decided(request))
    }

    /// The answer, from the rules.
    fn decided(&self, request: &Request) -> Decision {
        let identity = &request.principal.identity;
        let no = |reason: String| self.decision(false, false, vec![reason]);
        if !request.principal.known {
            return no(format!("`{}` is not enrolled: ask an operator for an invitation", identity.name()));
        }
        let entities = match self.entities(identity, &request.resource) {
            Ok(entities) => entities,
            Err(reason) => return no(reason),
        };
        let verdict = self.ask(request, request.action, &entities).and_then(|rules| match never(request) {
            Some(why) => Err(vec![format!("{why} (built in)")]),
            None => Ok(rules),
        });
        let visible = verdict.is_ok()
            || match (identity, request.resource.read_by()) {
                (Identity::Host { .. }, _) => false,
                (Identity::Person { .. }, None) => true,
                (Identity::Person { .. }, Some(read)) => {
                    request.action.creates() || self.ask(request, read, &entities).is_ok()
                }
            };
        match verdict {
            Ok(reasons) => self.decision(true, visible, reasons),
            Err(reasons) => self.decision(false, visible, reasons),
        }
    }

    /// Whether a question with this action can be put to the pack at all; an error says why not.
    pub(crate) fn fits(
        &self,
        identity: &Identity,
        action: Action,
        resource: &Resource,
    ) -> Result<(), String> {
        self.entities(identity, resource)?;
        self.question(identity, action, resource).map(drop)
    }

    fn decision(&self, allow: bool, visible: bool, reasons: Vec<String>) -> Decision {
        Decision { allow, visible, reasons, pack: self.id().to_owned() }
    }

    /// Cedar's verdict: the ids of what allows it, or why it is refused.
    fn ask(
        &self,
        request: &Request,
        action: Action,
        entities: &Entities,
    ) -> Result<Vec<String>, Vec<String>> {
        let identity = &request.principal.identity;
        let question = self.question(identity, action, &request.resource).map_err(|reason| vec![reason])?;
        let response = Authorizer::new().is_authorized(&question, &self.rules.policies, entities);
        let diagnostics = response.diagnostics();
        // A forbid that cannot be evaluated might have refused, so it does.
        let broken: Vec<String> =
            diagnostics.errors().map(|e| format!("a rule cannot be evaluated: {e}")).collect();
        if !broken.is_empty() {
            return Err(broken);
        }
        let determining = self.rules.of(diagnostics.reason());
        if response.decision() == cedar_policy::Decision::Allow {
            return Ok(determining.iter().map(|rule| rule.id.clone()).collect());
        }
        // Without a forbid nothing permitted it: then what would have is the reason.
        let reasons = if determining.is_empty() { self.rules.permits(action) } else { determining };
        Err(reasons.iter().map(|rule| self.explain(rule, request)).collect())
    }

    fn question(
        &self,
        identity: &Identity,
        action: Action,
        resource: &Resource,
    ) -> Result<cedar_policy::Request, String> {
        let names = &self.vocabulary;
        let misfit = || format!("`{action}` is nothing that `{}` can do to this", identity.name());
        cedar_policy::Request::new(
            names.principal(identity),
            self.rules.action(action).ok_or_else(misfit)?.clone(),
            names.resource(resource),
            Context::empty(),
            Some(&self.rules.schema),
        )
        .map_err(|_| misfit())
    }

    /// Principal, resource and the level it has, checked against the schema.
    fn entities(&self, identity: &Identity, resource: &Resource) -> Result<Entities, String> {
        let names = &self.vocabulary;
        let mut entities: Vec<Entity> = Vec::new();
        let roles = match identity {
            Identity::Person { roles, .. } => self.role_uids(roles)?,
            Identity::Host { .. } => HashSet::new(),
        };
        let principal = names.principal(identity);
        entities.push(Entity::new_no_attrs(principal.clone(), roles));
        if let Some(level) = resource.level() {
            // A level that the pack does not know is one at which nothing runs, and one officer is not enough.
            let known = self.level(level);
            let runs_here = known.is_some_and(|l| l.runs_here);
            let approvals = known.map_or(i64::MAX, |l| i64::from(l.approvals));
            let attributes = [
                ("runs_here", RestrictedExpression::new_bool(runs_here)),
                ("approvals", RestrictedExpression::new_long(approvals)),
                ("escrow", RestrictedExpression::new_bool(known.is_some_and(|l| l.escrow))),
            ];
            entities.push(entity(uid(&names.level, level), attributes)?);
        }
        let this = names.resource(resource);
        let person = |name: &Name| RestrictedExpression::new_entity_uid(uid(&names.person, name.as_str()));
        let people = |all: &[Name]| RestrictedExpression::new_set(all.iter().map(person));
        let texts = |all: &[String]| {
            RestrictedExpression::new_set(all.iter().cloned().map(RestrictedExpression::new_string))
        };
        let level = |id: &str| RestrictedExpression::new_entity_uid(uid(&names.level, id));
        match resource {
            Resource::System | Resource::Log => entities.push(Entity::with_uid(this)),
            Resource::Host { .. } if this == principal => {}
            Resource::Host { .. } => entities.push(Entity::with_uid(this)),
            Resource::Project { level: id, lead, members, readers, held_by, missing, lapsed, .. } => entities
                .push(entity(
                    this,
                    [
                        ("level", level(id)),
                        ("lead", person(lead)),
                        ("members", people(members)),
                        ("readers", people(readers)),
                        ("held_by", people(held_by)),
                        ("missing", texts(missing)),
                        ("lapsed", people(lapsed)),
                    ],
                )?),
            Resource::Slice {
                level: id,
                lead,
                members,
                readers,
                requested_by,
                approved_by,
                held_by,
                missing,
                lapsed,
                lease_over,
                ..
            } => entities.push(entity(
                this,
                [
                    ("level", level(id)),
                    ("lead", person(lead)),
                    ("members", people(members)),
                    ("readers", people(readers)),
                    ("requested_by", person(requested_by)),
                    ("approved_by", people(approved_by)),
                    ("held_by", people(held_by)),
                    ("missing", texts(missing)),
                    ("lapsed", people(lapsed)),
                    ("lease_over", RestrictedExpression::new_bool(*lease_over)),
                ],
            )?),
            Resource::Person { name, roles } => {
                let roles = self.role_uids(roles)?.into_iter().map(RestrictedExpression::new_entity_uid);
                let attributes = [("person", person(name)), ("roles", RestrictedExpression::new_set(roles))];
                entities.push(entity(this, attributes)?);
            }
        }
        Entities::from_entities(entities, Some(&self.rules.schema))
            .map_err(|e| format!("this does not fit the schema of {}: {e}", self.id()))
    }

    fn role_uids(&self, roles: &[String]) -> Result<HashSet<EntityUid>, String> {
        let names = &self.vocabulary;
        if let Some(unknown) = roles.iter().find(|role| !names.roles.contains(role.as_str())) {
            let there_are: Vec<&str> = names.roles().collect();
            return Err(format!(
                "`{}` is no role in {}: there are {}",
                shown(unknown),
                self.id(),
                there_are.join(", ")
            ));
        }
        Ok(roles.iter().map(|role| uid(&names.role, role)).collect())
    }

    /// A rule's words for the one who asked.
    fn explain(&self, rule: &Rule, request: &Request) -> String {
        let text = fill(&rule.reason, |name| match name {
            "principal" => Some(request.principal.identity.name().to_string()),
            "shared_cluster" => Some(self.manifest.shared_cluster.clone()),
            "project" => request.resource.project().map(ToString::to_string),
            "slice" => request.resource.slice(),
            "missing" => Some(request.resource.missing().join(", ")),
            "level_refusal" => request.resource.level().map(|level| self.refusal(level)),
            _ => None,
        });
        // Loading a pack has filled in every text once: what is left is a level where there is none.
        format!("{} (rule {})", text.unwrap_or_else(|_| rule.reason.clone()), rule.id)
    }

    /// Why nothing runs at this level.
    fn refusal(&self, id: &str) -> String {
        match self.level(id) {
            Some(level) => level.refusal.clone(),
            None => {
                let here: Vec<String> = self
                    .levels()
                    .iter()
                    .filter(|l| l.runs_here)
                    .map(|l| format!("{} ({})", l.id, l.name))
                    .collect();
                format!("`{}` is no level in {}: here run {}", shown(id), self.id(), here.join(", "))
            }
        }
    }
}

/// What opens a project's data, or gives its keys to a host.
const DATA: [Action; 4] =
    [Action::SliceConnect, Action::SliceStart, Action::SliceRebuild, Action::SliceDrill];

/// Why this is refused whatever a pack says: the separation of duties that no site lifts.
fn never(request: &Request) -> Option<&'static str> {
    let Identity::Person { name, roles } = &request.principal.identity else { return None };
    let is = |role: &str| roles.iter().any(|one| one == role);
    if is("officer") && is("operator") {
        return Some("nobody is officer and operator at once");
    }
    let decides = matches!(request.action, Action::SliceApprove | Action::SliceReject);
    let plays = request.action == Action::SliceRecordings;
    match &request.resource {
        Resource::Slice { lead, members, .. } if plays && (lead == name || members.contains(name)) => {
            Some("nobody plays recordings of their own project")
        }
        _ if plays && !is("officer") => Some("only an officer plays recordings"),
        Resource::Slice { requested_by, .. } if decides && requested_by == name => {
            Some("nobody decides on what they asked for")
        }
        _ if decides && !is("officer") => Some("only an officer decides on a slice"),
        _ if DATA.contains(&request.action) && (is("operator") || is("officer")) => {
            Some("officers and operators have no way into a project's data")
        }
        _ => None,
    }
}

/// The names of the schema's types that questions are put with.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    person: EntityTypeName,
    host: EntityTypeName,
    role: EntityTypeName,
    level: EntityTypeName,
    system: EntityTypeName,
    log: EntityTypeName,
    account: EntityTypeName,
    project: EntityTypeName,
    slice: EntityTypeName,
    roles: BTreeSet<String>,
}

impl Vocabulary {
    /// Find each type in the schema; `roles` are the values that its `Role` has.
    pub(crate) fn new(schema: &Schema, roles: BTreeSet<String>) -> Result<Self, String> {
        let find = |name: &str| {
            schema
                .entity_types()
                .find(|kind| kind.to_string() == name)
                .cloned()
                .ok_or_else(|| format!("there is no entity `{name}`"))
        };
        Ok(Self {
            person: find("Person")?,
            host: find("Host")?,
            role: find("Role")?,
            level: find("Level")?,
            system: find("System")?,
            log: find("Log")?,
            account: find("Account")?,
            project: find("Project")?,
            slice: find("Slice")?,
            roles,
        })
    }

    /// The roles there are.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(String::as_str)
    }

    fn principal(&self, identity: &Identity) -> EntityUid {
        match identity {
            Identity::Person { name, .. } => uid(&self.person, name.as_str()),
            Identity::Host { name } => uid(&self.host, name.as_str()),
        }
    }

    fn resource(&self, resource: &Resource) -> EntityUid {
        match resource {
            Resource::System => uid(&self.system, "holm"),
            Resource::Log => uid(&self.log, "holm"),
            Resource::Project { name, .. } => uid(&self.project, name.as_str()),
            // A name has no slash, so this is unique.
            Resource::Slice { project, name, .. } => uid(&self.slice, &format!("{project}/{name}")),
            Resource::Host { name } => uid(&self.host, name.as_str()),
            Resource::Person { name, .. } => uid(&self.account, name.as_str()),
        }
    }
}

fn entity<const N: usize>(
    uid: EntityUid,
    attributes: [(&str, RestrictedExpression); N],
) -> Result<Entity, String> {
    let attributes: HashMap<String, RestrictedExpression> =
        attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Entity::new(uid, attributes, HashSet::new()).map_err(|e| e.to_string())
}
