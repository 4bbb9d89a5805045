//! What sealing asks of a TPM 2.0, through tpm2-tss.
//!
//! ```text
//!   TPM2_CreatePrimary      the storage root key: made anew from the TPM's owner seed, always the same
//!   TPM2_StartAuthSession   salted with the root key's public point: only its holder can take part
//!   TPM2_Create             a sealed object under the root key         ┐ in the session: the first parameter of what is
//!   TPM2_Load               back into the TPM                          │ sent and of what is answered is encrypted
//!   TPM2_Unseal             what was sealed                            ┘ (AES-128-CFB), each has an HMAC (SHA-256)
//!   TPM2_FlushContext       of all the above, when the context is dropped
//! ```
//!
//! Who sits between holmd and the TPM sees no key, and can change nothing unnoticed, as long as the root key is the one
//! it is to be: [`Root::name`] is for comparing it.

use super::super::{Key, as_key};
use secrecy::ExposeSecret;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::str::FromStr;
use std::{fmt, io};
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind};
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    EccPoint, KeyedHashScheme, Private, Public, PublicBuilder, PublicEccParametersBuilder,
    PublicKeyedHashParameters, SensitiveData, SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::{Context, Error};

/// TPM2B_NAME of an object: two bytes that say SHA-256, and the hash of its public area.
pub(super) const NAME: usize = 34;

const CREATE_PRIMARY: &str = "TPM2_CreatePrimary";
const START: &str = "TPM2_StartAuthSession";
const CREATE: &str = "TPM2_Create";
const LOAD: &str = "TPM2_Load";
const UNSEAL: &str = "TPM2_Unseal";

/// Why a TPM did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no device, or it may not be used.
    #[error("it cannot be reached: {0}")]
    Away(#[source] io::Error),
    /// Nobody answers there.
    #[error("it cannot be reached: {what}", what = text(.0))]
    Silent(#[source] Error),
    /// A command was not carried out, or its answer was changed on its way.
    #[error("{0} fails: {what}", what = text(.1))]
    Failed(&'static str, #[source] Error),
    /// What was to be loaded is none.
    #[error("it is no object of a TPM")]
    NoObject,
    /// It gives something else than was asked for.
    #[error("its answer to {0} is not as the TPM 2.0 specification has it")]
    Garbled(&'static str),
}

impl Failure {
    /// Whether an object could not be loaded for its own bytes: any TPM_RC of format 1, as TPM_RC_INTEGRITY and
    /// TPM_RC_SIZE are, but not where the session is what it does not accept.
    pub(super) fn is_of_what_was_loaded(&self) -> bool {
        match self {
            Self::NoObject => true,
            Self::Failed(LOAD, Error::Tss2Error(code @ Tss2ResponseCode::FormatOne(_))) => !is_of_auth(*code),
            _ => false,
        }
    }

    /// Whether the owner hierarchy has a password.
    pub(super) fn is_of_the_owner(&self) -> bool {
        let Self::Failed(CREATE_PRIMARY, Error::Tss2Error(code @ Tss2ResponseCode::FormatOne(_))) = self
        else {
            return false;
        };
        is_of_auth(*code)
    }
}

fn is_of_auth(code: Tss2ResponseCode) -> bool {
    matches!(code.kind(), Some(Tss2ResponseCodeKind::BadAuth | Tss2ResponseCodeKind::AuthFail))
}

/// With the number: the crate's words for one of format 0 are the TPM's, also where tpm2-tss made it.
fn text(error: &Error) -> String {
    match error {
        Error::Tss2Error(Tss2ResponseCode::FormatZero(code)) => format!("{code}, see tpm2_rc_decode"),
        Error::Tss2Error(Tss2ResponseCode::FormatOne(code)) => format!("{code}, {error}"),
        _ => error.to_string(),
    }
}

fn failed(command: &'static str) -> impl Fn(Error) -> Failure {
    move |error| Failure::Failed(command, error)
}

/// Where a TPM is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    text: String,
    conf: TctiNameConf,
}

impl Place {
    /// A device by its whole path, or `swtpm:host=…,port=…` of one in software; `None` where it is neither.
    pub(super) fn of(text: &str) -> Option<Self> {
        let is_path = Path::new(text).is_absolute();
        let name = if is_path { format!("device:{text}") } else { text.to_owned() };
        let conf = TctiNameConf::from_str(&name).ok()?;
        (is_path || matches!(conf, TctiNameConf::Swtpm(_))).then(|| Self { text: text.to_owned(), conf })
    }

    /// Whether there is something that tpm2-tss may open: it does not say why it cannot, and would write to a file.
    fn look(&self) -> io::Result<()> {
        let path = Path::new(&self.text);
        if !path.is_absolute() {
            return Ok(());
        }
        if !fs::metadata(path)?.file_type().is_char_device() {
            return Err(io::Error::other("it is no device"));
        }
        File::options().read(true).write(true).open(path).map(drop)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An object as it lies outside its TPM, where nobody else can open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// TPMT_PUBLIC.
    pub(super) public: Vec<u8>,
    /// TPM2B_PRIVATE, without its size: encrypted and authenticated under the root key.
    pub(super) private: Vec<u8>,
}

/// The storage root key.
pub(super) struct Root {
    handle: KeyHandle,
    /// By which it is told from that of another TPM, or of this one before it was cleared.
    pub(super) name: [u8; NAME],
}

/// A connection to a TPM; what was loaded is flushed at its end.
pub(super) struct Tpm(Context);

impl Tpm {
    pub(super) fn open(place: &Place) -> Result<Self, Failure> {
        place.look().map_err(Failure::Away)?;
        Context::new(place.conf.clone()).map(Self).map_err(Failure::Silent)
    }

    /// The storage root key, loaded.
    pub(super) fn root(&mut self) -> Result<Root, Failure> {
        let failed = failed(CREATE_PRIMARY);
        let template = root_template().map_err(&failed)?;
        let made = self.0.execute_with_session(Some(AuthSession::Password), |tpm| {
            tpm.create_primary(Hierarchy::Owner, template, None, None, None, None)
        });
        let handle = made.map_err(&failed)?.key_handle;
        // tpm2-tss has made it from the public area by itself.
        let name = self.0.tr_get_name(handle.into()).map_err(&failed)?;
        let name = name.value().try_into().map_err(|_| Failure::Garbled(CREATE_PRIMARY))?;
        Ok(Root { handle, name })
    }

    /// Begin the session in which all that follows is done.
    pub(super) fn begin(&mut self, root: &Root) -> Result<(), Failure> {
        let (aes, sha) = (SymmetricDefinition::AES_128_CFB, HashingAlgorithm::Sha256);
        let session = self
            .0
            .start_auth_session(Some(root.handle), None, None, SessionType::Hmac, aes, sha)
            .map_err(failed(START))?
            .ok_or(Failure::Garbled(START))?;
        let (attributes, mask) =
            SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
        self.0.tr_sess_set_attributes(session, attributes, mask).map_err(failed(START))?;
        self.0.set_sessions((Some(session), None, None));
        Ok(())
    }

    /// Seal a key: only this TPM gives it back.
    pub(super) fn seal(&mut self, root: &Root, key: &Key) -> Result<Object, Failure> {
        let failed = failed(CREATE);
        let key = SensitiveData::try_from(key.expose_secret().as_slice()).map_err(&failed)?;
        let template = sealed_template().map_err(&failed)?;
        let made = self.0.create(root.handle, template, None, Some(key), None, None).map_err(&failed)?;
        let public = made.out_public.marshall().map_err(&failed)?;
        Ok(Object { public, private: made.out_private.value().to_vec() })
    }

    /// What was sealed.
    pub(super) fn unseal(&mut self, root: &Root, object: &Object) -> Result<Key, Failure> {
        let public = Public::unmarshall(&object.public).map_err(|_| Failure::NoObject)?;
        let private = Private::try_from(object.private.as_slice()).map_err(|_| Failure::NoObject)?;
        let handle = self.0.load(root.handle, private, public).map_err(failed(LOAD))?;
        let key = self.0.unseal(handle.into()).map_err(failed(UNSEAL))?;
        as_key(key.value()).ok_or(Failure::Garbled(UNSEAL))
    }

    /// For a command that holmd does not give.
    #[cfg(test)]
    pub(super) fn context(&mut self) -> &mut Context {
        &mut self.0
    }
}

/// The template of the storage root key. With another one the TPM makes another key, and what was sealed does not open.
pub(super) fn root_template() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let aes = SymmetricDefinitionObject::AES_128_CFB;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_restricted_decryption_key(aes, EccCurve::NistP256).build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// The template of a sealed object.
fn sealed_template() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Default::default())
        .build()
}
