//! What people keep in an environment: routes of cohorts and dashboards, and what both have in common.

pub(super) mod http;

use std::time::Duration;

use crate::http::{ErrorCode, Problem};
use crate::meta::MetaError;

/// The answer to an error of the metadata database.
pub(super) fn problem(error: MetaError) -> Problem {
    match error {
        MetaError::Full { max, setting, .. } => Problem::new(ErrorCode::ValidationError, error.to_string())
            .with("max", max)
            .with("setting", setting),
        MetaError::Unavailable(_) | MetaError::Schema { .. } | MetaError::Missing(_) => away().because(error),
        other => Problem::internal(other),
    }
}

/// The answer while that database is away.
pub(super) fn away() -> Problem {
    let message = "the metadata database does not answer now; try again after a moment";
    Problem::unavailable(message, Duration::from_secs(1))
}

/// Refuses a name that nobody could call.
///
/// # Errors
/// 400.
pub(super) fn check_name(field: &str, name: &str, chars_max: usize) -> Result<(), Problem> {
    let length = name.trim().chars().count();
    if length == 0 || length > chars_max || name.contains('\0') {
        let message = format!("{field} must be a text of 1 to {chars_max} characters");
        return Err(Problem::invalid(field, message).with("max", chars_max));
    }
    Ok(())
}
