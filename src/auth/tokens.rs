//! Access tokens: JWTs signed with HS256 by a secret that all processes share, or with EdDSA by a configured key.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::AuthError;
use super::secret::KeyDigest;
use crate::config;
use crate::event::{Clock, IdSource, Timestamp};
use crate::meta::{Meta, MetaError};

const ISSUER: &str = "flexflow";
/// Between two looks at the database for a key that is not known.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    /// The person's id.
    pub sub: String,
    /// The session's id.
    pub sid: String,
    /// Seconds since 1970.
    pub iat: i64,
    pub exp: i64,
}

/// A key that signs or did sign.
struct Key {
    kid: String,
    algorithm: Algorithm,
    signs: EncodingKey,
    checks: DecodingKey,
    /// What it signed is believed until then.
    until: Option<Timestamp>,
}

/// The key that signs at the moment: once it is there, nothing that signing needs can be away.
pub(super) struct Signer(Arc<Key>);

impl Key {
    /// An Ed25519 private key in PEM, else the bytes of a secret.
    fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let kid = KeyDigest::of(text.as_bytes()).to_hex()[..16].to_owned();
        if !text.starts_with("-----BEGIN") {
            return Ok(Self::of_secret(kid, text.as_bytes(), None));
        }
        let wrong =
            |error: jsonwebtoken::errors::Error| format!("not an Ed25519 private key in PEM: {error}");
        let signs = EncodingKey::from_ed_pem(text.as_bytes()).map_err(wrong)?;
        let public = Jwk::from_encoding_key(&signs, Algorithm::EdDSA).map_err(wrong)?;
        let checks = DecodingKey::from_jwk(&public).map_err(wrong)?;
        Ok(Self { kid, algorithm: Algorithm::EdDSA, signs, checks, until: None })
    }

    fn of_secret(kid: String, secret: &[u8], until: Option<Timestamp>) -> Self {
        let (signs, checks) = (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret));
        Self { kid, algorithm: Algorithm::HS256, signs, checks, until }
    }
}

/// The keys known at a moment; the first one signs.
#[derive(Default)]
struct Ring {
    keys: Vec<Arc<Key>>,
    by_kid: HashMap<String, Arc<Key>>,
    looked_at: Option<Timestamp>,
}

impl Ring {
    fn of(keys: Vec<Key>, looked_at: Option<Timestamp>) -> Self {
        let keys: Vec<Arc<Key>> = keys.into_iter().map(Arc::new).collect();
        let by_kid = keys.iter().map(|key| (key.kid.clone(), key.clone())).collect();
        Self { keys, by_kid, looked_at }
    }
}

/// Signs and checks access tokens.
pub(super) struct Tokens {
    meta: Meta,
    config: config::Auth,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    /// The keys come from the configuration and never change.
    fixed: bool,
    ring: RwLock<Arc<Ring>>,
    /// One looks at the database, the others wait for what it finds.
    looking: Mutex<()>,
}

impl Tokens {
    /// # Errors
    /// `auth.signing_key` or `auth.previous_signing_key` cannot be used: its name, and why.
    pub(super) fn new(
        meta: &Meta,
        config: &config::Auth,
        clock: &Arc<dyn Clock>,
        ids: &Arc<dyn IdSource>,
    ) -> Result<Self, (&'static str, String)> {
        let given = |name, secret: &SecretString| {
            let text = secret.expose_secret().trim();
            (!text.is_empty()).then(|| Key::read(text).map_err(|error| (name, error))).transpose()
        };
        let signing = given("auth.signing_key", &config.signing_key)?;
        let previous = given("auth.previous_signing_key", &config.previous_signing_key)?;
        let fixed = signing.is_some();
        let keys = signing.into_iter().chain(previous).collect();
        Ok(Self {
            meta: meta.clone(),
            config: config.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            fixed,
            ring: RwLock::new(Arc::new(Ring::of(if fixed { keys } else { Vec::new() }, None))),
            looking: Mutex::new(()),
        })
    }

    /// What signs now.
    ///
    /// # Errors
    /// The database has to be asked for the key, and does not answer.
    pub(super) async fn signer(&self) -> Result<Signer, AuthError> {
        let now = self.clock.now();
        let old = |ring: &Ring| {
            ring.keys.is_empty()
                || ring.looked_at.is_some_and(|at| now < at || now.since(at) >= self.config.key_cache_ttl)
        };
        let ring = self.ring();
        let ring = if old(&ring) { self.look(ring.looked_at, true).await? } else { ring };
        let key = ring.keys.iter().find(|key| self.fixed || key.until.is_none()).cloned();
        key.map(Signer).ok_or_else(|| AuthError::Internal(anyhow::anyhow!("there is no signing key")))
    }

    /// A token for this session.
    ///
    /// # Errors
    /// The key cannot sign.
    pub(super) fn sign(
        &self,
        Signer(key): &Signer,
        user_id: &str,
        session_id: &str,
    ) -> Result<String, AuthError> {
        let issued = self.clock.now().as_millis().div_euclid(1000);
        let ttl = i64::try_from(self.config.access_ttl.as_secs()).unwrap_or(i64::MAX);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: user_id.to_owned(),
            sid: session_id.to_owned(),
            iat: issued,
            exp: issued.saturating_add(ttl),
        };
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(key.algorithm) };
        jsonwebtoken::encode(&header, &claims, &key.signs).map_err(|error| AuthError::Internal(error.into()))
    }

    /// What a token says, if one of our keys signed it; `None` if not. An expired one is told by its claims.
    ///
    /// # Errors
    /// The database has to be asked for the key, and does not answer.
    pub(super) async fn read(&self, token: &[u8]) -> Result<Option<Claims>, MetaError> {
        let Ok(header) = jsonwebtoken::decode_header(token) else { return Ok(None) };
        let Some(kid) = header.kid else { return Ok(None) };
        let ring = self.ring();
        let key = match ring.by_kid.get(&kid) {
            Some(key) => Some(key.clone()),
            None if self.fixed => None,
            // Made by another process just now, perhaps.
            None => self.look(ring.looked_at, false).await?.by_kid.get(&kid).cloned(),
        };
        let now = self.clock.now();
        let Some(key) = key.filter(|key| key.until.is_none_or(|until| now < until)) else { return Ok(None) };
        // The algorithm is the key's, never the token's word. Times are held against the injected clock by the caller.
        let mut validation = Validation::new(key.algorithm);
        validation.validate_exp = false;
        validation.set_issuer(&[ISSUER]);
        let read = jsonwebtoken::decode::<Claims>(token, &key.checks, &validation);
        Ok(read.ok().map(|data| data.claims))
    }

    /// Puts a new secret in the place of the one that signs; what that one signed stays good until it expires.
    ///
    /// # Errors
    /// The keys come from the configuration; the database does not answer.
    pub(super) async fn rotate(&self, meta: &Meta) -> Result<String, AuthError> {
        if self.fixed {
            return Err(AuthError::ConfiguredKey);
        }
        let (kid, secret) = self.new_secret();
        meta.signing_keys().rotate(&kid, secret).await?;
        self.ring.write().unwrap_or_else(PoisonError::into_inner).clone_from(&Arc::default());
        Ok(kid)
    }

    /// The keys by id, newest first: when they were made, and from when on they sign nothing.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn list(
        &self,
    ) -> Result<Vec<(String, Option<Timestamp>, Option<Timestamp>)>, AuthError> {
        if self.fixed {
            return Ok(self.ring().keys.iter().map(|key| (key.kid.clone(), None, None)).collect());
        }
        let since = self.clock.now().minus(self.believed_for());
        let keys = self.meta.signing_keys().list(since).await?;
        Ok(keys.into_iter().map(|key| (key.kid, Some(key.created_at), key.retired_at)).collect())
    }

    /// How long after its retirement a key is believed: other processes sign with it until they look again.
    fn believed_for(&self) -> std::time::Duration {
        self.config.access_ttl.saturating_add(self.config.key_cache_ttl)
    }

    fn ring(&self) -> Arc<Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the database unless somebody has since `seen`, or just now; makes the first key where `make` and
    /// there is none.
    async fn look(&self, seen: Option<Timestamp>, make: bool) -> Result<Arc<Ring>, MetaError> {
        let _one = self.looking.lock().await;
        let (ring, now) = (self.ring(), self.clock.now());
        let recent = ring.looked_at.is_some_and(|at| at <= now && now.since(at) < LOOK_AGAIN);
        if (ring.looked_at != seen || recent) && !(make && ring.keys.is_empty()) {
            return Ok(ring);
        }
        match self.load(now, make).await {
            Ok(ring) => {
                let ring = Arc::new(ring);
                self.ring.write().unwrap_or_else(PoisonError::into_inner).clone_from(&ring);
                Ok(ring)
            }
            // What was known goes on being good for signing while the database is away.
            Err(MetaError::Unavailable(_)) if !ring.keys.is_empty() => Ok(ring),
            Err(error) => Err(error),
        }
    }

    async fn load(&self, now: Timestamp, make: bool) -> Result<Ring, MetaError> {
        let since = now.minus(self.believed_for());
        let mut rows = self.meta.signing_keys().list(since).await?;
        if make && rows.iter().all(|row| row.retired_at.is_some()) {
            let (kid, secret) = self.new_secret();
            self.meta.signing_keys().make_first(&kid, secret).await?;
            rows = self.meta.signing_keys().list(since).await?;
        }
        let keys = rows.into_iter().filter_map(|row| {
            let secret = STANDARD.decode(&row.secret).ok()?;
            let until = row.retired_at.map(|at| at.plus(self.believed_for()));
            Some(Key::of_secret(row.kid, &secret, until))
        });
        Ok(Ring::of(keys.collect(), Some(now)))
    }

    fn new_secret(&self) -> (String, String) {
        let mut secret = [0u8; 32];
        self.ids.fill(&mut secret);
        (KeyDigest::of(&secret).to_hex()[..16].to_owned(), STANDARD.encode(secret))
    }
}

/// Could this be an access token? What could not is refused without looking further.
pub(super) fn has_token_form(token: &[u8]) -> bool {
    token.starts_with(b"ey") && token.iter().filter(|byte| **byte == b'.').count() == 2
}
