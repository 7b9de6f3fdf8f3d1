//! Everything that FlexFlow stands on is down: at the start, in every order of coming up, and for a while under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flexflow::app::{App, Options, Role, Running};
use flexflow::config::Config;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::crash::{Ledger, check, send_until};
use crate::support::kafka::{Kafka, VERSION};
use crate::support::log::LogSettings;
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::sandbox::{Client, Sandbox};
use crate::support::store::TestStore;
use crate::support::{eventually, eventually_for};

/// Longest that an outage may take to heal once what was down is back.
const HEALED: Duration = Duration::from_secs(90);

/// What the product stands on, each of which can be away.
struct Ground {
    kafka: Kafka,
    engine: TestStore,
    postgres: Postgres,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Kafka,
    Store,
    Meta,
}

impl Part {
    /// Its component in `/ready`.
    fn component(self) -> &'static str {
        match self {
            Self::Kafka => "eventlog",
            Self::Store => "store",
            Self::Meta => "meta",
        }
    }
}

/// An application that was started while all of it was away.
struct Started<'g> {
    ground: &'g Ground,
    running: Running,
    proxy: Proxy,
    http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Ground {
    async fn start() -> Self {
        let kafka = Kafka::start(1, VERSION, "").await;
        let engine = TestStore::start().await;
        let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
        Self { kafka, engine, postgres }
    }

    /// Takes Kafka and PostgreSQL away and starts an application that cannot reach the store either.
    async fn without_anything(&self) -> Started<'_> {
        let url = self.postgres.database().await;
        self.kafka.stop(1).await;
        self.postgres.kill();
        let proxy = Proxy::without_target().await;
        let (user, password) = self.engine.store.engine_login().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data").display().to_string();
        let address = format!("clickhouse://{}", proxy.address);
        let log = LogSettings::on(&self.kafka);
        let database = format!("order_{}", url.rsplit('_').next().unwrap());
        let mut settings = vec![
            ("data_dir", data_dir.as_str()),
            ("server.listen", "127.0.0.1:0"),
            ("meta.url", url.as_str()),
            ("store.url", address.as_str()),
            ("store.user", user.as_str()),
            ("store.password", password.as_str()),
            ("store.database", database.as_str()),
            ("eventlog.kafka.delivery_timeout", "3s"),
            ("consumer.backoff_max", "2s"),
        ];
        settings.extend(log.settings());
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = Config::from_overrides(&settings).expect("settings");
        let running =
            App::start(config, Role::ALL, Options::default()).await.expect("it starts all the same");
        Started { ground: self, running, proxy, http: reqwest::Client::new(), _dir: dir }
    }
}

impl Started<'_> {
    async fn ready(&self) -> Result<(u16, Value), String> {
        let answer =
            self.http.get(format!("{}/ready", self.running.url())).send().await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.map_err(|e| e.to_string())?))
    }

    /// Waits until `/ready` says exactly of these that they are not up, each with a reason.
    async fn names(&self, away: &[Part]) {
        let what = format!("/ready names {away:?}");
        eventually_for(HEALED, &what, || async {
            let (status, body) = self.ready().await?;
            let is_away = |part: Part| {
                let found =
                    body["components"].as_array().unwrap().iter().find(|c| c["name"] == part.component());
                let told = found.is_some_and(|c| c["state"] != "up" && c["reason"] != "");
                let up = found.is_some_and(|c| c["state"] == "up");
                if away.contains(&part) { told } else { up }
            };
            let all = [Part::Kafka, Part::Store, Part::Meta].into_iter().all(is_away);
            let unready = away.is_empty() || status == 503;
            if all && unready { Ok(()) } else { Err(format!("{status} {body}")) }
        })
        .await;
    }

    async fn bring_back(&self, part: Part) {
        match part {
            Part::Kafka => self.ground.kafka.restart(1).await,
            Part::Store => self.proxy.aim(self.ground.engine.store.address().unwrap().parse().unwrap()),
            Part::Meta => self.ground.postgres.restart(),
        }
    }

    /// An event goes all the way, without a restart.
    async fn works(&self) {
        eventually_for(HEALED, "/ready says 200", || async {
            let (status, body) = self.ready().await?;
            if status == 200 && body["status"] == "ready" { Ok(()) } else { Err(body.to_string()) }
        })
        .await;
        let first = eventually("the first project is made", || async {
            self.running.first_run().ok_or_else(|| "none yet".to_owned())
        })
        .await;
        let ask = |request: reqwest::RequestBuilder| request.header("X-API-Key", &first.api_key).send();
        eventually("an event is taken", || async {
            let event = json!({"event": "bought", "distinct_id": "ann", "event_id": "one"});
            let sent = ask(self.http.post(format!("{}/capture", self.running.url())).json(&event)).await;
            let status = sent.map_err(|error| error.to_string())?.status();
            if status == 202 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        eventually("it is found", || async {
            let url = format!("{}/api/query/events", self.running.url());
            let answer = ask(self.http.get(url)).await.map_err(|error| error.to_string())?;
            let page: Value = answer.json().await.map_err(|error| error.to_string())?;
            if page["events"].as_array().is_some_and(|events| events.len() == 1) {
                Ok(())
            } else {
                Err(page.to_string())
            }
        })
        .await;
    }
}

/// All orders of coming up.
const ORDERS: [[Part; 3]; 6] = [
    [Part::Kafka, Part::Store, Part::Meta],
    [Part::Store, Part::Meta, Part::Kafka],
    [Part::Meta, Part::Kafka, Part::Store],
    [Part::Kafka, Part::Meta, Part::Store],
    [Part::Store, Part::Kafka, Part::Meta],
    [Part::Meta, Part::Store, Part::Kafka],
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_down_at_the_start_is_named_and_heals_in_any_order_of_coming_up() {
    let ground = Ground::start().await;
    for order in ORDERS {
        println!("coming up: {order:?}");
        let started = ground.without_anything().await;
        let mut away = order.to_vec();
        started.names(&away).await;
        for part in order {
            started.bring_back(part).await;
            away.retain(|other| *other != part);
            started.names(&away).await;
        }
        started.works().await;
        started.running.stop().await.expect("a clean stop");
    }
    ground.engine.store.close(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_brokers_away_for_a_while_under_load_lose_and_double_nothing() {
    let kafka = Kafka::start(1, VERSION, "").await;
    let settings = [
        ("eventlog.kafka.delivery_timeout", "3s"),
        ("eventlog.kafka.request_timeout", "2s"),
        ("capture.produce_timeout", "4s"),
        ("consumer.backoff_max", "1s"),
    ];
    let log = LogSettings::on(&kafka);
    let dir = tempfile::tempdir().unwrap();
    let app = Sandbox::build_on(dir, log, Role::ALL, &settings, Options::default()).await;
    let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
    let mut senders = JoinSet::new();
    senders.spawn(send_until(app.client.clone(), ledger.clone(), stop.clone(), "s".to_owned()));
    let component = async |name: &str| {
        let (_, report) = app.client.operator_get("/api/ops/components").await;
        let found = report["components"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
        found.unwrap_or_default()["state"].as_str().unwrap_or_default().to_owned()
    };
    for signal in ["KILL", "STOP"] {
        let before = ledger.lock().await.acknowledged.len();
        eventually("events are taken", || async {
            let taken = ledger.lock().await.acknowledged.len();
            if taken > before + 500 { Ok(()) } else { Err(taken.to_string()) }
        })
        .await;
        if signal == "KILL" {
            kafka.kill(1).await;
        } else {
            kafka.signal(1, "STOP");
        }
        eventually("the outage is told of, and capture refuses with a time to come back", || async {
            let (status, ready) = app.client.operator_get("/ready").await;
            let states = (component("eventlog").await, component("capture").await);
            if status == 503 && states == ("down".to_owned(), "down".to_owned()) {
                Ok(())
            } else {
                Err(format!("{states:?} {ready}"))
            }
        })
        .await;
        refused_with_a_time(&app.client).await;
        if signal == "KILL" {
            kafka.restart(1).await;
        } else {
            kafka.signal(1, "CONT");
        }
        eventually_for(HEALED, "it has healed by itself", || async {
            let (status, ready) = app.client.operator_get("/ready").await;
            if status == 200 && ready["status"] == "ready" { Ok(()) } else { Err(ready.to_string()) }
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    senders.join_all().await;
    check(&app.client, &*ledger.lock().await).await;
    let (_, letters) = app.client.operator_get("/api/dlq?limit=10").await;
    assert_eq!(letters["dead_letters"], json!([]), "the infrastructure makes no dead letter");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_three_dies_and_comes_back_under_the_load_of_the_whole_product() {
    let kafka = Kafka::start(3, VERSION, "").await;
    let log = LogSettings::on(&kafka);
    let dir = tempfile::tempdir().unwrap();
    let app = Sandbox::build_on(dir, log, Role::ALL, &[], Options::default()).await;
    let topic = ["--describe", "--topic", &app.client.events_topic];
    let described = kafka.tool("topics", &topic).await.replace('\t', " ");
    assert!(described.contains("ReplicationFactor: 3"), "{described}");
    let node = ["--describe", "--entity-type", "brokers", "--entity-name", "1", "--all"];
    let node = kafka.tool("configs", &node).await;
    assert!(node.contains("min.insync.replicas=2 "), "a record is durable on two brokers at least");
    let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
    let mut senders = JoinSet::new();
    for name in ["s", "t"] {
        senders.spawn(send_until(app.client.clone(), ledger.clone(), stop.clone(), name.to_owned()));
    }
    let more = async |what: &str| {
        let before = ledger.lock().await.acknowledged.len();
        eventually_for(HEALED, what, || async {
            let taken = ledger.lock().await.acknowledged.len();
            if taken > before + 500 { Ok(()) } else { Err(taken.to_string()) }
        })
        .await;
    };
    more("events are taken").await;
    for signal in ["KILL", "STOP"] {
        // A broker that is stopped still has its connections: it is left at the time-outs.
        if signal == "KILL" {
            kafka.kill(2).await;
        } else {
            kafka.signal(1, signal);
        }
        more("events are taken by the two that are left").await;
        if signal == "KILL" {
            kafka.restart(2).await;
        } else {
            kafka.signal(1, "CONT");
        }
        more("events are taken by all three").await;
    }
    eventually_for(HEALED, "everything is well", || async {
        let (status, ready) = app.client.operator_get("/ready").await;
        if status == 200 && ready["status"] == "ready" { Ok(()) } else { Err(ready.to_string()) }
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    senders.join_all().await;
    check(&app.client, &*ledger.lock().await).await;
    let (_, letters) = app.client.operator_get("/api/dlq?limit=10").await;
    assert_eq!(letters["dead_letters"], json!([]), "the infrastructure makes no dead letter");
    app.stop().await;
}

async fn refused_with_a_time(client: &Client) {
    // The first that was sent, once more: whatever becomes of it, it is there once.
    let event = json!({"event": "load", "distinct_id": "person-0", "event_id": "s-0-0"});
    let request = client.http.post(format!("{}/capture", client.url)).header("X-API-Key", &client.key);
    let refused = request.json(&event).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
}
