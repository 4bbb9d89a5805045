//! A pack: its levels and its rules, read together and checked against each other.

use crate::{
    answered::Answered,
    decide::Vocabulary,
    enforced::Obligation,
    error::PackError,
    manifest::{Level, Manifest, SiteRule},
    request::{Action, Identity, Principal, Request, Resource},
    rules::Rules,
};
use holm_proto::ids::Name;
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The largest file of a pack, bytes. A pack is written by hand.
const FILE_MAX: u64 = 1 << 20;

const MANIFEST: &str = "pack.toml";
const SCHEMA: &str = "schema.cedarschema";
const POLICIES: &str = "policies.cedar";
/// The files of a pack, in the order of [`Pack::files`].
pub const FILES: [&str; 3] = [MANIFEST, SCHEMA, POLICIES];

macro_rules! built_in {
    ($($name:literal),*) => {
        /// Name and files of the packs that come with Holm.
        const BUILT_IN: &[(&str, [&str; 3])] = &[$((
            $name,
            [
                include_str!(concat!("../packs/", $name, "/pack.toml")),
                include_str!(concat!("../packs/", $name, "/schema.cedarschema")),
                include_str!(concat!("../packs/", $name, "/policies.cedar")),
            ],
        )),*];
    };
}

built_in!("aau-2018", "aau-2026");

/// Names of the packs that come with Holm.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// A checked pack. There is no unchecked one.
#[derive(Debug)]
pub struct Pack {
    pub(crate) manifest: Manifest,
    pub(crate) rules: Rules,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) answered: Answered,
    texts: [String; 3],
}

impl Pack {
    /// The pack in a directory.
    ///
    /// # Errors
    /// A file that is not there or larger than 1 MiB, a field or annotation that is not known, a level or a
    /// rule twice, a policy that does not hold against its schema, an action that nobody may do: the error
    /// names file and line.
    pub fn load(directory: &Path) -> Result<Self, PackError> {
        let [manifest, schema, policies] = [MANIFEST, SCHEMA, POLICIES].map(|name| directory.join(name));
        let texts = [read(&manifest)?, read(&schema)?, read(&policies)?];
        Self::parse([manifest, schema, policies], texts.each_ref().map(String::as_str))
    }

    /// A pack that comes with Holm.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn builtin(name: &str) -> Result<Self, PackError> {
        let Some((name, texts)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) else {
            let names: Vec<&str> = built_in().collect();
            return Err(PackError::whole(
                Path::new(&crate::manifest::shown(name)),
                format!("no pack of this name comes with Holm: there is {}", names.join(", ")),
            ));
        };
        Self::parse([MANIFEST, SCHEMA, POLICIES].map(|file| Path::new(name).join(file)), *texts)
    }

    /// A pack whose files came over the wire: see [`FILES`].
    ///
    /// # Errors
    /// As [`Pack::load`].
    pub fn from_texts(texts: [&str; 3]) -> Result<Self, PackError> {
        for (name, text) in FILES.iter().zip(texts) {
            within(Path::new(name), text)?;
        }
        Self::parse(FILES.map(PathBuf::from), texts)
    }

    /// The [`id`](Self::id) in the text of a `pack.toml`: of the pack nothing more is read.
    ///
    /// # Errors
    /// As [`Pack::load`], of this file alone.
    pub fn id_in(manifest: &str) -> Result<String, PackError> {
        let file = Path::new(MANIFEST);
        within(file, manifest)?;
        Manifest::parse(file, manifest).map(|read| read.id)
    }

    /// The text of each of [`FILES`], byte for byte.
    pub fn texts(&self) -> [&str; 3] {
        self.texts.each_ref().map(String::as_str)
    }

    /// "aau-2018".
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// From 1; of two packs of a name the one with the higher is the newer.
    pub fn version(&self) -> u32 {
        self.manifest.version
    }

    /// The rules of the site that the pack answers to, in its order.
    pub fn site_rules(&self) -> &[SiteRule] {
        &self.manifest.site_rules
    }

    /// The roles there are.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.vocabulary.roles()
    }

    /// NAME/VERSION, "aau-2018/7".
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// The level of that id.
    pub fn level(&self, id: &str) -> Option<&Level> {
        self.levels().iter().find(|level| level.id == id)
    }

    /// Whether the level demands it of its slices. A level that this pack does not know, of a slice from before it, demands
    /// everything.
    pub fn demands(&self, level: &str, obligation: Obligation) -> bool {
        self.level(level).is_none_or(|level| level.obligations.contains(&obligation))
    }

    /// Every level, in the pack's order.
    pub fn levels(&self) -> &[Level] {
        &self.manifest.levels
    }

    /// Days that entries of the log of no project are kept; 0: for ever.
    pub const fn log_days(&self) -> u32 {
        self.manifest.log_days
    }

    fn parse([manifest, schema, policies]: [PathBuf; 3], texts: [&str; 3]) -> Result<Self, PackError> {
        let [manifest_text, schema_text, policies_text] = texts;
        let read = Manifest::parse(&manifest, manifest_text)?;
        let rules = Rules::parse((&schema, schema_text), (&policies, policies_text))?;
        let vocabulary = Vocabulary::new(&rules.schema, rules.roles.clone())
            .map_err(|problem| PackError::whole(&schema, problem))?;
        read.check_references((&manifest, manifest_text), |id| rules.has(id))?;
        let answered = Answered::default();
        let pack = Self { manifest: read, rules, vocabulary, answered, texts: texts.map(str::to_owned) };
        for action in Action::ALL {
            if let Err(problem) = pack.can_ask(*action) {
                return Err(Rules::at_action((&schema, schema_text), *action, problem));
            }
        }
        pack.refuses_other_levels().map_err(|problem| PackError::whole(&policies, problem))?;
        pack.refuses_what_a_level_demands().map_err(|problem| PackError::whole(&policies, problem))?;
        Ok(pack)
    }

    /// Some question with this action fits the schema; otherwise the pack would refuse it for ever.
    fn can_ask(&self, action: Action) -> Result<(), String> {
        let mut problem = String::new();
        for identity in self.samples() {
            for resource in Resource::samples(identity.name(), "") {
                match self.fits(&identity, action, &resource) {
                    Ok(()) => return Ok(()),
                    Err(why) => problem = why,
                }
            }
        }
        Err(format!("nothing that holmd asks fits `{action}`: {problem}"))
    }

    /// Nothing starts at a level that does not run here, or that there is not, whoever asks.
    fn refuses_other_levels(&self) -> Result<(), String> {
        let elsewhere = self.levels().iter().filter(|level| !level.runs_here).map(|level| level.id.as_str());
        for level in elsewhere.chain(["no such level"]) {
            for identity in self.samples() {
                for resource in Resource::samples(identity.name(), level) {
                    for action in [Action::ProjectCreate, Action::SliceRequest, Action::SliceApprove] {
                        let principal = Principal { identity: identity.clone(), known: true };
                        let request = Request { principal, action, resource: resource.clone() };
                        if self.decide(&request).allow {
                            return Err(format!(
                                "`{action}` is allowed at level `{level}`, which does not run here"
                            ));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Where a level demands that something is filed, nothing starts and nobody gets in without it, whoever asks; where
    /// it approves for a time, not after that.
    fn refuses_what_a_level_demands(&self) -> Result<(), String> {
        const FILED: [Action; 7] = [
            Action::SliceRequest,
            Action::SliceExtend,
            Action::SliceApprove,
            Action::SliceStart,
            Action::SliceRebuild,
            Action::SliceRestore,
            Action::SliceConnect,
        ];
        const LEASED: [Action; 4] =
            [Action::SliceStart, Action::SliceRebuild, Action::SliceRestore, Action::SliceConnect];
        for level in self.levels() {
            let lacks = |resource: &mut Resource| {
                if let Resource::Project { missing, .. } | Resource::Slice { missing, .. } = resource {
                    missing.push("something".to_owned());
                }
            };
            let over = |resource: &mut Resource| {
                if let Resource::Slice { lease_over, .. } = resource {
                    *lease_over = true;
                }
            };
            if !level.must_file.is_empty()
                && let Some(action) = FILED.into_iter().find(|action| self.allows(*action, &level.id, lacks))
            {
                return Err(format!(
                    "level `{}` has `must_file`, and `{action}` is allowed whatever is filed: forbid it unless \
                     `resource.missing.isEmpty()`",
                    level.id
                ));
            }
            if level.lease_days > 0
                && let Some(action) = LEASED.into_iter().find(|action| self.allows(*action, &level.id, over))
            {
                return Err(format!(
                    "level `{}` has `lease_days`, and `{action}` is allowed after that time: forbid it when \
                     `resource.lease_over`",
                    level.id
                ));
            }
        }
        Ok(())
    }

    /// Whether anybody may do this to anything of the level, her own or another's, that was spoilt before.
    fn allows(&self, action: Action, level: &str, spoil: impl Fn(&mut Resource)) -> bool {
        let Ok(another) = "another".parse::<Name>() else { return true };
        self.samples().into_iter().any(|identity| {
            let own = Resource::samples(identity.name(), level);
            own.into_iter().chain(Resource::samples(&another, level)).any(|mut resource| {
                let before = resource.clone();
                spoil(&mut resource);
                let principal = Principal { identity: identity.clone(), known: true };
                before != resource && self.decide(&Request { principal, action, resource }).allow
            })
        })
    }

    /// One who could be anybody: each role by itself, and a host.
    fn samples(&self) -> Vec<Identity> {
        let Ok(name) = "sample".parse::<Name>() else { return Vec::new() };
        let mut all: Vec<Identity> = self
            .vocabulary
            .roles()
            .map(|role| Identity::Person { name: name.clone(), roles: vec![role.to_owned()] })
            .collect();
        all.push(Identity::Host { name });
        all
    }
}

fn within(file: &Path, text: &str) -> Result<(), PackError> {
    if text.len() as u64 > FILE_MAX {
        return Err(PackError::whole(file, "is larger than 1 MiB"));
    }
    Ok(())
}

fn read(file: &Path) -> Result<String, PackError> {
    let mut text = String::new();
    File::open(file)
        .and_then(|open| open.take(FILE_MAX + 1).read_to_string(&mut text))
        .map_err(|cause| PackError::unreadable(file, cause))?;
    within(file, &text)?;
    Ok(text)
}
