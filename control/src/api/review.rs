//! The review of the log by sample, for officers. Which entries are in one is in `audit::sample`, who says what of them in
//! `domain::review`.

use super::{About, Asked, Scene, view};
use crate::app::App;
use crate::audit::LogError;
use crate::domain::review::{self, Decided as Said, Item, Review};
use crate::domain::{Change, Record, Refusal, RefusalKind};
use crate::ledger::{Decided, chain};
use holm_policies::{Action, Resource};
use holm_proto::v1;
use holm_proto::v1::review_service_server::ReviewService;
use jiff::Timestamp;
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct Reviews(pub Arc<App>);

#[tonic::async_trait]
impl ReviewService for Reviews {
    async fn list_reviews(
        &self,
        request: Request<v1::ListReviewsRequest>,
    ) -> Result<Response<v1::ListReviewsResponse>, Status> {
        let about = About { resource: "reviews".to_owned(), ..About::system() };
        Asked::new(&self.0, request.extensions(), Action::AuditRead, about)?
            .read(
                |_| Ok(Some((Resource::Log, ()))),
                |scene, ()| {
                    let all = scene.state.reviews.values();
                    Ok(v1::ListReviewsResponse {
                        reviews: all.map(|review| head(review, scene.now)).collect(),
                    })
                },
            )
            .await
    }

    async fn get_review(
        &self,
        request: Request<v1::GetReviewRequest>,
    ) -> Result<Response<v1::Review>, Status> {
        let number = request.get_ref().number;
        Asked::new(&self.0, request.extensions(), Action::AuditRead, about(number))?
            .read(
                |_| Ok(Some((Resource::Log, ()))),
                move |scene, ()| {
                    let review = scene.state.reviews.get(&number).ok_or_else(|| about(number).missing)?;
                    let mut whole = whole(review, scene.now);
                    for item in &mut whole.items {
                        item.body = body(scene, item.entry)?;
                    }
                    Ok(whole)
                },
            )
            .await
    }

    async fn decide_entry(
        &self,
        request: Request<v1::DecideEntryRequest>,
    ) -> Result<Response<v1::Review>, Status> {
        let v1::DecideEntryRequest { number, entry, flag, comment, dry_run } = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::AuditReview, about(number))?
            .dry_run(dry_run)
            .change(
                |_| Ok(Some((Resource::Log, ()))),
                move |scene, ()| {
                    let detail =
                        json!({ "entry": entry, "flag": flag, "comment": super::plain(&comment, 1024) });
                    let comment = comment.trim().to_owned();
                    let said = Said { by: scene.person()?.clone(), at: scene.now, flagged: flag, comment };
                    let changes = review::decide(scene.state, number, entry, said)?;
                    let now = changes.iter().find_map(|change| match change {
                        Change::Put(Record::Review(review)) => Some(whole(review, scene.now)),
                        _ => None,
                    });
                    Ok(Decided { detail, ..Decided::new(changes, now.unwrap_or_default()) })
                },
            )
            .await
    }
}

fn about(number: u32) -> About {
    let missing = format!("there is no review {number}");
    About::new(format!("review/{number}"), None, missing, "holm audit review list")
}

fn body(scene: &Scene<'_>, entry: u64) -> Result<Vec<u8>, Refusal> {
    let bodies = match scene.app.ledger.entries(entry, entry.saturating_add(1)) {
        // What was said of it is still known.
        Err(LogError::Expired { .. }) => return Ok(Vec::new()),
        bodies => bodies,
    };
    let bodies = bodies.map_err(|failure| {
        let text = format!("the log cannot be read: {}", chain(&failure));
        Refusal::new(RefusalKind::State, text).hint("tell an operator: holmd check")
    })?;
    Ok(bodies.into_iter().next().unwrap_or_default())
}

fn head(review: &Review, now: Timestamp) -> v1::Review {
    let sample = review.sample.as_ref();
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (decided, flagged) = review.counts();
    v1::Review {
        number: review.number,
        closed: Some(view::time(review.closed)),
        drawn: sample.map(|sample| view::time(sample.drawn)),
        due: sample.map(|sample| view::time(sample.due)),
        done: sample.and_then(|sample| sample.done).map(view::time),
        overdue: review.is_overdue(now),
        close: sample.map_or(0, |sample| sample.close),
        entries: count(sample.map_or(0, |sample| sample.items.len())),
        decided: count(decided),
        flagged: count(flagged),
        items: Vec::new(),
    }
}

fn whole(review: &Review, now: Timestamp) -> v1::Review {
    let items = review.sample.iter().flat_map(|sample| &sample.items).map(item).collect();
    v1::Review { items, ..head(review, now) }
}

fn item(item: &Item) -> v1::ReviewItem {
    let said = item.decided.as_ref();
    v1::ReviewItem {
        entry: item.entry,
        about: item.about.iter().map(ToString::to_string).collect(),
        by: said.map(|said| said.by.to_string()).unwrap_or_default(),
        at: said.map(|said| view::time(said.at)),
        flagged: said.is_some_and(|said| said.flagged),
        comment: said.map(|said| said.comment.clone()).unwrap_or_default(),
        body: Vec::new(),
    }
}
