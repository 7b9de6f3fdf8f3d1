//! Dead letters: what a refused record becomes, and the ways back.
//!
//! - [`DeadLetter`] is the envelope. Every stage that refuses a record writes one to `consumer.dlq_topic`, waits for
//!   its acknowledgement and only then commits, so a record is never refused without a trace.
//! - A dead letter is named by the record it stands for: [`DeadLetter::id`] is `topic-partition-offset` of the origin,
//!   as `ingestion_id` is for a stored row. A crash may write the same dead letter twice; both have one id.

mod envelope;
mod fix;
mod ledger;
mod order;
mod pass;
mod selection;
#[cfg(test)]
mod tests;

pub use envelope::{
    DeadLetter, ERROR_MESSAGE_BYTES_MAX, EnvelopeError, RECOVERIES_HEADER, Raw, Refusal, recoveries,
};
pub use fix::{Fix, FixError, Fixed};
pub use ledger::{Entry, Ledger, LedgerError, Origin, Standing, Status};
pub use order::{Action, DISCARD, Order, Outcome, REPLAY, Sample};
pub use pass::Passes;
pub use selection::{SELECTION_IDS_MAX, Selection, SelectionError};
