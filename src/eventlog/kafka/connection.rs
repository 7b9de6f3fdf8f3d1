//! One connection to one broker: any number of requests under way, answered in their order, each with a deadline.
//!
//! A task writes the queued frames, one write a frame, and a task reads the answers; Kafka answers a connection's requests
//! strictly in order, so a queue of waiters is all the bookkeeping. A call that reaches its deadline closes the
//! connection: nobody can know any more what the broker did with what was on the way. A caller that goes away leaves the
//! connection usable: its answer is read and dropped.
//!
//! Opened by [`Dialer::open`](super::dialer::Dialer::open).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::api::Request;
use super::error::CallError;
use crate::lifecycle::Tasks;

/// Frames queued for the writer; a connection has a handful of requests under way.
const QUEUE_FRAMES_MAX: usize = 64;
/// Largest answer that is read. A fetch asks for far less; only one record batch may come on top.
const FRAME_BYTES_MAX: usize = 128 << 20;

/// A connection. Clones are handles of the same one; it closes when the last is dropped.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    address: Arc<str>,
    client_id: StrBytes,
    frames: mpsc::Sender<Bytes>,
    state: Arc<Mutex<State>>,
    last_correlation: AtomicI32,
    /// By API key, the lowest and the highest version that the broker speaks.
    versions: OnceLock<HashMap<i16, (i16, i16)>>,
    /// When the broker will end it because the login expires.
    expires: OnceLock<Instant>,
    tasks: [AbortHandle; 2],
}

struct State {
    waiters: VecDeque<Waiter>,
    /// Why it is closed.
    closed: Option<String>,
}

struct Waiter {
    correlation: i32,
    answer: oneshot::Sender<Bytes>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes every waiter with an error; the first reason stays.
fn close(state: &Mutex<State>, reason: &str) {
    let mut state = lock(state);
    state.closed.get_or_insert_with(|| reason.to_owned());
    state.waiters.clear();
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Connection {
    /// Over streams that are set up; nothing is negotiated yet.
    pub(super) fn start(
        address: Arc<str>,
        client_id: StrBytes,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        tasks: &Tasks,
    ) -> Self {
        let state = Arc::new(Mutex::new(State { waiters: VecDeque::new(), closed: None }));
        let (frames, queued) = mpsc::channel(QUEUE_FRAMES_MAX);
        let writing = tasks.spawn_bounded(write_frames(writer, queued, state.clone())).abort_handle();
        let reading = tasks.spawn_bounded(read_frames(reader, state.clone())).abort_handle();
        Self(Arc::new(Inner {
            address,
            client_id,
            frames,
            state,
            last_correlation: AtomicI32::new(0),
            versions: OnceLock::new(),
            expires: OnceLock::new(),
            tasks: [writing, reading],
        }))
    }

    /// What the broker said it speaks.
    pub(super) fn set_versions(&self, versions: HashMap<i16, (i16, i16)>) {
        // Said once, while the connection is opened.
        let _ = self.0.versions.set(versions);
    }

    /// The broker ends the connection after this long; it counts as closed a little earlier.
    pub(super) fn set_lifetime(&self, lifetime: Duration) {
        // Said once, while the connection is opened.
        let _ = self.0.expires.set(Instant::now() + lifetime.mul_f64(0.8));
    }

    /// `host:port` of the broker.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.0.address
    }

    /// May new requests be sent on it?
    pub(super) fn is_open(&self) -> bool {
        let expired = self.0.expires.get().is_some_and(|at| *at <= Instant::now());
        !expired && lock(&self.0.state).closed.is_none()
    }

    /// Requests whose answers have not come yet, those of callers that went away included.
    pub(super) fn under_way(&self) -> usize {
        lock(&self.0.state).waiters.len()
    }

    /// Ends it: every call under way fails with [`CallError::Lost`].
    pub(super) fn close(&self, reason: &str) {
        close(&self.0.state, reason);
        self.0.tasks.iter().for_each(AbortHandle::abort);
    }

    /// The highest version of a call that both sides know and that is not above `at_most`.
    ///
    /// # Errors
    /// There is none: the broker is too old or too new.
    pub(super) fn version<R: Request>(&self, at_most: i16) -> Result<i16, CallError> {
        let theirs = self.0.versions.get().and_then(|versions| versions.get(&R::KEY)).copied();
        let Some((lowest, highest)) = theirs else {
            return Err(self.protocol(format!("it does not know the call {}", R::NAME)));
        };
        let version = highest.min(R::VERSIONS.max).min(at_most);
        if version < lowest.max(R::VERSIONS.min) {
            return Err(self.protocol(format!(
                "it speaks {} in versions {lowest} to {highest}, FlexFlow in {} to {}: brokers from 2.8 on will do",
                R::NAME,
                R::VERSIONS.min,
                R::VERSIONS.max.min(at_most),
            )));
        }
        Ok(version)
    }

    /// Makes a call in the highest version that both sides know.
    ///
    /// # Errors
    /// No answer within `deadline` (the connection is closed then), a lost connection, or an answer that is none.
    pub(super) async fn call<R: Request>(
        &self,
        request: &R,
        deadline: Duration,
    ) -> Result<R::Response, CallError> {
        let version = self.version::<R>(i16::MAX)?;
        self.call_version(request, version, deadline).await
    }

    /// Makes a call in this version. The request is queued before this returns for the first time: the order of calls is
    /// the order on the wire.
    ///
    /// # Errors
    /// See [`Connection::call`].
    pub(super) fn call_version<R: Request>(
        &self,
        request: &R,
        version: i16,
        deadline: Duration,
    ) -> impl Future<Output = Result<R::Response, CallError>> + Send + use<R> {
        let queued = self.queue(request, version);
        let connection = self.clone();
        async move {
            let mut answer = match tokio::time::timeout(deadline, queued?).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_closed)) => {
                    let reason = lock(&connection.0.state).closed.clone();
                    return Err(
                        connection.lost::<R>(reason.unwrap_or_else(|| "the connection closed".to_owned()))
                    );
                }
                Err(_) => {
                    let reason = format!("no answer within {deadline:?}");
                    connection.close(&reason);
                    return Err(connection.lost::<R>(reason));
                }
            };
            decode::<R>(&mut answer, version).map_err(|reason| {
                connection.close(&reason);
                connection.lost::<R>(reason)
            })
        }
    }

    fn queue<R: Request>(&self, request: &R, version: i16) -> Result<oneshot::Receiver<Bytes>, CallError> {
        let correlation = self.0.last_correlation.fetch_add(1, Ordering::Relaxed);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(self.0.client_id.clone()));
        let frame = encode(&header, R::header_version(version), request, version)
            .map_err(|reason| self.protocol(format!("cannot write {} v{version}: {reason}", R::NAME)))?;
        let (answer, answered) = oneshot::channel();
        let mut state = lock(&self.0.state);
        if let Some(reason) = &state.closed {
            return Err(CallError::Unreachable { address: self.0.address.clone(), reason: reason.clone() });
        }
        // Under the lock, so that the waiters stand in the order of the frames.
        if self.0.frames.try_send(frame).is_err() {
            let reason = format!("{QUEUE_FRAMES_MAX} requests wait to be sent");
            return Err(CallError::Unreachable { address: self.0.address.clone(), reason });
        }
        state.waiters.push_back(Waiter { correlation, answer });
        Ok(answered)
    }

    fn lost<R: Request>(&self, reason: String) -> CallError {
        CallError::Lost { address: self.0.address.clone(), request: R::NAME, reason }
    }

    fn protocol(&self, reason: String) -> CallError {
        CallError::Protocol { address: self.0.address.clone(), reason }
    }
}

fn encode<R: Request>(
    header: &RequestHeader,
    header_version: i16,
    request: &R,
    version: i16,
) -> Result<Bytes, String> {
    let write = || -> Result<BytesMut, Box<dyn std::error::Error + Send + Sync>> {
        let bytes = header.compute_size(header_version)? + request.compute_size(version)?;
        let mut frame = BytesMut::with_capacity(4 + bytes);
        frame.put_i32(i32::try_from(bytes)?);
        header.encode(&mut frame, header_version)?;
        request.encode(&mut frame, version)?;
        Ok(frame)
    };
    write().map(BytesMut::freeze).map_err(|error| error.to_string())
}

fn decode<R: Request>(answer: &mut Bytes, version: i16) -> Result<R::Response, String> {
    let unreadable =
        |error: &dyn std::fmt::Display| format!("its answer to {} is unreadable: {error}", R::NAME);
    let header_version = <R::Response as HeaderVersion>::header_version(version);
    ResponseHeader::decode(answer, header_version).map_err(|error| unreadable(&error))?;
    let response = R::Response::decode(answer, version).map_err(|error| unreadable(&error))?;
    if answer.has_remaining() {
        return Err(unreadable(&format!("{} bytes are left over", answer.remaining())));
    }
    Ok(response)
}

async fn write_frames(
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Bytes>,
    state: Arc<Mutex<State>>,
) {
    while let Some(frame) = frames.recv().await {
        let written = async {
            writer.write_all(&frame).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            return close(&state, &format!("writing failed: {error}"));
        }
    }
}

async fn read_frames(mut reader: impl AsyncRead + Unpin, state: Arc<Mutex<State>>) {
    let reason = loop {
        let frame = match read_frame(&mut reader).await {
            Ok(frame) => frame,
            Err(reason) => break reason,
        };
        let correlation = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let Some(waiter) = lock(&state).waiters.pop_front() else {
            break "it answered what nobody asked".to_owned();
        };
        if waiter.correlation != correlation {
            break format!("it answered request {correlation} instead of {}", waiter.correlation);
        }
        // The caller may have gone away: nobody wants the answer then.
        let _ = waiter.answer.send(frame);
    };
    close(&state, &reason);
}

/// A whole frame, without its length: at least the four bytes of its correlation id.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, String> {
    let mut length = [0; 4];
    reader.read_exact(&mut length).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => format!("reading failed: {error}"),
    })?;
    // A TLS alert or handshake record: content type, then version 3.x.
    if matches!(length, [0x15 | 0x16, 0x03, _, _]) {
        return Err("it speaks TLS on this port: set eventlog.kafka.tls = true".to_owned());
    }
    let bytes = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    if !(4..=FRAME_BYTES_MAX).contains(&bytes) {
        return Err(format!("it is no Kafka broker, or sends frames over {FRAME_BYTES_MAX} bytes"));
    }
    let mut frame = BytesMut::with_capacity(bytes);
    let mut limited = reader.take(bytes as u64);
    while frame.len() < bytes {
        match limited.read_buf(&mut frame).await {
            Ok(0) => return Err("it closed the connection inside an answer".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("reading failed: {error}")),
        }
    }
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{HeartbeatRequest, MetadataRequest};
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::lifecycle::Stop;

    const LONG: Duration = Duration::from_secs(20);

    fn pair() -> (Connection, DuplexStream) {
        let (ours, theirs) = duplex(1 << 16);
        let (reader, writer) = tokio::io::split(ours);
        let tasks = Tasks::new(Stop::default());
        let connection = Connection::start("broker:9092".into(), "test".into(), reader, writer, &tasks);
        connection
            .set_versions(HashMap::from([(HeartbeatRequest::KEY, (0, 4)), (MetadataRequest::KEY, (20, 30))]));
        (connection, theirs)
    }

    /// Reads one request and says its correlation id.
    async fn request(broker: &mut DuplexStream) -> i32 {
        let bytes = broker.read_i32().await.unwrap();
        let mut frame = vec![0; usize::try_from(bytes).unwrap()];
        broker.read_exact(&mut frame).await.unwrap();
        i32::from_be_bytes(frame[4..8].try_into().unwrap())
    }

    /// Answers a heartbeat v0: throttle is absent there, so that only the code follows.
    async fn answer(broker: &mut DuplexStream, correlation: i32, code: i16) {
        broker.write_i32(6).await.unwrap();
        broker.write_i32(correlation).await.unwrap();
        broker.write_i16(code).await.unwrap();
    }

    #[tokio::test]
    async fn answers_go_to_their_callers_in_order_and_a_caller_may_go_away() {
        let (connection, mut broker) = pair();
        let beat = HeartbeatRequest::default();
        let first = connection.call_version(&beat, 0, LONG);
        let second = connection.call_version(&beat, 0, LONG);
        let third = connection.call_version(&beat, 0, LONG);
        drop(second);
        for code in [1, 2, 3] {
            let correlation = request(&mut broker).await;
            answer(&mut broker, correlation, code).await;
        }
        assert_eq!(first.await.unwrap().error_code, 1);
        assert_eq!(third.await.unwrap().error_code, 3);
        assert!(connection.is_open() && connection.under_way() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_reaches_its_deadline_closes_the_connection_for_all() {
        let (connection, _broker) = pair();
        let beat = HeartbeatRequest::default();
        let patient = connection.call_version(&beat, 0, LONG);
        let hasty = connection.call_version(&beat, 0, Duration::from_secs(1));
        assert!(matches!(hasty.await, Err(CallError::Lost { .. })));
        let lost = patient.await.unwrap_err().to_string();
        assert_eq!(lost, "Kafka broker broker:9092 did not answer Heartbeat: no answer within 1s");
        assert!(!connection.is_open());
        let late = connection.call_version(&beat, 0, LONG).await;
        assert!(matches!(late, Err(CallError::Unreachable { .. })), "nothing was sent");
    }

    #[tokio::test]
    async fn an_answer_out_of_order_or_absurd_closes_the_connection() {
        let beat = HeartbeatRequest::default();
        let (connection, mut broker) = pair();
        let call = connection.call_version(&beat, 0, LONG);
        let correlation = request(&mut broker).await;
        answer(&mut broker, correlation + 7, 0).await;
        assert!(call.await.unwrap_err().to_string().contains("instead of"));
        let (connection, mut broker) = pair();
        let call = connection.call_version(&beat, 0, LONG);
        broker.write_i32(i32::MAX).await.unwrap();
        assert!(call.await.unwrap_err().to_string().contains("no Kafka broker"));
        let (connection, mut broker) = pair();
        let call = connection.call_version(&beat, 0, LONG);
        broker.write_all(&[0x15, 0x03, 0x03, 0x00, 0x02]).await.unwrap();
        assert!(call.await.unwrap_err().to_string().contains("set eventlog.kafka.tls = true"));
    }

    #[tokio::test]
    async fn a_version_that_both_know_is_chosen_or_the_broker_is_named() {
        let (connection, _broker) = pair();
        assert_eq!(connection.version::<HeartbeatRequest>(i16::MAX).unwrap(), 4);
        assert_eq!(connection.version::<HeartbeatRequest>(2).unwrap(), 2);
        let error = connection.version::<MetadataRequest>(i16::MAX).unwrap_err().to_string();
        assert!(error.contains("versions 20 to 30"), "{error}");
    }
}
