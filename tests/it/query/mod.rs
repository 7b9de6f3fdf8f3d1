//! Questions over HTTP against a real engine: the routes, keys and error bodies are the application's own; rows go into
//! the store directly.

mod abandoned;
mod drill;
mod events;
mod examples;
mod filters;
pub(crate) mod oracles;
mod parts;
mod people;
mod reference;
mod split;
mod sql;
mod trends;
mod v1;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use actix_web::{App, test, web};
use flexflow::auth::Keys;
use flexflow::config::{Config, REFERENCE, StaticKey};
use flexflow::event::{ManualClock, RandomIds, Scope, Timestamp};
use flexflow::eventlog::MemoryLog;
use flexflow::http::{BodyLimits, Edge};
use flexflow::lifecycle::{Health, Stop, Tasks};
use flexflow::meta::Meta;
use flexflow::query::Query;
use flexflow::store::{EventBlock, EventRow, Settling, Sql};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::store::{TestStore, row};

/// What a test asks through.
struct Sandbox {
    store: TestStore,
    log: Arc<MemoryLog>,
    keys: Keys,
    query: Query,
    clock: Arc<ManualClock>,
    offset: AtomicI64,
    _folder: tempfile::TempDir,
    _tasks: Tasks,
}

/// An event as a test writes it.
#[derive(Clone)]
struct Given {
    id: String,
    event: String,
    distinct_id: String,
    at: Timestamp,
    properties: String,
    version: u64,
    is_deleted: bool,
}

fn given(id: impl Into<String>, event: &str, distinct_id: &str, at: &str, properties: &str) -> Given {
    Given {
        id: id.into(),
        event: event.to_owned(),
        distinct_id: distinct_id.to_owned(),
        at: Timestamp::parse(at).unwrap(),
        properties: properties.to_owned(),
        version: 0,
        is_deleted: false,
    }
}

/// Until every day of the environment is read without FINAL.
async fn rest(sandbox: &Sandbox) {
    let store = &sandbox.store.store;
    store.execute(Sql::new("OPTIMIZE TABLE events FINAL")).await.unwrap();
    let scope = Scope::new("proj", "env_a");
    let all = Sql::new("SELECT 1").deduplicated("events", (&scope, 0..=u16::MAX), &Sql::default(), &[]);
    let mut settling = Settling::default();
    for _ in 0..20 {
        if store.is_at_rest(&all) {
            return;
        }
        store.settle_once(&mut settling).await.unwrap();
    }
    panic!("no rest");
}

const ENVIRONMENTS: [&str; 3] = ["env_a", "env_b", "env_c"];
const NOW: &str = "2026-04-15T12:00:00Z";

impl Sandbox {
    async fn start() -> Self {
        let mut config: Config = toml::from_str(REFERENCE).unwrap();
        // The key of each environment is its name.
        config.auth.static_keys = ENVIRONMENTS
            .iter()
            .map(|environment| StaticKey {
                sha256: Sha256::digest(environment).iter().map(|byte| format!("{byte:02x}")).collect(),
                project_id: "proj".to_owned(),
                environment_id: (*environment).to_owned(),
                scopes: vec!["query".to_owned()],
            })
            .collect();
        let clock = Arc::new(ManualClock::at(Timestamp::parse(NOW).unwrap()));
        let (ids, tasks) = (Arc::new(RandomIds), Tasks::new(Stop::default()));
        let folder = tempfile::tempdir().unwrap();
        let health = Health::new(clock.clone());
        let meta =
            Meta::open(&config.meta, folder.path(), clock.clone(), ids.clone(), &health).await.unwrap();
        meta.migrate().await.unwrap();
        let keys = Keys::new(meta, &config.auth, clock.clone(), ids.clone(), &tasks).unwrap();
        let log = Arc::new(MemoryLog::new(clock.clone(), ids));
        let store = TestStore::start().await;
        let query = Query::new(store.store.clone(), log.clone(), &config, clock.clone());
        Self { store, log, keys, query, clock, offset: AtomicI64::new(0), _folder: folder, _tasks: tasks }
    }

    /// Ends the engine.
    async fn end(self) {
        self.store.store.close(Duration::from_secs(10)).await;
    }

    /// One insert.
    async fn insert(&self, environment: &str, events: &[Given]) {
        let mut block = EventBlock::new();
        for event in events {
            let offset = self.offset.fetch_add(1, Ordering::SeqCst);
            block.push(&EventRow {
                environment_id: environment,
                event_name: &event.event,
                distinct_id: &event.distinct_id,
                timestamp: event.at,
                version: event.version,
                is_deleted: event.is_deleted,
                ..row(&event.id, offset, &event.properties)
            });
        }
        let token = format!("{environment}-{}", self.offset.load(Ordering::SeqCst));
        self.store.store.insert_events(&block, &token).await.unwrap();
    }

    async fn get(&self, environment: &str, path: &str) -> (u16, Value) {
        let request = test::TestRequest::get().uri(path).insert_header(("X-API-Key", environment));
        self.send(request).await
    }

    async fn post(&self, environment: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = test::TestRequest::post().uri(path).insert_header(("X-API-Key", environment));
        self.send(request.set_json(body)).await
    }

    /// Asks the application's routes of questions.
    async fn send(&self, request: test::TestRequest) -> (u16, Value) {
        let limits =
            BodyLimits { sent_max: 1 << 20, inflated_max: 1 << 20, time_max: Duration::from_secs(10) };
        let app = App::new()
            .app_data(web::Data::new(self.query.clone()))
            .app_data(web::Data::new(self.keys.clone()))
            .app_data(web::Data::new(limits))
            .configure(flexflow::query::http::routes)
            .wrap(Edge::new(Arc::new(RandomIds), self.clock.clone(), &[]));
        let app = test::init_service(app).await;
        let response = test::call_service(&app, request.to_request()).await;
        let status = response.status().as_u16();
        let body = test::read_body(response).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// The results of a question that must be answered.
    async fn trends(&self, environment: &str, question: &Value) -> Vec<Value> {
        let (status, answer) = self.post(environment, "/api/query/trends", question).await;
        assert_eq!(status, 200, "{question}: {answer}");
        answer["results"].as_array().unwrap().clone()
    }
}
