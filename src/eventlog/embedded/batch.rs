//! A batch: records of one partition, stored as one value. Everything written together for a partition is one batch.
//!
//! ```text
//! 0  version u8 = 1
//! 1  crc32c u32, of everything behind it
//! 5  count of records u32          9  bytes of records u32
//! 13 base offset i64              21  base timestamp i64, ms    29  largest timestamp i64, ms
//! 37 records, each: timestamp less base timestamp (zigzag), key length + 1 (0: none), key, value length + 1 (0: none),
//!    value, header set + 1 (0: no headers); lengths and numbers are LEB128
//!    header sets, each: count, then name length, name, value length, value
//! ```
//!
//! Integers are little-endian. Offsets run on from the base without gaps. Records of one producer mostly carry the same
//! headers, so each different set of them is stored once. Reading slices keys, values and headers out of the batch.

use bytes::Bytes;

use crate::event::Timestamp;
use crate::eventlog::{Header, Headers, NewRecord, Record};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 37;
/// How many of the newest header sets a record is compared with.
const SETS_COMPARED: usize = 8;

/// The bytes are not a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("corrupt batch")]
pub(super) struct CorruptBatch;

/// What a batch says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    pub(super) base_offset: i64,
    pub(super) count: u32,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    records_bytes: usize,
}

impl BatchHeader {
    /// One past the last record's offset.
    pub(super) fn end(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.count))
    }

    /// Reads the fixed part, without checking the rest.
    pub(super) fn read(batch: &[u8]) -> Result<Self, CorruptBatch> {
        let fixed: &[u8; HEADER_BYTES] = batch.first_chunk().ok_or(CorruptBatch)?;
        let header = Self {
            count: u32::from_le_bytes(field(fixed, 5)),
            records_bytes: usize::try_from(u32::from_le_bytes(field(fixed, 9))).map_err(|_| CorruptBatch)?,
            base_offset: i64::from_le_bytes(field(fixed, 13)),
            base_timestamp: i64::from_le_bytes(field(fixed, 21)),
            max_timestamp: i64::from_le_bytes(field(fixed, 29)),
        };
        let fits = HEADER_BYTES.checked_add(header.records_bytes).is_some_and(|end| end <= batch.len());
        if fixed[0] != VERSION || header.count == 0 || !fits {
            return Err(CorruptBatch);
        }
        Ok(header)
    }
}

fn field<const N: usize>(fixed: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| fixed[at + i])
}

/// A batch being filled.
pub(super) struct BatchBuilder {
    bytes: Vec<u8>,
    sets: Vec<Headers>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch with room for about `capacity` bytes of records.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + capacity);
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes, sets: Vec::new(), count: 0, base_timestamp: 0, max_timestamp: i64::MIN }
    }

    /// Bytes of records so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    /// Appends a record.
    pub(super) fn push(&mut self, record: &NewRecord) {
        let at = record.timestamp.as_millis();
        if self.count == 0 {
            self.base_timestamp = at;
        }
        self.max_timestamp = self.max_timestamp.max(at);
        self.count += 1;
        let delta = at.wrapping_sub(self.base_timestamp);
        put_number(&mut self.bytes, ((delta << 1) ^ (delta >> 63)).cast_unsigned());
        match &record.key {
            None => put_number(&mut self.bytes, 0),
            Some(key) => put_bytes(&mut self.bytes, key, 1),
        }
        put_bytes(&mut self.bytes, &record.value, 1);
        let set = self.header_set(&record.headers);
        put_number(&mut self.bytes, set);
    }

    /// The number of a set of headers, 0 for none.
    fn header_set(&mut self, headers: &Headers) -> u64 {
        if headers.is_empty() {
            return 0;
        }
        let newest = self.sets.len().saturating_sub(SETS_COMPARED);
        let known = (newest..self.sets.len()).rev().find(|set| self.sets[*set] == *headers);
        let set = known.unwrap_or_else(|| {
            self.sets.push(headers.clone());
            self.sets.len() - 1
        });
        as_u64(set) + 1
    }

    /// The batch, its first record at `base_offset`.
    pub(super) fn finish(mut self, base_offset: i64) -> (BatchHeader, Bytes) {
        let records_bytes = self.len();
        for set in &self.sets {
            put_number(&mut self.bytes, as_u64(set.len()));
            for header in set.iter() {
                put_bytes(&mut self.bytes, header.name.as_bytes(), 0);
                put_bytes(&mut self.bytes, &header.value, 0);
            }
        }
        let mut put = |at: usize, field: &[u8]| self.bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &[VERSION]);
        put(5, &self.count.to_le_bytes());
        put(9, &u32::try_from(records_bytes).unwrap_or(u32::MAX).to_le_bytes());
        put(13, &base_offset.to_le_bytes());
        put(21, &self.base_timestamp.to_le_bytes());
        put(29, &self.max_timestamp.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[5..]);
        self.bytes[1..5].copy_from_slice(&crc.to_le_bytes());
        let header = BatchHeader {
            base_offset,
            count: self.count,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            records_bytes,
        };
        // The batch stays in memory for a while (memtable, tail): do not keep an oversized buffer with it.
        if self.bytes.capacity() - self.bytes.len() > self.bytes.len() / 4 {
            self.bytes.shrink_to_fit();
        }
        (header, Bytes::from(self.bytes))
    }
}

/// Reads the records of a batch one by one, without copying them.
pub(super) struct BatchReader {
    batch: Bytes,
    header: BatchHeader,
    sets: Vec<Headers>,
    at: usize,
    read: u32,
}

impl BatchReader {
    /// Checks the batch and stands before its first record.
    pub(super) fn new(batch: Bytes) -> Result<Self, CorruptBatch> {
        let header = BatchHeader::read(&batch)?;
        let crc: [u8; 4] = batch[1..5].try_into().map_err(|_| CorruptBatch)?;
        if crc32c::crc32c(&batch[5..]) != u32::from_le_bytes(crc) {
            return Err(CorruptBatch);
        }
        let mut sets = Vec::new();
        let mut at = HEADER_BYTES + header.records_bytes;
        while at < batch.len() {
            sets.push(take_header_set(&batch, &mut at)?);
        }
        Ok(Self { batch, header, sets, at: HEADER_BYTES, read: 0 })
    }

    /// What the batch says of itself.
    pub(super) fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The next record and the bytes of its key, value and headers; `None` behind the last one.
    pub(super) fn next(&mut self) -> Result<Option<(Record, usize)>, CorruptBatch> {
        if self.read == self.header.count {
            return Ok(None);
        }
        let delta = take_number(&self.batch, &mut self.at)?;
        let delta = (delta >> 1).cast_signed() ^ -((delta & 1).cast_signed());
        let key = self.take_optional()?;
        let value = self.take_optional()?;
        let headers = match take_number(&self.batch, &mut self.at)? {
            0 => Headers::default(),
            set => {
                let set = usize::try_from(set - 1).map_err(|_| CorruptBatch)?;
                self.sets.get(set).ok_or(CorruptBatch)?.clone()
            }
        };
        let bytes = key.as_ref().map_or(0, Bytes::len)
            + value.as_ref().map_or(0, Bytes::len)
            + headers.iter().map(|header| header.name.len() + header.value.len()).sum::<usize>();
        let record = Record {
            offset: self.header.base_offset.saturating_add(i64::from(self.read)),
            timestamp: Timestamp::from_millis(self.header.base_timestamp.wrapping_add(delta)),
            key,
            value,
            headers,
        };
        self.read += 1;
        Ok(Some((record, bytes)))
    }

    /// Steps over the records before `offset`, without building them.
    pub(super) fn skip_to(&mut self, offset: i64) -> Result<(), CorruptBatch> {
        while self.read < self.header.count
            && self.header.base_offset.saturating_add(i64::from(self.read)) < offset
        {
            take_number(&self.batch, &mut self.at)?;
            self.take_optional()?;
            self.take_optional()?;
            take_number(&self.batch, &mut self.at)?;
            self.read += 1;
        }
        Ok(())
    }

    fn take_optional(&mut self) -> Result<Option<Bytes>, CorruptBatch> {
        match take_number(&self.batch, &mut self.at)? {
            0 => Ok(None),
            length => take_slice(&self.batch, &mut self.at, length - 1).map(Some),
        }
    }
}

fn take_header_set(batch: &Bytes, at: &mut usize) -> Result<Headers, CorruptBatch> {
    let count = take_number(batch, at)?;
    let mut set = Vec::new();
    for _ in 0..count {
        let length = take_number(batch, at)?;
        let name = take_slice(batch, at, length)?;
        let name = std::str::from_utf8(&name).map_err(|_| CorruptBatch)?.into();
        let length = take_number(batch, at)?;
        set.push(Header { name, value: take_slice(batch, at, length)? });
    }
    Ok(set.into())
}

fn take_slice(batch: &Bytes, at: &mut usize, length: u64) -> Result<Bytes, CorruptBatch> {
    let length = usize::try_from(length).map_err(|_| CorruptBatch)?;
    let end = at.checked_add(length).filter(|end| *end <= batch.len()).ok_or(CorruptBatch)?;
    let slice = batch.slice(*at..end);
    *at = end;
    Ok(slice)
}

fn take_number(batch: &[u8], at: &mut usize) -> Result<u64, CorruptBatch> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *batch.get(*at).ok_or(CorruptBatch)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(CorruptBatch)
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(0x80 | u8::try_from(number & 0x7f).unwrap_or(0));
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or(0));
}

/// Length plus `shift`, then the bytes.
fn put_bytes(bytes: &mut Vec<u8>, value: &[u8], shift: u64) {
    put_number(bytes, as_u64(value.len()) + shift);
    bytes.extend_from_slice(value);
}

fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        ("[a-z_]{0,9}", proptest::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(name, value)| Header { name: name.into(), value: value.into() })
    }

    fn new_record() -> impl Strategy<Value = NewRecord> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        (
            proptest::option::of(bytes()),
            bytes(),
            proptest::collection::vec(header(), 0..4),
            any::<i64>().prop_map(Timestamp::from_millis),
        )
            .prop_map(|(key, value, headers, timestamp)| NewRecord {
                key,
                value,
                headers: headers.into(),
                timestamp,
            })
    }

    fn build(records: &[NewRecord], base: i64) -> Bytes {
        let mut builder = BatchBuilder::with_capacity(100);
        records.iter().for_each(|record| builder.push(record));
        builder.finish(base).1
    }

    fn read(batch: Bytes, from: i64) -> Result<Vec<Record>, CorruptBatch> {
        let mut reader = BatchReader::new(batch)?;
        reader.skip_to(from)?;
        let mut records = Vec::new();
        while let Some((record, _)) = reader.next()? {
            records.push(record);
        }
        Ok(records)
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_as_it_was_written(
            written in proptest::collection::vec(new_record(), 1..40), base in 0..i64::MAX / 2, skip in 0..50i64
        ) {
            let batch = build(&written, base);
            let header = BatchHeader::read(&batch).unwrap();
            prop_assert_eq!(header.end(), base + i64::try_from(written.len()).unwrap());
            prop_assert_eq!(header.max_timestamp, written.iter().map(|r| r.timestamp.as_millis()).max().unwrap());
            let expected: Vec<Record> = (base..).zip(&written).skip(usize::try_from(skip).unwrap()).map(|(offset, r)| Record {
                offset, timestamp: r.timestamp, key: r.key.clone(), value: Some(r.value.clone()), headers: r.headers.clone(),
            }).collect();
            prop_assert_eq!(read(batch, base + skip).unwrap(), expected);
        }

        #[test]
        fn no_single_changed_byte_goes_unnoticed(
            written in proptest::collection::vec(new_record(), 1..5), at in any::<prop::sample::Index>(), flip in 1..=255u8
        ) {
            let mut batch = build(&written, 7).to_vec();
            let at = at.index(batch.len());
            batch[at] ^= flip;
            prop_assert_eq!(read(batch.into(), 0), Err(CorruptBatch));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            if bytes.len() > 5 {
                bytes[0] = VERSION;
                let crc = crc32c::crc32c(&bytes[5..]).to_le_bytes();
                bytes[1..5].copy_from_slice(&crc);
            }
            let _ = read(bytes.into(), 0);
        }
    }

    #[test]
    fn headers_that_repeat_are_stored_once() {
        let headers =
            vec![Header { name: "project_id".into(), value: Bytes::from_static(b"proj_0123456789") }];
        let record = NewRecord {
            key: None,
            value: Bytes::new(),
            headers: headers.into(),
            timestamp: Timestamp::EPOCH,
        };
        let batch = build(&vec![record; 100], 0);
        assert!(batch.len() < 600, "{} bytes", batch.len());
        assert_eq!(read(batch, 99).unwrap()[0].headers[0].name.as_ref(), "project_id");
    }
}
