//! Kafka's record batch (format 2, since Kafka 0.11): written for the producer, walked by its header for the fetcher.
//!
//! Values, keys and headers that are read are slices of the frame they came in (or of the batch's inflated records), so
//! whoever keeps one keeps the frame.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::compression::{self, Compression};
use crate::event::Timestamp;
use crate::eventlog::{Header, Headers, NewRecord, Record};

/// Bytes of a batch's header.
pub(super) const HEADER_BYTES: usize = 61;
/// What a batch's length does not count: base offset and the length itself.
const LENGTH_STARTS: usize = 12;
/// Where the checksummed part begins.
const CHECKED_STARTS: usize = 21;
const MAGIC: u8 = 2;

const CODEC_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
/// Type of a control record that ends an aborted transaction.
const ABORT: i16 = 0;

/// Who writes, as the broker knows it: what makes a batch that is sent twice stand once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct ProducerId {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

/// The sequence number `by` records after `sequence`; wraps as Kafka's own does.
pub(super) fn sequence_after(sequence: i32, by: i32) -> i32 {
    sequence.wrapping_add(by) & i32::MAX
}

/// One batch of these records (at least one). The same input gives the same bytes.
pub(super) fn encode(
    records: &[NewRecord],
    producer: ProducerId,
    base_sequence: i32,
    compression: Compression,
) -> Bytes {
    let base = records.first().map_or(0, |record| record.timestamp.as_millis());
    let latest = records.iter().map(|record| record.timestamp.as_millis()).max().unwrap_or(base);
    let body_bytes: usize = records.iter().map(|record| record.bytes() + 24 + 8 * record.headers.len()).sum();
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + body_bytes);
    batch.put_bytes(0, HEADER_BYTES);
    for (delta, record) in (0i64..).zip(records) {
        put_record(&mut batch, record, delta, base);
    }
    // A codec that fails or does not help leaves the records as they are.
    let mut codec = 0;
    if let Some(deflated) = compression::deflate(compression, &batch[HEADER_BYTES..])
        && deflated.len() < batch.len() - HEADER_BYTES
    {
        batch.truncate(HEADER_BYTES);
        batch.extend_from_slice(&deflated);
        codec = compression.codec();
    }
    let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
    let length = i32::try_from(batch.len() - LENGTH_STARTS).unwrap_or(i32::MAX);
    let mut header = &mut batch[..HEADER_BYTES];
    header.put_i64(0);
    header.put_i32(length);
    header.put_i32(-1);
    header.put_u8(MAGIC);
    header.put_u32(0);
    header.put_i16(codec);
    header.put_i32(count - 1);
    header.put_i64(base);
    header.put_i64(latest);
    header.put_i64(producer.id);
    header.put_i16(producer.epoch);
    header.put_i32(base_sequence);
    header.put_i32(count);
    let checksum = crc32c::crc32c(&batch[CHECKED_STARTS..]);
    batch[17..CHECKED_STARTS].copy_from_slice(&checksum.to_be_bytes());
    batch.freeze()
}

fn put_record(batch: &mut BytesMut, record: &NewRecord, offset_delta: i64, base: i64) {
    let time_delta = record.timestamp.as_millis() - base;
    let length_of = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let framed = |bytes: usize| varint_bytes(length_of(bytes)) + bytes;
    let headers: usize =
        record.headers.iter().map(|header| framed(header.name.len()) + framed(header.value.len())).sum();
    let bytes = 1
        + varint_bytes(time_delta)
        + varint_bytes(offset_delta)
        + record.key.as_ref().map_or_else(|| varint_bytes(-1), |key| framed(key.len()))
        + framed(record.value.len())
        + varint_bytes(length_of(record.headers.len()))
        + headers;
    put_varint(batch, length_of(bytes));
    batch.put_u8(0);
    put_varint(batch, time_delta);
    put_varint(batch, offset_delta);
    let put = |text: &[u8], batch: &mut BytesMut| {
        put_varint(batch, length_of(text.len()));
        batch.put_slice(text);
    };
    match &record.key {
        Some(key) => put(key, batch),
        None => put_varint(batch, -1),
    }
    put(&record.value, batch);
    put_varint(batch, length_of(record.headers.len()));
    for header in &*record.headers {
        put(header.name.as_bytes(), batch);
        put(&header.value, batch);
    }
}

fn put_varint(batch: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        batch.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    batch.put_u8(rest as u8);
}

fn varint_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// A batch that is damaged, or no batch that is read here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Corrupt;

/// A transaction that its writer took back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Aborted {
    pub(super) producer_id: i64,
    pub(super) first_offset: i64,
}

/// What stands in a fetched partition's bytes.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) records: Vec<Record>,
    /// One past the last record looked at; `None`: there was no whole batch.
    pub(super) next_offset: Option<i64>,
    /// The batch that begins at `next_offset` (or where the fetch began) is damaged.
    pub(super) corrupt: bool,
}

/// How much of a partition is gathered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Records before this offset are passed over: a fetch inside a batch gets the whole batch.
    pub(super) from: i64,
    /// Ends after the record that reaches this many bytes.
    pub(super) bytes_max: usize,
    /// A batch that inflates to more is not read.
    pub(super) inflated_bytes_max: usize,
}

/// Gathers the records of whole batches: transaction markers and aborted transactions are passed over, a batch that is
/// cut off at the end is left.
pub(super) fn gather(mut bytes: Bytes, bounds: Bounds, mut aborted: Vec<Aborted>) -> Gathered {
    aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
    let mut taken_back: Vec<i64> = Vec::new();
    let mut seen = SeenHeaders::default();
    let mut found = Gathered::default();
    let mut bytes_left = bounds.bytes_max.max(1);
    while let Some(batch) = next_batch(&mut bytes) {
        let Ok(batch) = batch.and_then(Batch::check) else {
            found.corrupt = true;
            break;
        };
        let end = batch.end();
        if end <= bounds.from {
            continue;
        }
        while aborted.last().is_some_and(|transaction| transaction.first_offset < end) {
            taken_back.extend(aborted.pop().map(|transaction| transaction.producer_id));
        }
        if batch.attributes & CONTROL != 0 {
            if batch.is_abort_marker() {
                taken_back.retain(|producer| *producer != batch.producer_id);
            }
        } else if batch.attributes & TRANSACTIONAL == 0 || !taken_back.contains(&batch.producer_id) {
            match batch.take_records(&bounds, &mut bytes_left, &mut seen, &mut found.records) {
                Ok(true) => {}
                Ok(false) => {
                    // Full inside the batch: the next fetch begins there.
                    found.next_offset = found.records.last().map(|last| last.offset + 1);
                    break;
                }
                Err(Corrupt) => {
                    found.corrupt = true;
                    found.next_offset =
                        found.records.last().map(|last| last.offset + 1).or(found.next_offset);
                    break;
                }
            }
        }
        found.next_offset = Some(end);
        if bytes_left == 0 {
            break;
        }
    }
    found
}

/// The bytes of the next batch; none if it is cut off.
fn next_batch(bytes: &mut Bytes) -> Option<Result<Bytes, Corrupt>> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let length = i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let Some(whole) = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_STARTS))
    else {
        return Some(Err(Corrupt));
    };
    if whole < HEADER_BYTES {
        return Some(Err(Corrupt));
    }
    (bytes.len() >= whole).then(|| Ok(bytes.split_to(whole)))
}

struct Batch {
    base_offset: i64,
    attributes: i16,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    count: i32,
    body: Bytes,
}

impl Batch {
    fn check(mut bytes: Bytes) -> Result<Self, Corrupt> {
        let checksum = u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]);
        if bytes[16] != MAGIC || crc32c::crc32c(&bytes[CHECKED_STARTS..]) != checksum {
            return Err(Corrupt);
        }
        let base_offset = bytes.get_i64();
        bytes.advance(CHECKED_STARTS - 8);
        let attributes = bytes.get_i16();
        let last_offset_delta = bytes.get_i32();
        let (base_timestamp, max_timestamp) = (bytes.get_i64(), bytes.get_i64());
        let producer_id = bytes.get_i64();
        // Epoch and base sequence.
        bytes.advance(6);
        let count = bytes.get_i32();
        if base_offset < 0 || last_offset_delta < 0 || count < 0 {
            return Err(Corrupt);
        }
        Ok(Self {
            base_offset,
            attributes,
            last_offset_delta,
            base_timestamp,
            max_timestamp,
            producer_id,
            count,
            body: bytes,
        })
    }

    /// One past its last offset; compaction may have taken the record that stood there.
    fn end(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }

    fn is_abort_marker(&self) -> bool {
        let mut body = self.body.clone();
        let marker = read_record(&mut body, self, &mut SeenHeaders::default());
        // Its key is a version and a type.
        marker
            .ok()
            .and_then(|marker| marker.key)
            .is_some_and(|key| key.len() >= 4 && i16::from_be_bytes([key[2], key[3]]) == ABORT)
    }

    /// False: full before the end of the batch.
    fn take_records(
        &self,
        bounds: &Bounds,
        bytes_left: &mut usize,
        seen: &mut SeenHeaders,
        records: &mut Vec<Record>,
    ) -> Result<bool, Corrupt> {
        let mut body =
            compression::inflate(self.attributes & CODEC_MASK, &self.body, bounds.inflated_bytes_max)
                .ok_or(Corrupt)?;
        for taken in 0..self.count {
            let record = read_record(&mut body, self, seen)?;
            if record.offset < bounds.from {
                continue;
            }
            let headers: usize =
                record.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
            let value = record.value.as_ref().map_or(0, Bytes::len);
            *bytes_left =
                bytes_left.saturating_sub(record.key.as_ref().map_or(0, Bytes::len) + value + headers);
            records.push(record);
            if *bytes_left == 0 {
                return Ok(taken + 1 == self.count);
            }
        }
        Ok(true)
    }
}

fn read_record(body: &mut Bytes, batch: &Batch, seen: &mut SeenHeaders) -> Result<Record, Corrupt> {
    let length = usize::try_from(get_varint(body)?).map_err(|_| Corrupt)?;
    if body.len() < length {
        return Err(Corrupt);
    }
    let mut record = body.split_to(length);
    if !record.has_remaining() {
        return Err(Corrupt);
    }
    record.advance(1);
    let time_delta = get_varint(&mut record)?;
    let offset_delta = get_varint(&mut record)?;
    if !(0..=i64::from(batch.last_offset_delta)).contains(&offset_delta) {
        return Err(Corrupt);
    }
    let key = get_bytes(&mut record)?;
    let value = get_bytes(&mut record)?;
    let count = usize::try_from(get_varint(&mut record)?).map_err(|_| Corrupt)?;
    seen.read.clear();
    for _ in 0..count {
        let name = get_bytes(&mut record)?.ok_or(Corrupt)?;
        let value = get_bytes(&mut record)?.unwrap_or_default();
        let name = seen.name(&name);
        seen.read.push(Header { name, value });
    }
    let at = if batch.attributes & LOG_APPEND_TIME == 0 {
        batch.base_timestamp.saturating_add(time_delta)
    } else {
        batch.max_timestamp
    };
    Ok(Record {
        offset: batch.base_offset + offset_delta,
        timestamp: Timestamp::from_millis(at),
        key,
        value,
        headers: seen.take(),
    })
}

fn get_varint(bytes: &mut Bytes) -> Result<i64, Corrupt> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        if !bytes.has_remaining() {
            return Err(Corrupt);
        }
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(Corrupt)
}

fn get_bytes(record: &mut Bytes) -> Result<Option<Bytes>, Corrupt> {
    let length = get_varint(record)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| Corrupt)?;
    if record.len() < length {
        return Err(Corrupt);
    }
    Ok(Some(record.split_to(length)))
}

/// Headers mostly repeat from record to record, and their names nearly always: both are shared.
#[derive(Default)]
struct SeenHeaders {
    names: Vec<Arc<str>>,
    /// Those of the record at hand.
    read: Vec<Header>,
    last: Headers,
}

/// More than a product's records have; others are not kept.
const NAMES_MAX: usize = 32;

impl SeenHeaders {
    fn name(&mut self, name: &[u8]) -> Arc<str> {
        if let Some(known) = self.names.iter().find(|known| known.as_bytes() == name) {
            return known.clone();
        }
        let new: Arc<str> = String::from_utf8_lossy(name).into();
        if self.names.len() < NAMES_MAX {
            self.names.push(new.clone());
        }
        new
    }

    /// What was read, as the record keeps it.
    fn take(&mut self) -> Headers {
        if *self.last != *self.read {
            self.last = self.read.as_slice().into();
        }
        self.read.clear();
        self.last.clone()
    }
}

#[cfg(test)]
mod tests;
