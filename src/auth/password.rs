//! Passwords: argon2id with a stated cost, never on an async thread, and only a few at a time, so that logins cannot
//! take the cores from capture.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::AuthError;
use crate::config;
use crate::event::IdSource;

/// Hashed in place of the salt of an account that does not exist, so that it takes as long as one that does.
const NO_ACCOUNT_SALT: &[u8; 16] = b"there-is-no-salt";
const SALT_BYTES: usize = 16;

/// Hashes and checks passwords.
pub(super) struct Passwords {
    hasher: Argon2<'static>,
    turns: Arc<Semaphore>,
    wait: Duration,
    ids: Arc<dyn IdSource>,
}

impl Passwords {
    /// # Errors
    /// `auth.password_memory` and `auth.password_passes` are no cost that argon2 knows.
    pub(super) fn new(config: &config::Auth, ids: Arc<dyn IdSource>) -> Result<Self, argon2::Error> {
        let kib = u32::try_from(config.password_memory.as_u64() / 1024).unwrap_or(u32::MAX);
        let params = Params::new(kib, config.password_passes, 1, None)?;
        Ok(Self {
            hasher: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            turns: Arc::new(Semaphore::new(config.password_concurrency)),
            wait: config.password_wait,
            ids,
        })
    }

    /// The PHC string to keep of a password.
    ///
    /// # Errors
    /// No turn came within `auth.password_wait`.
    pub(super) async fn hash(&self, password: &SecretString) -> Result<String, AuthError> {
        let mut salt = [0u8; SALT_BYTES];
        self.ids.fill(&mut salt);
        let hashed = self.run(password, move |hasher, password| {
            let hash: Result<PasswordHash, _> = hasher.hash_password_with_salt(password, &salt);
            hash.map(|hash| hash.to_string())
        });
        hashed.await?.map_err(|error| AuthError::Internal(anyhow::anyhow!("argon2: {error}")))
    }

    /// Is this the password whose PHC string is `kept`? Takes as long without one, and is false then.
    ///
    /// # Errors
    /// No turn came within `auth.password_wait`.
    pub(super) async fn verify(
        &self,
        password: &SecretString,
        kept: Option<String>,
    ) -> Result<bool, AuthError> {
        self.run(password, move |hasher, password| match kept.as_deref().map(PasswordHash::new) {
            Some(Ok(kept)) => hasher.verify_password(password, &kept).is_ok(),
            _ => {
                let mut nothing = [0u8; Params::DEFAULT_OUTPUT_LEN];
                let _ = hasher.hash_password_into(password, NO_ACCOUNT_SALT, &mut nothing);
                false
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        password: &SecretString,
        work: impl FnOnce(&Argon2<'static>, &[u8]) -> T + Send + 'static,
    ) -> Result<T, AuthError> {
        let turn = tokio::time::timeout(self.wait, self.turns.clone().acquire_owned());
        let Ok(Ok(turn)) = turn.await else { return Err(AuthError::Busy) };
        let (hasher, password) = (self.hasher.clone(), password.clone());
        let worked = tokio::task::spawn_blocking(move || {
            // Held until the work is done, also when the request that wanted it is gone.
            let _turn = turn;
            work(&hasher, password.expose_secret().as_bytes())
        });
        worked.await.map_err(|error| AuthError::Internal(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RandomIds;

    fn passwords() -> Passwords {
        let mut config = config::Config::from_overrides(&[]).unwrap().auth;
        config.password_memory = bytesize::ByteSize::mib(1);
        config.password_wait = Duration::from_millis(50);
        Passwords::new(&config, Arc::new(RandomIds)).unwrap()
    }

    #[tokio::test]
    async fn a_password_is_told_from_another_and_kept_with_its_cost() {
        let passwords = passwords();
        let kept = passwords.hash(&"correct horse".into()).await.unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=1024,t=2,p=1$"), "{kept}");
        assert!(passwords.verify(&"correct horse".into(), Some(kept.clone())).await.unwrap());
        assert!(!passwords.verify(&"correct horsf".into(), Some(kept)).await.unwrap());
        assert!(!passwords.verify(&"correct horse".into(), None).await.unwrap());
        assert!(!passwords.verify(&"x".into(), Some("nonsense".to_owned())).await.unwrap());
    }

    #[tokio::test]
    async fn the_cost_that_is_configured_by_default_is_the_one_that_is_stated() {
        let config = config::Config::from_overrides(&[]).unwrap().auth;
        let kept = Passwords::new(&config, Arc::new(RandomIds))
            .unwrap()
            .hash(&"correct horse".into())
            .await
            .unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
    }

    #[tokio::test]
    async fn who_finds_no_turn_is_told_so() {
        let passwords = passwords();
        let _held = passwords.turns.clone().acquire_owned().await.unwrap();
        assert!(matches!(passwords.verify(&"x".into(), None).await, Err(AuthError::Busy)));
    }
}
