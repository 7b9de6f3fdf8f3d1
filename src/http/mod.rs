//! What every role's HTTP shares, whatever its routes: knows no role.
//!
//! - [`Problem`] is the one error body of every surface. A handler returns `Err(Problem)`; [`Edge`] renders it with the
//!   request id and logs its cause. Answers that actix makes itself (404, 405, …) get the same body. The one exception:
//!   a request whose head is not HTTP, or comes too slowly, is closed by the connection with an empty 400 or 408.
//! - [`body::read`] reads a body within bounds, [`strict::json`] and [`strict::query_string`] read it strictly.
//! - [`zone()`] finds a time zone by its name.
//! - [`cursor`] makes the opaque cursors of keyset pages.
//! - [`server::serve`] makes a listener.

pub mod body;
mod cors;
pub mod cursor;
mod edge;
mod peer;
mod problem;
pub mod server;
pub mod strict;
mod zone;

pub use body::BodyLimits;
pub use edge::{Edge, REQUEST_ID, RequestId, request_id};
pub use peer::{TrustedProxies, client_address};
pub use problem::{ErrorCode, Problem};
pub use strict::{json, query_string};
pub use zone::zone;
