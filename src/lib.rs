//! FlexFlow: product analytics and usage metering in one binary.
//!
//! # The way of an event
//!
//! A client posts to [`capture`], which answers 202 only once the [`eventlog`] has the event durably. The
//! [`consumer`] reads the log in exact batches and inserts each into the [`store`] once, or writes a dead letter
//! ([`dlq`]) with a named reason. [`query`] answers from the store, [`metering`] with what customers used. [`auth`] says who may, in which project and
//! environment; [`web`] is the page for people; [`app`] assembles the roles; [`cli`] is how people start them.
//!
//! Rooms import only from rooms to their left (`tests/it/tidy.rs` enforces it):
//!
//! `event < config < telemetry < lifecycle < http < eventlog < store < meta < auth < notice < job < dlq < person < metering <
//! transform < schema < attribution < {capture, consumer, query, reprocess, rollup, web, webhook} < demo < app < cli`

pub mod app;
pub mod attribution;
pub mod auth;
pub mod capture;
pub mod cli;
pub mod config;
pub mod consumer;
pub mod demo;
pub mod dlq;
pub mod event;
pub mod eventlog;
pub mod http;
pub mod job;
pub mod lifecycle;
pub mod meta;
pub mod metering;
pub mod notice;
pub mod person;
pub mod query;
pub mod reprocess;
pub mod rollup;
pub mod schema;
pub mod store;
pub mod telemetry;
pub mod transform;
pub mod web;
pub mod webhook;
