//! What a shop with adverts sees: people who sign up, browse, click adverts and buy. For a first look at a project that
//! nothing was sent to yet ([`http`]), and for `flexflow generate`.
//!
//! Promises:
//! - Pure: the same [`Plan`] gives the same bytes, whoever sends them and however fast.
//! - Every event says where it is from: its `source` is `flexflow-generate`.
//! - [`http`] sends a bounded number a request, through capture like anybody's, into the environment that it names.

pub mod http;
mod rhythm;
mod shop;
mod traffic;

pub(crate) use traffic::{Kind, Made, Plan, Traffic};
