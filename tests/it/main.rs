//! The integration suite: starts the real application (in process, port 0, any split of roles) against real engines.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod attribution;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod bad_days;
#[cfg(test)]
mod bad_records;
#[cfg(test)]
mod capture;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod deployment;
#[cfg(test)]
mod dlq;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod history;
#[cfg(test)]
mod incidents;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod kafka;
#[cfg(test)]
mod live;
#[cfg(test)]
mod meta_outage;
#[cfg(test)]
mod metadata;
#[cfg(test)]
mod metering;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod people;
#[cfg(test)]
mod persons;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod query;
#[cfg(test)]
mod questions;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod rollups;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod runbook;
#[cfg(test)]
mod saved;
#[cfg(test)]
mod schemas;
#[cfg(test)]
mod settled;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod store;
#[cfg(test)]
mod store_cluster;
#[cfg(test)]
mod store_server;
#[cfg(test)]
mod support;
#[cfg(test)]
mod sweep;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod web;
#[cfg(test)]
mod webhooks;
