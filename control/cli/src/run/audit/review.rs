//! Samples of the log: what there is to look at, and what officers say of it.

use crate::args::ReviewVerb;
use crate::run::Session;
use crate::run::project::afterwards;
use crate::{Failure, view};
use holm_proto::v1::{DecideEntryRequest, GetReviewRequest, ListReviewsRequest};
use serde_json::json;

pub(super) async fn run(session: &Session, verb: ReviewVerb) -> Result<(), Failure> {
    let mut client = session.reviews().await?;
    let output = &session.output;
    match verb {
        ReviewVerb::List => {
            let all = session.ask(client.list_reviews(ListReviewsRequest {})).await?.reviews;
            let json: Vec<_> = all.iter().map(view::sample_json).collect();
            output.list(&view::samples(&all, &session.clock), &json!(json))?;
            match all.iter().rev().find(|review| review.drawn.is_some() && review.done.is_none()) {
                Some(open) => output.next(&format!("holm audit review show {}", open.number)),
                None => Ok(()),
            }
        }
        ReviewVerb::Show { number } => {
            let review = session.ask(client.get_review(GetReviewRequest { number })).await?;
            output.list(&view::sample(&review, &session.clock), &view::sample_json(&review))?;
            match review.items.iter().find(|item| item.by.is_empty()) {
                Some(open) => {
                    output.next(&format!("holm audit show {}", open.entry))?;
                    output.next(&format!("holm audit review sign-off {number} {}   (or flag)", open.entry))
                }
                None => Ok(()),
            }
        }
        ReviewVerb::SignOff { number, entries, comment, dry_run } => {
            let mut last = None;
            for entry in &entries {
                let comment = comment.clone();
                let request = DecideEntryRequest { number, entry: *entry, flag: false, comment, dry_run };
                last = Some(session.ask(client.decide_entry(request)).await?);
            }
            let Some(review) = last else { return Ok(()) };
            let left = review.entries - review.decided;
            let sentence = format!("{} signed off; {left} are left", plural(entries.len()));
            output.done(&afterwards(dry_run, sentence), &view::sample_json(&review))
        }
        ReviewVerb::Flag { number, entry, comment, dry_run } => {
            let request = DecideEntryRequest { number, entry, flag: true, comment, dry_run };
            let review = session.ask(client.decide_entry(request)).await?;
            let left = review.entries - review.decided;
            let sentence = format!("entry {entry} is flagged; {left} are left");
            output.done(&afterwards(dry_run, sentence), &view::sample_json(&review))
        }
    }
}

fn plural(count: usize) -> String {
    if count == 1 { "1 entry is".to_owned() } else { format!("{count} entries are") }
}
