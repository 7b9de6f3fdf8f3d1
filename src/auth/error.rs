//! Why something that people or administrators asked for was not done.

use std::time::Duration;

use crate::http::{ErrorCode, Problem};
use crate::meta::MetaError;

/// When a client that found no turn for its password may try again.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(2);

/// A setting of `auth` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAuth {
    #[error(transparent)]
    StaticKey(#[from] super::InvalidStaticKey),
    #[error("{setting}: {message}")]
    Setting { setting: &'static str, message: String },
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The same for an account that does not exist, is disabled, or has another password.
    #[error("the e-mail address or the password is wrong")]
    BadLogin,
    #[error("this refresh token is not good (any more): log in again")]
    BadRefresh,
    #[error(
        "this refresh token was used before, so somebody has a copy of it: its session is ended, log in again"
    )]
    Reused,
    #[error("nobody can register here; an administrator makes accounts")]
    RegistrationClosed,
    #[error("registering needs an invitation: the owner of a project makes them")]
    InvitationNeeded,
    #[error(
        "this invitation is not good for this e-mail address: it was used, taken back, has expired, or is for somebody else"
    )]
    BadInvitation,
    #[error("too many tries; wait before the next one")]
    TooMany { wait: Duration },
    #[error("too many passwords are being checked at the moment (auth.password_concurrency)")]
    Busy,
    #[error("the signing key comes from auth.signing_key: change it there")]
    ConfiguredKey,
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("{0:#}")]
    Internal(anyhow::Error),
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let message = error.to_string();
        match error {
            AuthError::BadLogin | AuthError::BadRefresh | AuthError::Reused => {
                Self::new(ErrorCode::Unauthorized, message)
            }
            AuthError::RegistrationClosed | AuthError::InvitationNeeded | AuthError::BadInvitation => {
                Self::new(ErrorCode::PermissionDenied, message)
            }
            AuthError::TooMany { wait } => {
                Self { retry_after: Some(wait), ..Self::new(ErrorCode::TooManyRequests, message) }
            }
            AuthError::Busy => Self::unavailable(message, BUSY_RETRY_AFTER),
            AuthError::ConfiguredKey => {
                Self::new(ErrorCode::ValidationError, message).with("setting", "auth.signing_key")
            }
            AuthError::Meta(cause) => super::denied::meta_problem(cause),
            AuthError::Internal(cause) => Self::internal(cause),
        }
    }
}
