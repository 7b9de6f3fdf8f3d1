//! The event store: ClickHouse, as the embedded engine or a server. The only room that speaks to it.
//!
//! What it promises: a confirmed insert is durable; the same rows under the same token count once; no value enters a
//! statement but through [`Sql`]; every call has a deadline; a connection that failed is never used again.

mod block;
mod error;
mod hot;
mod sql;

pub use block::{EventBlock, EventRow};
pub use error::{Finding, InsertError, StoreError};
pub use sql::{Arg, Sql};
