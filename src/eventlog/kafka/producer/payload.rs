//! A batch of records with those who wait for them.

use bytes::Bytes;

use super::lane::Payload;
use super::reply::Slot;
use crate::eventlog::kafka::batch::{self, ProducerId};
use crate::eventlog::kafka::compression::Compression;
use crate::eventlog::{LogError, NewRecord, Position};

/// The records are kept beside their encoded form: a batch that is halved or numbered anew is written again.
pub(super) struct Batch {
    records: Vec<NewRecord>,
    slots: Vec<Slot>,
    compression: Compression,
    encoded: Bytes,
}

impl Batch {
    pub(super) fn new(compression: Compression) -> Self {
        Self { records: Vec::new(), slots: Vec::new(), compression, encoded: Bytes::new() }
    }

    pub(super) fn add(&mut self, record: NewRecord, slot: Slot) {
        self.records.push(record);
        self.slots.push(slot);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What is sent, and sent again.
    pub(super) fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }

    /// Bytes of its largest record.
    pub(super) fn largest(&self) -> usize {
        self.records.iter().map(NewRecord::bytes).max().unwrap_or(0)
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Every record stands from this offset on; `None`: durable, nobody knows where.
    pub(super) fn stored(self, partition: i32, base: Option<i64>) {
        for (slot, delta) in self.slots.iter().zip(0..) {
            slot.settle(Ok(Position { partition, offset: base.map_or(-1, |base| base + delta) }));
        }
    }

    pub(super) fn failed(self, error: &LogError) {
        for slot in &self.slots {
            slot.settle(Err(error.clone()));
        }
    }
}

impl Payload for Batch {
    fn count(&self) -> i32 {
        i32::try_from(self.records.len()).unwrap_or(i32::MAX)
    }

    fn number(&mut self, producer: ProducerId, base_sequence: i32) {
        self.encoded = batch::encode(&self.records, producer, base_sequence, self.compression);
    }

    fn split(mut self) -> Result<(Self, Self), Self> {
        if self.records.len() < 2 {
            return Err(self);
        }
        let middle = self.records.len() / 2;
        let second = Self {
            records: self.records.split_off(middle),
            slots: self.slots.split_off(middle),
            compression: self.compression,
            encoded: Bytes::new(),
        };
        Ok((self, second))
    }
}
