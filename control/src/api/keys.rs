//! The key hierarchy, for officers and operators: how it stands, and rotation. No key goes this way.

use super::{About, Asked, parsed};
use crate::app::App;
use crate::domain::{Refusal, RefusalKind, lock};
use crate::keys::Health;
use crate::ledger::{Decided, chain};
use crate::reconcile;
use holm_policies::{Action, Resource};
use holm_proto::ids::{Name, ProjectId, RequestId, VolumeId};
use holm_proto::v1;
use holm_proto::v1::key_service_server::KeyService;
use holm_proto::v1::rotate_keys_request::What;
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct KeyKeeping(pub Arc<App>);

#[tonic::async_trait]
impl KeyService for KeyKeeping {
    async fn show_keys(&self, request: Request<v1::ShowKeysRequest>) -> Result<Response<v1::Keys>, Status> {
        let asked = Asked::new(&self.0, request.extensions(), Action::KeysRead, about("keys"))?;
        let id = asked.call.request;
        let allowed = asked.read(|_| Ok(Some((Resource::System, ()))), |_, ()| Ok(())).await?;
        // Afterwards: the provider is asked, which may take its time.
        let keys = self.shown(id).await?;
        Ok(allowed.map(|()| keys))
    }

    async fn rotate_keys(
        &self,
        request: Request<v1::RotateKeysRequest>,
    ) -> Result<Response<v1::Keys>, Status> {
        let what = request.get_ref().what.clone();
        let resource = match &what {
            Some(What::Project(name)) => format!("keys/project/{}", super::shown(name)),
            Some(What::Kek(_)) | None => "keys/kek".to_owned(),
        };
        let mut asked = Asked::new(&self.0, request.extensions(), Action::KeysRotate, about(&resource))?;
        if let Some(What::Project(name)) = &what {
            asked.call.project = Some(super::shown(name));
        }
        let id = asked.call.request;
        let known = |down: Option<_>| match down {
            // Before anything is begun; it may go away in the middle all the same.
            Some(_) => {
                Err(Refusal::new(RefusalKind::State, "the key provider cannot be reached: nothing was begun")
                    .hint("holm keys show"))
            }
            None => Ok(()),
        };
        let keyless = asked.keyless();
        let granted = asked
            .change_each(
                |_| Ok(Some((Resource::System, what))),
                move |scene, what| {
                    keyless?;
                    known(scene.app.keys.health().borrow().down.clone())?;
                    match what {
                        Some(What::Project(name)) => {
                            let name: Name = parsed(&name)?;
                            lock::rotation(scene.state, &name)?;
                            let project = scene.state.project(&name).map(|p| p.id).ok_or_else(|| {
                                let text = format!("there is no project `{name}`");
                                Refusal::new(RefusalKind::NotFound, text).hint("holm project list")
                            })?;
                            let detail = json!({ "project": name });
                            Ok(Decided { detail, ..Decided::new(Vec::new(), Some(project)) })
                        }
                        Some(What::Kek(true)) => Ok(Decided::new(Vec::new(), None)),
                        Some(What::Kek(false)) | None => {
                            let text = "say what to rotate: a project's key or the key-encryption key";
                            Err(Refusal::new(RefusalKind::Invalid, text).hint("holm keys rotate --help"))
                        }
                    }
                },
            )
            .await?;
        let project = *granted.get_ref();
        let worker = Arc::clone(&self.0);
        let rotated = super::in_turn(&self.0.turns.rotations, move || rotate(&worker, project)).await?;
        rotated.map_err(|refusal| super::status(&refusal, id))?;
        let keys = self.shown(id).await?;
        Ok(granted.map(|_| keys))
    }

    async fn escrow_keys(
        &self,
        request: Request<v1::EscrowKeysRequest>,
    ) -> Result<Response<v1::EscrowKeysResponse>, Status> {
        self.escrow(request).await
    }
}

impl KeyKeeping {
    async fn shown(&self, id: RequestId) -> Result<v1::Keys, Status> {
        let app = Arc::clone(&self.0);
        super::in_turn(&self.0.turns.people, move || keys(&app))
            .await?
            .map_err(|refusal| super::status(&refusal, id))
    }
}

fn about(resource: &str) -> About {
    About { resource: resource.to_owned(), ..About::system() }
}

fn rotate(app: &App, project: Option<ProjectId>) -> Result<(), Refusal> {
    let begun = match project {
        Some(project) => app.keys.begin_project(project),
        None => app.keys.rotate_kek().map(drop),
    };
    begun.map_err(|failure| {
        let kind = if failure.unreachable { RefusalKind::Unavailable } else { RefusalKind::State };
        Refusal::new(kind, format!("nothing was rotated: {}", chain(&failure))).hint("holm keys show")
    })?;
    reconcile::keys::finish(app).map_err(|why| {
        let text = format!("the rotation was begun, and goes on by itself: {why}");
        Refusal::new(RefusalKind::Unavailable, text).hint("holm keys show")
    })
}

fn keys(app: &App) -> Result<v1::Keys, Refusal> {
    let state = app.ledger.state();
    let of =
        |volume: VolumeId| state.slices.values().find(|s| s.all_keys().contains(&volume)).map(|s| s.project);
    let standing = app.keys.standing(&of).map_err(|e| {
        Refusal::new(RefusalKind::State, format!("the keys cannot be read: {}", chain(&e)))
            .hint("holmd check")
    })?;
    let health = app.keys.health().borrow().clone();
    let remark = health.remark.clone();
    let mut projects: Vec<v1::ProjectKey> = standing
        .projects
        .into_iter()
        .map(|one| v1::ProjectKey {
            project: state.projects.get(&one.project).map(|p| p.name.to_string()).unwrap_or_default(),
            generation: one.generation,
            provider: one.provider.to_owned(),
            kek_generation: one.kek_generation,
            volumes: one.volumes,
            rotating: one.rotating,
        })
        .collect();
    projects.sort_by(|a, b| a.project.cmp(&b.project));
    Ok(v1::Keys {
        provider: standing.provider.to_owned(),
        place: standing.place,
        kek_generation: standing.kek_generation.unwrap_or_default(),
        former_provider: standing.former.unwrap_or_default().to_owned(),
        down: down(health),
        remark,
        projects,
        former_down: app.keys.former_health().and_then(down),
    })
}

fn down(health: Health) -> Option<v1::ProviderDown> {
    health.down.map(|(since, why)| v1::ProviderDown { since: Some(super::view::time(since)), why })
}
