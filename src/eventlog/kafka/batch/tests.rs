//! Batches read back as written, held against the protocol crate's own reader, and damage of every kind.

use kafka_protocol::records::RecordBatchDecoder;
use proptest::prelude::*;

use super::*;

const PRODUCER: ProducerId = ProducerId { id: 77, epoch: 3 };
const ALL: Bounds = Bounds { from: 0, bytes_max: usize::MAX, inflated_bytes_max: 64 << 20 };

fn record(key: Option<&str>, value: &str, at: i64) -> NewRecord {
    NewRecord {
        key: key.map(|key| Bytes::from(key.to_owned())),
        value: Bytes::from(value.to_owned()),
        headers: [Header { name: "project_id".into(), value: Bytes::from_static(b"proj_a") }].into(),
        timestamp: Timestamp::from_millis(at),
    }
}

/// Gives the batch the place that a broker would.
fn at_offset(batch: &Bytes, offset: i64) -> Bytes {
    let mut placed = batch.to_vec();
    placed[..8].copy_from_slice(&offset.to_be_bytes());
    placed.into()
}

/// Changes the header of a batch and makes its checksum true again.
fn altered(batch: &Bytes, alter: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = batch.to_vec();
    alter(&mut bytes);
    let checksum = crc32c::crc32c(&bytes[CHECKED_STARTS..]);
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    bytes.into()
}

fn with_attributes(batch: &Bytes, attributes: i16) -> Bytes {
    altered(batch, |bytes| bytes[21..23].copy_from_slice(&attributes.to_be_bytes()))
}

fn numbers(found: &Gathered) -> Vec<i64> {
    found.records.iter().map(|record| record.offset).collect()
}

fn any_record() -> impl Strategy<Value = NewRecord> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let header =
        ("[a-z_]{0,12}", bytes()).prop_map(|(name, value)| Header { name: name.as_str().into(), value });
    (
        proptest::option::of(bytes()),
        bytes(),
        proptest::collection::vec(header, 0..5),
        -9_000_000i64..9_000_000,
    )
        .prop_map(|(key, value, headers, at)| NewRecord {
            key,
            value,
            headers: headers.into(),
            timestamp: Timestamp::from_millis(at),
        })
}

fn any_compression() -> impl Strategy<Value = Compression> {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    proptest::sample::select(vec![None, Gzip, Snappy, Lz4, Zstd])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_come_back_as_written_and_kafkas_reader_agrees(
        records in proptest::collection::vec(any_record(), 1..30),
        compression in any_compression(),
        sequence in 0..i32::MAX,
    ) {
        let batch = at_offset(&encode(&records, PRODUCER, sequence, compression), 1000);
        let found = gather(batch.clone(), ALL, Vec::new());
        prop_assert!(!found.corrupt);
        prop_assert_eq!(found.next_offset, Some(1000 + records.len() as i64));
        let theirs = RecordBatchDecoder::decode(&mut batch.clone()).unwrap().records;
        prop_assert_eq!(theirs.len(), records.len());
        for (i, ((read, written), theirs)) in found.records.iter().zip(&records).zip(&theirs).enumerate() {
            prop_assert_eq!(read.offset, 1000 + i as i64);
            prop_assert_eq!((&read.key, read.value.as_ref()), (&written.key, Some(&written.value)));
            prop_assert_eq!((&read.headers, read.timestamp), (&written.headers, written.timestamp));
            prop_assert_eq!((theirs.offset, &theirs.key, &theirs.value), (read.offset, &read.key, &read.value));
            prop_assert_eq!(theirs.timestamp, read.timestamp.as_millis());
            prop_assert_eq!((theirs.producer_id, theirs.producer_epoch), (77, 3));
        }
    }

    #[test]
    fn no_damage_is_read_and_none_panics(
        records in proptest::collection::vec(any_record(), 1..6),
        compression in any_compression(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let batch = encode(&records, PRODUCER, 0, compression);
        let mut damaged = batch.to_vec();
        // The base offset and the leader's epoch are not covered by the checksum: the broker writes them.
        let at = CHECKED_STARTS + at.index(batch.len() - CHECKED_STARTS);
        damaged[at] ^= 1 << bit;
        let found = gather(damaged.into(), ALL, Vec::new());
        prop_assert!(found.corrupt && found.records.is_empty());
        // The checksum may be true and the content still senseless.
        let lying = altered(&batch, |bytes| bytes[at] ^= 1 << bit);
        let _ = gather(lying, ALL, Vec::new());
    }
}

#[test]
fn a_gap_left_by_compaction_and_a_batch_cut_off_move_the_position_rightly() {
    let first = at_offset(&encode(&[record(Some("a"), "1", 5)], PRODUCER, 0, Compression::None), 10);
    // Compaction took its last records: two are left of five.
    let gap = encode(&[record(None, "2", 6), record(None, "3", 7)], PRODUCER, 1, Compression::None);
    let gap = altered(&at_offset(&gap, 20), |bytes| bytes[23..27].copy_from_slice(&4i32.to_be_bytes()));
    let mut both = first.to_vec();
    both.extend_from_slice(&gap);
    both.extend_from_slice(&first[..40]);
    let found = gather(both.clone().into(), ALL, Vec::new());
    assert_eq!((numbers(&found), found.next_offset, found.corrupt), (vec![10, 20, 21], Some(25), false));
    let found = gather(both.into(), Bounds { from: 21, ..ALL }, Vec::new());
    assert_eq!((numbers(&found), found.next_offset), (vec![21], Some(25)));
    let cut = gather(first.slice(..first.len() - 1), ALL, Vec::new());
    assert_eq!((cut.records.len(), cut.next_offset, cut.corrupt), (0, None, false));
}

#[test]
fn a_bound_is_kept_to_the_record_and_there_is_always_one() {
    let records: Vec<NewRecord> = (0..10).map(|i| record(Some("k"), &"x".repeat(100), i)).collect();
    let batch = encode(&records, PRODUCER, 0, Compression::Zstd);
    let found = gather(batch.clone(), Bounds { from: 3, bytes_max: 200, ..ALL }, Vec::new());
    assert_eq!((numbers(&found), found.next_offset), (vec![3, 4], Some(5)));
    let found = gather(batch.clone(), Bounds { from: 9, bytes_max: 0, ..ALL }, Vec::new());
    assert_eq!((numbers(&found), found.next_offset), (vec![9], Some(10)));
    let bomb = gather(batch, Bounds { inflated_bytes_max: 500, ..ALL }, Vec::new());
    assert!(bomb.corrupt && bomb.records.is_empty());
}

#[test]
fn what_a_transaction_took_back_and_its_markers_are_passed_over() {
    let batch = |producer: i64, offset: i64, attributes: i16, value: &str| {
        let id = ProducerId { id: producer, epoch: 0 };
        let plain = encode(&[record(Some("k"), value, 1)], id, 0, Compression::None);
        at_offset(&with_attributes(&plain, attributes), offset)
    };
    let marker = |producer: i64, offset: i64, kind: i16| {
        let key = [[0, 0], kind.to_be_bytes()].concat();
        let marker = NewRecord { key: Some(key.into()), headers: Arc::default(), ..record(None, "", 1) };
        let plain = encode(&[marker], ProducerId { id: producer, epoch: 0 }, 0, Compression::None);
        at_offset(&with_attributes(&plain, TRANSACTIONAL | CONTROL), offset)
    };
    let log = [
        batch(1, 0, TRANSACTIONAL, "taken back"),
        batch(2, 1, TRANSACTIONAL, "kept"),
        batch(1, 2, 0, "of no transaction"),
        marker(1, 3, ABORT),
        marker(2, 4, 1),
        batch(1, 5, TRANSACTIONAL, "of the next transaction"),
        marker(1, 6, 1),
    ];
    let aborted = vec![Aborted { producer_id: 1, first_offset: 0 }];
    let found = gather(log.concat().into(), ALL, aborted.clone());
    assert_eq!((numbers(&found), found.next_offset), (vec![1, 2, 5], Some(7)));
    let only_markers = gather(log[3..5].concat().into(), Bounds { from: 3, ..ALL }, aborted);
    assert_eq!((only_markers.records.len(), only_markers.next_offset), (0, Some(5)));
}

#[test]
fn damage_behind_good_batches_leaves_these() {
    let good = encode(&[record(None, "good", 1)], PRODUCER, 0, Compression::None);
    let mut both = good.to_vec();
    both.extend_from_slice(&at_offset(&good, 1));
    *both.last_mut().unwrap() ^= 1;
    let found = gather(both.into(), ALL, Vec::new());
    assert_eq!((numbers(&found), found.next_offset, found.corrupt), (vec![0], Some(1), true));
    let mut negative = good.to_vec();
    negative[8..12].copy_from_slice(&(-5i32).to_be_bytes());
    assert!(gather(negative.into(), ALL, Vec::new()).corrupt);
}

#[test]
fn sequences_wrap_to_zero_as_kafkas_own() {
    assert_eq!(sequence_after(5, 3), 8);
    assert_eq!(sequence_after(i32::MAX, 1), 0);
    assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let records = [record(Some("k"), "v", 1), record(None, "w", 2)];
    for compression in [Compression::None, Compression::Zstd] {
        assert_eq!(encode(&records, PRODUCER, 5, compression), encode(&records, PRODUCER, 5, compression));
    }
}
