//! Which partition a key belongs to, exactly as Kafka's Java client decides it, so that other producers of the same
//! topic put a key where we do.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kafka's variant of `MurmurHash2` (seed `0x9747b28c`), as a signed 32-bit number.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "Kafka hashes the length as 32 bits; keys are far shorter"
    )]
    let mut h = 0x9747_b28c_u32 ^ (data.len() as u32);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (i, byte) in rest.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * i);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)).cast_signed()
}

/// The partition of a key among `partitions` (at least 1).
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions.max(1)
}

/// Places the records of one produce: a record with a key by its key, those without all into one partition, another
/// one with each produce.
pub(super) struct Placement {
    partitions: i32,
    unkeyed: i32,
}

impl Placement {
    /// `turns` counts the produces of a log.
    pub(super) fn new(turns: &AtomicU64, partitions: i32) -> Self {
        let partitions = partitions.max(1);
        let turn = turns.fetch_add(1, Ordering::Relaxed) % u64::from(partitions.unsigned_abs());
        Self { partitions, unkeyed: i32::try_from(turn).unwrap_or(0) }
    }

    /// The partition of a record with this key.
    pub(super) fn partition(&self, key: Option<&[u8]>) -> i32 {
        key.map_or(self.unkeyed, |key| partition_for_key(key, self.partitions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_a_key_take_turns_over_the_partitions() {
        let turns = AtomicU64::new(0);
        let unkeyed: Vec<i32> = (0..4).map(|_| Placement::new(&turns, 3).partition(None)).collect();
        assert_eq!(unkeyed, [0, 1, 2, 0]);
        assert_eq!(Placement::new(&turns, 3).partition(Some(b"21")), partition_for_key(b"21", 3));
    }

    /// Vectors from Apache Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_equal_kafkas_own_vectors() {
        let vectors: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (text, hash) in vectors {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text:?}");
        }
    }
}
