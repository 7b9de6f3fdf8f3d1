//! A small HTTP/1.1 load generator: keep-alive connections, prepared requests, latencies. It shares the two cores with
//! what it measures, so it does as little as it can.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What one run saw.
pub struct Outcome {
    pub requests: u64,
    pub refused: u64,
    pub seconds: f64,
    latencies_us: Vec<u32>,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// In milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        if self.latencies_us.is_empty() {
            return 0.0;
        }
        let at = ((self.latencies_us.len() - 1) as f64 * share).round() as usize;
        f64::from(self.latencies_us[at]) / 1000.0
    }
}

/// How to press.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: usize,
    pub seconds: u64,
    /// Requests a second over all connections; none: as fast as they go.
    pub rate: Option<f64>,
}

/// Makes the next request's body.
pub type Body = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// Posts bodies to `path` and counts answers by `expected` status.
pub async fn post(address: SocketAddr, path: &str, key: &str, body: Body, load: Load) -> Outcome {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let until = started + Duration::from_secs(load.seconds);
    let connections: Vec<_> = (0..load.connections)
        .map(|connection| {
            let (next, body) = (next.clone(), body.clone());
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: "
            );
            let pace = load.rate.map(|rate| Duration::from_secs_f64(load.connections as f64 / rate));
            let phase = pace.map(|pace| pace.mul_f64(connection as f64 / load.connections as f64));
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("connect");
                stream.set_nodelay(true).expect("nodelay");
                let (mut latencies, mut refused) = (Vec::new(), 0u64);
                let mut due = started + phase.unwrap_or_default();
                let mut buffer = vec![0u8; 64 * 1024];
                loop {
                    if let Some(pace) = pace {
                        tokio::time::sleep_until(due.into()).await;
                        due += pace;
                    }
                    let sent = Instant::now();
                    if sent >= until {
                        break;
                    }
                    let body = body(next.fetch_add(1, Ordering::Relaxed));
                    let mut request = Vec::with_capacity(head.len() + body.len() + 16);
                    request.extend_from_slice(head.as_bytes());
                    request.extend_from_slice(format!("{}\r\n\r\n", body.len()).as_bytes());
                    request.extend_from_slice(&body);
                    stream.write_all(&request).await.expect("write");
                    if read_answer(&mut stream, &mut buffer).await != 202 {
                        refused += 1;
                    }
                    latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                (latencies, refused)
            })
        })
        .collect();
    let (mut latencies_us, mut refused) = (Vec::new(), 0);
    for connection in connections {
        let (some, no) = connection.await.expect("a connection's task");
        latencies_us.extend(some);
        refused += no;
    }
    let seconds = started.elapsed().as_secs_f64();
    latencies_us.sort_unstable();
    Outcome { requests: latencies_us.len() as u64, refused, seconds, latencies_us }
}

/// Reads one answer with `Content-Length` and says its status.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> u16 {
    let mut have = 0;
    loop {
        let got = stream.read(&mut buffer[have..]).await.expect("read");
        assert!(got > 0, "the server closed the connection");
        have += got;
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = answer.parse(&buffer[..have]).expect("an HTTP answer") else {
            continue;
        };
        let status = answer.code.expect("a status");
        let length: usize = answer
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"))
            .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
            .expect("a content-length");
        assert!(head + length <= buffer.len(), "an answer larger than the buffer");
        while have < head + length {
            have += stream.read(&mut buffer[have..]).await.expect("read");
        }
        return status;
    }
}
