//! Calls that are made once, however often they are sent: who lost the answer sends the same again, under the same key.
//!
//! What is the same: the caller, the key, the method and every byte of the message; with another of them it is another call.
//! Whether she may is asked each time: who may not any more is told that it was done, and nothing of what was answered.
//! That it was made is a record, written with the change that it made, so that a restart forgets nothing. Its answer may hold a
//! code that is nobody else's to read: it is in memory only, and who asks after a restart is told that it was done.

use crate::domain::records::{Change, Once, Record};
use crate::domain::{Refusal, RefusalKind, State};
use crate::identity::Caller;
use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use holm_proto::ids::RequestId;
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use uuid::Uuid;
use zeroize::Zeroizing;

/// The header with the key, a UUID.
pub const KEY: &str = "holm-idempotency-key";

/// The header of an answer to a call that was made before: that call's id.
pub const AGAIN: &str = "holm-again";

/// For so long a key is known.
pub const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// So many answers are kept, none of them larger than so many bytes.
const ANSWERS: usize = 1000;
const ANSWER_MAX: usize = 64 * 1024;
/// With each new one so many of the same caller's that are too old go.
const SWEPT: usize = 8;
/// So many a caller may have made: each is a record.
const MOST: usize = 1000;

/// What came with a key.
#[derive(Clone)]
pub struct Keyed {
    /// Over the key, the method and, once it was read, the message.
    heard: Arc<Mutex<Context>>,
}

/// The request, of which is noted what makes it the same as another. What people say in a tunnel is no call.
///
/// # Errors
/// The key is none.
pub fn heard(request: http::Request<Body>) -> Result<http::Request<Body>, Status> {
    let streams =
        request.uri().path().ends_with("/Connect") || request.uri().path().contains(".AgentService/");
    let Some(key) = request.headers().get(KEY).filter(|_| !streams) else { return Ok(request) };
    let key = key.to_str().ok().and_then(|text| Uuid::try_parse(text).ok());
    let key = key.ok_or_else(|| Status::invalid_argument(format!("{KEY} is a UUID")))?;
    let mut digest = Context::new(&SHA256);
    digest.update(key.as_bytes());
    digest.update(request.uri().path().as_bytes());
    digest.update(&[0]);
    let heard = Arc::new(Mutex::new(digest));
    let keyed = Keyed { heard: Arc::clone(&heard) };
    let mut request = request.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                heard.lock().unwrap_or_else(PoisonError::into_inner).update(data);
            }
            frame
        }))
    });
    request.extensions_mut().insert(keyed);
    Ok(request)
}

impl Keyed {
    /// By which it is known. The message has been read by then.
    pub fn id(&self, caller: &Caller) -> String {
        let mut digest = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        digest.update(caller.actor().as_bytes());
        // The caller's stand together.
        format!("{}/{}", caller.actor(), HEXLOWER.encode(digest.finish().as_ref()))
    }
}

/// The call that was made under this id, where that is known still.
pub fn made<'a>(state: &'a State, id: &str, now: Timestamp) -> Option<&'a Once> {
    state.once.get(id).filter(|once| !is_over(once, now))
}

/// To be written with what it changes.
///
/// # Errors
/// The caller has made too many.
pub fn noted(state: &State, id: &str, request: RequestId, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    let of = id.rsplit_once('/').map_or(id, |(caller, _)| caller);
    let hers = || state.once.range(format!("{of}/")..format!("{of}0")).map(|(_, once)| once);
    if hers().filter(|once| !is_over(once, now)).count() >= MOST {
        let text =
            format!("of one caller {MOST} keys are known for 24 h, and so many came: nothing was done");
        return Err(Refusal::new(RefusalKind::State, text).hint("send it without a key"));
    }
    // A clock that jumped and was set right forgets nothing.
    let gone = |once: &&Once| now.duration_since(once.at).abs() >= KEPT * 2 && once.id != id;
    let gone = hers().filter(gone).take(SWEPT).map(|once| Change::Delete(Record::Once(once.clone()).key()));
    Ok(gone.chain([Change::Put(Record::Once(Once { id: id.to_owned(), request, at: now }))]).collect())
}

/// Also where the clock was set back by more than that.
fn is_over(once: &Once, now: Timestamp) -> bool {
    now.duration_since(once.at).abs() >= KEPT
}

/// Answers of late.
#[derive(Default)]
pub struct Answers(Mutex<VecDeque<Answer>>);

struct Answer {
    id: String,
    at: Timestamp,
    /// It may hold a code.
    bytes: Zeroizing<Vec<u8>>,
}

impl Answers {
    /// What was answered to the call under this id.
    pub fn keep<T: prost::Message>(&self, id: &str, answer: &T, now: Timestamp) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|old| old.id != id && now.duration_since(old.at).abs() < KEPT);
        if answer.encoded_len() > ANSWER_MAX {
            return;
        }
        if kept.len() >= ANSWERS {
            kept.pop_front();
        }
        kept.push_back(Answer { id: id.to_owned(), at: now, bytes: Zeroizing::new(answer.encode_to_vec()) });
    }

    /// The same again.
    ///
    /// # Errors
    /// It is not known any more: what was done is said.
    pub fn again<T: prost::Message + Default>(&self, once: &Once) -> Result<T, Refusal> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = kept.iter().find(|answer| answer.id == once.id);
        answer.and_then(|answer| T::decode(answer.bytes.as_slice()).ok()).ok_or_else(|| not_again(once))
    }
}

/// It was done, and what was answered is not known, or not to be told any more.
pub fn not_again(once: &Once) -> Refusal {
    let text = format!(
        "this was done at {:.0}, by the call {}, and is not done again: what was answered is not told any more",
        once.at, once.request
    );
    Refusal::new(RefusalKind::Exists, text)
        .hint("look at what it made; or do it once more, under another key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    async fn id(key: &str, path: &str, pieces: &[&[u8]], who: &str) -> String {
        let all: Vec<Result<hyper::body::Frame<_>, std::convert::Infallible>> = pieces
            .iter()
            .map(|data| Ok(hyper::body::Frame::data(holm_proto::Bytes::copy_from_slice(data))))
            .collect();
        let body = Body::new(http_body_util::StreamBody::new(tokio_stream::iter(all)));
        let request = http::Request::builder().uri(path).header(KEY, key).body(body).unwrap();
        let request = heard(request).unwrap();
        let keyed = request.extensions().get::<Keyed>().unwrap().clone();
        let read = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(read, pieces.concat());
        keyed.id(&Caller::Person(who.parse().unwrap()))
    }

    #[tokio::test]
    async fn what_is_the_same_call_and_what_is_another() {
        const ONE: &str = "7f3c0b1e-0000-4000-8000-000000000001";
        let same = id(ONE, "/holm.v1.X/Make", &[b"abc"], "ada").await;
        assert_eq!(id(ONE, "/holm.v1.X/Make", &[b"a", b"", b"bc"], "ada").await, same);
        assert_eq!(id(&ONE.to_uppercase(), "/holm.v1.X/Make", &[b"abc"], "ada").await, same);
        for other in [
            id("7f3c0b1e-0000-4000-8000-000000000002", "/holm.v1.X/Make", &[b"abc"], "ada").await,
            id(ONE, "/holm.v1.X/Mak", &[b"eabc"], "ada").await,
            id(ONE, "/holm.v1.X/Make", &[b"abd"], "ada").await,
            id(ONE, "/holm.v1.X/Make", &[b"abc"], "bent").await,
        ] {
            assert_ne!(other, same);
        }
    }

    #[test]
    fn a_key_is_a_uuid() {
        for key in
            ["", "1", "x", "7f3c0b1e-0000-4000-8000-00000000000", "7f3c0b1e-0000-4000-8000-0000000000011"]
        {
            let body = Body::new(Full::new(holm_proto::Bytes::new()));
            let request = http::Request::builder().header(KEY, key).body(body).unwrap();
            assert_eq!(heard(request).err().unwrap().message(), "holm-idempotency-key is a UUID");
        }
    }

    #[test]
    fn old_ones_go_a_few_at_a_time_and_a_clock_that_jumps_forgets_no_new_ones() {
        let at = |hour: i64| Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap();
        let mut state = State::default();
        let note = |state: &mut State, id: &str, hour| {
            let changes = noted(state, id, RequestId::new_v4(), at(hour))?;
            state.apply(&changes);
            Ok::<(), Refusal>(())
        };
        for n in 0..20 {
            note(&mut state, &format!("person/ada/{n:02}"), 0).unwrap();
        }
        note(&mut state, "person/ada-b/00", 0).unwrap();
        assert!(
            made(&state, "person/ada/00", at(23)).is_some()
                && made(&state, "person/ada/00", at(24)).is_none()
        );
        assert!(
            made(&state, "person/ada/00", at(-23)).is_some()
                && made(&state, "person/ada/20", at(0)).is_none()
        );
        note(&mut state, "person/ada/new", 47).unwrap();
        assert_eq!(state.once.len(), 22);
        note(&mut state, "person/ada/newer", 48).unwrap();
        assert_eq!(state.once.len(), 23 - SWEPT);
        // Under an old one again: it is new.
        note(&mut state, "person/ada/19", 48).unwrap();
        assert!(made(&state, "person/ada/19", at(48)).is_some());
        // One caller's do not grow without end, and are nobody else's trouble.
        let full =
            (0..2 * MOST).take_while(|n| note(&mut state, &format!("person/ada/{n:05}"), 48).is_ok()).count();
        assert!((MOST - 3..=MOST).contains(&full), "{full}");
        note(&mut state, "person/ada-b/01", 48).unwrap();
    }

    #[test]
    fn answers_are_kept_in_memory_and_not_without_end() {
        let answers = Answers::default();
        let once =
            |id: &str| Once { id: id.to_owned(), request: RequestId::new_v4(), at: Timestamp::UNIX_EPOCH };
        for n in 0..=ANSWERS {
            answers.keep(
                &n.to_string(),
                &prost_types::Duration { seconds: 7, nanos: 0 },
                Timestamp::UNIX_EPOCH,
            );
        }
        answers.keep("large", &"x".repeat(ANSWER_MAX), Timestamp::UNIX_EPOCH);
        assert_eq!(answers.again::<prost_types::Duration>(&once("1")).unwrap().seconds, 7);
        for gone in ["0", "large"] {
            let refusal = answers.again::<prost_types::Duration>(&once(gone)).unwrap_err();
            assert!(refusal.kind == RefusalKind::Exists && refusal.to_string().contains("is not done again"));
        }
    }
}
