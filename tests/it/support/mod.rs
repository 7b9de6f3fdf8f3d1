//! What the tests share.

pub(crate) mod proxy;
pub(crate) mod store;
