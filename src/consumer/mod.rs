//! Log → store: fetch → decode → batch → insert → commit.

pub mod core;
pub mod decode;
