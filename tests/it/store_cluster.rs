//! `store.cluster`: the rows stand on two shards, each an engine of its own, and everything is as on one.
//!
//! `FLEXFLOW_TEST_STORE=cluster` runs every other test on such a cluster, too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use flexflow::store::{EventBlock, EventRow, InsertError, Sql, StoreError};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::crash::{Ledger, check, send_until};
use crate::support::cluster::{Cluster, NAME, on_a_cluster};
use crate::support::kafka::Kafka;
use crate::support::store::{TestStore, row};
use crate::support::{Sandbox, eventually};

const CLOSE: Duration = Duration::from_secs(20);

on_a_cluster! {
    attribution: an_order_is_credited_to_its_click_within_seconds_whichever_comes_first
    groups: questions_ask_for_what_is_known_of_an_events_group
    metering::tracking: tracked_usage_says_the_same_as_the_events
    metering::usage: usage_is_exact_to_the_last_digit
    persons: identified_ids_are_one_person_in_every_question_and_over_a_restart
    pipeline: the_same_id_counts_once_in_one_batch_in_two_after_a_restart_and_with_another_time
    query::oracles: every_published_question_has_its_published_answer
    raw: a_payload_becomes_an_event_and_a_corrected_transform_replaces_it
    replay: a_replay_with_a_fix_stores_a_poison_record_once_however_often_it_runs
    rollups: rollups_equal_a_question_over_events_after_duplicates_replays_deletions_and_crashes
    saved: the_column_of_a_promoted_property_says_what_its_text_does
    sweep: the_first_of_an_event_is_kept
}

/// Rows that the shards hold, versions not told apart: by shard.
async fn held(test: &TestStore) -> Vec<u64> {
    let sql = "SELECT count() AS n FROM clusterAllReplicas('two', 'flexflow', 'events_local') GROUP BY _shard_num ORDER BY \
               _shard_num";
    let rows: Vec<(u64,)> = test.store.select(Sql::new(sql)).await.unwrap();
    rows.into_iter().map(|(n,)| n).collect()
}

/// Distinct ids whose rows stand on more than one shard.
async fn torn(test: &TestStore) -> u64 {
    let sql = "SELECT count() AS n FROM (SELECT distinct_id FROM (SELECT distinct_id, _shard_num AS shard FROM \
               clusterAllReplicas('two', 'flexflow', 'events_local')) GROUP BY distinct_id HAVING uniqExact(shard) > 1)";
    test.store.select::<(u64,)>(Sql::new(sql)).await.unwrap()[0].0
}

/// Rows that wait in a server for another shard: confirmed and not there.
async fn queued(test: &TestStore) -> u64 {
    let sql =
        "SELECT count() AS n FROM clusterAllReplicas('two', system.distribution_queue) WHERE data_files > 0";
    test.store.select::<(u64,)>(Sql::new(sql)).await.unwrap()[0].0
}

/// A block of events by as many people.
fn block(name: &str, rows: usize) -> EventBlock {
    let ids: Vec<String> = (0..rows).map(|n| format!("{name}-{n}")).collect();
    let mut block = EventBlock::new();
    for (offset, id) in (0..).zip(&ids) {
        block.push(&EventRow { distinct_id: id, ..row(id, offset, "{\"plan\":\"pro\"}") });
    }
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_under_one_token_is_one_on_every_shard_and_confirmed_when_all_have_it() {
    let test = TestStore::on_cluster(Arc::new(Cluster::start().await)).await;
    // More rows than one slice of a block on the wire has.
    let rows = block("a", 5_000);
    for _ in 0..3 {
        test.store.insert_events(&rows, "one").await.unwrap();
    }
    let shards = held(&test).await;
    assert!(shards.len() == 2 && shards.iter().all(|rows| *rows > 1_000), "{shards:?}");
    assert_eq!(shards.iter().sum::<u64>(), 5_000, "without telling versions apart");
    assert_eq!((torn(&test).await, queued(&test).await), (0, 0));
    // What was confirmed is on the disks of both.
    test.cluster().crash(0);
    test.cluster().crash(1);
    eventually("both shards are back with their rows", || async {
        test.store.probe().await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(held(&test).await, shards);
    // A shard is away: the block is not confirmed, whatever the other one has of it.
    test.cluster().kill(1);
    let later = block("b", 3_000);
    let refused = test.store.insert_events(&later, "two").await.unwrap_err();
    assert!(
        matches!(refused, InsertError::Unavailable(_) | InsertError::OutcomeUnknown(_)),
        "a refusal that asks for the same again: {refused}"
    );
    let error = test.store.probe().await.unwrap_err();
    let named = format!("shard 2 ({})", test.cluster().address(1));
    assert!(matches!(&error, StoreError::Unavailable(message) if message.contains(&named)), "{error}");
    let found = test.store.select::<(u64,)>(Sql::new("SELECT count() AS n FROM events FINAL")).await;
    assert!(matches!(found, Err(StoreError::Unavailable(_))), "never the half of an answer: {found:?}");
    test.cluster().revive(1).await;
    eventually("the same again is confirmed", || async {
        test.store.insert_events(&later, "two").await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(held(&test).await.iter().sum::<u64>(), 8_000);
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_crash_while_blocks_come_in_lose_and_double_no_row() {
    let test = Arc::new(TestStore::on_cluster(Arc::new(Cluster::start().await)).await);
    let (over, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (inserting, stop, failed) = (test.clone(), over.clone(), failures.clone());
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn(async move {
        let mut blocks = 0_u64;
        while !stop.load(Ordering::SeqCst) {
            let (name, rows) = (format!("b{blocks}"), 2_000);
            let block = block(&name, rows);
            eventually("a block is confirmed", || async {
                inserting.store.insert_events(&block, &name).await.map_err(|error| {
                    assert!(!matches!(error, InsertError::Rejected(_)), "{error}");
                    failed.fetch_add(1, Ordering::SeqCst);
                    error.to_string()
                })
            })
            .await;
            blocks += 1;
        }
        blocks
    });
    for round in 0..6 {
        let before = failures.load(Ordering::SeqCst);
        // The moment is what is tested.
        tokio::time::sleep(Duration::from_millis(150 + 70 * round)).await;
        test.cluster().crash(usize::from(round % 3 != 2));
        eventually("an insert has met it", || async {
            if failures.load(Ordering::SeqCst) > before { Ok(()) } else { Err(String::new()) }
        })
        .await;
        eventually("it is back", || async { test.store.probe().await.map_err(|e| e.to_string()) }).await;
    }
    over.store(true, Ordering::SeqCst);
    let blocks = writer.join_next().await.unwrap().unwrap();
    eventually("every row stands on its shard once", || async {
        let rows = held(&test).await.iter().sum::<u64>();
        if rows == blocks * 2_000 { Ok(()) } else { Err(format!("{rows} of {blocks} blocks")) }
    })
    .await;
    assert_eq!((torn(&test).await, queued(&test).await), (0, 0));
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_killed_under_load_loses_and_doubles_nothing_and_is_named() {
    let cluster = Arc::new(Cluster::start().await);
    let settings = [("consumer.batch_rows_max", "200"), ("consumer.batch_age_max", "20ms")];
    let app = Sandbox::on_cluster(cluster.clone(), &settings).await;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = tokio::task::JoinSet::new();
    senders.spawn(send_until(app.client.clone(), ledger.clone(), stop.clone(), "load".to_owned()));
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(300 + 200 * round)).await;
        cluster.crash(1);
    }
    cluster.kill(1);
    let acknowledged = ledger.lock().await.acknowledged.len();
    eventually("capture goes on without it", || async {
        if ledger.lock().await.acknowledged.len() > acknowledged { Ok(()) } else { Err(String::new()) }
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    senders.join_all().await;
    eventually("/ready names the shard", || async {
        let answer = app.client.http.get(format!("{}/ready", app.client.url)).send().await.unwrap();
        let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
        let named = body.contains(&format!("shard 2 ({})", cluster.address(1)));
        if status == 503 && named { Ok(()) } else { Err(format!("{status}: {body}")) }
    })
    .await;
    cluster.revive(1).await;
    app.client.wait_ready().await;
    check(&app.client, &*ledger.lock().await).await;
    let (status, doctor) = app.client.operator_get("/api/ops/doctor").await;
    let wrong: Vec<&Value> =
        doctor["findings"].as_array().unwrap().iter().filter(|finding| finding["ok"] == false).collect();
    assert!(status == 200 && wrong.is_empty(), "{wrong:?}");
    assert!(doctor.to_string().contains("two: 2 shards, all of 2 hosts answer"), "{doctor}");
    app.stop().await;
}

/// The names of what `doctor` finds wrong.
async fn wrong(test: &TestStore) -> BTreeSet<String> {
    let findings = match test.store.check().await {
        Ok(findings) => findings,
        Err(error) => return [error.to_string()].into(),
    };
    findings.into_iter().filter(|finding| !finding.ok).map(|finding| finding.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_looks_at_every_host_and_migrate_mends_what_is_gone_from_one() {
    let cluster = Arc::new(Cluster::start().await);
    let test = TestStore::on_cluster(cluster.clone()).await;
    assert_eq!(wrong(&test).await, BTreeSet::new());
    assert_eq!(test.store.migrate().await.unwrap(), Vec::<String>::new());
    test.store.promote("tier").await.unwrap();
    assert_eq!(wrong(&test).await, BTreeSet::new());
    let other = test.through(&cluster.address(1)).store;
    for statement in [
        "ALTER TABLE flexflow.events_local MODIFY SETTING fsync_after_insert = 0",
        "DROP TABLE flexflow.raw_events_local SYNC",
        "DROP TABLE flexflow.person_edges",
    ] {
        other.execute(Sql::new(statement)).await.unwrap();
    }
    let named = ["events_local.fsync_after_insert", "raw_events_local", "person_edges"];
    assert_eq!(wrong(&test).await, named.map(str::to_owned).into());
    assert!(!test.store.migrate().await.unwrap().is_empty());
    assert_eq!(wrong(&test).await, [named[0].to_owned()].into());
    // All of a host is gone, with the column of a promoted key.
    other.execute(Sql::new("DROP DATABASE flexflow SYNC")).await.unwrap();
    let pending = test.store.pending_migrations().await;
    assert!(matches!(pending, Err(StoreError::Schema { .. })), "{pending:?}");
    test.store.migrate().await.unwrap();
    assert_eq!(wrong(&test).await, BTreeSet::new());
    test.store.insert_events(&block("a", 100), "t").await.unwrap();
    let sql = "SELECT count() AS n FROM events FINAL WHERE project_id = 'proj'";
    assert_eq!(test.store.select::<(u64,)>(Sql::new(sql)).await.unwrap(), [(100,)]);
    cluster.kill(1);
    assert_eq!(wrong(&test).await, ["store.cluster".to_owned()].into());
    other.close(CLOSE).await;
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_stops_nothing_while_its_shard_answers() {
    let cluster = Arc::new(Cluster::start().await);
    let test = TestStore::on_cluster(cluster.clone()).await;
    cluster.add_absent_host();
    eventually("the servers know it", || async {
        test.store.probe().await.map_err(|error| error.to_string())?;
        let wrong: BTreeSet<String> = wrong(&test).await;
        if wrong == ["store.cluster".to_owned()].into() { Ok(()) } else { Err(format!("{wrong:?}")) }
    })
    .await;
    assert_eq!(test.store.migrate().await.unwrap(), Vec::<String>::new());
    let app = Sandbox::on_cluster(cluster, &[]).await;
    app.client
        .accept(&json!([{"event": "see", "distinct_id": "a"}, {"event": "see", "distinct_id": "b"}]))
        .await;
    app.client.settled(2).await;
    app.client.wait_ready().await;
    app.stop().await;
    // Without a table, every host must be there to get it.
    test.store.execute(Sql::new("DROP TABLE events_dlq")).await.unwrap();
    let refused = test.store.migrate().await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_layout_and_unknown_clusters_are_refused() {
    let cluster = Arc::new(Cluster::start().await);
    let test = TestStore::on_cluster(cluster.clone()).await;
    // As if the cluster had grown since.
    for statement in [
        "DROP TABLE events_dlq",
        "CREATE TABLE events_dlq AS events_dlq_local ENGINE = Distributed('two', 'flexflow', 'events_dlq_local', \
         cityHash64(source_topic, source_topic_id, source_partition, source_offset)) COMMENT 'shards: 1'",
    ] {
        test.store.execute(Sql::new(statement)).await.unwrap();
    }
    let refused = test.store.migrate().await.unwrap_err().to_string();
    assert!(refused.contains("events_dlq was made for shards: 1, and the cluster has 2"), "{refused}");
    assert_eq!(wrong(&test).await, ["events_dlq.engine".to_owned()].into());
    // As if a single server had been there before.
    for statement in ["DROP TABLE events_dlq", "RENAME TABLE events_dlq_local TO events_dlq"] {
        test.store.execute(Sql::new(statement)).await.unwrap();
    }
    let refused = test.store.migrate().await.unwrap_err().to_string();
    assert!(refused.contains("events_dlq is a ReplacingMergeTree of a single server"), "{refused}");
    test.store.close(CLOSE).await;
    let stranger = test.named("three");
    let error = stranger.store.probe().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(message) if message.contains("\"three\"") && message.contains(NAME)),
        "{error}"
    );
    stranger.store.close(CLOSE).await;
}

/// The embedded engine cannot replicate: such tables stay read only. How they are made can be seen all the same.
#[tokio::test(flavor = "multi_thread")]
async fn servers_with_macros_get_replicated_tables_that_remember_tokens() {
    // The oldest Kafka of the tests brings a ZooKeeper, on the port behind its own.
    let kafka = Kafka::start(1, "2.8.2", "").await;
    let port: u16 = kafka.bootstrap().rsplit(':').next().unwrap().parse().unwrap();
    let keeper = format!("<node><host>127.0.0.1</host><port>{}</port></node>", port + 1);
    let cluster = Cluster::start_with(|shard| {
        format!("<zookeeper>{keeper}</zookeeper><macros><shard>{shard}</shard><replica>a</replica></macros>")
    });
    let cluster = Arc::new(cluster.await);
    let test = TestStore::empty_cluster(cluster);
    let (mut made, mut last) = (Vec::new(), String::new());
    eventually("the tables are made, up to the first that is altered", || async {
        let refused = test.store.migrate().await.unwrap_err().to_string();
        if refused.contains("(242)") { Ok(()) } else { Err(refused) }
    })
    .await;
    let sql = "SELECT name AS name, engine_full AS engine FROM clusterAllReplicas('two', system.tables) WHERE database = \
               'flexflow' AND endsWith(name, '_local') ORDER BY name";
    for (name, engine) in test.store.select::<(String, String)>(Sql::new(sql)).await.unwrap() {
        let path = format!("'/clickhouse/tables/{{shard}}/flexflow/{name}', '{{replica}}', version");
        assert!(engine.starts_with(&format!("ReplicatedReplacingMergeTree({path}")), "{engine}");
        assert!(engine.contains("replicated_deduplication_window = 10000"), "{engine}");
        assert!(engine.contains("replicated_deduplication_window_seconds = 2592000"), "{engine}");
        assert!(engine.contains("fsync_after_insert = 1"), "{engine}");
        if name == last {
            made.push(name.clone());
        }
        last = name;
    }
    assert!(made.contains(&"events_local".to_owned()), "on both hosts: {made:?}");
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_of_a_callers_own_reads_all_shards_as_the_reader() {
    let app = Sandbox::on_cluster(Arc::new(Cluster::start().await), &[]).await;
    let people: Vec<Value> =
        (0..40).map(|n| json!({"event": "see", "distinct_id": format!("p{n}")})).collect();
    app.client.accept(&json!(people)).await;
    app.client.settled(40).await;
    for (query, expected) in [
        ("SELECT count() AS n, uniqExact(distinct_id) AS people FROM events", json!([[40, 40]])),
        (
            "SELECT count() AS n FROM events WHERE distinct_id IN (SELECT distinct_id FROM events WHERE distinct_id < 'p2')",
            json!([[12]]),
        ),
        (
            "SELECT count() AS n FROM events AS a INNER JOIN (SELECT person_id FROM events GROUP BY person_id) AS b ON \
             a.person_id = b.person_id",
            json!([[40]]),
        ),
        (
            "SELECT max(place) AS n FROM (SELECT row_number() OVER (ORDER BY distinct_id) AS place FROM events)",
            json!([[40]]),
        ),
    ] {
        let (status, answer) = app.client.post("/api/query/sql", &json!({ "query": query })).await;
        assert_eq!((status, &answer["results"]), (200, &expected), "{query}: {answer}");
    }
    app.stop().await;
}
