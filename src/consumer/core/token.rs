//! The insert token: what one insert is, in 32 characters. Retried rows keep it, other rows never share it (the store
//! silently drops a block whose token it knows).

use sha2::{Digest, Sha256};

use super::IdHash;
use crate::eventlog::TopicId;

/// Gathers what a token stands for.
pub(super) struct TokenHasher(Sha256);

impl TokenHasher {
    /// `namespace` keeps live inserts, replays and reprocessing apart; `mapper_version` counts up whenever the same
    /// record would become another row.
    pub(super) fn new(namespace: &str, table: &str, mapper_version: u32) -> Self {
        let mut hasher = Sha256::new();
        for text in [namespace, table] {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(mapper_version.to_le_bytes());
        Self(hasher)
    }

    /// The range of one partition.
    pub(super) fn range(&mut self, topic_id: TopicId, partition: i32, start: i64, end: i64) {
        self.0.update([0]);
        self.0.update(topic_id.0.as_bytes());
        self.0.update(partition.to_le_bytes());
        self.0.update(start.to_le_bytes());
        self.0.update(end.to_le_bytes());
    }

    /// The next surviving row.
    pub(super) fn row(&mut self, offset: i64, id: IdHash) {
        self.0.update([1]);
        self.0.update(offset.to_le_bytes());
        self.0.update(id.0.to_le_bytes());
    }

    /// 32 hexadecimal digits.
    pub(super) fn finish(self) -> String {
        let digest = self.0.finalize();
        let mut half = [0u8; 16];
        half.copy_from_slice(&digest[..16]);
        format!("{:032x}", u128::from_be_bytes(half))
    }
}
