//! `auth.static_keys`: keys that live in the configuration.

use std::collections::HashMap;

use super::secret::KeyDigest;
use super::{Access, Permission, Permissions};
use crate::config::StaticKey;
use crate::event::Scope;

/// An entry of `auth.static_keys` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("auth.static_keys[{index}].{field}: {message}")]
pub struct InvalidStaticKey {
    pub index: usize,
    pub field: &'static str,
    pub message: String,
}

/// Reads every entry; the access of a static key has `static-<index>` as its key id, and an environment that is
/// called by its id.
pub(super) fn read(entries: &[StaticKey]) -> Result<HashMap<KeyDigest, Access>, InvalidStaticKey> {
    let mut keys = HashMap::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let invalid = |field, message| InvalidStaticKey { index, field, message };
        // The digest itself is not repeated: it may be the key, pasted into the wrong place.
        let digest = KeyDigest::from_hex(&entry.sha256).ok_or_else(|| {
            let given = entry.sha256.chars().count();
            let message =
                format!("64 hexadecimal digits are needed (sha256sum of the key); given: {given} characters");
            invalid("sha256", message)
        })?;
        for (field, id) in [("project_id", &entry.project_id), ("environment_id", &entry.environment_id)] {
            if id.is_empty() || id.chars().count() > 200 || id.chars().any(char::is_control) {
                return Err(invalid(field, format!("an id of 1 to 200 characters is needed; given: {id:?}")));
            }
        }
        let permissions = permissions(&entry.scopes).map_err(|message| invalid("scopes", message))?;
        let scope = Scope::new(entry.project_id.as_str(), entry.environment_id.as_str());
        let access =
            Access::new(scope, &entry.environment_id, permissions).with_key(&format!("static-{index}"));
        if keys.insert(digest, access).is_some() {
            return Err(invalid("sha256", "an earlier entry has the same".to_owned()));
        }
    }
    Ok(keys)
}

fn permissions(scopes: &[String]) -> Result<Permissions, String> {
    let valid: Vec<&str> = Permission::ALL.iter().map(|one| one.as_str()).collect();
    let valid = valid.join(", ");
    let mut read = Vec::with_capacity(scopes.len());
    for scope in scopes {
        let known = Permission::from_name(scope);
        read.push(known.ok_or_else(|| format!("{scope:?} is not a scope; valid: {valid}"))?);
    }
    if read.is_empty() {
        return Err(format!("at least one is needed; valid: {valid}"));
    }
    Ok(read.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> StaticKey {
        StaticKey {
            sha256: KeyDigest::of(b"local").to_hex(),
            project_id: "proj_1".to_owned(),
            environment_id: "env_1".to_owned(),
            scopes: vec!["ingest".to_owned()],
        }
    }

    fn refused(change: impl FnOnce(&mut StaticKey)) -> String {
        let mut wrong = entry();
        change(&mut wrong);
        let mut first = entry();
        first.sha256 = "0".repeat(64);
        read(&[first, wrong]).unwrap_err().to_string()
    }

    #[test]
    fn an_entry_gives_access_to_its_scope() {
        let keys = read(&[entry()]).unwrap();
        let access = &keys[&KeyDigest::of(b"local")];
        assert_eq!(access.scope, Scope::new("proj_1", "env_1"));
        assert_eq!(access.key_id.as_deref(), Some("static-0"));
        assert_eq!(access.permissions.names(), ["ingest"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_entry_field_and_valid_values() {
        let scopes = refused(|key| key.scopes = vec!["ingest".to_owned(), "write".to_owned()]);
        assert_eq!(
            scopes,
            "auth.static_keys[1].scopes: \"write\" is not a scope; valid: ingest, query, admin"
        );
        assert!(refused(|key| key.scopes.clear()).contains("valid: ingest, query, admin"));
        assert!(refused(|key| key.project_id.clear()).starts_with("auth.static_keys[1].project_id: "));
        assert!(refused(|key| key.environment_id = "a\nb".to_owned()).contains("environment_id"));
        assert!(refused(|key| key.sha256 = "0".repeat(64)).contains("an earlier entry"));
        let pasted = refused(|key| key.sha256 = "ff_secret".to_owned());
        assert!(pasted.contains("64 hexadecimal digits") && !pasted.contains("secret"), "{pasted}");
    }
}
