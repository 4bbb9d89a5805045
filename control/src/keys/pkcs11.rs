//! A hardware security module by PKCS #11: the key-encryption keys never leave it.
//!
//! Each generation is an AES-256 key of the token under one label, its CKA_ID the generation, four bytes, big-endian;
//! not extractable, sensitive. Keys are wrapped with CKM_AES_GCM, because that takes associated data, which
//! CKM_AES_KEY_WRAP does not: nonce (12, random), ciphertext (32), tag (16).
//!
//! The module is loaded, and a session begun, at each call: a token that was away, or was reset, is found again.

use super::Secret;
use super::{Key, KeyError, Provider, as_key, secret};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::fill;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const NONCE: usize = 12;
const TAG_BITS: u64 = 128;
const KEY_BYTES: u64 = 32;

pub(super) struct Hsm {
    module: PathBuf,
    token: String,
    label: String,
    pin: Secret,
    loaded: Option<Pkcs11>,
    /// SHA-256 of a PIN that the token has refused: each try more may lock it, or wipe it.
    refused: Option<Vec<u8>>,
}

impl Hsm {
    pub(super) fn new(module: &Path, token: &str, label: &str, pin: &Secret) -> Result<Self, KeyError> {
        if !module.is_absolute() {
            return Err(KeyError::new(format!(
                "`{}`: name the PKCS #11 module by its whole path",
                module.display()
            )));
        }
        if *pin == Secret::Prompt {
            return Err(KeyError::new(
                "the PIN is read from a file or a credential: a token may come back by itself",
            ));
        }
        let (token, label) = (token.to_owned(), label.to_owned());
        Ok(Self { module: module.to_path_buf(), token, label, pin: pin.clone(), loaded: None, refused: None })
    }

    fn session(&mut self) -> Result<Session, KeyError> {
        let pkcs11 = match self.loaded.take() {
            Some(pkcs11) => pkcs11,
            None => {
                let unloaded = |e: Error| {
                    KeyError::unreachable(format!(
                        "the PKCS #11 module `{}` cannot be used: {e}",
                        self.module.display()
                    ))
                };
                let pkcs11 = Pkcs11::new(&self.module).map_err(unloaded)?;
                match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                    Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                    Err(e) => return Err(unloaded(e)),
                }
                pkcs11
            }
        };
        let pkcs11 = self.loaded.insert(pkcs11);
        let slots = pkcs11.get_slots_with_initialized_token().map_err(|e| away(&e))?;
        let slot = slots.into_iter().find(|slot| {
            pkcs11.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == self.token)
        });
        let slot =
            slot.ok_or_else(|| KeyError::unreachable(format!("there is no token `{}`", self.token)))?;
        let session = pkcs11.open_rw_session(slot).map_err(|e| away(&e))?;
        let pin = secret::read(&self.pin)?;
        let pin =
            std::str::from_utf8(pin.expose_secret()).map_err(|_| KeyError::new("the PIN is no text"))?;
        let hash = digest(&SHA256, pin.as_bytes()).as_ref().to_vec();
        if self.refused.as_ref() == Some(&hash) {
            return Err(KeyError::unreachable(format!(
                "the token `{}` has refused the PIN, and it is not tried again: put the right one in its place",
                self.token
            )));
        }
        let denied = |e: &Error| {
            use RvError::{PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked};
            let pin = [PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked];
            matches!(e, Error::Pkcs11(why, _) if pin.iter().any(|one| one == why))
        };
        match session.login(UserType::User, Some(&AuthPin::from(pin.to_owned()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(e) => {
                self.refused = denied(&e).then_some(hash);
                Err(KeyError::unreachable(format!("the token `{}` does not let holmd in: {e}", self.token)))
            }
        }
    }

    fn template(&self) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(self.label.clone().into_bytes()),
        ]
    }

    /// Every generation in the token.
    fn keys(&self, session: &Session) -> Result<Vec<(u32, ObjectHandle)>, KeyError> {
        let mut all = Vec::new();
        for object in session.find_objects(&self.template()).map_err(|e| away(&e))? {
            for attribute in session.get_attributes(object, &[AttributeType::Id]).map_err(|e| away(&e))? {
                if let Attribute::Id(id) = attribute
                    && let Ok(id) = <[u8; 4]>::try_from(id.as_slice())
                {
                    all.push((u32::from_be_bytes(id), object));
                }
            }
        }
        all.sort_by_key(|(generation, _)| *generation);
        if all.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
            let text = format!("the token `{}` has a generation of `{}` twice", self.token, self.label);
            return Err(KeyError::new(text));
        }
        Ok(all)
    }

    fn key(&self, session: &Session, generation: u32) -> Result<ObjectHandle, KeyError> {
        let found = self.keys(session)?.into_iter().find(|(g, _)| *g == generation);
        found.map(|(_, object)| object).ok_or_else(|| {
            KeyError::new(format!(
                "the token `{}` has no generation {generation} of `{}`",
                self.token, self.label
            ))
        })
    }

    fn make(&self, session: &Session, generation: u32) -> Result<u32, KeyError> {
        let mut template = self.template();
        template.extend([
            Attribute::Id(generation.to_be_bytes().to_vec()),
            Attribute::ValueLen(KEY_BYTES.into()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ]);
        session.generate_key(&Mechanism::AesKeyGen, &template).map_err(|e| away(&e))?;
        Ok(generation)
    }
}

/// A token that fails may do better when it is asked again; what it refuses of a key, [`Hsm::unwrap`] tells apart.
fn away(e: &Error) -> KeyError {
    KeyError::unreachable(format!("the token failed: {e}"))
}

impl Provider for Hsm {
    fn generation(&mut self) -> Result<u32, KeyError> {
        let session = self.session()?;
        let newest = self.keys(&session)?.last().map(|(generation, _)| *generation);
        // None is made here: a token that was emptied, or the wrong one, must not pass for a new one.
        newest.ok_or_else(|| {
            KeyError::new(format!(
                "the token `{0}` has no key `{1}` with an id of four bytes; where it is new, make it: pkcs11-tool \
                 --module {2} --token-label {0} --login --keygen --key-type AES:32 --label {1} --id 00000001 --sensitive",
                self.token,
                self.label,
                self.module.display()
            ))
        })
    }

    fn wrap(&mut self, key: &Key, generation: u32, about: &[u8]) -> Result<Vec<u8>, KeyError> {
        let session = self.session()?;
        let object = self.key(&session, generation)?;
        let mut nonce = [0; NONCE];
        fill(&mut nonce).map_err(|_| KeyError::new("no random numbers to be had"))?;
        let mut used = nonce;
        let params = GcmParams::new(&mut used, about, TAG_BITS.into()).map_err(|e| away(&e))?;
        let mechanism = Mechanism::AesGcm(params);
        let sealed = session.encrypt(&mechanism, object, key.expose_secret()).map_err(|e| away(&e))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    fn unwrap(&mut self, sealed: &[u8], generation: u32, about: &[u8]) -> Result<Key, KeyError> {
        let closed = || KeyError::new("it does not open");
        let (nonce, sealed) = sealed.split_at_checked(NONCE).ok_or_else(closed)?;
        let session = self.session()?;
        let object = self.key(&session, generation)?;
        let mut nonce = nonce.to_vec();
        let params = GcmParams::new(&mut nonce, about, TAG_BITS.into()).map_err(|e| away(&e))?;
        let plain = match session.decrypt(&Mechanism::AesGcm(params), object, sealed) {
            Ok(plain) => Zeroizing::new(plain),
            Err(Error::Pkcs11(
                RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::GeneralError
                | RvError::FunctionFailed,
                _,
            )) => return Err(closed()),
            Err(e) => return Err(away(&e)),
        };
        as_key(&plain).ok_or_else(closed)
    }

    fn rotate(&mut self) -> Result<u32, KeyError> {
        let next = self.generation()?.checked_add(1).ok_or_else(|| KeyError::new("no generation is left"))?;
        let session = self.session()?;
        self.make(&session, next)
    }

    fn retire(&mut self, below: u32) -> Result<(), KeyError> {
        let session = self.session()?;
        for (generation, object) in self.keys(&session)? {
            if generation < below {
                session.destroy_object(object).map_err(|e| away(&e))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
