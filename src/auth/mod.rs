//! Who may do what, in which project and environment.
//!
//! - An API key (`ff_…`, 256 random bits) is bound to one project and environment and has scopes ([`Permission`]). Kept
//!   as SHA-256, shown once, compared in constant time.
//! - [`http::authorize`] turns a request into an [`Access`]; every read and write after it stays within
//!   [`Access::scope`]. A request that names another environment is refused with the valid ones.
//! - A known key costs a lookup in memory: no lock is held across an await, nothing is written. A key revoked here stops
//!   at once, one revoked by another process within `auth.key_cache_ttl`.
//! - People log in with a password (argon2id) and get an access token (JWT) and a refresh token; as members of projects
//!   they have a role. They are remembered as keys are.
//! - While the metadata database is down, keys seen within `auth.stale_key_ttl` keep working; others get 503.
//! - Must not: keep, log or answer a secret, but for the one answer that makes a key.

mod access;
mod admin;
mod cache;
mod denied;
mod error;
mod first_run;
pub mod http;
mod keys;
mod limits;
mod metrics;
mod outage;
mod password;
mod people;
mod secret;
mod static_keys;
mod tokens;

pub use access::{Access, EnvironmentMismatch, NamedEnvironment, Permission, Permissions};
pub use admin::{CreatedKey, KeySpec};
pub use denied::Denied;
pub use error::{AuthError, InvalidAuth};
pub use first_run::{FirstRun, first_run, login_token};
pub use keys::{Keys, Request};
pub use people::{Person, Registrant, TokenPair};
pub use secret::{KeyDigest, new_operator_token};
pub use static_keys::InvalidStaticKey;

#[cfg(test)]
mod tests;
