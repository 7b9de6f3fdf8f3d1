//! The integration suite: starts the real application (in process, port 0, any split of roles) against real engines.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod dlq;
#[cfg(test)]
mod query;
#[cfg(test)]
mod store;
#[cfg(test)]
mod support;
mod tidy;
