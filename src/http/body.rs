//! Reads a request's body within bounds, whatever its `Content-Encoding`.
//!
//! The bytes that come *out* of decompression are bounded while they come out: a zip bomb costs its limit and no more.
//! Decompression runs in steps of [`STEP_BYTES`] and lets other requests of the worker go between them.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpMessage, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::{ErrorCode, Problem};

/// The values of `Content-Encoding` that are read.
pub const ENCODINGS: [&str; 4] = ["identity", "gzip", "deflate", "zstd"];

/// Bytes decompressed before other requests get a turn: well under a millisecond.
const STEP_BYTES: usize = 64 * 1024;

/// Largest window a zstd frame may ask for, as a power of two: 8 MiB, what RFC 9659 sets for HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Bounds of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Most bytes as sent. Over it: 413.
    pub sent_max: usize,
    /// Most bytes after decompression. Over it: 413.
    pub inflated_max: usize,
    /// Longest wait for the whole body. Over it: 400.
    pub time_max: Duration,
}

/// The part of a refused body that nobody read. The connection is closed after the answer when one is left in the
/// request's extensions: the client gets the answer, the server does not read on.
pub(super) struct Unread(#[expect(dead_code, reason = "held, so that the server closes")] pub web::Payload);

/// What bodies being read may hold together.
pub trait Budget {
    /// Counts `bytes` more, as sent or as inflated, before they are kept.
    ///
    /// # Errors
    /// There is no room for them: the answer to give.
    fn grow(&mut self, bytes: usize) -> Result<(), Problem>;
}

/// No common bound: each body has its own limits.
impl Budget for () {
    fn grow(&mut self, _: usize) -> Result<(), Problem> {
        Ok(())
    }
}

/// Reads the whole body and undoes its `Content-Encoding`.
///
/// # Errors
/// 413 over a limit, 415 for an encoding that is not one of [`ENCODINGS`], 400 for a body that is cut off, corrupt or
/// too slow. After an error the rest of the body stays unread and the connection is closed.
pub async fn read(
    payload: web::Payload,
    request: &HttpRequest,
    limits: BodyLimits,
) -> Result<Bytes, Problem> {
    read_within(payload, request, limits, &mut ()).await
}

/// [`read`], within a budget that bodies share.
///
/// # Errors
/// As [`read`], and what the budget answers.
pub async fn read_within(
    mut payload: web::Payload,
    request: &HttpRequest,
    limits: BodyLimits,
    budget: &mut impl Budget,
) -> Result<Bytes, Problem> {
    let read = async {
        let encoding = Encoding::of(request.headers())?;
        let sent = match tokio::time::timeout(
            limits.time_max,
            receive(&mut payload, request.headers(), limits.sent_max, budget),
        )
        .await
        {
            Ok(received) => received?,
            Err(_) => {
                return Err(Problem::new(
                    ErrorCode::ValidationError,
                    format!("the body did not arrive within {:?}", limits.time_max),
                ));
            }
        };
        inflate(encoding, sent, limits.inflated_max, budget).await
    }
    .await;
    if read.is_err() {
        refuse(request, payload);
    }
    read
}

/// Leaves a body unread: after the answer the connection is closed instead of read to the end.
pub fn refuse(request: &HttpRequest, payload: web::Payload) {
    request.extensions_mut().insert(Unread(payload));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut given = headers.get_all(header::CONTENT_ENCODING);
        let Some(value) = given.next() else { return Ok(Self::Identity) };
        let text = value.to_str().unwrap_or("").trim();
        let known = match text {
            _ if given.next().is_some() => None,
            _ if text.is_empty() || text.eq_ignore_ascii_case("identity") => Some(Self::Identity),
            _ if text.eq_ignore_ascii_case("gzip") || text.eq_ignore_ascii_case("x-gzip") => Some(Self::Gzip),
            _ if text.eq_ignore_ascii_case("deflate") => Some(Self::Deflate),
            _ if text.eq_ignore_ascii_case("zstd") => Some(Self::Zstd),
            _ => None,
        };
        known.ok_or_else(|| {
            let given: Vec<String> = headers
                .get_all(header::CONTENT_ENCODING)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            Problem::new(
                ErrorCode::UnsupportedMediaType,
                format!("Content-Encoding must be one of {}, once", ENCODINGS.join(", ")),
            )
            .with("field", "Content-Encoding")
            .with("given", given.join(", "))
            .with("valid", ENCODINGS.as_slice())
        })
    }
}

fn too_large(what: &str, max: usize) -> Problem {
    Problem::new(
        ErrorCode::PayloadTooLarge,
        format!("the body is over {max} bytes {what}: send less at a time"),
    )
    .with("max", max)
}

async fn receive(
    payload: &mut web::Payload,
    headers: &HeaderMap,
    max: usize,
    budget: &mut impl Budget,
) -> Result<Bytes, Problem> {
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large("as sent", max));
    }
    let Some(first) = payload.next().await else { return Ok(Bytes::new()) };
    let first = first.map_err(|error| unreadable(&error))?;
    if first.len() > max {
        return Err(too_large("as sent", max));
    }
    budget.grow(first.len())?;
    // Most bodies come in one piece: no copy.
    let Some(second) = payload.next().await else { return Ok(first) };
    let expected = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(first.len() * 2);
    let mut body = BytesMut::with_capacity(expected.min(max));
    body.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        let chunk = chunk.map_err(|error| unreadable(&error))?;
        if chunk.len() > max - body.len() {
            return Err(too_large("as sent", max));
        }
        budget.grow(chunk.len())?;
        body.extend_from_slice(&chunk);
        next = payload.next().await;
    }
    Ok(body.freeze())
}

fn unreadable(error: &PayloadError) -> Problem {
    Problem::new(ErrorCode::ValidationError, format!("the body could not be read: {error}"))
}

async fn inflate(
    encoding: Encoding,
    sent: Bytes,
    max: usize,
    budget: &mut impl Budget,
) -> Result<Bytes, Problem> {
    let corrupt = |error: &io::Error| corrupt(encoding, error);
    match encoding {
        Encoding::Identity if sent.len() > max => Err(too_large("of JSON", max)),
        Encoding::Identity => Ok(sent),
        Encoding::Gzip => {
            drain(flate2::bufread::MultiGzDecoder::new(&*sent), sent.len(), max, budget, corrupt).await
        }
        // RFC 9110 means zlib; some clients send bare deflate under the same name.
        Encoding::Deflate if is_zlib(&sent) => {
            let mut decoder = flate2::bufread::ZlibDecoder::new(&*sent);
            let inflated = drain(&mut decoder, sent.len(), max, budget, corrupt).await?;
            nothing_left(decoder.get_ref(), corrupt)?;
            Ok(inflated)
        }
        Encoding::Deflate => {
            let mut decoder = flate2::bufread::DeflateDecoder::new(&*sent);
            let inflated = drain(&mut decoder, sent.len(), max, budget, corrupt).await?;
            nothing_left(decoder.get_ref(), corrupt)?;
            Ok(inflated)
        }
        Encoding::Zstd => {
            if sent.is_empty() {
                return Err(corrupt(&io::ErrorKind::UnexpectedEof.into()));
            }
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(&*sent).map_err(|error| corrupt(&error))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| corrupt(&error))?;
            drain(decoder, sent.len(), max, budget, corrupt).await
        }
    }
}

fn nothing_left(mut rest: &[u8], corrupt: impl Fn(&io::Error) -> Problem) -> Result<(), Problem> {
    match rest.fill_buf() {
        Ok([]) => Ok(()),
        _ => Err(corrupt(&io::Error::new(io::ErrorKind::InvalidData, "bytes follow the end of the stream"))),
    }
}

/// A zlib header: method 8 and a check that makes the first two bytes a multiple of 31.
fn is_zlib(sent: &[u8]) -> bool {
    matches!(sent, [method, flags, ..]
        if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31))
}

fn corrupt(encoding: Encoding, error: &io::Error) -> Problem {
    let name = match encoding {
        Encoding::Identity => ENCODINGS[0],
        Encoding::Gzip => ENCODINGS[1],
        Encoding::Deflate => ENCODINGS[2],
        Encoding::Zstd => ENCODINGS[3],
    };
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => "is cut off".to_owned(),
        _ => format!("is corrupt ({error})"),
    };
    Problem::new(ErrorCode::ValidationError, format!("the {name} body {what}")).with("content_encoding", name)
}

async fn drain(
    mut decoder: impl Read,
    sent: usize,
    max: usize,
    budget: &mut impl Budget,
    corrupt: impl Fn(&io::Error) -> Problem,
) -> Result<Bytes, Problem> {
    let mut out = Vec::with_capacity(sent.saturating_mul(4).clamp(1024, STEP_BYTES.max(sent)).min(max + 1));
    loop {
        let before = out.len();
        // One byte over the limit tells "exactly full" from "more to come".
        let step = STEP_BYTES.min(max + 1 - before);
        budget.grow(step)?;
        (&mut decoder).take(step as u64).read_to_end(&mut out).map_err(|error| corrupt(&error))?;
        if out.len() > max {
            return Err(too_large("after decompression", max));
        }
        if out.len() - before < step {
            return Ok(out.into());
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"{\"event\":\"click\",\"distinct_id\":\"u1\"}";

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn bare_deflate(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(data, 3).unwrap()
    }

    fn encoded(data: &[u8]) -> [(Encoding, Vec<u8>); 4] {
        [
            (Encoding::Gzip, gzip(data)),
            (Encoding::Deflate, zlib(data)),
            (Encoding::Deflate, bare_deflate(data)),
            (Encoding::Zstd, zstd(data)),
        ]
    }

    fn inflated(encoding: Encoding, sent: &[u8], max: usize) -> Result<Bytes, Problem> {
        futures::executor::block_on(inflate(encoding, Bytes::copy_from_slice(sent), max, &mut ()))
    }

    #[test]
    fn every_encoding_gives_back_what_was_sent() {
        for (encoding, sent) in encoded(TEXT) {
            assert_eq!(inflated(encoding, &sent, TEXT.len()).unwrap(), TEXT, "{encoding:?}");
        }
        let twice = [gzip(TEXT), gzip(TEXT)].concat();
        assert_eq!(inflated(Encoding::Gzip, &twice, 1000).unwrap(), [TEXT, TEXT].concat());
    }

    #[test]
    fn a_body_cut_off_anywhere_is_an_error_that_says_so() {
        for (encoding, sent) in encoded(TEXT) {
            for end in 0..sent.len() {
                let problem = inflated(encoding, &sent[..end], 1000).unwrap_err();
                assert_eq!(problem.code, ErrorCode::ValidationError);
                assert!(problem.message.ends_with("is cut off"), "{encoding:?} cut at {end}: {problem}");
            }
        }
    }

    #[test]
    fn bytes_after_the_end_of_a_stream_are_an_error() {
        for (encoding, mut sent) in encoded(TEXT) {
            sent.extend_from_slice(b"more");
            assert_eq!(inflated(encoding, &sent, 1000).unwrap_err().code, ErrorCode::ValidationError);
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit_and_not_inflated_beyond_it() {
        let bomb = vec![b' '; 64 << 20];
        for (encoding, sent) in encoded(&bomb) {
            assert!(sent.len() < 256 << 10, "{encoding:?} takes {} bytes", sent.len());
            let problem = inflated(encoding, &sent, 1 << 20).unwrap_err();
            assert_eq!(problem.code, ErrorCode::PayloadTooLarge);
            assert_eq!(problem.details["max"], 1 << 20);
        }
    }

    #[test]
    fn a_decoder_is_never_asked_for_more_than_the_limit_and_one_byte() {
        let given = std::cell::Cell::new(0_usize);
        struct Endless<'a>(&'a std::cell::Cell<usize>);
        impl Read for Endless<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(b' ');
                self.0.set(self.0.get() + buffer.len());
                Ok(buffer.len())
            }
        }
        let max = 3 * STEP_BYTES + 17;
        let outcome = futures::executor::block_on(drain(Endless(&given), 10, max, &mut (), |e| {
            corrupt(Encoding::Gzip, e)
        }));
        assert_eq!(outcome.unwrap_err().code, ErrorCode::PayloadTooLarge);
        assert_eq!(given.get(), max + 1);
    }

    #[test]
    fn a_zstd_frame_that_asks_for_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(TEXT).unwrap();
        let sent = encoder.finish().unwrap();
        assert_eq!(inflated(Encoding::Zstd, &sent, 1 << 20).unwrap_err().code, ErrorCode::ValidationError);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic_or_pass_the_limit(sent in proptest::collection::vec(any::<u8>(), 0..300)) {
            for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
                if let Ok(bytes) = inflated(encoding, &sent, 500) {
                    prop_assert!(bytes.len() <= 500);
                }
            }
        }

        #[test]
        fn a_flipped_byte_gives_an_error_or_some_other_text(at in 0_usize..40, flip in 1_u8..) {
            for (encoding, mut sent) in encoded(TEXT) {
                let at = at % sent.len();
                sent[at] ^= flip;
                if let Ok(bytes) = inflated(encoding, &sent, 500) {
                    prop_assert!(bytes.len() <= 500);
                }
            }
        }
    }
}
