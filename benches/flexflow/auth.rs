//! Keys and logins: what a check costs, and whether a flood of logins takes the cores from capture.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flexflow::app::{App, Options, Role};
use flexflow::auth::{Keys, Permission, Request};
use flexflow::config::Config;
use flexflow::event::{RandomIds, SystemClock};
use flexflow::lifecycle::{Health, Stop, Tasks};
use flexflow::meta::Meta;

use crate::capture::event_into;
use crate::load::{Load, post};

/// Microseconds a check: of a key that is remembered, and of one that the database is asked for.
pub async fn checks() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = Config::from_overrides(&[]).expect("config");
    config.auth.key_cache_ttl = Duration::from_secs(3600);
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
    let (health, tasks) = (Health::new(clock.clone()), Tasks::new(Stop::default()));
    let meta = Meta::open(&config.meta, dir.path(), clock.clone(), ids.clone(), &health).await.expect("meta");
    meta.migrate().await.expect("migrate");
    let keys = Keys::new(meta.clone(), &config.auth, clock.clone(), ids.clone(), &tasks).expect("keys");
    let first = flexflow::auth::first_run(&keys, |_| Ok(())).await.expect("first start").expect("a project");
    let key = {
        use secrecy::ExposeSecret as _;
        first.api_key.expose_secret().to_owned()
    };
    let request = Request { token: Some(key.as_bytes()), ..Request::default() };
    let check = async |keys: &Keys| {
        drop(keys.authorize(request, Permission::Ingest, true).await.expect("a good key"));
    };
    check(&keys).await;
    const CACHED: u32 = 200_000;
    let began = Instant::now();
    for _ in 0..CACHED {
        check(&keys).await;
    }
    let cached = began.elapsed() / CACHED;
    // A process that has just started knows no key.
    const UNCACHED: u32 = 500;
    let mut took = Vec::new();
    for _ in 0..UNCACHED {
        let fresh = Keys::new(meta.clone(), &config.auth, clock.clone(), ids.clone(), &tasks).expect("keys");
        let began = Instant::now();
        check(&fresh).await;
        took.push(began.elapsed());
    }
    took.sort();
    let at = |share: usize| took[took.len() * share / 100].as_secs_f64() * 1000.0;
    println!(
        "auth: a cached key {:.2} us (bound 5), an uncached one on SQLite p50 {:.2} ms, p99 {:.2} ms (bound 2)",
        cached.as_secs_f64() * 1e6,
        at(50),
        at(99)
    );
    tasks.stop().hard();
}

/// Capture's latency at a steady rate, alone and while 16 connections log in as fast as they are answered.
pub async fn flood(seconds: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let data_dir = dir.path().display().to_string();
    let config = Config::from_overrides(&[
        ("server.listen", "127.0.0.1:0"),
        ("data_dir", &data_dir),
        ("auth.login_attempts_max", "1000000"),
        ("auth.login_address_attempts_max", "1000000"),
    ]);
    let roles = [Role::Capture, Role::Auth];
    let running = App::start(config.expect("config"), &roles, Options::default()).await.expect("start");
    running.ready().await;
    let first = running.first_run().expect("a first start");
    let address = running.url().trim_start_matches("http://").parse().expect("an address");
    let body: crate::load::Body = Arc::new(|n| {
        let mut body = String::new();
        event_into(&mut body, n, true);
        body.into_bytes()
    });
    let load = Load { connections: 16, seconds, rate: Some(500.0) };
    let alone = post(address, "/capture", &first.api_key, body.clone(), load).await;

    let (stop, logins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let login = serde_json::json!({ "email": first.email, "password": first.password });
    let floods: Vec<_> = (0..16)
        .map(|_| {
            let (stop, logins, login) = (stop.clone(), logins.clone(), login.clone());
            let (http, url) = (reqwest::Client::new(), format!("{}/api/auth/login", running.url()));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = http.post(&url).json(&login).send().await.expect("an answer");
                    if answer.status() == 200 {
                        logins.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let flooded = post(address, "/capture", &first.api_key, body, load).await;
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.expect("a flood ends");
    }
    println!(
        "capture at 500/s: alone p50 {:.1} ms, p99 {:.1} ms; during a login flood ({:.1} logins/s) p50 {:.1} ms, p99 {:.1} ms; refused {}",
        alone.percentile(0.5),
        alone.percentile(0.99),
        logins.load(Ordering::Relaxed) as f64 / seconds as f64,
        flooded.percentile(0.5),
        flooded.percentile(0.99),
        alone.refused + flooded.refused,
    );
    running.stop().await.expect("a clean stop");
}
