//! Guest images: who brings one, who lets slices have it, and what hosts are told.

use crate::world::{World, observed, ready_slice, reference, stopped};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_control::audit::{SigningKey, note};
use holm_proto::image::FILES;
use holm_proto::v1;
use std::path::Path;
use tonic::{Code, Status};

const SIGNER: &str = "builder.test";

async fn world(keys: &Path) -> (World, SigningKey) {
    let key = SigningKey::create(&keys.join("builder.key")).unwrap();
    let vkey = key.vkey(SIGNER);
    (World::full_of(|config| config.image.signers = vec![vkey]).await, key)
}

fn manifest(version: &str) -> String {
    let files: String = FILES.iter().map(|file| format!("{}  {file}\n", "a".repeat(64))).collect();
    format!("recipe 1f0c2d3e4a5b6c7d\nversion {version}\n{files}slurmd 24.11.5-4 slurm-wlm 24.11.5-4\n")
}

fn id(manifest: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, manifest.as_bytes()).as_ref())
}

async fn add(world: &World, who: &str, manifest: &str, signature: String) -> Result<v1::Image, Status> {
    let request = v1::AddImageRequest { manifest: manifest.to_owned(), signature, dry_run: false };
    world.images(who).add_image(request).await.map(tonic::Response::into_inner)
}

async fn promote(world: &World, who: &str, id: &str) -> Result<v1::Image, Status> {
    let request = v1::PromoteImageRequest { id: id.to_owned(), comment: "seen".to_owned(), dry_run: false };
    world.images(who).promote_image(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_brought_by_one_signed_by_the_site_and_promoted_by_another() {
    let keys = tempfile::tempdir().unwrap();
    let (world, key) = world(keys.path()).await;
    let other = SigningKey::create(&keys.path().join("other.key")).unwrap();
    let first = manifest("2026-11-01");
    let signed = |text: &str| note::sign(&key, SIGNER, text);
    for (who, code) in [("dina", Code::PermissionDenied), ("frida", Code::PermissionDenied)] {
        assert_eq!(add(&world, who, &first, signed(&first)).await.unwrap_err().code(), code, "{who}");
    }
    for (text, signature) in [
        (first.clone(), String::new()),
        (first.clone(), note::sign(&other, SIGNER, &first)),
        (first.clone(), signed(&manifest("2026-11-02"))),
        (first.replace("  cmdline", "  ../x"), signed(&first.replace("  cmdline", "  ../x"))),
        (format!("{first}{}", "p 1\n".repeat(2000)), signed(&first)),
    ] {
        let refused = add(&world, "olga", &text, signature).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let refused =
        world.logged(|e| e.action == "image.add" && e.outcome == "refused" && e.actor == "person/olga").await;
    assert!(refused.resource.starts_with("image/"), "{}", refused.resource);
    let added = add(&world, "olga", &first, signed(&first)).await.unwrap();
    assert_eq!(
        (added.id.as_str(), added.signer.as_str(), added.current),
        (id(&first).as_str(), SIGNER, false)
    );
    assert_eq!(add(&world, "olga", &first, signed(&first)).await.unwrap_err().code(), Code::AlreadyExists);

    for (who, code) in [("olga", Code::PermissionDenied), ("dina", Code::PermissionDenied)] {
        assert_eq!(promote(&world, who, &added.id).await.unwrap_err().code(), code, "{who}");
        world
            .logged(|e| {
                e.action == "image.promote" && e.outcome == "refused" && e.actor == format!("person/{who}")
            })
            .await;
    }
    for (of, code) in [
        ("", Code::InvalidArgument),
        ("abc", Code::InvalidArgument),
        ("ffffffffffff", Code::NotFound),
        ("../../etc/passwd", Code::NotFound),
    ] {
        assert_eq!(promote(&world, "frida", of).await.unwrap_err().code(), code, "{of}");
    }
    let promoted = promote(&world, "frida", &added.id[..10]).await.unwrap();
    assert!(promoted.current && promoted.promoted_by == "frida");
    let entry = world.logged(|e| e.action == "image.promote" && e.outcome == "allowed").await;
    assert_eq!(entry.detail["id"], added.id.as_str());
    // Everybody may know what slices are made of.
    for who in ["rosa", "anna", "dina"] {
        let shown = world.images(who).get_image(v1::GetImageRequest::default()).await.unwrap().into_inner();
        assert_eq!((shown.manifest, shown.hosts.len()), (first.clone(), 0), "{who}");
    }
    let world = world.restart().await;
    assert!(
        world.images("olga").list_images(v1::ListImagesRequest {}).await.unwrap().into_inner().images[0]
            .current
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_keeps_its_image_until_it_is_rebuilt_and_its_lead_is_told_of_a_newer_one() {
    let keys = tempfile::tempdir().unwrap();
    let (world, key) = world(keys.path()).await;
    let (mut agent, first) = ready_slice(&world, "heart/main", 1).await;
    assert_eq!(first.image, "", "as its host is configured");
    let newest = manifest("2026-11-27");
    let added = add(&world, "olga", &newest, note::sign(&key, SIGNER, &newest)).await.unwrap();
    assert!(world.get("dina", "heart/main").await.unwrap().newer_image.is_empty());
    promote(&world, "frida", &added.id).await.unwrap();
    let intended = agent.intends(|i| i.slices.iter().any(|s| s.image == added.id)).await;
    assert_eq!(intended.slices[0].generation, first.generation, "what runs goes on");
    let seen = |slice: &v1::IntendedSlice, image: &str| v1::ObservedSlice {
        image: image.to_owned(),
        steps: vec![v1::Step { name: "create disk".to_owned(), done: true, ..Default::default() }],
        ..observed(slice, v1::Phase::Ready)
    };
    agent.observe(vec![seen(&intended.slices[0], "")]).await;
    let told = world.until_it("dina", "heart/main", |s| !s.newer_image.is_empty()).await;
    assert_eq!((told.newer_image.as_str(), told.image.as_str()), ("2026-11-27", ""));
    // What its host says of an image that is none is nothing.
    agent.observe(vec![seen(&intended.slices[0], "../x")]).await;
    let slice = stopped(&world, &mut agent).await;
    agent.clean(&world, "dgx").await;
    let request =
        v1::StartSliceRequest { slice: Some(reference("heart/main")), rebuild: true, dry_run: false };
    world.slices("dina").start_slice(request).await.unwrap();
    let again = agent.intends(|i| i.slices.iter().any(|s| s.goal() == v1::Goal::Run)).await.slices[0].clone();
    assert!(again.image == added.id && again.volume_id != slice.volume_id);
    let shown = world
        .images("olga")
        .get_image(v1::GetImageRequest { id: added.id.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((shown.missing_on, shown.hosts.len()), (1, 0), "its host has not said that it has it");
}
