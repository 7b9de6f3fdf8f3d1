//! Raw events: payloads that a transform makes events of. What names and dates one is fixed here, by [`Payloads`].

use bytes::Bytes;

use super::batch::{Drafted, Rejection, RejectionCode, Sealed};
use super::envelope::Envelope;
use super::parse::{NotABatch, skip_whitespace};
use super::scan::element_end;
use super::{Capture, InFlight, Receipt, Refusal, STEP_BYTES, Unread};
use crate::auth::Access;
use crate::event::Timestamp;
use crate::eventlog::NewRecord;
use crate::transform::Payloads;

/// Raw events of one request.
const RAW_EVENTS_MAX: usize = 1000;
/// The surface's name in the headers of its records.
const PRODUCER: &str = "raw";
/// The key of the array in a body that is an object; the first is the one that answers use.
const ENVELOPES: [&str; 4] = ["data", "events", "raw_events", "batch"];

impl Capture {
    /// Takes the payloads of a body: each becomes one record of topic `topics.raw_events`. As [`Capture::produce`].
    ///
    /// # Errors
    /// At least one record is not known to be durable: none counts as accepted.
    pub(super) async fn produce_raw(
        &self,
        sealed: Sealed,
        in_flight: InFlight<'_>,
    ) -> Result<Receipt, Refusal> {
        self.deliver(&self.0.raw_topic, sealed, in_flight).await
    }

    /// Reads a body's payloads, in steps between which other requests of the thread get their turn.
    ///
    /// # Errors
    /// The body as a whole will not do.
    pub(super) async fn read_raw(
        &self,
        body: &[u8],
        access: &Access,
        received_at: Timestamp,
    ) -> Result<Sealed, Unread> {
        let mut taken =
            Taken { capture: self, access, received_at, sealed: Vec::new(), rejected: Vec::new(), seen: 0 };
        let (mut at, around) = begin(body)?;
        let mut turn_over = STEP_BYTES;
        loop {
            at = skip_whitespace(body, at);
            if body.get(at) == Some(&b']') && taken.seen == 0 {
                break;
            }
            let end = element_end(body, at)
                .ok_or(NotABatch::Syntax { at: body.len(), expected: "the array has no end" })?;
            if taken.seen == RAW_EVENTS_MAX {
                return Err(Unread::TooMany { events_max: RAW_EVENTS_MAX, of_surface: true });
            }
            taken.push(&body[at..end]);
            at = end;
            match body.get(at) {
                Some(b',') => at += 1,
                Some(b']') => break,
                _ => return Err(NotABatch::Syntax { at, expected: "expected , or ]" }.into()),
            }
            if at >= turn_over {
                turn_over = at + STEP_BYTES;
                tokio::task::yield_now().await;
            }
        }
        at += 1;
        let mut named = None;
        if let Some(mut envelope) = around {
            at = envelope.close(body, at)?;
            named = envelope.environment();
        }
        let at = skip_whitespace(body, at);
        if at < body.len() {
            return Err(NotABatch::Syntax { at, expected: "expected nothing more" }.into());
        }
        if let Some(named) = named {
            access.check_environment(&named)?;
        }
        if taken.seen == 0 { Err(Unread::Empty) } else { Ok(taken.seal()) }
    }
}

/// Where the first element of the body's array stands, and the object that has the array.
fn begin(body: &[u8]) -> Result<(usize, Option<Envelope<'_>>), NotABatch> {
    let begin = skip_whitespace(body, 0);
    match body.get(begin) {
        Some(b'[') => Ok((begin + 1, None)),
        Some(b'{') => {
            for envelope in ENVELOPES {
                if let Some((around, at)) = Envelope::open(body, begin, envelope)? {
                    return Ok((at, Some(around)));
                }
            }
            Err(NotABatch::NotMany(ENVELOPES[0]))
        }
        _ => Err(NotABatch::NotEvents { at: begin }),
    }
}

/// The payloads of one request on their way to the log.
struct Taken<'c> {
    capture: &'c Capture,
    access: &'c Access,
    received_at: Timestamp,
    sealed: Vec<(Drafted, NewRecord)>,
    rejected: Vec<Rejection>,
    seen: usize,
}

impl Taken<'_> {
    fn push(&mut self, bytes: &[u8]) {
        let index = self.seen;
        self.seen += 1;
        match self.record(index, bytes) {
            Ok(taken) => self.sealed.push(taken),
            Err(message) => {
                self.rejected.push(Rejection {
                    index,
                    code: RejectionCode::ValidationError,
                    message,
                    field: None,
                });
            }
        }
    }

    fn record(&self, index: usize, bytes: &[u8]) -> Result<(Drafted, NewRecord), String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("not UTF-8 at its byte {}", error.valid_up_to()))?
            .trim_end();
        let payloads =
            Payloads { scope: &self.access.scope, received_at: self.received_at, producer: PRODUCER };
        let make_id = || self.capture.0.ids.uuid_v7(self.received_at).hyphenated().to_string();
        let (id, record) = payloads.record(text, make_id).map_err(|error| error.to_string())?;
        let quoted = serde_json::Value::from(id).to_string();
        let id = Bytes::copy_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        Ok((Drafted { index, id }, record))
    }

    fn seal(self) -> Sealed {
        let bytes = self.sealed.iter().map(|(_, record)| record.bytes()).sum();
        let (drafted, records) = self.sealed.into_iter().unzip();
        Sealed {
            records,
            drafted,
            rejected: self.rejected,
            flagged: Vec::new(),
            clamped: 0,
            mismatch: None,
            bytes,
        }
    }
}
