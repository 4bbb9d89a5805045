//! What was reported of the host's fitness in this session, so that only news are.

use super::{ANEW, Identity};
use holm_proto::v1;
use prost::Message as _;
use tokio::time::Instant;

/// The last report.
#[derive(Default)]
pub(super) struct Commissioned {
    last: Option<(Instant, Vec<v1::Check>)>,
}

impl Commissioned {
    /// The report, signed, where it is the first, says something else than the last, or that one is a day old.
    pub(super) fn news(
        &mut self,
        report: v1::Commissioning,
        identity: &Identity,
    ) -> Option<v1::SignedCommissioning> {
        if self.last.as_ref().is_some_and(|(at, checks)| at.elapsed() < ANEW && *checks == report.checks) {
            return None;
        }
        let bytes = report.encode_to_vec();
        let Some(signature) = identity.sign(&bytes) else {
            tracing::warn!("the host's commissioning cannot be signed: it is tried again");
            return None;
        };
        self.last = Some((Instant::now(), report.checks));
        Some(v1::SignedCommissioning { report: bytes, signature })
    }
}
