//! One partition as the sender sees it: records queued, batches on their way, and what went wrong last.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::{Lane, Outcome, Payload};
use super::payload::Batch;
use super::reply::Slot;
use crate::eventlog::kafka::KafkaOptions;
use crate::eventlog::kafka::cluster::Topic;
use crate::eventlog::{LogError, NewRecord};
use crate::telemetry::names;

/// Wait before a batch is sent again: doubled from the first to the second with every failure in a row.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(20);
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A partition's records: queued, and on their way.
pub(super) struct Partition {
    pub(super) topic: Arc<Topic>,
    pub(super) number: i32,
    pub(super) lane: Lane<Batch>,
    pub(super) queue: VecDeque<(NewRecord, Slot)>,
    pub(super) queued_bytes: usize,
    pub(super) failures: u32,
    pub(super) paused_until: Option<Instant>,
    pub(super) last_error: Option<LogError>,
}

impl Partition {
    pub(super) fn new(topic: Arc<Topic>, number: i32) -> Self {
        Self {
            topic,
            number,
            lane: Lane::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            failures: 0,
            paused_until: None,
            last_error: None,
        }
    }

    pub(super) fn add(&mut self, record: NewRecord, slot: Slot) {
        self.queued_bytes += record.bytes();
        self.queue.push_back((record, slot));
    }

    /// Drops what nobody waits for any more, and answers those whose time is over.
    pub(super) fn give_up_late(&mut self, now: Instant, timeout: Duration) {
        let why = match &self.last_error {
            Some(error) => error.to_string(),
            None => "no leader of the partition answers".to_owned(),
        };
        while let Some((_, slot)) = self.queue.front() {
            if slot.reply.deadline > now && slot.reply.is_wanted() {
                break;
            }
            if let Some((record, slot)) = self.queue.pop_front() {
                self.queued_bytes -= record.bytes();
                let late = format!("nothing was written within {timeout:?}: {why}");
                slot.settle(Err(LogError::Unavailable(late)));
            }
        }
        let unknown = LogError::OutcomeUnknown(format!("no answer within {timeout:?}: {why}"));
        for slot in self.lane.payloads().flat_map(Batch::slots) {
            if slot.reply.deadline <= now {
                slot.settle(Err(unknown.clone()));
            }
        }
    }

    /// The topic was deleted, or another incarnation of it stands there.
    pub(super) fn end(mut self) {
        let topic = self.topic.name.clone();
        for (batch, outcome) in self.lane.end() {
            batch.failed(&match outcome {
                Outcome::NotWritten => LogError::TopicMissing(topic.clone()),
                _ => LogError::OutcomeUnknown(format!("topic {topic} was deleted meanwhile")),
            });
        }
        for (_, slot) in self.queue {
            slot.settle(Err(LogError::TopicMissing(topic.clone())));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.lane.is_empty()
    }

    /// Can something of it go into a request?
    pub(super) fn has_something(&self) -> bool {
        self.lane.can_send() || (!self.queue.is_empty() && self.lane.has_room())
    }

    /// Has it a full batch, or one to be sent again?
    pub(super) fn is_full(&self, options: &KafkaOptions) -> bool {
        self.lane.can_send() || self.queued_bytes >= options.batch_bytes_max
    }

    /// A batch of what is queued, up to the size of one.
    pub(super) fn fill(&mut self, options: &KafkaOptions) {
        let mut batch = Batch::new(options.compression);
        let mut bytes = 0;
        while let Some((record, slot)) = self.queue.pop_front() {
            self.queued_bytes -= record.bytes();
            if !slot.reply.is_wanted() {
                slot.settle(Err(LogError::Unavailable("its caller went away".to_owned())));
                continue;
            }
            bytes += record.bytes();
            if bytes > options.batch_bytes_max && !batch.is_empty() {
                self.queued_bytes += record.bytes();
                self.queue.push_front((record, slot));
                break;
            }
            batch.add(record, slot);
        }
        if !batch.is_empty() {
            self.lane.push(batch);
        }
    }

    pub(super) fn settle(&mut self, ended: Vec<(Batch, Outcome)>) {
        for (batch, outcome) in ended {
            let last =
                || self.last_error.clone().unwrap_or_else(|| LogError::Unavailable("refused".to_owned()));
            match outcome {
                Outcome::Stored(base) => {
                    names::EVENTLOG_RECORDS_PRODUCED
                        .counter(&[("topic", &self.topic.name)])
                        .increment(u64::try_from(batch.count()).unwrap_or(0));
                    batch.stored(self.number, base);
                }
                Outcome::TooLarge => {
                    let error = match last() {
                        LogError::RecordTooLarge { .. } => {
                            let bytes = batch.largest();
                            LogError::RecordTooLarge { bytes, bytes_max: bytes.saturating_sub(1) }
                        }
                        other => other,
                    };
                    batch.failed(&error);
                }
                Outcome::Refused | Outcome::NotWritten => batch.failed(&last()),
                Outcome::Unknown => batch.failed(&LogError::OutcomeUnknown(last().to_string())),
            }
        }
    }

    pub(super) fn refuse_queue(&mut self, error: &LogError) {
        self.queued_bytes = 0;
        for (_, slot) in self.queue.drain(..) {
            slot.settle(Err(error.clone()));
        }
    }

    pub(super) fn pause(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(now + pause(self.failures));
    }
}

pub(super) fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(PAUSE_MAX)
}
