//! Deliveries over a real SQLite file to receivers of every kind: good, slow, dead, redirecting, lying.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::event::{ManualClock, ProjectId, RandomIds, Scope, SystemEventKind};
use crate::lifecycle::{Health, Stop, Tasks};
use crate::meta::{self, Deliverable, Delivery, DeliveryFilter, DeliveryState, NewWebhook, WebhookStatus};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a receiver does with a request, the first of which is number 0.
#[derive(Clone, Copy, Debug)]
enum Does {
    Answer(u16),
    /// Sends the sender somewhere else.
    Redirect,
    /// Reads, and says nothing.
    Silence,
    /// Closes the connection.
    Close,
    /// Says 200 before it has read the body.
    Unread,
    /// Says 200, and then words without an end.
    Endless,
    /// Says 200, promises a body, and sends none.
    Withheld,
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Request {
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> String {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    }
}

/// A receiver on this machine.
#[derive(Clone)]
struct Receiver {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

impl Receiver {
    #[expect(clippy::disallowed_methods, reason = "a helper of tests, ended by their runtime")]
    async fn start(does: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let receiver = Self {
            port: listener.local_addr().unwrap().port(),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let (this, does) = (receiver.clone(), Arc::new(does));
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                this.connections.fetch_add(1, Ordering::SeqCst);
                let (this, does) = (this.clone(), does.clone());
                tokio::spawn(async move { this.serve(stream, &*does).await });
            }
        });
        receiver
    }

    async fn serve(&self, mut stream: TcpStream, does: &(dyn Fn(usize) -> Does + Send + Sync)) -> Option<()> {
        loop {
            let request = read(&mut stream).await?;
            let number = {
                let mut requests = self.requests.lock().unwrap();
                requests.push(request);
                requests.len() - 1
            };
            let answer = match does(number) {
                Does::Answer(status) => format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\nok"),
                Does::Redirect => {
                    format!(
                        "HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:{}/else\r\ncontent-length: 0\r\n\r\n",
                        self.port
                    )
                }
                Does::Silence => {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    return None;
                }
                Does::Close => return None,
                Does::Unread => "HTTP/1.1 200 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
                Does::Endless => {
                    stream.write_all(b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n").await.ok()?;
                    loop {
                        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
                        stream.write_all(chunk.as_bytes()).await.ok()?;
                    }
                }
                Does::Withheld => {
                    stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 1000000\r\n\r\n").await.ok()?;
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    return None;
                }
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length: usize = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return Some(Request { head: head.to_owned(), body: body.to_owned() });
            }
        }
        let mut some = [0u8; 4096];
        match stream.read(&mut some).await {
            Ok(count @ 1..) => bytes.extend_from_slice(&some[..count]),
            _ => return None,
        }
    }
}

struct Bench {
    webhook: Webhook,
    meta: Meta,
    clock: Arc<ManualClock>,
    project: ProjectId,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "a helper of tests, ended by their runtime")]
    async fn start(overrides: &[(&str, &str)]) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut all = vec![("webhook.allow_private", "true"), ("webhook.poll_interval", "20ms")];
        all.extend_from_slice(overrides);
        let config = Config::from_overrides(&all).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_790_000_000_000)));
        let (folder, health) = (tempfile::tempdir().unwrap(), Health::new(clock.clone()));
        let meta = Meta::open(&config.meta, folder.path(), clock.clone(), Arc::new(RandomIds), &health).await;
        let meta = meta.unwrap();
        meta.migrate().await.unwrap();
        meta.configure([Scope::new("proj_1", "env_1")]);
        meta.keep_configured().await.unwrap();
        let webhook = Webhook::new(meta.clone(), &config, clock.clone(), Arc::new(RandomIds));
        let tasks = Tasks::new(Stop::default());
        let bench = Self { webhook, meta, clock, project: ProjectId::new("proj_1"), tasks, _folder: folder };
        let (webhook, tasks, stop) = (bench.webhook.clone(), bench.tasks.clone(), bench.tasks.stop().clone());
        tokio::spawn(async move { webhook.run(tasks, stop).await });
        bench
    }

    async fn hook(&self, url: &str, ordered: bool) -> meta::Webhook {
        let new = NewWebhook {
            environment_id: None,
            url: url.to_owned(),
            description: String::new(),
            kinds: Vec::new(),
            ordered,
            status: WebhookStatus::Enabled,
        };
        let secret = sign::new_secret(&RandomIds);
        self.meta.webhooks().create(&self.project, new, &secret, 10).await.unwrap()
    }

    /// Events for every webhook there is.
    async fn tell(&self, from: usize, to: usize) {
        let event = |i: usize| Deliverable {
            event_id: format!("event-{i}"),
            kind: SystemEventKind::JobFinished,
            project_id: Some(self.project.clone()),
            environment_id: None,
            body: format!(r#"{{"number": {i}}}"#),
        };
        let events: Vec<Deliverable> = (from..to).map(event).collect();
        self.meta.deliveries().add(&events, self.webhook.config.retry_for).await.unwrap();
        self.webhook.queued.notify_one();
    }

    async fn deliveries(&self, hook: &meta::Webhook) -> Vec<Delivery> {
        let filter = DeliveryFilter::default();
        let mut all = self.meta.deliveries().list(&self.project, &hook.id, filter, 1000).await.unwrap();
        all.reverse();
        all
    }

    /// Waits until this many deliveries of a webhook are in a state.
    async fn until(&self, hook: &meta::Webhook, state: DeliveryState, count: usize) -> Vec<Delivery> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.deliveries(hook).await;
            if all.iter().filter(|one| one.state == state).count() == count {
                return all;
            }
            assert!(Instant::now() < deadline, "{count} {state:?}: {all:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the first delivery has had so many attempts.
    async fn attempts(&self, hook: &meta::Webhook, count: i64) -> Delivery {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let first = self.deliveries(hook).await.swap_remove(0);
            if first.attempts >= count {
                return first;
            }
            assert!(Instant::now() < deadline, "{count} attempts: {first:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn last(delivery: &Delivery) -> Value {
    delivery.log.0.as_array().and_then(|log| log.last()).cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_delivery_is_signed_by_every_secret_that_holds_and_is_taken_once() {
    let (bench, receiver) = (Bench::start(&[]).await, Receiver::start(|_| Does::Answer(204)).await);
    let hook = bench.hook(&receiver.url(), false).await;
    bench.tell(0, 1).await;
    let delivered = bench.until(&hook, DeliveryState::Delivered, 1).await.swap_remove(0);
    let request = receiver.requests().swap_remove(0);
    assert!(request.head.starts_with("POST /hook HTTP/1.1"), "{}", request.head);
    assert_eq!(request.body, delivered.body);
    assert_eq!(request.header("webhook-id"), delivered.id);
    let now = bench.clock.now();
    assert_eq!(request.header("webhook-timestamp"), sign::seconds(now).to_string());
    let secrets = bench.meta.webhooks().secrets(&hook, now).unwrap();
    let expected = sign::signature(&secrets, &delivered.id, now, &delivered.body);
    assert_eq!(request.header("webhook-signature"), expected);
    assert_eq!((last(&delivered)["status"].as_u64(), delivered.attempts), (Some(204), 1));

    let (second, until) = (sign::new_secret(&RandomIds), now.plus(Duration::from_secs(60)));
    bench.meta.webhooks().rotate(&bench.project, &hook.id, &second, until).await.unwrap();
    bench.tell(1, 2).await;
    bench.until(&hook, DeliveryState::Delivered, 2).await;
    bench.clock.advance(Duration::from_secs(60));
    bench.tell(2, 3).await;
    bench.until(&hook, DeliveryState::Delivered, 3).await;
    let signatures =
        receiver.requests().iter().map(|one| one.header("webhook-signature")).collect::<Vec<_>>();
    let counts: Vec<usize> = signatures.iter().map(|one| one.split(' ').count()).collect();
    assert_eq!(counts, [1, 2, 1], "{signatures:?}");
}

#[tokio::test]
async fn a_dead_receiver_is_tried_again_under_one_id_until_it_is_given_up_and_can_be_replayed() {
    let bench = Bench::start(&[("webhook.retry_for", "1h")]).await;
    let receiver = Receiver::start(|number| if number < 5 { Does::Close } else { Does::Answer(200) }).await;
    let hook = bench.hook(&receiver.url(), false).await;
    bench.tell(0, 1).await;
    let mut waits = Vec::new();
    for attempt in 1..=4 {
        let pending = bench.attempts(&hook, attempt).await;
        assert_eq!(pending.state, DeliveryState::Pending);
        assert!(last(&pending)["error"].is_string(), "{pending:?}");
        waits.push(pending.due_at.since(bench.clock.now()).as_secs_f64());
        bench.clock.set(pending.due_at);
    }
    for (wait, whole) in waits.iter().zip([5.0, 20.0, 80.0, 320.0]) {
        assert!((whole / 2.0 - 0.01..=whole).contains(wait), "{waits:?}");
    }
    let pending = bench.attempts(&hook, 5).await;
    bench.clock.set(pending.give_up_at);
    // One last attempt when its time is over; the receiver is back just then.
    let delivered = bench.until(&hook, DeliveryState::Delivered, 1).await;
    assert_eq!(delivered[0].attempts, 6);
    let ids: Vec<String> = receiver.requests().iter().map(|one| one.header("webhook-id")).collect();
    assert!(ids.iter().all(|id| *id == pending.id), "{ids:?}");

    let never = Receiver::start(|_| Does::Answer(500)).await;
    let other = bench.hook(&never.url(), false).await;
    bench.tell(1, 2).await;
    let pending = bench.attempts(&other, 1).await;
    bench.clock.set(pending.give_up_at);
    let dead = bench.until(&other, DeliveryState::Dead, 1).await;
    assert_eq!(dead[0].attempts, 2);
    let replayed =
        bench.meta.deliveries().replay(&bench.project, &other.id, None, bench.webhook.config.retry_for).await;
    assert_eq!(replayed.unwrap(), 1);
    bench.webhook.queued.notify_one();
    assert_eq!(bench.attempts(&other, 3).await.state, DeliveryState::Pending);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_receiver_that_is_gone_is_left_alone() {
    let bench = Bench::start(&[]).await;
    let receiver = Receiver::start(|_| Does::Redirect).await;
    let hook = bench.hook(&receiver.url(), false).await;
    bench.tell(0, 1).await;
    let pending = bench.attempts(&hook, 1).await;
    assert_eq!((pending.state, last(&pending)["status"].as_u64()), (DeliveryState::Pending, Some(302)));
    assert_eq!(receiver.requests().len(), 1);
    let gone = Receiver::start(|_| Does::Answer(410)).await;
    let hook = bench.hook(&gone.url(), false).await;
    bench.tell(1, 2).await;
    bench.until(&hook, DeliveryState::Dead, 1).await;
    let deadline = Instant::now() + PATIENCE;
    while bench.meta.webhooks().find(&bench.project, &hook.id).await.unwrap().unwrap().status
        != WebhookStatus::Gone
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_receiver_that_lies_about_its_answer_costs_no_more_than_the_bounds() {
    let bench = Bench::start(&[("webhook.response_bytes_max", "1 KiB")]).await;
    for does in [Does::Unread, Does::Endless, Does::Withheld] {
        let receiver = Receiver::start(move |_| does).await;
        let hook = bench.hook(&receiver.url(), false).await;
        let number = receiver.port as usize * 10;
        bench.tell(number, number + 1).await;
        let delivered = bench.until(&hook, DeliveryState::Delivered, 1).await.swap_remove(0);
        let kept = last(&delivered)["response"].as_str().unwrap().len();
        assert_eq!(kept, if matches!(does, Does::Endless) { 1024 } else { 0 }, "{does:?}");
        bench.meta.webhooks().delete(&bench.project, &hook.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_receiver_delays_no_other() {
    let bench = Bench::start(&[("webhook.timeout", "50s")]).await;
    let (slow, fast) =
        (Receiver::start(|_| Does::Silence).await, Receiver::start(|_| Does::Answer(200)).await);
    let (slow_hook, fast_hook) = (bench.hook(&slow.url(), false).await, bench.hook(&fast.url(), false).await);
    bench.tell(0, 200).await;
    let began = Instant::now();
    bench.until(&fast_hook, DeliveryState::Delivered, 200).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(fast.requests().len(), 200, "each once");
    assert!(slow.connections.load(Ordering::SeqCst) <= 2, "a receiver that has not proved itself gets few");
    assert!(bench.deliveries(&slow_hook).await.iter().all(|one| one.state == DeliveryState::Pending));
}

#[tokio::test]
async fn nothing_is_sent_to_a_private_address_whatever_name_it_goes_by() {
    let bench = Bench::start(&[("webhook.allow_private", "false")]).await;
    let receiver = Receiver::start(|_| Does::Answer(200)).await;
    // As if a name had been public when the webhook was made, and is not any more.
    let hook = bench.hook(&format!("http://localhost:{}/", receiver.port), false).await;
    bench.tell(0, 1).await;
    let pending = bench.attempts(&hook, 1).await;
    let error = last(&pending)["error"].as_str().unwrap().to_owned();
    assert!(error.contains("webhook.allow_private"), "{error}");
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_ordered_webhook_waits_for_the_one_before() {
    let bench = Bench::start(&[]).await;
    let receiver =
        Receiver::start(|number| if number == 0 { Does::Answer(503) } else { Does::Answer(200) }).await;
    let hook = bench.hook(&receiver.url(), true).await;
    bench.tell(0, 20).await;
    let first = bench.attempts(&hook, 1).await;
    assert_eq!(receiver.requests().len(), 1, "the others wait");
    bench.clock.set(first.due_at);
    bench.until(&hook, DeliveryState::Delivered, 20).await;
    let bodies: Vec<String> = receiver.requests().into_iter().map(|one| one.body).collect();
    let expected: Vec<String> =
        std::iter::once(0).chain(0..20).map(|i| format!(r#"{{"number": {i}}}"#)).collect();
    assert_eq!(bodies, expected);
}

#[tokio::test]
async fn what_a_process_that_died_had_under_way_is_sent_again_under_the_same_ids() {
    let bench = Bench::start(&[]).await;
    let receiver = Receiver::start(|_| Does::Answer(200)).await;
    let hook = bench.hook(&receiver.url(), false).await;
    let lease = bench.webhook.config.lease;
    let with = |status| NewWebhook {
        environment_id: None,
        url: receiver.url(),
        description: String::new(),
        kinds: Vec::new(),
        ordered: false,
        status,
    };
    // While the webhook is disabled nobody here takes them; the process that dies has taken them before.
    let rows = bench.meta.webhooks();
    rows.change(&bench.project, &hook.id, with(WebhookStatus::Disabled)).await.unwrap();
    for id in ["a", "b"] {
        let event = Deliverable {
            event_id: id.to_owned(),
            kind: SystemEventKind::JobFinished,
            project_id: Some(bench.project.clone()),
            environment_id: None,
            body: "{}".to_owned(),
        };
        bench.meta.deliveries().add_to(&hook, &event, lease * 100).await.unwrap();
    }
    let claimed = bench.meta.deliveries().claim(&hook, 10, bench.clock.now(), lease).await.unwrap();
    assert_eq!(claimed.len(), 2);
    rows.change(&bench.project, &hook.id, with(WebhookStatus::Enabled)).await.unwrap();
    assert!(rows.due(bench.clock.now()).await.unwrap().is_empty(), "their leases stand");
    bench.clock.advance(lease);
    bench.until(&hook, DeliveryState::Delivered, 2).await;
    let sent: Vec<String> = receiver.requests().iter().map(|one| one.header("webhook-id")).collect();
    assert!(claimed.iter().all(|one| sent.contains(&one.id)), "{sent:?}");
}
