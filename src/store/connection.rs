//! One connection to the store: klickhouse over a socket that we can see and shut.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use klickhouse::{Client, ClientOptions, IndexMap, KlickhouseError};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::runtime::Handle;

use super::engine::{Endpoint, Who};
use super::error::store_error;
use super::settings;
use super::{Sql, StoreError};

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a server may go on sending to a connection that we have left.
const PARTING_MAX: Duration = Duration::from_secs(60);
/// Of the first answer, as much as is kept to read an exception from.
const GREETING_BYTES_MAX: usize = 8192;

/// A connection; ended when it is dropped, so that the server stops working for nobody.
pub(super) struct Connection {
    pub client: Client,
    pub generation: u64,
    /// As whom it is logged in.
    pub who: Who,
    seen: Arc<Seen>,
    _parting: Parting,
}

/// The connection's socket once more, to end it whatever klickhouse is doing.
struct Parting {
    socket: std::net::TcpStream,
    runtime: Handle,
}

/// What the reading half has seen.
#[derive(Debug, Default)]
struct Seen {
    /// The peer has closed, reading failed, or klickhouse has given up reading. Set before any stream of an answer
    /// ends because of it: klickhouse's connection drops its reader before the senders of its answers.
    over: AtomicBool,
    /// The beginning of the first answer; `None` once nobody needs it.
    greeting: Mutex<Option<Vec<u8>>>,
}

impl Connection {
    /// Connects and logs in; as the owner, where there is no reader.
    pub(super) async fn open(endpoint: &Endpoint, who: Who, database: &str) -> Result<Self, StoreError> {
        match tokio::time::timeout(CONNECT_MAX, Self::log_in(endpoint, who, database)).await {
            Ok(connected) => connected,
            Err(_) => Err(StoreError::Unavailable(format!(
                "{} did not answer within {CONNECT_MAX:?}",
                endpoint.address
            ))),
        }
    }

    async fn log_in(endpoint: &Endpoint, who: Who, database: &str) -> Result<Self, StoreError> {
        let (who, login) = endpoint.login(who);
        let refused = |error: io::Error| StoreError::Unavailable(format!("{}: {error}", endpoint.address));
        let stream = TcpStream::connect(&endpoint.address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let stream = stream.into_std().map_err(refused)?;
        let socket = stream.try_clone().map_err(refused)?;
        let parting = Parting { socket, runtime: Handle::current() };
        let (read, write) = TcpStream::from_std(stream).map_err(refused)?.into_split();
        let seen = Arc::new(Seen { over: AtomicBool::new(false), greeting: Mutex::new(Some(Vec::new())) });
        let options = ClientOptions {
            username: login.user.clone(),
            password: login.password.expose_secret().to_owned(),
            // Not here: the embedded engine dies of a greeting that names a database which does not exist (seen).
            default_database: String::new(),
            tcp_nodelay: true,
            settings: settings::QUERY
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let reader = Reader { inner: read, seen: seen.clone() };
        let connected = Client::connect_stream(reader, write, options).await;
        let greeting = seen.greeting.lock().unwrap_or_else(PoisonError::into_inner).take();
        match connected {
            Ok(client) => {
                let generation = endpoint.generation;
                let connection = Self { client, generation, who, seen, _parting: parting };
                if !database.is_empty() {
                    connection.run(&Sql::new("USE ").name(database)).await?;
                }
                Ok(connection)
            }
            // klickhouse logs why the server refused and answers only that it did.
            Err(error) => Err(greeting
                .and_then(|bytes| exception(&bytes))
                .map_or_else(|| store_error(&error), |refusal| store_error(&refusal))),
        }
    }

    /// False once the peer has closed or reading has failed: whatever answer ended before this was asked may have
    /// been cut short.
    pub(super) fn is_open(&self) -> bool {
        !self.seen.over.load(Ordering::Acquire) && !self.client.is_closed()
    }

    /// Runs a statement and throws its rows away.
    pub(super) async fn run(&self, sql: &Sql) -> Result<(), StoreError> {
        let mut answer =
            self.client.query_raw(sql.text(), None).await.map_err(|error| store_error(&error))?;
        while let Some(block) = answer.next().await {
            block.map_err(|error| store_error(&error))?;
        }
        if self.is_open() {
            return Ok(());
        }
        Err(StoreError::Unavailable("the connection was lost before the answer".to_owned()))
    }

    /// Settings of one query.
    pub(super) fn settings(
        pairs: impl IntoIterator<Item = (&'static str, String)>,
    ) -> IndexMap<String, String> {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Drop for Parting {
    /// Says that we have nothing more to say (the server then stops what it does for us) and reads what is still under
    /// way. Closing at once would reset the connection, and the embedded engine dies of a reset (seen:
    /// `std::terminate` in its connection thread).
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        if let Ok(socket) = self.socket.try_clone() {
            self.runtime.spawn(async move {
                let Ok(mut socket) = TcpStream::from_std(socket) else { return };
                let mut nowhere = tokio::io::sink();
                let rest = tokio::io::copy(&mut socket, &mut nowhere);
                let _ = tokio::time::timeout(PARTING_MAX, rest).await;
            });
        }
    }
}

struct Reader {
    inner: OwnedReadHalf,
    seen: Arc<Seen>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled().get(before..).unwrap_or_default();
        match &polled {
            Poll::Ready(Ok(())) if read.is_empty() && room > 0 => {
                self.seen.over.store(true, Ordering::Release);
            }
            Poll::Ready(Err(_)) => self.seen.over.store(true, Ordering::Release),
            Poll::Ready(Ok(())) => {
                let mut greeting = self.seen.greeting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bytes) = greeting.as_mut().filter(|bytes| bytes.len() < GREETING_BYTES_MAX) {
                    bytes.extend_from_slice(read);
                }
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Release);
    }
}

/// Reads the exception with which a server refuses a log-in.
fn exception(bytes: &[u8]) -> Option<KlickhouseError> {
    // ServerPacketId: Exception.
    let rest = bytes.strip_prefix(&[2])?;
    let (code, rest) = rest.split_first_chunk::<4>()?;
    let (name, rest) = text(rest)?;
    let (message, _) = text(rest)?;
    Some(KlickhouseError::ServerException {
        code: i32::from_le_bytes(*code),
        name,
        message,
        stack_trace: String::new(),
    })
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (mut length, mut shift, mut rest) = (0usize, 0u32, bytes);
    loop {
        let (byte, after) = rest.split_first()?;
        length |= usize::from(byte & 0x7f).checked_shl(shift)?;
        rest = after;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    let (text, rest) = rest.split_at_checked(length)?;
    Some((String::from_utf8_lossy(text).into_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_from_the_first_answer() {
        let mut bytes = vec![2];
        bytes.extend_from_slice(&516_i32.to_le_bytes());
        bytes.extend_from_slice(b"\x0dDB::Exception\x04nope\x00\x00");
        let error = exception(&bytes).unwrap();
        assert!(
            matches!(&error, KlickhouseError::ServerException { code: 516, message, .. } if message == "nope")
        );
        for cut in 0..bytes.len() - 2 {
            assert!(exception(&bytes[..cut]).is_none(), "{cut}");
        }
        assert!(exception(b"\0hello").is_none());
    }
}
