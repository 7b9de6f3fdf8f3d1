//! Transforms: what raw payloads become. A transform is written down in TOML or JSON and checked when it is made; it
//! drops payloads by name, or makes events of them.
//!
//! Promises:
//! - The same payload under the same version gives the same outcome for ever: no clock, no randomness, no outside.
//! - Time and memory are bounded for every payload (`transform.events_max`, `transform.work_max`).
//! - Numbers keep every digit: they are read, computed and written as decimals.
//! - A version never changes; a change is another version, which every process uses within `transform.cache_ttl`.
//!
//! Must not: read or write anything but the metadata database.
//!
//! | file | what |
//! |---|---|
//! | `json.rs`, `value.rs`, `expression.rs`, `function.rs` | pure: payloads, values, the language |
//! | `spec.rs`, `mapping.rs` | pure: a transform as it is written, and as it is applied |
//! | `upcast.rs` | pure: what properties of one version of a schema become in the next |
//! | `default.toml` | the transform that every environment has at first |
//! | `payload.rs`, `publish.rs` | payloads, and the events that were made of them, as records of the log |
//! | `catalogue.rs`, `http.rs` | which version counts in a scope; the routes |

mod catalogue;
mod expression;
mod function;
pub mod http;
mod json;
mod mapping;
mod payload;
mod publish;
mod spec;
#[cfg(test)]
mod tests;
mod upcast;
mod value;

pub use catalogue::{Chosen, DEFAULT_ID, Pinned, RAW, Transforms};
pub use function::Function;
pub use http::results;
pub use json::{Json, NotJson};
pub use mapping::{Limits, Mapped, Mapping, NO_EVENT, Outcome, TransformError, Wanted};
pub use payload::{NotAPayload, Payloads};
pub use publish::{Alike, DELETED_HEADER, Key, Origin, RAW_EVENT_ID_HEADER, VERSION_HEADER};
pub use spec::{DefineSpec, DropSpec, EventSpec, Invalid, PropertySpec, RequireSpec, SPEC_BYTES_MAX, Spec};
pub use upcast::{Upcast, UpcastSpec};

/// The transform of raw events that an environment has until it has one of its own.
pub const DEFAULT: &str = include_str!("default.toml");
