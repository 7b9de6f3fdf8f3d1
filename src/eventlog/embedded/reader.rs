//! Reading records of a partition: from the batches in memory where they reach back far enough, else from its segments.
//! Everything here may block on the disk.

use bytes::Bytes;

use super::batch::{BatchHeader, BatchReader, CorruptBatch};
use super::catalog::{Partition, PartitionState, Segment};
use super::store::offset_key;
use crate::event::Timestamp;
use crate::eventlog::{FetchError, FetchedRecords, LogError, Record};

/// Segments that one read looks into.
const SEGMENTS_READ_MAX: usize = 2;

/// Where a read finds its batches.
enum Source {
    Memory(Vec<Bytes>),
    Disk(Vec<Segment>),
}

/// Records gathered up to a bound on their bytes.
struct Gathered {
    records: Vec<Record>,
    from: i64,
    end: i64,
    bytes_left: usize,
}

/// Reads records from `offset` on, at least one, until one reaches `bytes_max`; `None` at the end of the partition.
/// Answers the records' bytes too.
pub(super) fn read(
    partition: &Partition,
    offset: i64,
    bytes_max: usize,
) -> Result<Result<Option<(FetchedRecords, usize)>, FetchError>, LogError> {
    let (source, offsets) = {
        let state = partition.read();
        let offsets = state.offsets;
        if offset < offsets.log_start || offset > offsets.end {
            return Ok(Err(FetchError::OffsetOutOfRange(offsets)));
        }
        if offset == offsets.end {
            return Ok(Ok(None));
        }
        (find(&state, offset, bytes_max), offsets)
    };
    let mut gathered =
        Gathered { records: Vec::new(), from: offset, end: offsets.end, bytes_left: bytes_max.max(1) };
    let outcome = match source {
        Source::Memory(batches) => gathered.take_all(batches.into_iter().map(Ok)),
        Source::Disk(segments) => gathered.take_segments(&segments),
    };
    match outcome {
        Ok(()) => {}
        Err(ReadError::Io(error)) => return Err(LogError::Unavailable(error)),
        // What was read before the damage is good; the next read begins at the damage and says so.
        Err(ReadError::Corrupt) if gathered.records.is_empty() => {
            return Ok(Err(FetchError::Corrupt { offset }));
        }
        Err(ReadError::Corrupt) => {}
    }
    let bytes = bytes_max.max(1) - gathered.bytes_left;
    let next_offset = gathered.records.last().map_or(offset, |last| last.offset + 1);
    if next_offset == offset {
        // The segments were closed or deleted under the read.
        return Err(LogError::Unavailable("the partition is closing".to_owned()));
    }
    Ok(Ok(Some((FetchedRecords { records: gathered.records, next_offset, offsets }, bytes))))
}

fn find(state: &PartitionState, offset: i64, bytes_max: usize) -> Source {
    if state.tail.front().is_some_and(|oldest| oldest.base <= offset) {
        let first = state.tail.partition_point(|batch| batch.base <= offset) - 1;
        let mut left = bytes_max;
        let mut batches = Vec::new();
        for (nth, tail) in state.tail.iter().skip(first).enumerate() {
            batches.push(tail.batch.clone());
            // The first batch may count for little: the read may begin near its end.
            if nth > 0 {
                left = left.saturating_sub(tail.batch.len());
            }
            if left == 0 {
                break;
            }
        }
        return Source::Memory(batches);
    }
    let first = state.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1);
    Source::Disk(state.segments.iter().skip(first).take(SEGMENTS_READ_MAX).cloned().collect())
}

enum ReadError {
    Io(String),
    Corrupt,
}

impl From<CorruptBatch> for ReadError {
    fn from(_: CorruptBatch) -> Self {
        Self::Corrupt
    }
}

impl From<fjall::Error> for ReadError {
    fn from(error: fjall::Error) -> Self {
        tracing::error!(error = %error, "reading the event log failed");
        match error {
            fjall::Error::Io(error) => Self::Io(error.to_string()),
            _ => Self::Corrupt,
        }
    }
}

impl Gathered {
    fn full(&self) -> bool {
        self.bytes_left == 0 && !self.records.is_empty()
    }

    fn take_segments(&mut self, segments: &[Segment]) -> Result<(), ReadError> {
        for segment in segments {
            let start = self.records.last().map_or(self.from, |last| last.offset + 1).max(segment.base);
            let batches = batches_from(segment, start)?;
            self.take_all(batches)?;
            if self.full() {
                break;
            }
        }
        Ok(())
    }

    fn take_all(&mut self, batches: impl Iterator<Item = Result<Bytes, ReadError>>) -> Result<(), ReadError> {
        for batch in batches {
            let mut reader = BatchReader::new(batch?)?;
            if reader.header().base_offset >= self.end {
                break;
            }
            reader.skip_to(self.from)?;
            while let Some((record, bytes)) = reader.next()? {
                self.records.push(record);
                self.bytes_left = self.bytes_left.saturating_sub(bytes);
                if self.full() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The batches of a segment from the one that holds `offset` on.
fn batches_from(
    segment: &Segment,
    offset: i64,
) -> Result<impl Iterator<Item = Result<Bytes, ReadError>> + use<>, fjall::Error> {
    let holding = segment.keyspace.range(..=offset_key(offset)).next_back();
    let start = holding.map(fjall::Guard::key).transpose()?;
    let start = start.map_or(offset_key(offset).to_vec(), |key| key.to_vec());
    Ok(segment.keyspace.range(start..).map(|entry| Ok(Bytes::from(entry.value()?))))
}

/// The first offset whose record is dated `at` or later; the end where there is none.
pub(super) fn offset_at(partition: &Partition, at: Timestamp) -> Result<i64, LogError> {
    let (segments, end) = {
        let state = partition.read();
        (state.segments.clone(), state.offsets.end)
    };
    for segment in segments.iter().filter(|segment| segment.max_timestamp >= at.as_millis()) {
        match offset_in(segment, at, end) {
            Ok(Some(offset)) => return Ok(offset),
            Ok(None) => {}
            Err(ReadError::Io(error)) => return Err(LogError::Unavailable(error)),
            Err(ReadError::Corrupt) => {
                return Err(LogError::Unavailable(format!("corrupt batch behind offset {}", segment.base)));
            }
        }
    }
    Ok(end)
}

fn offset_in(segment: &Segment, at: Timestamp, end: i64) -> Result<Option<i64>, ReadError> {
    for entry in segment.keyspace.iter() {
        let batch = Bytes::from(entry.value()?);
        let header = BatchHeader::read(&batch)?;
        if header.base_offset >= end {
            break;
        }
        if header.max_timestamp < at.as_millis() {
            continue;
        }
        let mut reader = BatchReader::new(batch)?;
        while let Some((record, _)) = reader.next()? {
            if record.timestamp >= at {
                return Ok(Some(record.offset));
            }
        }
    }
    Ok(None)
}
