//! Guest images: what there is, what is added, what slices get.

use super::{About, Asked, Scene, shown, view};
use crate::app::App;
use crate::domain::image::{self, Image, Promotion};
use crate::domain::records::{Change, Record, SliceState};
use crate::domain::{Refusal, RefusalKind};
use crate::ledger::Decided;
use crate::live::HostLive;
use crate::policy;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_policies::{Action, Resource};
use holm_proto::ids::Name;
use holm_proto::image::Manifest;
use holm_proto::v1;
use holm_proto::v1::image_service_server::ImageService;
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct Images(pub Arc<App>);

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let asked = Asked::new(&self.0, request.extensions(), Action::ImageRead, about("images"))?;
        let again = asked.clone();
        asked
            .read(
                |_| Ok(Some((Resource::System, ()))),
                move |scene, ()| {
                    let mut all: Vec<&Image> = scene.state.images.values().collect();
                    all.sort_by_key(|image| std::cmp::Reverse(image.added));
                    let hosts = hosts(&again, scene);
                    Ok(v1::ListImagesResponse {
                        images: all.into_iter().map(|i| seen(&again, scene, &hosts, i)).collect(),
                    })
                },
            )
            .await
    }

    async fn get_image(&self, request: Request<v1::GetImageRequest>) -> Result<Response<v1::Image>, Status> {
        let id = request.get_ref().id.clone();
        let about = about(&format!("image/{}", shown(&id)));
        let asked = Asked::new(&self.0, request.extensions(), Action::ImageRead, about)?;
        let again = asked.clone();
        asked
            .read(
                |_| Ok(Some((Resource::System, ()))),
                move |scene, ()| {
                    let image = image::find(scene.state, &id)?;
                    Ok(v1::Image {
                        manifest: image.manifest.clone(),
                        ..seen(&again, scene, &hosts(&again, scene), image)
                    })
                },
            )
            .await
    }

    async fn add_image(&self, request: Request<v1::AddImageRequest>) -> Result<Response<v1::Image>, Status> {
        let v1::AddImageRequest { manifest, signature, dry_run } = request.get_ref().clone();
        let id = HEXLOWER.encode(digest(&SHA256, manifest.as_bytes()).as_ref());
        let about = about(&format!("image/{id}"));
        let asked = Asked::new(&self.0, request.extensions(), Action::ImageAdd, about)?;
        let again = asked.clone();
        asked
            .dry_run(dry_run)
            .change(
                |_| Ok(Some((Resource::System, ()))),
                move |scene, ()| {
                    let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
                    let read = Manifest::read(&manifest).map_err(invalid)?;
                    let signer = policy::signer(&manifest, &signature, &scene.app.config.image.signers).map_err(|why| {
                        let text = format!("the image is not signed by a key of this site's: {why}");
                        invalid(text).hint("holm image sign DIR --key FILE --name NAME; trusted keys: [image] in holmd.toml")
                    })?;
                    let image = Image {
                        id: id.clone(),
                        version: read.version,
                        recipe: read.recipe,
                        manifest: manifest.clone(),
                        signer: signer.clone(),
                        added_by: scene.person()?.clone(),
                        added: scene.now,
                        promoted: None,
                    };
                    let detail = json!({ "version": image.version, "recipe": image.recipe, "signer": signer });
                    decided(&again, scene, image::add(scene.state, image)?, detail)
                },
            )
            .await
    }

    async fn promote_image(
        &self,
        request: Request<v1::PromoteImageRequest>,
    ) -> Result<Response<v1::Image>, Status> {
        let v1::PromoteImageRequest { id, comment, dry_run } = request.get_ref().clone();
        // The log names it whole.
        let state = self.0.ledger.state();
        let id = match image::find(&state, &id) {
            Ok(image) if !id.is_empty() => image.id.clone(),
            _ => id,
        };
        let about = about(&format!("image/{}", shown(&id)));
        let asked = Asked::new(&self.0, request.extensions(), Action::ImagePromote, about)?;
        let again = asked.clone();
        asked
            .dry_run(dry_run)
            .change(
                |_| Ok(Some((Resource::System, ()))),
                move |scene, ()| {
                    if id.is_empty() {
                        let text = "say which image: 8 digits of its id or more";
                        return Err(Refusal::new(RefusalKind::Invalid, text).hint("holm image list"));
                    }
                    let image = image::find(scene.state, &id)?;
                    let comment = super::slice::comment(&comment)?.trim().to_owned();
                    let before = image::current(scene.state).map(|image| image.id.clone());
                    let detail =
                        json!({ "id": image.id, "version": image.version, "comment": comment, "before": before });
                    let promotion = Promotion { by: scene.person()?.clone(), at: scene.now, comment };
                    decided(&again, scene, image::promote(image, scene.state, promotion)?, detail)
                },
            )
            .await
    }
}

fn about(resource: &str) -> About {
    About { resource: resource.to_owned(), ..About::system() }
}

fn decided(
    asked: &Asked,
    scene: &Scene<'_>,
    changes: Vec<Change>,
    detail: serde_json::Value,
) -> Result<Decided<v1::Image>, Refusal> {
    let put = changes.iter().find_map(|change| match change {
        Change::Put(Record::Image(image)) => Some(image),
        _ => None,
    });
    let put = put.ok_or_else(|| Refusal::new(RefusalKind::Unavailable, "no image was written"))?;
    let mut now = seen(asked, scene, &hosts(asked, scene), put);
    now.current = put.promoted.as_ref().is_some_and(|promotion| promotion.at == scene.now);
    Ok(Decided { detail, ..Decided::new(changes, now) })
}

/// A host that reports.
struct Reporting {
    name: Name,
    live: HostLive,
    /// The caller may know of it.
    reads: bool,
}

/// All that report, and which of them the caller may know of.
fn hosts(asked: &Asked, scene: &Scene<'_>) -> Vec<Reporting> {
    let reading = Asked { action: Action::HostRead, ..asked.clone() };
    let reads = |name: &Name| reading.allowed(scene.state, Resource::Host { name: name.clone() });
    let all = scene.app.live.reporting().into_iter();
    all.map(|(name, live)| Reporting { reads: reads(&name), name, live }).collect()
}

/// With what the caller may know of hosts and slices.
fn seen(asked: &Asked, scene: &Scene<'_>, reporting: &[Reporting], image: &Image) -> v1::Image {
    let state = scene.state;
    let may = |action, resource| Asked { action, ..asked.clone() }.allowed(state, resource);
    let mut hosts = Vec::new();
    let (mut slices, mut missing_on, mut missing_hosts) = (Vec::new(), 0, Vec::new());
    let decides = may(Action::ImagePromote, Resource::System);
    for Reporting { name, live, reads } in reporting {
        if !live.images.contains(&image.id) {
            missing_on += u32::from(*reads || decides);
            missing_hosts.extend(reads.then(|| name.to_string()));
        } else if *reads {
            hosts.push(name.to_string());
        }
        let over = live
            .slices
            .iter()
            .filter(|(_, seen)| seen.image == image.id)
            .filter_map(|(id, _)| state.slices.get(id));
        let living = over.filter(|slice| !matches!(slice.state, SliceState::Destroyed));
        slices.extend(
            living
                .filter(|slice| {
                    view::slice_resource(&scene.seen(), slice)
                        .is_some_and(|resource| may(Action::SliceRead, resource))
                })
                .map(|slice| state.slice_label(slice)),
        );
    }
    slices.sort();
    v1::Image {
        id: image.id.clone(),
        version: image.version.clone(),
        recipe: image.recipe.clone(),
        signer: image.signer.clone(),
        added_by: image.added_by.to_string(),
        added: Some(view::time(image.added)),
        promoted_by: image.promoted.as_ref().map(|p| p.by.to_string()).unwrap_or_default(),
        promoted: image.promoted.as_ref().map(|p| view::time(p.at)),
        comment: image.promoted.as_ref().map(|p| p.comment.clone()).unwrap_or_default(),
        current: image::current(state).is_some_and(|current| current.id == image.id),
        hosts,
        slices,
        missing_on,
        missing_hosts,
        manifest: String::new(),
    }
}
