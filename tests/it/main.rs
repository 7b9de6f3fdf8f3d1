//! The integration suite: starts the real application (in process, port 0, any split of roles) against real engines.

#[cfg(test)]
mod auth;
mod bad_days;
mod bad_records;
#[cfg(test)]
mod cli;
mod crash;
#[cfg(test)]
mod dlq;
#[cfg(test)]
mod docs;
mod pipeline;
#[cfg(test)]
mod query;
#[cfg(test)]
mod store;
#[cfg(test)]
mod support;
mod tidy;
