//! Durable jobs: work that outlives a request and a process (replay and discard of dead letters; later reprocess,
//! rebuilds, deliveries).
//!
//! A job is a row of the metadata database with a kind, a spec that never changes and a checkpoint. Any process with
//! the consumer role works on it, one at a time:
//!
//! - **Leased.** A worker claims a job for `jobs.lease` and prolongs the lease while a step runs. A worker that dies
//!   is replaced once the lease has expired.
//! - **Fenced.** Each claim has a higher fence than the one before; a worker that lost its lease without knowing can
//!   neither checkpoint nor finish.
//! - **In steps.** A [`Handler`] does a bounded piece of work from a checkpoint and answers the next one. After a
//!   crash between a step and its checkpoint that one step is done again, nothing else, so a step must be safe to do
//!   twice.
//! - **Patient within bounds.** A step that fails is tried again with growing waits; `jobs.attempts_max` claims in a
//!   row without a finished step (failures, or workers that died of it) end the job as failed. It can be resumed. While
//!   the store, the log or the metadata database is away a job waits for it, however long: that counts as no try.
//! - **Cancelled** between steps, soon: the step is told by [`JobContext::cancelled`].

pub mod http;
mod service;
#[cfg(test)]
mod tests;
mod worker;

pub use service::{Jobs, JobsError, NewJob, Overview};
pub use worker::{Handler, JobContext, JobError, Step, Then, Worker, run};
