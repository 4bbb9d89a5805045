//! `schema.cedarschema` and `policies.cedar`: read, checked, and with a text for every rule.

use crate::{error::PackError, nesting, request::Action};
use cedar_policy::{
    ActionConstraint, Effect, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, Schema,
    SchemaFragment, ValidationMode, Validator,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr,
};

/// What a text of a rule can name in braces.
const PLACEHOLDERS: [&str; 6] =
    ["principal", "project", "slice", "missing", "level_refusal", "shared_cluster"];

/// The checked rules of a pack.
#[derive(Debug)]
pub(crate) struct Rules {
    pub schema: Schema,
    pub policies: PolicySet,
    /// The values of the schema's `Role`.
    pub roles: BTreeSet<String>,
    rules: BTreeMap<String, Rule>,
    actions: BTreeMap<Action, ActionRules>,
}

/// What a person is told of one rule.
#[derive(Debug)]
pub(crate) struct Rule {
    /// From `@id`.
    pub id: String,
    /// From `@reason`.
    pub reason: String,
    /// Where it stands in the file, so that reasons come in the file's order.
    order: usize,
}

#[derive(Debug)]
struct ActionRules {
    uid: EntityUid,
    /// Ids of the permits that could allow it.
    permits: Vec<String>,
}

impl Rules {
    /// Read and check both files; the paths are for errors.
    pub(crate) fn parse(schema: (&Path, &str), policies: (&Path, &str)) -> Result<Self, PackError> {
        for (file, text) in [schema, policies] {
            nesting::check(text).map_err(|(offset, problem)| PackError::at(file, text, offset, problem))?;
        }
        let mut actions = BTreeMap::new();
        let (parsed_schema, roles) = parse_schema(schema.0, schema.1)?;
        for action in parsed_schema.actions() {
            let text = action.id().unescaped();
            match Action::ALL.iter().find(|a| a.text() == text) {
                Some(known) => {
                    actions.insert(*known, ActionRules { uid: action.clone(), permits: Vec::new() });
                }
                None => {
                    return Err(mention(schema, text, format!("`{text}` is no action of Holm")));
                }
            }
        }
        for action in Action::ALL {
            if !actions.contains_key(action) {
                return Err(PackError::whole(schema.0, format!("there is no action `{action}`")));
            }
        }

        let (set, rules) = parse_policies(policies.0, policies.1)?;
        let verdict = Validator::new(parsed_schema.clone()).validate(&set, ValidationMode::Strict);
        if let Some(error) = verdict.validation_errors().next() {
            return Err(PackError::cedar(policies.0, policies.1, error));
        }
        // A warning is a rule that can never apply, or one that reads as what it is not.
        if let Some(warning) = verdict.validation_warnings().next() {
            return Err(PackError::cedar(policies.0, policies.1, warning));
        }

        for policy in set.policies().filter(|p| p.effect() == Effect::Permit) {
            for environment in policy.get_valid_request_envs(&parsed_schema) {
                let covered = actions.values_mut().find(|a| &a.uid == environment.action());
                let id = policy.id().to_string();
                if let Some(rules) = covered.filter(|a| !a.permits.contains(&id)) {
                    rules.permits.push(id);
                }
            }
        }
        if let Some((action, _)) = actions.iter().find(|(_, a)| a.permits.is_empty()) {
            let problem = format!("no permit in {} covers `{action}`", policies.0.display());
            return Err(mention(schema, action.text(), problem));
        }
        Ok(Self { schema: parsed_schema, policies: set, roles, rules, actions })
    }

    /// Cedar's name for an action. Every action has one: `parse` made sure.
    pub(crate) fn action(&self, action: Action) -> Option<&EntityUid> {
        self.actions.get(&action).map(|a| &a.uid)
    }

    /// There is a policy of this id.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.rules.contains_key(id)
    }

    /// Id and effect-and-conditions of each policy, as the file has it.
    pub(crate) fn all(&self) -> BTreeMap<String, String> {
        self.policies.policies().map(|policy| (policy.id().to_string(), policy.to_string())).collect()
    }

    /// What there is to say of these policies, in the file's order.
    pub(crate) fn of<'a>(&self, ids: impl Iterator<Item = &'a PolicyId>) -> Vec<&Rule> {
        let mut found: Vec<&Rule> = ids.filter_map(|id| self.rules.get(AsRef::<str>::as_ref(id))).collect();
        found.sort_by_key(|rule| rule.order);
        found
    }

    /// The rules that could have allowed an action.
    pub(crate) fn permits(&self, action: Action) -> Vec<&Rule> {
        let ids = self.actions.get(&action).into_iter().flat_map(|a| &a.permits);
        let mut found: Vec<&Rule> = ids.filter_map(|id| self.rules.get(id)).collect();
        found.sort_by_key(|rule| rule.order);
        found
    }

    /// Where the schema names an action, for errors found after parsing.
    pub(crate) fn at_action(schema: (&Path, &str), action: Action, problem: String) -> PackError {
        mention(schema, action.text(), problem)
    }
}

/// A Cedar id of a type; any text is a valid id.
pub(crate) fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn parse_schema(file: &Path, text: &str) -> Result<(Schema, BTreeSet<String>), PackError> {
    let (fragment, mut warnings) =
        SchemaFragment::from_cedarschema_str(text).map_err(|e| PackError::cedar(file, text, &e))?;
    if let Some(warning) = warnings.next() {
        return Err(PackError::cedar(file, text, &warning));
    }
    let json = fragment.clone().to_json_value().map_err(|e| PackError::cedar(file, text, &e))?;
    let schema = Schema::from_schema_fragments([fragment]).map_err(|e| PackError::cedar(file, text, &e))?;
    // Cedar checks the values of an enumerated entity, and shows them in this form alone.
    let roles = json.pointer("//entityTypes/Role/enum").and_then(serde_json::Value::as_array);
    let roles: BTreeSet<String> =
        roles.into_iter().flatten().filter_map(|role| role.as_str().map(str::to_owned)).collect();
    if roles.is_empty() {
        return Err(PackError::whole(file, "there are no roles: add `entity Role enum [\"…\"];`"));
    }
    Ok((schema, roles))
}

/// The policies under the names their `@id` gives them.
fn parse_policies(file: &Path, text: &str) -> Result<(PolicySet, BTreeMap<String, Rule>), PackError> {
    let parsed = PolicySet::from_str(text).map_err(|e| match e.iter().next() {
        Some(first) => PackError::cedar(file, text, first),
        None => PackError::cedar(file, text, &e),
    })?;
    if let Some(template) = parsed.templates().next() {
        let offset = text.find(&template.to_string()).unwrap_or(0);
        return Err(PackError::at(file, text, offset, "a template is not a rule: name what it is for"));
    }
    let (mut set, mut rules) = (PolicySet::new(), BTreeMap::new());
    // In the file's order, so that of two rules with one name the second is the one in error.
    let mut policies: Vec<(usize, &Policy)> =
        parsed.policies().map(|policy| (position(policy), policy)).collect();
    policies.sort_by_key(|(position, _)| *position);
    let mut from = 0;
    for (order, policy) in policies {
        let source = policy.to_string();
        let offset = text.get(from..).and_then(|rest| rest.find(&source)).map_or(from, |found| from + found);
        from = offset;
        let rule = check_rule(policy, order).map_err(|problem| PackError::at(file, text, offset, problem))?;
        set.add(policy.new_id(PolicyId::new(&rule.id)))
            .map_err(|_| PackError::at(file, text, offset, format!("there are two rules `{}`", rule.id)))?;
        rules.insert(rule.id.clone(), rule);
    }
    Ok((set, rules))
}

/// Cedar numbers the policies of a file `policy0`, `policy1`, …
fn position(policy: &Policy) -> usize {
    let id: &str = policy.id().as_ref();
    id.trim_start_matches("policy").parse().unwrap_or(usize::MAX)
}

fn check_rule(policy: &Policy, order: usize) -> Result<Rule, String> {
    if let Some((other, _)) = policy.annotations().find(|(key, _)| !["id", "reason"].contains(key)) {
        return Err(format!("`@{other}` is not known here: a rule has `@id` and `@reason`"));
    }
    let id = policy.annotation("id").ok_or("a rule needs a name: `@id(\"…\")`")?;
    let well_formed = (1..=48).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if !well_formed {
        return Err(format!(
            "`{}` is no name for a rule: use 1 to 48 lower-case letters, digits, dots and hyphens",
            crate::manifest::shown(id)
        ));
    }
    let reason = policy.annotation("reason").unwrap_or_default();
    if reason.trim().is_empty() {
        return Err(format!("rule `{id}` needs words for a person: `@reason(\"…\")`"));
    }
    fill(reason, |name| PLACEHOLDERS.contains(&name).then(String::new))
        .map_err(|bad| format!("rule `{id}` names `{{{bad}}}`: there are {}", PLACEHOLDERS.join(", ")))?;
    if policy.effect() == Effect::Permit && policy.action_constraint() == ActionConstraint::Any {
        return Err(format!("rule `{id}` permits every action: name the ones it permits"));
    }
    Ok(Rule { id: id.to_owned(), reason: reason.to_owned(), order })
}

/// Replace `{name}` by what `value` says, in one pass: what is filled in is not looked at again. An error is
/// the first name without a value.
pub(crate) fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, remaining) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(&value(name).ok_or_else(|| name.to_owned())?);
        rest = remaining;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// An error on the line where a file names something in double quotes.
fn mention((file, text): (&Path, &str), name: &str, problem: String) -> PackError {
    match text.find(&format!("\"{name}\"")) {
        Some(offset) => PackError::at(file, text, offset, problem),
        None => PackError::whole(file, problem),
    }
}
