//! Secrets that have to be read again, sealed before they are written: what signs webhooks and access tokens. A copy of
//! the database alone is then good for neither.
//!
//! - AES-256-GCM; the key comes from `meta.secret_key`. Where that is empty, SQLite's is a file of its own beside the
//!   database, made at first; PostgreSQL's are kept in clear, for its processes share nothing but the database.
//! - What a sealed text is about (the row it stands in) is sealed with it: it opens nowhere else.
//! - `meta.previous_secret_key` opens, too. A migration seals anew what is in clear or under the former key.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::MetaError;
use crate::config;
use crate::event::IdSource;

/// Before a sealed text; behind it stand the key's id and what was sealed.
const MARK: &str = "sealed:";

/// The keys that seal and open.
#[derive(Default)]
pub(super) struct Seals {
    /// The first one seals.
    keys: Vec<Seal>,
}

struct Seal {
    /// The beginning of a hash, to tell keys apart.
    id: String,
    key: LessSafeKey,
}

impl Seal {
    fn of(secret: &[u8]) -> Result<Self, MetaError> {
        let digest = |what: &[u8]| Sha256::new().chain_update(what).chain_update(secret).finalize();
        let key = UnboundKey::new(&AES_256_GCM, &digest(b"flexflow seals with this\0"))
            .map_err(|_| broken("the key does not fit"))?;
        let id = digest(b"flexflow calls it\0").iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, key: LessSafeKey::new(key) })
    }
}

impl Seals {
    /// The keys of the configuration, or that of the file beside SQLite's database.
    ///
    /// # Errors
    /// The file cannot be made or read.
    pub(super) fn open(
        config: &config::Meta,
        sqlite: Option<&Path>,
        ids: &dyn IdSource,
    ) -> Result<Self, MetaError> {
        let mut keys = Vec::new();
        for secret in [&config.secret_key, &config.previous_secret_key] {
            let text = secret.expose_secret().trim();
            if !text.is_empty() {
                keys.push(Seal::of(text.as_bytes())?);
            }
        }
        // Also beside a configured key, once there is one: it may have sealed what stands there.
        let configured = !config.secret_key.expose_secret().trim().is_empty();
        if let Some(path) = sqlite.map(key_file).filter(|path| !configured || path.exists()) {
            let secret = file_secret(&path, ids).map_err(|error| {
                MetaError::Unavailable(format!("{} cannot be used: {error}", path.display()))
            })?;
            keys.push(Seal::of(&secret)?);
        }
        Ok(Self { keys })
    }

    /// Is anything sealed?
    pub(super) fn seal_anything(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Is this text as it would be written now?
    pub(super) fn is_current(&self, text: &str) -> bool {
        match self.keys.first() {
            Some(seal) => text.strip_prefix(MARK).is_some_and(|rest| rest.starts_with(&seal.id)),
            None => true,
        }
    }

    /// The text that is written for a secret of this row.
    pub(super) fn seal(&self, row: &str, secret: &str, ids: &dyn IdSource) -> Result<String, MetaError> {
        let Some(seal) = self.keys.first() else { return Ok(secret.to_owned()) };
        let mut nonce = [0u8; NONCE_LEN];
        ids.fill(&mut nonce);
        let mut bytes = secret.as_bytes().to_vec();
        let about = Aad::from(row.as_bytes());
        seal.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about, &mut bytes)
            .map_err(|_| broken("it cannot be sealed"))?;
        let whole: Vec<u8> = nonce.into_iter().chain(bytes).collect();
        Ok(format!("{MARK}{}:{}", seal.id, STANDARD.encode(whole)))
    }

    /// The secret of this row. What was written in clear, by an earlier version or without a key, is the secret.
    pub(super) fn unseal(&self, row: &str, text: &str) -> Result<SecretString, MetaError> {
        let Some(rest) = text.strip_prefix(MARK) else { return Ok(text.to_owned().into()) };
        let (id, sealed) = rest.split_once(':').ok_or_else(|| broken("it is cut off"))?;
        let seal = self.keys.iter().find(|seal| seal.id == id).ok_or_else(|| {
            broken("it is sealed with another key: put that into meta.secret_key or meta.previous_secret_key, or the file meta.sqlite-key back beside the database")
        })?;
        let mut bytes = STANDARD.decode(sealed).map_err(|_| broken("it is not base64"))?;
        let wrong = || broken("it was changed, or belongs to another row");
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let about = Aad::from(row.as_bytes());
        let secret = seal.key.open_in_place(nonce, about, sealed).map_err(|_| wrong())?;
        let secret = std::str::from_utf8(secret).map_err(|_| wrong())?;
        Ok(secret.to_owned().into())
    }
}

fn broken(message: &str) -> MetaError {
    MetaError::Unreadable { what: "secret", message: message.to_owned() }
}

/// `meta.sqlite-key` beside `meta.sqlite`.
fn key_file(sqlite: &Path) -> PathBuf {
    let mut name = sqlite.as_os_str().to_owned();
    name.push("-key");
    name.into()
}

/// What stands in the file; made once, whole, however many begin at once.
fn file_secret(path: &Path, ids: &dyn IdSource) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if !path.exists() {
        let mut secret = [0u8; 32];
        ids.fill(&mut secret);
        let mut own = path.as_os_str().to_owned();
        own.push(format!(".{}", hex(&secret[..8])));
        let own = PathBuf::from(own);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
        file.write_all(STANDARD.encode(secret).as_bytes())?;
        file.sync_all()?;
        // The one link that comes first counts, for all. A file system without links has one process here.
        match std::fs::hard_link(&own, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => std::fs::rename(&own, path)?,
            _ => std::fs::remove_file(&own)?,
        }
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder)?.sync_all()?;
        }
    }
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(4096).read_to_end(&mut text)?;
    let text = text.trim_ascii();
    if text.len() < 32 {
        return Err(std::io::Error::other("it is cut off: restore it from a copy"));
    }
    Ok(text.to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RandomIds;

    fn seals(keys: &[&str]) -> Seals {
        Seals { keys: keys.iter().map(|key| Seal::of(key.as_bytes()).unwrap()).collect() }
    }

    fn opened(seals: &Seals, row: &str, text: &str) -> Result<String, String> {
        seals
            .unseal(row, text)
            .map(|secret| secret.expose_secret().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_sealed_for_its_row_and_opens_under_the_former_key_too() {
        let (old, both, other) = (seals(&["old"]), seals(&["new", "old"]), seals(&["other"]));
        let sealed = old.seal("webhooks/a", "whsec_1", &RandomIds).unwrap();
        assert!(!sealed.contains("whsec"), "{sealed}");
        assert_ne!(sealed, old.seal("webhooks/a", "whsec_1", &RandomIds).unwrap(), "a nonce is used once");
        assert_eq!(opened(&old, "webhooks/a", &sealed).unwrap(), "whsec_1");
        assert_eq!(opened(&both, "webhooks/a", &sealed).unwrap(), "whsec_1");
        assert!(old.is_current(&sealed) && !both.is_current(&sealed) && !old.is_current("whsec_1"));
        assert!(opened(&old, "webhooks/b", &sealed).unwrap_err().contains("another row"));
        assert!(opened(&other, "webhooks/a", &sealed).unwrap_err().contains("meta.secret_key"));
        let changed = sealed.replace(&sealed[sealed.len() - 6..sealed.len() - 2], "AAAA");
        assert!(opened(&old, "webhooks/a", &changed).is_err());
        assert!(
            opened(&old, "webhooks/a", "sealed:").is_err()
                && opened(&old, "webhooks/a", &sealed[..25]).is_err()
        );
    }

    #[test]
    fn without_a_key_and_from_before_a_text_is_the_secret() {
        let none = Seals::default();
        assert_eq!(none.seal("webhooks/a", "whsec_1", &RandomIds).unwrap(), "whsec_1");
        assert_eq!(opened(&none, "webhooks/a", "whsec_1").unwrap(), "whsec_1");
        assert_eq!(opened(&seals(&["new"]), "webhooks/a", "whsec_1").unwrap(), "whsec_1");
    }
}
