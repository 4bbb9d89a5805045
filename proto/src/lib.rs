//! What crosses a process boundary in Holm: the messages and services of `holm.v1`, and the typed ids
//! and names that both sides check in the same way, and the platforms and kinds of GPU both sides go by. No logic lives here.
//!
//! The `.proto` files under `proto/holm/v1` are the documentation of the messages.

pub mod commission;
pub mod fullness;
pub mod gpu;
pub mod guest;
pub mod ids;
pub mod image;
pub mod jobs;
pub mod platform;

/// What the pieces of a connection are made of.
pub use prost::bytes::Bytes;

/// Generated from `proto/holm/v1/*.proto`.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::large_enum_variant,
    clippy::doc_markdown,
    missing_docs,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("holm.v1");
}

/// The longest message either side accepts, in bytes. Every message of Holm is far smaller.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// The largest HTTP/2 frame either side accepts, in bytes: a piece of a connection in one of them, not in five.
pub const MAX_FRAME_BYTES: u32 = 128 * 1024;

impl std::fmt::Debug for v1::VolumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeKey")
            .field("slice_id", &self.slice_id)
            .field("volume_id", &self.volume_id)
            .field("generation", &self.generation)
            .field("job_id", &self.job_id)
            .field("key", &"[redacted]")
            .finish()
    }
}

impl std::fmt::Debug for v1::EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest").field("code", &"[redacted]").field("csr_pem", &self.csr_pem).finish()
    }
}

/// An error and its causes on one line; a cause that its effect quotes already is not said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn debug_shows_no_secret() {
        let key = v1::VolumeKey { key: vec![0xAB; 32], ..Default::default() };
        assert!(!format!("{key:?}").contains("171"));
        let message = v1::ToAgent { body: Some(v1::to_agent::Body::VolumeKey(key)) };
        assert!(!format!("{message:?}").contains("171"));
        let enrol = v1::EnrolRequest { code: "holm1-SECRET".into(), csr_pem: String::new() };
        assert!(!format!("{enrol:?}").contains("SECRET"));
    }
}
