//! A listener on a real socket against clients that send too much, too slowly, or not at all.

use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::web::{Data, Payload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::Config;
use crate::event::{RandomIds, SystemClock};
use crate::http::body;

async fn read(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let bytes = body::read(payload, &request, **limits).await?;
    Ok(HttpResponse::Ok().body(bytes.len().to_string()))
}

struct Listener {
    address: SocketAddr,
    stop: Stop,
    serving: tokio::task::JoinHandle<io::Result<()>>,
}

#[expect(clippy::disallowed_methods, reason = "a test has no supervised tasks")]
fn listener(overrides: &[(&str, &str)]) -> Listener {
    let mut all = vec![("server.workers", "1"), ("server.body_bytes_max", "1MiB")];
    all.extend_from_slice(overrides);
    let config = Config::from_overrides(&all).unwrap();
    let stop = Stop::default();
    let any = "127.0.0.1:0".parse().unwrap();
    let (address, serving) =
        serve(any, &config.server, &stop, Arc::new(SystemClock), Arc::new(RandomIds), |routes| {
            routes.route("/read", web::post().to(read));
        })
        .unwrap();
    Listener { address, stop, serving: tokio::spawn(serving) }
}

impl Listener {
    async fn connect(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn stopped(self) {
        self.stop.soft();
        tokio::time::timeout(Duration::from_secs(10), self.serving).await.unwrap().unwrap().unwrap();
    }
}

/// All that the server sends until it closes the connection.
async fn until_closed(stream: &mut TcpStream, limit: Duration) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => text.extend_from_slice(&buffer[..length]),
            }
        }
    };
    tokio::time::timeout(limit, reading).await.expect("the server closes the connection");
    String::from_utf8(text).unwrap()
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_announced_is_refused_before_it_is_sent() {
    let listener = listener(&[]);
    let mut stream =
        listener.connect("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n").await;
    let answer = until_closed(&mut stream, Duration::from_secs(20)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\"code\":\"payload_too_large\""), "{answer}");
    listener.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_chunked_body_is_refused_early_and_costs_no_memory() {
    let listener = listener(&[]);
    let mut stream =
        listener.connect("POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let before = resident_bytes();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend_from_slice(&[b' '; 0x10000]);
    chunk.extend_from_slice(b"\r\n");
    // The server answers, throws away what still comes for a moment, and closes while the client still sends.
    let begun = Instant::now();
    let sending = async { while stream.write_all(&chunk).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(30), sending).await.expect("the server closes the connection");
    assert!(begun.elapsed() < LINGER * 5, "read on for {:?}", begun.elapsed());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more are resident");
    let mut stream =
        listener.connect("POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..17 {
        stream.write_all(&chunk).await.unwrap();
    }
    let answer = until_closed(&mut stream, Duration::from_secs(20)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    listener.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let listener = listener(&[("server.body_timeout", "300ms")]);
    let begun = Instant::now();
    let mut stream =
        listener.connect("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow").await;
    let answer = until_closed(&mut stream, Duration::from_secs(20)).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("did not arrive within 300ms"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    listener.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_comes_too_slowly_is_given_up() {
    let listener = listener(&[("server.head_timeout", "300ms")]);
    let mut stream = listener.connect("POST /read HTTP/1.1\r\nHos").await;
    let answer = until_closed(&mut stream, Duration::from_secs(20)).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    listener.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_refusal_that_was_read_whole_the_connection_goes_on() {
    let listener = listener(&[]);
    let mut stream = listener
        .connect("POST /read HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk")
        .await;
    stream
        .write_all(b"POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
        .await
        .unwrap();
    let answers = until_closed(&mut stream, Duration::from_secs(20)).await;
    assert!(answers.starts_with("HTTP/1.1 400 "), "{answers}");
    assert!(answers.contains("HTTP/1.1 200 ") && answers.ends_with("\r\n\r\n5"), "{answers}");
    listener.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_stop_finishes_what_is_in_hand() {
    let listener = listener(&[]);
    let mut stream =
        listener.connect("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello").await;
    // Wait until the worker has the request: another one on its thread is answered after it was taken.
    let mut other = listener
        .connect("POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await;
    until_closed(&mut other, Duration::from_secs(20)).await;
    listener.stop.soft();
    stream.write_all(b"world").await.unwrap();
    let answer = until_closed(&mut stream, Duration::from_secs(20)).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("10"), "{answer}");
    listener.stopped().await;
}
