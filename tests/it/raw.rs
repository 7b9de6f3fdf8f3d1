//! Raw events over the real application: payloads in, events out; what is dropped and what is an error; transforms that
//! are corrected, and reprocessing that replaces what they made; a crash in the middle of it.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::support::log::LogSettings;
use crate::support::sandbox::Client;
use crate::support::{Log, Process, Sandbox, eventually, on_every_log};

on_every_log! {
    a_payload_becomes_an_event_and_a_corrected_transform_replaces_it
    a_reprocess_that_is_killed_goes_on_where_it_was
    a_reprocess_that_fails_is_cancelled_or_out_of_time_goes_on_where_it_was
}

/// Versions of a transform count at once.
const SETTINGS: [(&str, &str); 2] = [("transform.cache_ttl", "20ms"), ("jobs.poll_interval", "50ms")];

fn payload(id: usize, day: usize) -> Value {
    json!({
        "id": format!("call-{id}"), "orgId": format!("org-{}", id % 7), "methodName": "Chat",
        "providerName": "OpenAI", "createdAt": format!("2026-01-{:02}T{:02}:00:00Z", day, id % 24),
        "data": {"modelName": "gpt", "promptTokens": 1_500_000, "channels": id},
    })
}

pub(crate) async fn send(client: &Client, payloads: &[Value]) {
    for part in payloads.chunks(1000) {
        let (status, answer) = client.post("/v1/events/raw/bulk", &json!({ "data": part })).await;
        assert_eq!(status, 202, "{answer}");
        assert_eq!(answer["batch_size"], part.len(), "{answer}");
    }
}

/// What became of raw events, by outcome and reason.
async fn counts(client: &Client) -> Result<BTreeMap<String, u64>, String> {
    let (status, answer) = client.get("/v1/events/raw/list?limit=1").await;
    if status != 200 {
        return Err(answer.to_string());
    }
    let counts = answer["counts"].as_array().unwrap().iter();
    let told = |count: &Value| {
        let name = format!("{} {}", count["outcome"].as_str().unwrap(), count["reason"].as_str().unwrap());
        (name.trim().to_owned(), count["raw_events"].as_u64().unwrap())
    };
    Ok(counts.map(told).collect())
}

pub(crate) async fn start(client: &Client, body: &Value) -> String {
    let (status, answer) = client.operator_post("/v1/events/raw/reprocess", body).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["workflow_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("ReprocessRawEventsWorkflow-"), "{id}");
    assert_eq!(answer["task_queue"], "events");
    assert!(id.ends_with(answer["run_id"].as_str().unwrap()));
    id
}

async fn job(client: &Client, id: &str) -> Value {
    let (status, job) = client.operator_get(&format!("/v1/events/raw/reprocess/{id}")).await;
    assert_eq!(status, 200, "{job}");
    job
}

pub(crate) async fn ended(client: &Client, id: &str) -> Value {
    eventually("the job has ended", || async {
        let job = job(client, id).await;
        match job["status"].as_str().unwrap() {
            "succeeded" => Ok(job["result"].clone()),
            "failed" => panic!("{job}"),
            _ => Err(job.to_string()),
        }
    })
    .await
}

/// Nothing is left for any group, and these are the visible events: id and name.
async fn visible(client: &Client, expected: usize) -> BTreeMap<String, String> {
    eventually(&format!("{expected} events are visible"), || async {
        let (_, lag) = client.operator_get("/api/ops/lag").await;
        let left: i64 =
            lag["groups"].as_array().ok_or("no groups")?.iter().filter_map(|row| row["lag"].as_i64()).sum();
        let events = client.events().await?;
        if left > 0 || events.len() != expected {
            return Err(format!("{} events, lag {left}", events.len()));
        }
        let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
        Ok(events.iter().map(|event| (text(event, "event_id"), text(event, "event"))).collect())
    })
    .await
}

pub(crate) async fn apply(client: &Client, toml: &str) -> Value {
    let (_, list) = client.operator_get("/api/transforms").await;
    let known = list["items"].as_array().unwrap().iter().find(|item| item["id"] != "default");
    let (method, path) = match known {
        Some(known) => (reqwest::Method::PUT, format!("/api/transforms/{}", known["id"].as_str().unwrap())),
        None => (reqwest::Method::POST, "/api/transforms".to_owned()),
    };
    let request =
        client.http.request(method, format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    let answer = request.json(&json!({ "toml": toml })).send().await.unwrap();
    assert!(answer.status().is_success());
    answer.json().await.unwrap()
}

const CORRECTED: &str = "
    [[drop]]
    when = \"id == 'call-3'\"
    reason = \"internal_test\"
    [[event]]
    id = \"id\"
    event_name = \"'call'\"
    distinct_id = \"concat('customer-', orgId)\"
    timestamp = \"time(createdAt)\"
    properties = [{ name = \"tokens\", value = \"data.promptTokens\" }]
    [[event]]
    when = \"id == 'call-4'\"
    event_name = \"'extra'\"
    distinct_id = \"orgId\"
    timestamp = \"'2026-02-01T00:00:00Z'\"
";

pub(crate) async fn a_payload_becomes_an_event_and_a_corrected_transform_replaces_it(log: Log) {
    let sandbox = Sandbox::on_with(log, &SETTINGS).await;
    let client = &sandbox.client;
    let mut payloads: Vec<Value> = (1..=6).map(|id| payload(id, id)).collect();
    payloads[5].as_object_mut().unwrap().remove("orgId");
    payloads.push(json!({"id": "broken", "orgId": "o", "methodName": "m", "serviceName": "s", "createdAt": "soon", "data": {"modelName": "x"}}));
    send(client, &payloads).await;
    let (status, answer) = client.post("/v1/events/raw/bulk", &json!([{"id": "ok-but-dropped"}, 7])).await;
    assert_eq!(
        (status, &answer["batch_size"]),
        (202, &json!(1)),
        "a bad one does not sink the others: {answer}"
    );

    let seen = visible(client, 5).await;
    assert_eq!(seen["call-1"], "openai-chat-gpt");
    let expected = BTreeMap::from([
        ("published".to_owned(), 5),
        ("dropped missing_org_id".to_owned(), 2),
        ("error".to_owned(), 1),
    ]);
    eventually("the outcomes are counted", || async {
        let counts = counts(client).await?;
        if counts == expected { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let event =
        client.events().await.unwrap().into_iter().find(|event| event["event_id"] == "call-2").unwrap();
    assert_eq!(event["properties"]["billablePromptTokens"], "1500000", "{event}");
    eventually("the error is a dead letter", || async {
        let (_, letters) = client.operator_get("/api/dlq?error_kind=transform_error").await;
        match letters["dead_letters"].as_array().map(Vec::as_slice) {
            Some([letter]) if letter["event_id"] == "broken" => Ok(()),
            _ => Err(letters.to_string()),
        }
    })
    .await;
    let audit = client.audit().await;
    assert_eq!(audit["balanced"], true, "{audit}");
    assert_eq!((&audit["raw"]["records"], &audit["raw"]["published"]), (&json!(8), &json!(5)), "{audit}");

    // Sent again: nothing is there twice.
    send(client, &payloads[..3]).await;
    visible(client, 5).await;

    let made = apply(client, CORRECTED).await;
    assert_eq!(made["reasons"], json!(["internal_test", "no_event"]));
    let wish = json!({"start_date": "2026-01-01T00:00:00Z", "batch_size": 2, "parallelism": 3});
    let dry =
        ended(client, &start(client, &json!({"start_date": "2026-01-01T00:00:00Z", "dry_run": true})).await)
            .await;
    assert_eq!(dry["total_events_found"], 8, "{dry}");
    assert_eq!(visible(client, 5).await, seen, "a dry run changes nothing");
    let result = ended(client, &start(client, &wish).await).await;
    assert_eq!(result["total_events_found"], 8, "{result}");
    assert_eq!(result["dropped_by_reason"], json!({"internal_test": 1}), "{result}");
    let seen = visible(client, 6).await;
    assert_eq!(seen.get("call-3"), None, "dropped now: {seen:?}");
    assert_eq!((seen["call-1"].as_str(), seen["call-4-1"].as_str()), ("call", "extra"), "{seen:?}");
    let again = ended(client, &start(client, &wish).await).await;
    assert_eq!(again["total_events_published"], result["total_events_published"]);
    assert_eq!(visible(client, 6).await, seen, "running it twice changes nothing");

    let (status, refused) =
        client.operator_post("/v1/events/raw/reprocess", &json!({"start_date": "x"})).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("start_date")), "{refused}");
    let sandbox = sandbox.restart(&[("reprocess.enabled", "false")]).await;
    let (status, refused) = sandbox.client.operator_post("/v1/events/raw/reprocess", &wish).await;
    assert_eq!((status, &refused["details"]["setting"]), (403, &json!("reprocess.enabled")), "{refused}");
    sandbox.stop().await;
}

async fn a_reprocess_that_is_killed_goes_on_where_it_was(log: Log) {
    let log = LogSettings::of(log).await;
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    // A checkpoint after every page: so that it can be killed between two.
    let args = [
        "--set=transform.cache_ttl=20ms",
        "--set=jobs.lease=2s",
        "--set=jobs.poll_interval=50ms",
        "--set=reprocess.checkpoint_interval=1ms",
    ];
    let mut process = Process::serve_on(&data_dir, &log, &args).await;
    let payloads: Vec<Value> = (1..=150).map(|id| payload(id, 1 + id % 6)).collect();
    send(&process.client, &payloads).await;
    visible(&process.client, 150).await;
    apply(&process.client, CORRECTED).await;
    let wish = json!({"start_date": "2026-01-01T00:00:00Z", "batch_size": 5, "parallelism": 2});
    let id = start(&process.client, &wish).await;
    let mut before = 0;
    for _ in 0..3 {
        let client = &process.client;
        before = eventually("the job has come further", || async {
            let job = job(client, &id).await;
            let found = job["result"]["total_events_found"].as_u64().unwrap_or(0);
            if found > before || job["status"] == "succeeded" { Ok(found) } else { Err(job.to_string()) }
        })
        .await;
        process.kill();
        process = Process::serve_on(&data_dir, &log, &args).await;
    }
    let result = ended(&process.client, &id).await;
    assert_eq!(result["total_events_found"], 150, "{result}");
    assert_eq!(result["dropped_by_reason"], json!({"internal_test": 1}), "{result}");
    let seen = visible(&process.client, 150).await;
    assert!(seen.values().all(|name| name == "call" || name == "extra"), "{seen:?}");
    assert!(!seen.contains_key("call-3") && seen.contains_key("call-4-1"));
    let audit = process.client.audit().await;
    assert_eq!(audit["balanced"], true, "{audit}");
    assert!(process.terminate().success());
}

/// What can go wrong with a job, one after the other: its topic is missing, it is cancelled, it has no more time.
#[expect(clippy::too_many_lines, reason = "one job after the other on the same raw events")]
async fn a_reprocess_that_fails_is_cancelled_or_out_of_time_goes_on_where_it_was(log: Log) {
    let times = |more: &[(&'static str, &'static str)]| {
        let backoff = [("jobs.backoff_min", "10ms"), ("jobs.backoff_max", "40ms")];
        [&SETTINGS[..], &backoff[..], &[("reprocess.checkpoint_interval", "1ms")], more].concat()
    };
    let app = Sandbox::on_with(log, &times(&[])).await;
    let payloads: Vec<Value> = (1..=200).map(|id| payload(id, 1 + id % 6)).collect();
    send(&app.client, &payloads).await;
    visible(&app.client, 200).await;
    apply(&app.client, CORRECTED).await;
    let wish =
        |size: u64| json!({"start_date": "2026-01-01T00:00:00Z", "batch_size": size, "parallelism": 2});
    let is = async |client: &Client, id: &str, status: &str| {
        eventually(&format!("the job is {status}"), || async {
            let job = job(client, id).await;
            if job["status"] == status { Ok(job) } else { Err(job.to_string()) }
        })
        .await
    };
    let resume = async |client: &Client, id: &str| {
        let path = format!("/v1/events/raw/reprocess/{id}/resume");
        let (status, answer) = client.operator_post(&path, &json!({})).await;
        assert_eq!(status, 200, "{answer}");
        let result = ended(client, id).await;
        assert_eq!(
            (&result["total_events_found"], &result["total_events_published"]),
            (&json!(200), &json!(199))
        );
        assert_eq!(result["dropped_by_reason"], json!({"internal_test": 1}), "{result}");
        assert_eq!(result["total_events_failed"], 0, "{result}");
    };

    // Nothing can be published: tried again, then given up; nothing is counted that is not there.
    let client = &app.client;
    let topic = app.named("reprocess.output_topic", "prod_events_v4");
    app.running.log().delete_topic(&topic).await.unwrap();
    let failed = start(client, &wish(50)).await;
    let job_failed = is(client, &failed, "failed").await;
    let error = job_failed["error"].as_str().unwrap();
    assert!(error.contains("3 tries") && error.contains("could not be published"), "{error}");
    assert_eq!(job_failed["result"]["total_events_published"].as_u64().unwrap_or(0), 0, "{job_failed}");
    let (status, made) = client.operator_post("/api/ops/topics/create", &json!({})).await;
    assert_eq!((status, &made["created"]), (200, &json!([topic])), "{made}");
    resume(client, &failed).await;
    let names = visible(client, 200).await;
    assert!(!names.contains_key("call-3") && names.contains_key("call-4-1"), "{names:?}");

    // Cancelled while it runs: it stops between two pages, and nothing is done after that.
    let cancelled = start(client, &wish(1)).await;
    eventually("it has begun", || async {
        let job = job(client, &cancelled).await;
        if job["result"]["total_events_found"].as_u64() > Some(0) { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    let path = format!("/v1/events/raw/reprocess/{cancelled}/cancel");
    assert_eq!(client.operator_post(&path, &json!({})).await.0, 200);
    let found = is(client, &cancelled, "cancelled").await["result"]["total_events_found"].as_u64().unwrap();
    assert!(found < 200, "{found} of 200: it was through already");
    resume(client, &cancelled).await;

    // A sample is the same one every time, however many lanes read it.
    let sample = async |parallelism: u64| {
        let wish = json!({"start_date": "2026-01-01T00:00:00Z", "sample_percent": 30, "parallelism": parallelism, "dry_run": true});
        let result = ended(client, &start(client, &wish).await).await;
        let whole =
            ["total_events_published", "total_events_dropped"].map(|name| result[name].as_u64().unwrap());
        assert_eq!(result["total_events_found"], whole[0] + whole[1], "{result}");
        whole
    };
    let one = sample(1).await;
    assert!((30..90).contains(&one[0]), "{one:?}");
    assert_eq!(sample(4).await, one);

    // Each attempt has time for a page, and gives the job back.
    let app = app.restart(&times(&[("reprocess.attempt_timeout", "1ms")])).await;
    let client = &app.client;
    let id = start(client, &wish(40)).await;
    assert_eq!(ended(client, &id).await["total_events_found"], 200);
    let (_, listed) = client.operator_get(&format!("/api/jobs/{}", id.rsplit('-').next().unwrap())).await;
    assert!(listed["claims"].as_u64().unwrap() > 2, "{listed}");

    // The job has time for a page: it fails, and whoever resumes it gives it a whole time again.
    let app =
        app.restart(&times(&[("reprocess.timeout", "1ms"), ("reprocess.attempt_timeout", "1ms")])).await;
    let client = &app.client;
    let id = start(client, &wish(40)).await;
    let error = is(client, &id, "failed").await["error"].as_str().unwrap().to_owned();
    assert!(error.contains("reprocess.timeout"), "{error}");
    let app = app.restart(&times(&[])).await;
    resume(&app.client, &id).await;
    assert_eq!(visible(&app.client, 200).await, names, "all of it changed nothing more");
    app.stop().await;
}

/// `VmHWM` of a process: the most memory it ever had, in MiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn stored_events(client: &Client) -> u64 {
    let sql = json!({ "query": "SELECT count() AS events, uniqExact(event_id) AS ids FROM events" });
    let (status, answer) = client.post("/api/query/sql", &sql).await;
    assert_eq!(status, 200, "{answer}");
    let row = &answer["results"][0];
    assert_eq!(row[0], row[1], "no event is there twice: {answer}");
    row[0].as_u64().unwrap()
}

/// Raw events of 168 days, day after day, as they would come, from several senders side by side.
async fn send_half_a_year(client: &Client, count: usize) {
    let sent = futures::stream::iter((0..count).step_by(1000)).map(|from| async move {
        let payloads: Vec<Value> = (from..count.min(from + 1000))
            .map(|id| {
                let mut payload = payload(id, 1);
                let day = id * 168 / count;
                payload["createdAt"] =
                    json!(format!("2026-{:02}-{:02}T{:02}:00:00Z", 1 + day / 28, 1 + day % 28, id % 24));
                payload
            })
            .collect();
        send(client, &payloads).await;
    });
    sent.buffer_unordered(4).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn six_months_of_raw_events_go_through_four_overlapping_jobs_in_bounded_memory() {
    let count: usize =
        std::env::var("FLEXFLOW_TEST_RAW_EVENTS").map_or(300_000, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let log = LogSettings::of(Log::Embedded).await;
    let args =
        ["--set=transform.cache_ttl=20ms", "--set=jobs.poll_interval=50ms", "--set=jobs.concurrency=4"];
    let process = Process::serve_on(&dir.path().join("data"), &log, &args).await;
    let client = &process.client;
    send_half_a_year(client, count).await;
    let patience = std::time::Duration::from_secs(60 + count as u64 / 1000);
    crate::support::eventually_for(patience, "every raw event is published", || async {
        let counts = counts(client).await?;
        if counts.get("published") == Some(&(count as u64)) && client.lag().await? == 0 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
    let before = peak_memory(process.pid());
    let began = std::time::Instant::now();
    let wish = |from: &str, to: &str| json!({"start_date": from, "end_date": to, "batch_size": 5000, "parallelism": 2});
    let mut jobs = Vec::new();
    for (from, to) in [
        ("2026-01-01T00:00:00Z", "2026-06-30T00:00:00Z"),
        ("2026-02-01T00:00:00Z", "2026-05-15T00:00:00Z"),
        ("2026-01-15T00:00:00Z", "2026-03-31T00:00:00Z"),
        ("2026-03-01T00:00:00Z", "2026-06-30T00:00:00Z"),
    ] {
        jobs.push(start(client, &wish(from, to)).await);
    }
    let mut found = 0;
    for id in &jobs {
        let result = crate::support::eventually_for(patience * 4, "the job has ended", || async {
            let job = job(client, id).await;
            if job["status"] == "succeeded" { Ok(job["result"].clone()) } else { Err(job.to_string()) }
        })
        .await;
        assert_eq!(result["total_events_published"], result["total_events_found"], "{result}");
        found += result["total_events_found"].as_u64().unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let grown = peak_memory(process.pid()).saturating_sub(before);
    println!(
        "{found} raw events by four jobs in {seconds:.1} s, {:.0}/s; peak memory grew by {grown} MiB",
        found as f64 / seconds
    );
    assert!(grown < 600, "memory grew by {grown} MiB");
    crate::support::eventually_for(patience, "what was reprocessed is stored", || async {
        let (_, lag) = client.operator_get("/api/ops/lag").await;
        let left: i64 =
            lag["groups"].as_array().ok_or("no groups")?.iter().filter_map(|row| row["lag"].as_i64()).sum();
        if left == 0 { Ok(()) } else { Err(format!("lag {left}")) }
    })
    .await;
    assert_eq!(stored_events(client).await, count as u64);
    assert!(process.terminate().success());
}
