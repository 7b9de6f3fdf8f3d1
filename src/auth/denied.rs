//! Why a request is refused.

use std::time::Duration;

use super::{EnvironmentMismatch, Permission, Permissions};
use crate::event::{ProjectId, Timestamp};
use crate::http::{ErrorCode, Problem};
use crate::meta::MetaError;

/// When a client that found the metadata database gone may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("an API key is needed: send it as X-API-Key, or as Authorization: Bearer")]
    Missing,
    #[error("this API key is not known here")]
    Unknown,
    #[error("this API key was revoked at {at}")]
    Revoked { at: Timestamp },
    #[error("this API key expired at {at}")]
    Expired { at: Timestamp },
    #[error("this needs the scope {needed}, which the key does not have", needed = .needed.as_str())]
    Lacking { needed: Permission, has: Permissions },
    #[error("only the operator of this installation may do this")]
    OperatorOnly,
    #[error(transparent)]
    Environment(#[from] EnvironmentMismatch),
    #[error("project {given:?} is not one that this credential belongs to")]
    Project { given: String, valid: Vec<ProjectId> },
    #[error("say which of your projects: send its id as X-Project-ID")]
    WhichProject { valid: Vec<ProjectId> },
    #[error("you are a member of no project: its owner adds or invites you")]
    NoProject,
    #[error("this access token expired at {at}: refresh it")]
    TokenExpired { at: Timestamp },
    #[error("this session has ended: log in again")]
    SessionEnded,
    #[error("only a person who is logged in may do this: send the access token as Authorization: Bearer")]
    PersonOnly,
    #[error("this key makes more requests a second than it may")]
    TooOften { wait: Duration },
    #[error(
        "there is no default project yet: start flexflow once with `server.migrate_on_start`, or send a key"
    )]
    NoDefault,
    #[error("the key cannot be checked now: {0}")]
    Unavailable(#[source] MetaError),
}

impl From<MetaError> for Denied {
    fn from(error: MetaError) -> Self {
        Self::Unavailable(error)
    }
}

impl From<EnvironmentMismatch> for Problem {
    fn from(mismatch: EnvironmentMismatch) -> Self {
        let message = mismatch.to_string();
        Self::new(ErrorCode::PermissionDenied, message)
            .with("given", mismatch.given)
            .with("valid", serde_json::json!(&*mismatch.valid))
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        let forbidden = |message| Self::new(ErrorCode::PermissionDenied, message);
        match denied {
            Denied::Missing
            | Denied::Unknown
            | Denied::Revoked { .. }
            | Denied::Expired { .. }
            | Denied::TokenExpired { .. }
            | Denied::SessionEnded => Self::new(ErrorCode::Unauthorized, message),
            Denied::Lacking { needed, has } => {
                forbidden(message).with("needed", needed.as_str()).with("scopes", has.names())
            }
            Denied::OperatorOnly | Denied::PersonOnly | Denied::NoProject => forbidden(message),
            Denied::Environment(mismatch) => mismatch.into(),
            Denied::Project { given, valid } => {
                forbidden(message).with("given", given).with("valid", by_id(&valid))
            }
            Denied::WhichProject { valid } => {
                Self::invalid("X-Project-ID", message).with("valid", by_id(&valid))
            }
            Denied::TooOften { wait } => {
                Self { retry_after: Some(wait), ..Self::new(ErrorCode::TooManyRequests, message) }
            }
            Denied::NoDefault => Self::unavailable(message, RETRY_AFTER),
            Denied::Unavailable(cause) => unavailable(cause),
        }
    }
}

fn by_id(projects: &[ProjectId]) -> Vec<serde_json::Value> {
    projects.iter().map(|id| serde_json::json!({ "id": id })).collect()
}

/// The answer for what the metadata database did not do.
pub(super) fn meta_problem(error: MetaError) -> Problem {
    match error {
        MetaError::Unavailable(_) => unavailable(error),
        MetaError::Exists(_) => Problem::new(ErrorCode::AlreadyExists, error.to_string()),
        MetaError::Missing(_) => Problem::new(ErrorCode::NotFound, error.to_string()),
        MetaError::LastOwner | MetaError::DefaultProject | MetaError::ConfiguredProject => {
            Problem::new(ErrorCode::ValidationError, error.to_string())
        }
        MetaError::Full { max, setting, .. } => Problem::new(ErrorCode::ValidationError, error.to_string())
            .with("max", max)
            .with("setting", setting),
        other => Problem::internal(other),
    }
}

/// 503, without the database's own words.
pub(super) fn unavailable(cause: MetaError) -> Problem {
    Problem::unavailable("the metadata database does not answer; try again", RETRY_AFTER).because(cause)
}
