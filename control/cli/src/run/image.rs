//! Guest images.

use super::Session;
use super::project::afterwards;
use crate::args::ImageVerb;
use crate::output::Format;
use crate::{Failure, view};
use holm_control::audit::{SigningKey, note};
use holm_proto::image::Manifest;
use holm_proto::v1::{AddImageRequest, GetImageRequest, ListImagesRequest, PromoteImageRequest};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "manifest";
const SIGNATURE: &str = "manifest.sig";

pub(super) async fn run(session: &Session, verb: ImageVerb) -> Result<(), Failure> {
    match verb {
        ImageVerb::List => {
            let mut client = session.images().await?;
            let all = session.ask(client.list_images(ListImagesRequest {})).await?.images;
            let json: Value = all.iter().map(view::image_json).collect();
            session.output.list(&view::images(&all, &session.clock), &json)
        }
        ImageVerb::Show { id, packages, advisories, release } => {
            show(session, id, packages, advisories.as_deref(), &release).await
        }
        ImageVerb::Keygen { file, name } => {
            super::policy::keygen(&file, &name, ("makes images", "image"), &session.output)
        }
        ImageVerb::Sign { directory, key, name } => sign(session, &directory, &key, &name),
        ImageVerb::Add { directory, dry_run } => {
            let manifest = read(&directory.join(MANIFEST))?;
            let signature = read(&directory.join(SIGNATURE)).map_err(|e| {
                e.hint(format!("holm image sign {} --key FILE --name NAME", directory.display()))
            })?;
            let mut client = session.images().await?;
            let request = AddImageRequest { manifest, signature, dry_run };
            let image = session.ask(client.add_image(request)).await?;
            let sentence = format!(
                "the image {} ({}) is known; no slice gets it yet",
                image.version,
                view::short(&image.id)
            );
            session.output.done(&afterwards(dry_run, sentence), &view::image_json(&image))?;
            if !dry_run {
                session.output.next(&format!(
                    "on each host: holm-agent image add DIR; then, an officer: holm image promote {}",
                    view::short(&image.id)
                ))?;
            }
            Ok(())
        }
        ImageVerb::Promote { id, comment, dry_run } => {
            let mut client = session.images().await?;
            let request = PromoteImageRequest { id, comment, dry_run };
            let image = session.ask(client.promote_image(request)).await?;
            let sentence = format!(
                "root disks are made over {} ({}) from now on",
                image.version,
                view::short(&image.id)
            );
            session.output.done(&afterwards(dry_run, sentence), &view::image_json(&image))?;
            if image.missing_on > 0 {
                session.output.remark(&format!(
                    "it is missing on {} of the hosts: slices wait there until an operator has done: holm-agent image add DIR",
                    image.missing_on
                ));
            }
            Ok(())
        }
    }
}

async fn show(
    session: &Session,
    id: String,
    packages: bool,
    advisories: Option<&Path>,
    release: &str,
) -> Result<(), Failure> {
    let mut client = session.images().await?;
    let image = session.ask(client.get_image(GetImageRequest { id })).await?;
    let manifest = Manifest::read(&image.manifest)
        .map_err(|why| Failure::new(format!("holmd sent a manifest that cannot be read: {why}")))?;
    let known = advisories.map(|path| {
        let list = read(path)?;
        let known = view::advisories(&manifest, &list, release)
            .map_err(|why| Failure::new(format!("`{}`: {why}", path.display())))?;
        session.output.remark(&view::advisories_in_short(&manifest, &list, &known));
        Ok::<_, Failure>(known)
    });
    let known = known.transpose()?;
    let json = view::image_json_whole(&image, &manifest, known.as_deref());
    if session.output.format != Format::Table {
        let table = known.as_deref().map_or_else(|| view::packages(&manifest), view::known);
        return session.output.list(&table, &json);
    }
    session.output.sheet(&view::image(&image, &manifest, &session.clock), &json)?;
    if packages {
        session.output.list(&view::packages(&manifest), &json)?;
    }
    match known {
        Some(known) => session.output.list(&view::known(&known), &json),
        None => {
            session
                .output
                .remark("nothing is known of advisories: --advisories FILE takes Debian's list of them");
            Ok(())
        }
    }
}

fn sign(session: &Session, directory: &Path, key: &Path, name: &str) -> Result<(), Failure> {
    super::policy::named(name)?;
    let manifest = read(&directory.join(MANIFEST))?;
    let read = Manifest::read(&manifest)
        .map_err(|why| Failure::new(format!("`{}`: {why}", directory.join(MANIFEST).display())))?;
    let key = SigningKey::load(key).map_err(|e| Failure::of(&e))?;
    let file: PathBuf = directory.join(SIGNATURE);
    fs::write(&file, note::sign(&key, name, &manifest)).map_err(|e| Failure::file("write", &file, &e))?;
    let sentence = format!("the image {} is signed by {name}: {}", read.version, file.display());
    session.output.done(&sentence, &json!({ "version": read.version, "file": file }))?;
    session.output.remark(&format!("the key that holmd must trust is {}", key.vkey(name)));
    session.output.next(&format!("an operator: holm image add {}", directory.display()))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))
}
