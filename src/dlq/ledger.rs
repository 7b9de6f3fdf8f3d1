//! What became of each dead letter. The DLQ topic says which dead letters there are; the ledger (the store's table
//! `events_dlq`) says which of them were replayed or discarded, and is the index of lists and counts.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::DeadLetter;
use crate::event::Timestamp;
use crate::eventlog::{Position, TopicId};
use crate::job::JobError;
use crate::store::{InsertError, StoreError};

/// What became of a dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing yet.
    Open,
    /// Written back to its topic. If it failed again, that is another dead letter, with `recoveries` one higher.
    Replayed,
    /// Given up, with a reason.
    Discarded,
}

impl Status {
    /// Every status.
    pub const ALL: &'static [Self] = &[Self::Open, Self::Replayed, Self::Discarded];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == name)
    }
}

/// The record that a dead letter stands for: what identifies it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Origin {
    pub topic: String,
    pub topic_id: TopicId,
    pub partition: i32,
    pub offset: i64,
}

impl Origin {
    pub fn of(letter: &DeadLetter) -> Self {
        Self {
            topic: letter.source_topic.clone(),
            topic_id: letter.source_topic_id,
            partition: letter.source_partition,
            offset: letter.source_offset,
        }
    }
}

/// What the ledger knows of a dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub status: Status,
    /// The job that changed it; empty for an open one.
    pub job_id: String,
    /// The next entry needs a higher one.
    pub version: u64,
}

/// A line of the ledger: of one dead letter the line with the highest version counts.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry<'a> {
    pub letter: &'a DeadLetter,
    /// Where the dead letter stands: incarnation of the DLQ topic, partition and offset.
    pub dlq_topic_id: TopicId,
    pub dlq_position: Position,
    pub status: Status,
    pub status_at: Timestamp,
    /// Why it was discarded; empty otherwise.
    pub reason: &'a str,
    pub job_id: &'a str,
    pub version: u64,
}

/// The ledger does not answer, or its table is not as it should be; both may pass.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the index of dead letters: {0}")]
    Read(#[from] StoreError),
    #[error("the index of dead letters: {0}")]
    Write(#[from] InsertError),
    /// A newer version of FlexFlow wrote this status.
    #[error("the index of dead letters: a newer version wrote the status {0:?}")]
    Status(String),
}

impl From<LedgerError> for JobError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Read(error) => error.into(),
            LedgerError::Write(error) => error.into(),
            error @ LedgerError::Status(_) => Self::Retry(error.to_string()),
        }
    }
}

/// Where the ledger is kept.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// What is known of these; those that are not in it are open and have version 0. At most a page at once.
    async fn standings(&self, origins: &[Origin]) -> Result<HashMap<Origin, Standing>, LedgerError>;

    /// Adds lines: durable when it answers, visible to [`Ledger::standings`] at once. Safe to do twice.
    async fn write(&self, entries: &[Entry<'_>]) -> Result<(), LedgerError>;
}
