//! What every role's HTTP shares: the one error body, bodies read within bounds, request ids, operations routes.
//! Knows no role.

mod problem;

pub use problem::{ErrorCode, Problem};
