//! A TCP proxy that can cut connections at chosen moments.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Passes bytes between its port and `target` until told otherwise.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accept: AbortHandle,
}

#[derive(Default)]
struct State {
    /// While set, what the server answers to rows is thrown away and the client is cut off.
    swallow_answers: AtomicBool,
    /// What the answer has to end with for the cut; none: it may be cut anywhere.
    answer_end: Mutex<Option<u8>>,
    /// How long an answer to rows is kept back, in ms.
    delay: AtomicU64,
    /// Connections cut so far.
    cut: AtomicU64,
    /// Where connections are passed to; none: they are hung up.
    target: Mutex<Option<SocketAddr>>,
}

impl Proxy {
    /// Listens on a free port of the loopback device.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let proxy = Self::without_target().await;
        proxy.aim(target);
        proxy
    }

    /// Passes connections to `target` from now on.
    pub(crate) fn aim(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap() = Some(target);
    }

    /// For a server that has to know the proxy's address before it has one itself.
    #[expect(clippy::disallowed_methods, reason = "a helper of tests, ended by its own Drop")]
    pub(crate) async fn without_target() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let accept = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move {
                    let Some(target) = *shared.target.lock().unwrap() else { return };
                    if let Ok(server) = TcpStream::connect(target).await {
                        pass(client, server, &shared).await;
                    }
                });
            }
        })
        .abort_handle();
        Self { address, state, accept }
    }

    /// From now on the answer to rows does not reach the client: the connection ends instead, as soon as there is one.
    pub(crate) fn cut_at_answer(&self) {
        self.state.swallow_answers.store(true, Ordering::SeqCst);
    }

    /// The same with an engine, at the end of its answer: it reports progress before the rows are written, and gives up
    /// an insert whose client is gone.
    pub(crate) fn cut_after_insert(&self) {
        *self.state.answer_end.lock().unwrap() = Some(END_OF_STREAM);
        self.state.swallow_answers.store(true, Ordering::SeqCst);
    }

    /// From now on an answer to rows comes this much later.
    pub(crate) fn delay_answers_to_rows(&self, delay: Duration) {
        self.state.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Passes everything again, at once.
    pub(crate) fn heal(&self) {
        self.state.delay.store(0, Ordering::SeqCst);
        self.state.swallow_answers.store(false, Ordering::SeqCst);
    }

    /// How many connections were cut.
    pub(crate) fn cut(&self) -> u64 {
        self.state.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// The client's bytes go to the server at once. The server's come back, but while answers are swallowed and rows have
/// been sent (more than `ROWS` bytes in one go) none does, and the connection ends.
async fn pass(client: TcpStream, server: TcpStream, state: &State) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let sent_since = Arc::new(AtomicU64::new(0));
    let counted = sent_since.clone();
    let up = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match from_client.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    counted.fetch_add(length as u64, Ordering::SeqCst);
                    if to_server.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 1 << 16];
        let mut swallowing = false;
        loop {
            match from_server.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let rows_sent = sent_since.swap(0, Ordering::SeqCst) > ROWS;
                    swallowing |= rows_sent && state.swallow_answers.load(Ordering::SeqCst);
                    if swallowing {
                        let end = *state.answer_end.lock().unwrap();
                        if end.is_some_and(|end| buffer[length - 1] != end) {
                            continue;
                        }
                        state.cut.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if rows_sent {
                        let delay = state.delay.load(Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(delay)).await;
                    }
                    if to_client.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! { () = up => {}, () = down => {} }
    // Gently, whatever the client did: a connection that is reset ends the embedded engine.
    drop((from_client, to_client));
    to_server.shutdown().await.ok();
    let rest = async {
        let mut buffer = vec![0; 1 << 14];
        while matches!(from_server.read(&mut buffer).await, Ok(1..)) {}
    };
    tokio::time::timeout(Duration::from_secs(5), rest).await.ok();
}

/// The packet that closes an engine's answer; it has no body, so it is the last byte.
const END_OF_STREAM: u8 = 5;

/// More than a query's text and settings take, less than the rows of the tests.
const ROWS: u64 = 8192;

/// Waits for a condition, at most 30 s.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
