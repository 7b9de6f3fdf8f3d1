//! The codecs of record batches: all five are read, within a bound on what they inflate to; the producer writes one.

use std::io::{Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::compression::{Compressor, Decompressor, Lz4, Snappy};

/// How the producer writes its batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// As the batch's header has it.
    pub(super) fn codec(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// The quickest level of zstd that is not a negative one; batches are small and many.
const ZSTD_LEVEL: i32 = 1;
const LZ4_MAGIC: u32 = 0x184d_2204;
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Magic, version and compatible version of snappy-java's frames.
const XERIAL_HEADER_BYTES: usize = 16;

/// The records deflated; `None`: no codec, or it failed.
pub(super) fn deflate(compression: Compression, records: &[u8]) -> Option<Bytes> {
    let put = |buffer: &mut BytesMut| {
        buffer.extend_from_slice(records);
        Ok(())
    };
    let mut deflated = BytesMut::new();
    match compression {
        Compression::None => None,
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(records).ok()?;
            writer.finish().ok().map(Bytes::from)
        }
        Compression::Snappy => Snappy::compress(&mut deflated, put).ok().map(|()| deflated.freeze()),
        Compression::Lz4 => Lz4::compress(&mut deflated, put).ok().map(|()| deflated.freeze()),
        Compression::Zstd => zstd::bulk::compress(records, ZSTD_LEVEL).ok().map(Bytes::from),
    }
}

/// The records as they were; `None`: no codec that is known, damaged, or over `bytes_max`.
pub(super) fn inflate(codec: i16, records: &Bytes, bytes_max: usize) -> Option<Bytes> {
    let whole = |buffer: &mut Bytes| Ok(std::mem::take(buffer));
    match codec {
        0 => Some(records.clone()),
        1 => read_bounded(flate2::read::MultiGzDecoder::new(&records[..]), bytes_max),
        2 => {
            (snappy_bytes(records)? <= bytes_max as u64).then_some(())?;
            Snappy::decompress(&mut records.clone(), whole).ok()
        }
        3 => {
            (lz4_bytes_at_most(records)? <= bytes_max as u64).then_some(())?;
            Lz4::decompress(&mut records.clone(), whole).ok()
        }
        4 => read_bounded(zstd::stream::read::Decoder::new(&records[..]).ok()?, bytes_max),
        _ => None,
    }
}

fn read_bounded(reader: impl Read, bytes_max: usize) -> Option<Bytes> {
    let mut inflated = Vec::new();
    reader.take(bytes_max as u64 + 1).read_to_end(&mut inflated).ok()?;
    (inflated.len() <= bytes_max).then(|| Bytes::from(inflated))
}

/// What snappy's blocks say they inflate to.
fn snappy_bytes(deflated: &[u8]) -> Option<u64> {
    if !deflated.starts_with(XERIAL_MAGIC) {
        return snappy_block_bytes(deflated);
    }
    let mut rest = deflated.get(XERIAL_HEADER_BYTES..)?;
    let mut sum = 0u64;
    while !rest.is_empty() {
        let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        sum = sum.checked_add(snappy_block_bytes(rest.get(..length)?)?)?;
        rest = &rest[length..];
    }
    Some(sum)
}

/// A snappy block begins with the length of what it holds.
fn snappy_block_bytes(block: &[u8]) -> Option<u64> {
    let mut length = 0u64;
    for (at, byte) in block.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

/// What the blocks of LZ4 frames can inflate to at most: a full block each.
fn lz4_bytes_at_most(deflated: &[u8]) -> Option<u64> {
    const STORED: u32 = 1 << 31;
    let mut rest = deflated;
    let mut sum = 0u64;
    while !rest.is_empty() {
        (rest.try_get_u32_le().ok()? == LZ4_MAGIC).then_some(())?;
        let (flags, descriptor) = (rest.try_get_u8().ok()?, rest.try_get_u8().ok()?);
        let block_bytes_max = match (descriptor >> 4) & 0b111 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return None,
        };
        let (content_size, dictionary) = (flags & 0b1000 != 0, flags & 1 != 0);
        let (block_checksum, content_checksum) = (flags & 0b1_0000 != 0, flags & 0b100 != 0);
        // And the checksum of the header.
        rest = rest.get(1 + if content_size { 8 } else { 0 } + if dictionary { 4 } else { 0 }..)?;
        loop {
            let length = rest.try_get_u32_le().ok()?;
            if length == 0 {
                break;
            }
            sum = sum.checked_add(block_bytes_max)?;
            let length = usize::try_from(length & !STORED).ok()?;
            rest = rest.get(length + if block_checksum { 4 } else { 0 }..)?;
        }
        rest = rest.get(if content_checksum { 4 } else { 0 }..)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 4] =
        [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        let records = Bytes::from("so much of the same ".repeat(10_000));
        for compression in ALL {
            let deflated = deflate(compression, &records).unwrap();
            assert!(deflated.len() < records.len() / 4, "{compression:?}");
            assert_eq!(
                inflate(compression.codec(), &deflated, 1 << 20).as_ref(),
                Some(&records),
                "{compression:?}"
            );
        }
        assert_eq!(inflate(0, &records, 0), Some(records), "nothing is inflated without a codec");
    }

    #[test]
    fn what_inflates_beyond_the_bound_or_is_damaged_is_not_read() {
        let bomb = vec![0; 4 << 20];
        for compression in ALL {
            let deflated = deflate(compression, &bomb).unwrap();
            assert_eq!(inflate(compression.codec(), &deflated, 1 << 20), None, "{compression:?}");
            let cut = deflated.slice(..deflated.len() / 2);
            assert_eq!(inflate(compression.codec(), &cut, 64 << 20), None, "{compression:?}");
        }
        assert_eq!(inflate(7, &Bytes::from_static(b"?"), 1 << 20), None);
    }
}
