//! A secret that holmd is given when it starts: from a file, a systemd credential, the TPM or a person.

use super::{KeyError, Secret, files};
use secrecy::SecretSlice;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Fewer bytes than this are a mistake: an empty file, a credential of another kind.
const LEAST: usize = 4;

/// The secret, without the line's end that an editor puts there.
pub(crate) fn read(from: &Secret) -> Result<SecretSlice<u8>, KeyError> {
    let secret = match from {
        Secret::File(path) => {
            private(path)?;
            whole(path)?
        }
        Secret::Credential(name) => whole(&credential(name)?)?,
        Secret::Prompt => {
            let text = rpassword::prompt_password("holmd: passphrase of the key-encryption key: ")
                .map_err(|e| KeyError::because("no passphrase can be asked for: holmd has no terminal", e))?;
            SecretSlice::from(text.into_bytes())
        }
    };
    Ok(secret)
}

/// Refuses a file that others can read.
pub(super) fn private(path: &Path) -> Result<(), KeyError> {
    let meta = std::fs::metadata(path)
        .map_err(|e| KeyError::because(format!("`{}` cannot be read", path.display()), e))?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::new(format!(
            "`{0}` can be read by others; run: chmod 600 {0}",
            path.display()
        )));
    }
    Ok(())
}

fn credential(name: &str) -> Result<PathBuf, KeyError> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(KeyError::new(format!("`{}` is no name of a credential", name.escape_debug())));
    }
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        KeyError::new(format!(
            "there is no credential `{name}`: systemd gives it where the unit has LoadCredentialEncrypted={name}:FILE"
        ))
    })?;
    Ok(Path::new(&directory).join(name))
}

fn whole(path: &Path) -> Result<SecretSlice<u8>, KeyError> {
    let bytes = files::read(path)?;
    let text = bytes.as_ref().map_or(&[][..], |bytes| bytes.trim_ascii_end());
    if text.len() < LEAST {
        return Err(KeyError::new(format!("there is no secret in `{}`: write one into it", path.display())));
    }
    Ok(SecretSlice::from(text.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::fs;

    #[test]
    fn a_secret_is_what_its_file_has_without_the_lines_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let from = Secret::File(path.clone());
        assert!(read(&from).is_err());
        fs::write(&path, "correct horse\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&from).unwrap_err().what.contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = read(&from).unwrap();
        assert_eq!(secret.expose_secret(), b"correct horse");
        assert!(!format!("{secret:?}").contains("correct"));
        for bad in [&b"\n\n"[..], b"", &[b'x'; 5000]] {
            fs::write(&path, bad).unwrap();
            assert!(read(&from).is_err());
        }
    }

    #[test]
    fn a_credential_is_a_name_and_no_way_elsewhere() {
        for bad in ["", "../etc/shadow", ".", "a/b"] {
            let failure = read(&Secret::Credential(bad.to_owned())).unwrap_err();
            assert!(failure.what.contains("no name of a credential"), "{}", failure.what);
        }
        let failure = read(&Secret::Credential("holm-kek".to_owned())).unwrap_err();
        assert!(failure.what.contains("LoadCredentialEncrypted=holm-kek"), "{}", failure.what);
    }
}
