//! The event store against a real engine.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flexflow::config;
use flexflow::event::Timestamp;
use flexflow::lifecycle::ComponentState;
use flexflow::store::{
    DeadLetterFilter, DeadLetterOrigin, DeadLetterRow, EventBlock, EventKey, EventRow, InsertError, Limits,
    Property, Row, Sql, StoreError, StoredRange, Tombstone,
};
use uuid::Uuid;

use crate::support::proxy::{Proxy, until};
use crate::support::store::{TestStore, config as store_config, row};

const CLOSE: Duration = Duration::from_secs(20);
const TOPIC: Uuid = Uuid::from_u128(1);

async fn ask<T: Row>(test: &TestStore, sql: Sql) -> Vec<T> {
    test.store.select(sql).await.unwrap()
}

async fn count(test: &TestStore, sql: &'static str) -> u64 {
    ask::<(u64,)>(test, Sql::new(sql)).await[0].0
}

fn block<'a>(rows: impl IntoIterator<Item = EventRow<'a>>) -> EventBlock {
    let mut block = EventBlock::new();
    rows.into_iter().for_each(|row| block.push(&row));
    block
}

/// Enough bytes, hard to compress, for the proxy to know rows from questions.
fn noise(length: usize) -> String {
    let mut state = 0x9e37_79b9_u32;
    let text: String = (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + u8::try_from(state >> 24).unwrap() % 26)
        })
        .collect();
    format!(r#"{{"noise":"{text}"}}"#)
}

#[tokio::test]
async fn the_same_rows_under_the_same_token_are_stored_once_and_under_another_counted_once() {
    let test = TestStore::start().await;
    let rows = block([row("a", 0, r#"{"price":1.5}"#), row("b", 1, "{}")]);
    test.store.insert_events(&rows, "one").await.unwrap();
    test.store.insert_events(&rows, "one").await.unwrap();
    assert_eq!(count(&test, "SELECT count() AS n FROM events").await, 2);
    test.store.insert_events(&rows, "two").await.unwrap();
    assert_eq!(count(&test, "SELECT count() AS n FROM events FINAL").await, 2);
    let empty = test.store.insert_events(&EventBlock::new(), "three").await;
    assert!(matches!(empty, Err(InsertError::Rejected(_))));
    let found: Vec<(String, String, String, String, Timestamp, i64)> = ask(
        &test,
        Sql::new(
            "SELECT id AS i, external_customer_id AS c, ingestion_id AS g, p_price AS p, timestamp AS t, source_offset \
             AS o FROM events FINAL WHERE tenant_id = 'proj' ORDER BY o LIMIT 1",
        ),
    )
    .await;
    let expected = ("a", "ann", "events-0-0", "1.5");
    assert_eq!((&*found[0].0, &*found[0].1, &*found[0].2, &*found[0].3), expected);
    assert_eq!(found[0].4, row("a", 0, "").timestamp);
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn a_block_of_many_slices_and_many_months_is_one_insert() {
    let test = TestStore::start().await;
    let ids: Vec<String> = (0..20_000).map(|index| format!("id-{index}")).collect();
    let rows = block(ids.iter().zip(0..).map(|(id, offset)| EventRow {
        timestamp: Timestamp::from_millis(i64::from(u16::try_from(offset % 150).unwrap()) * 31 * 86_400_000),
        ..row(id, offset, "{}")
    }));
    test.store.insert_events(&rows, "late").await.unwrap();
    test.store.insert_events(&rows, "late").await.unwrap();
    assert_eq!(count(&test, "SELECT count() AS n FROM events").await, 20_000);
    let parts =
        count(&test, "SELECT count() AS n FROM system.parts WHERE table = 'events' AND level = 0").await;
    assert!(parts <= 150, "{parts} parts: the slices became blocks of their own");
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn a_connection_cut_after_the_data_is_an_unknown_outcome_and_the_retry_leaves_one_row() {
    let test = TestStore::start().await;
    let target: SocketAddr = test.store.address().unwrap().parse().unwrap();
    let proxy = Proxy::to(target).await;
    let through = test.through(&proxy.address.to_string());
    through.store.wait_ready(CLOSE).await.unwrap();
    let properties = noise(100_000);
    let rows = block([row("a", 0, &properties)]);
    proxy.cut_after_insert();
    let outcome = through.store.insert_events(&rows, "t").await;
    assert!(matches!(outcome, Err(InsertError::OutcomeUnknown(_))), "{outcome:?}");
    assert_eq!(proxy.cut(), 1, "the cut was after the data");
    until("the row is there all the same", async || {
        test.store.select::<(u64,)>(Sql::new("SELECT count() AS n FROM events")).await == Ok(vec![(1,)])
    })
    .await;
    proxy.heal();
    through.store.insert_events(&rows, "t").await.unwrap();
    assert_eq!(count(&test, "SELECT count() AS n FROM events").await, 1);
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn an_answer_cut_in_the_middle_is_an_error_and_never_a_short_answer() {
    let test = TestStore::start().await;
    let proxy = Proxy::to(test.store.address().unwrap().parse().unwrap()).await;
    let through = test.through(&proxy.address.to_string());
    through.store.wait_ready(CLOSE).await.unwrap();
    let sql =
        Sql::new("SELECT number AS n, toString(cityHash64(number)) AS t FROM system.numbers LIMIT 3000000");
    let mut rows = through.store.stream::<(u64, String)>(sql).await.unwrap();
    assert!(rows.next_chunk().await.unwrap().is_some());
    drop(proxy);
    let ended = loop {
        match rows.next_chunk().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn killing_the_engine_heals_and_loses_nothing() {
    let test = TestStore::start().await;
    test.store.insert_events(&block([row("a", 0, "{}")]), "t").await.unwrap();
    let pid = test.engine_pid();
    kill(pid);
    until("the loss is seen", async || {
        test.health.get("store").is_some_and(|status| status.state == ComponentState::Down)
            || test.try_engine_pid().is_some_and(|now| now != pid)
    })
    .await;
    until("it answers again", async || test.store.probe().await.is_ok()).await;
    assert_ne!(test.engine_pid(), pid);
    assert_eq!(count(&test, "SELECT count() AS n FROM events").await, 1);
    // The token is remembered over the restart, too.
    test.store.insert_events(&block([row("a", 0, "{}")]), "t").await.unwrap();
    assert_eq!(count(&test, "SELECT count() AS n FROM events").await, 1);
    assert_eq!(test.health.get("store").unwrap().state, ComponentState::Up);
    test.store.close(CLOSE).await;
    until("the engine has ended", async || test.try_engine_pid().is_none()).await;
    assert!(matches!(test.store.probe().await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn nobody_without_the_password_reads_anything_and_who_stops_the_listener_is_outlived() {
    let test = TestStore::start().await;
    test.store.insert_events(&block([row("secret", 0, "{}")]), "t").await.unwrap();
    let stranger = TestStore::open(
        &config::Store {
            url: Some(format!("clickhouse://{}", test.store.address().unwrap())),
            user: "default".to_owned(),
            password: String::new().into(),
            database: "system".to_owned(),
            ..store_config()
        },
        tempfile::tempdir().unwrap(),
    );
    for forbidden in [
        "SELECT count() AS n FROM flexflow.events",
        "SELECT event_id AS n FROM flexflow.events",
        "SELECT name AS n FROM system.parts",
        "SELECT line AS n FROM file('/etc/passwd', 'LineAsString')",
        "INSERT INTO flexflow.schema_migrations (name) VALUES ('x')",
        "DROP TABLE flexflow.events",
        "SYSTEM SHUTDOWN",
    ] {
        let answer = stranger.store.select::<(String,)>(Sql::new(forbidden)).await;
        assert!(matches!(answer, Err(StoreError::Schema { .. })), "{forbidden}: {answer:?}");
    }
    let before = test.engine_pid();
    let _ = stranger.store.select::<(String,)>(Sql::new("SYSTEM STOP LISTEN TCP")).await;
    until("another engine listens", async || {
        test.try_engine_pid().is_some_and(|now| now != before) && test.store.probe().await.is_ok()
    })
    .await;
    assert_eq!(count(&test, "SELECT count() AS n FROM events").await, 1);
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn every_setting_is_read_back_and_a_changed_one_is_found() {
    let test = TestStore::start().await;
    let findings = test.store.check().await.unwrap();
    let wrong: Vec<_> = findings.iter().filter(|finding| !finding.ok).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in [
        "store.migrations",
        "store.async_insert",
        "store.insert_deduplicate",
        "store.do_not_merge_across_partitions_select_final",
        "events.non_replicated_deduplication_window",
        "events.fsync_after_insert",
        "events.fsync_part_directory",
        "events.min_rows_to_fsync_after_merge",
        "events.old_parts_lifetime",
        "events.columns",
        "store.reader_user",
    ] {
        assert!(findings.iter().any(|finding| finding.name == name), "{name} is not looked at");
    }
    let _: Vec<(u8,)> =
        ask(&test, Sql::new("ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 0"))
            .await;
    let _: Vec<(u8,)> = ask(&test, Sql::new("ALTER TABLE events DROP COLUMN p_plan")).await;
    let findings = test.store.check().await.unwrap();
    let wrong: Vec<&str> =
        findings.iter().filter(|finding| !finding.ok).map(|finding| &*finding.name).collect();
    assert_eq!(wrong, ["events.non_replicated_deduplication_window", "events.columns"]);
    let outcome = test.store.insert_events(&block([row("a", 0, r#"{"plan":"pro"}"#)]), "t").await;
    assert!(
        matches!(&outcome, Err(InsertError::Schema { cure, .. }) if cure.contains("migrate")),
        "{outcome:?}"
    );
    let _: Vec<(u8,)> = ask(&test, Sql::new("DROP TABLE events")).await;
    let outcome = test.store.insert_events(&block([row("a", 0, "{}")]), "t").await;
    assert!(matches!(outcome, Err(InsertError::Schema { .. })), "{outcome:?}");
    let findings = test.store.check().await.unwrap();
    assert!(findings.iter().any(|finding| finding.name == "events" && !finding.ok));
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn migrations_by_two_processes_at_once_are_applied_once() {
    let test = TestStore::open(&store_config(), tempfile::tempdir().unwrap());
    test.store.wait_ready(Duration::from_secs(300)).await.unwrap();
    assert!(matches!(test.store.pending_migrations().await, Err(StoreError::Schema { .. })));
    let (one, two) = tokio::join!(test.store.migrate(), test.store.migrate());
    assert!(!one.unwrap().is_empty() || !two.unwrap().is_empty());
    assert_eq!(test.store.migrate().await.unwrap(), Vec::<String>::new());
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn a_tombstone_wins_over_every_replay() {
    let test = TestStore::start().await;
    test.store.insert_events(&block([row("a", 0, "{}"), row("b", 1, "{}")]), "t").await.unwrap();
    let gone = row("a", 0, "{}");
    let tombstone = Tombstone {
        project_id: gone.project_id.to_owned(),
        environment_id: gone.environment_id.to_owned(),
        event_id: gone.event_id.to_owned(),
        event_name: gone.event_name.to_owned(),
        distinct_id: gone.distinct_id.to_owned(),
        timestamp: gone.timestamp,
        received_at: gone.received_at,
        version: 1,
    };
    test.store.tombstone(std::slice::from_ref(&tombstone)).await.unwrap();
    test.store.tombstone(&[tombstone]).await.unwrap();
    for token in ["replay:1", "replay:2"] {
        test.store.insert_events(&block([row("a", 7, "{}")]), token).await.unwrap();
    }
    for _ in 0..2 {
        let left: Vec<(String,)> = ask(&test, Sql::new("SELECT event_id AS id FROM events FINAL")).await;
        assert_eq!(left, [("b".to_owned(),)]);
        let _: Vec<(u8,)> = ask(&test, Sql::new("OPTIMIZE TABLE events FINAL")).await;
    }
    let corrected = EventRow { version: 1, ..row("a", 8, "{}") };
    test.store.insert_events(&block([corrected]), "corrected").await.unwrap();
    let left: Vec<(String,)> =
        ask(&test, Sql::new("SELECT event_id AS id FROM events FINAL ORDER BY id")).await;
    assert_eq!(left, [("a".to_owned(),), ("b".to_owned(),)], "of the same version the last one counts");
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn stored_offsets_and_known_events_are_found_over_several_parts() {
    let test = TestStore::start().await;
    for part in 0..4_i64 {
        let mut rows = EventBlock::new();
        for index in 0..10 {
            let id = |of: &str| format!("{of}{part}-{index}");
            let own = row("", part * 10 + index, "{}");
            rows.push(&EventRow { event_id: &id(""), ..own });
            rows.push(&EventRow { event_id: &id("p"), source_partition: 1, source_offset: index, ..own });
            let other_topic = Uuid::from_u128(2);
            rows.push(&EventRow {
                event_id: &id("t"),
                source_topic_id: other_topic,
                source_offset: 1000,
                ..own
            });
        }
        test.store.insert_events(&rows, &format!("t{part}")).await.unwrap();
    }
    let range = |partition, from_offset| StoredRange {
        topic: "events".to_owned(),
        topic_id: TOPIC,
        partition,
        from_offset,
    };
    let found = test.store.stored_offsets(&[range(0, 15), range(1, 8), range(2, 0)]).await.unwrap();
    assert_eq!(found[0].offsets, (15..40).collect::<Vec<_>>());
    assert_eq!(found[1].offsets, [8, 9], "each once, whatever the parts");
    let between = test.store.offsets_between("events", TOPIC, 0, 5, 7).await.unwrap();
    assert_eq!(between, [5, 6, 7]);
    assert_eq!(found[2].offsets, Vec::<i64>::new());
    assert_eq!(test.store.stored_offsets(&[]).await.unwrap(), []);
    let key = |project: &str, id: &str| EventKey {
        project_id: project.to_owned(),
        environment_id: "env".to_owned(),
        event_id: id.to_owned(),
    };
    let known =
        test.store.known_events(&[key("proj", "0-1"), key("else", "0-1"), key("proj", "no")]).await.unwrap();
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [key("proj", "0-1")]);
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn recent_ids_come_newest_first_and_no_more_than_asked_for() {
    let test = TestStore::start().await;
    let now =
        Timestamp::from_millis(i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap());
    let ids: Vec<String> = (0..50).map(|index| format!("id-{index:02}")).collect();
    // One every half hour, backwards: the slices of time must find them all.
    let rows = block(ids.iter().zip(0..).map(|(id, index)| EventRow {
        received_at: now.minus(Duration::from_secs(1800 * index)),
        ..row(id, i64::try_from(index).unwrap(), "{}")
    }));
    test.store.insert_events(&rows, "t").await.unwrap();
    let mut answer =
        test.store.recent_ids("events", TOPIC, &[0, 1], now.minus(Duration::from_secs(1800 * 30)), 1000);
    let mut found = Vec::new();
    while let Some(chunk) = answer.next_chunk().await.unwrap() {
        found.extend(chunk);
    }
    let offsets: Vec<i64> = found.iter().map(|id| id.offset).collect();
    assert_eq!(offsets, (0..=30).collect::<Vec<_>>());
    assert_eq!(found[7].event_id, "id-07");
    let mut answer = test.store.recent_ids("events", TOPIC, &[0], Timestamp::EPOCH, 5);
    let mut found = Vec::new();
    while let Some(chunk) = answer.next_chunk().await.unwrap() {
        found.extend(chunk);
    }
    assert_eq!(found.len(), 5);
    let mut none = test.store.recent_ids("events", TOPIC, &[3], now.minus(Duration::from_secs(60)), 5);
    assert_eq!(none.next_chunk().await.unwrap(), None);
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn values_read_back_as_themselves_whatever_is_in_them() {
    let test = TestStore::start().await;
    let texts = [
        "",
        "it's",
        "\\",
        "\\'",
        "a\0b\nc\r\td",
        "héllo ∑ 🦀",
        "' OR 1 = 1 --",
        "`",
        "$1 {x:String}",
        "\u{1}\u{7f}",
    ];
    for text in texts {
        let rows: Vec<(String, Vec<String>)> =
            ask(&test, Sql::new("SELECT ").arg(text).push(" AS t, ").arg(vec![text, text]).push(" AS a"))
                .await;
        assert_eq!(rows, [(text.to_owned(), vec![text.to_owned(); 2])]);
    }
    for number in [0.1, -0.0, 1e300, 5e-324, 123_456_789.123_456_79, f64::MAX] {
        let rows: Vec<(f64,)> = ask(&test, Sql::new("SELECT toFloat64(").arg(number).push(") AS n")).await;
        assert_eq!(rows[0].0.to_bits(), number.to_bits(), "{number}");
    }
    for number in [i64::MIN, -1, 0, i64::MAX] {
        let rows: Vec<(i64,)> = ask(&test, Sql::new("SELECT ").arg(number).push(" AS n")).await;
        assert_eq!(rows[0].0, number);
    }
    for millis in [-1, 0, 1, 1_700_000_000_123, 4_000_000_000_000] {
        let at = Timestamp::from_millis(millis);
        assert_eq!(ask::<(Timestamp,)>(&test, Sql::new("SELECT ").arg(at).push(" AS t")).await[0].0, at);
    }
    let uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    assert_eq!(ask::<(Uuid,)>(&test, Sql::new("SELECT ").arg(uuid).push(" AS u")).await[0].0, uuid);
    let rows: Vec<(u8, u8, u64)> = ask(
        &test,
        Sql::new("SELECT 1 IN ")
            .list(Vec::<i64>::new())
            .push(" AS a, has(")
            .arg(vec!["x"])
            .push(", 'x') AS b, length(")
            .arg(Vec::<String>::new())
            .push(") AS c"),
    )
    .await;
    assert_eq!(rows, [(0, 1, 0)]);
    test.store.close(CLOSE).await;
}

type PropertyRow = (String, Option<String>, Option<f64>, bool, String);

#[tokio::test]
async fn a_property_means_the_same_whether_its_key_is_hot_or_not() {
    let test = TestStore::start().await;
    let values = [
        ("absent", None, None, None),
        ("null", Some("null"), None, None),
        ("number", Some("1.5"), Some("1.5"), Some(1.5)),
        ("integer", Some("12"), Some("12"), Some(12.0)),
        ("text", Some("\"pro\""), Some("pro"), None),
        ("numeric text", Some("\"12\""), Some("12"), Some(12.0)),
        ("text nan", Some("\"nan\""), Some("nan"), None),
        ("escapes", Some(r#""a\"b\\\u00e9\n""#), Some("a\"b\\é\n"), None),
        ("empty text", Some("\"\""), Some(""), None),
        ("true", Some("true"), Some("true"), None),
        ("nested", Some(r#"{"a":[1,2]}"#), Some(r#"{"a":[1,2]}"#), None),
    ];
    let events: Vec<(&str, String)> = values
        .iter()
        .map(|(name, json, ..)| {
            (*name, json.map_or("{}".to_owned(), |json| format!(r#"{{"plan":{json},"cold":{json}}}"#)))
        })
        .collect();
    let rows =
        block(events.iter().zip(0..).map(|((name, properties), offset)| row(name, offset, properties)));
    test.store.insert_events(&rows, "t").await.unwrap();
    for key in ["plan", "cold"] {
        let property = Property::new(key);
        let sql = Sql::new("SELECT event_id AS i, ")
            .append(&property.text())
            .push(" AS t, ")
            .append(&property.number())
            .push(" AS n, ")
            .append(&property.is_set())
            .push(" AS s, ")
            .append(&property.raw())
            .push(" AS r FROM events FINAL ORDER BY source_offset");
        let found = ask::<PropertyRow>(&test, sql).await;
        for ((name, json, text, number), found) in values.iter().zip(found) {
            assert_eq!(found.0, *name);
            assert_eq!((found.1.as_deref(), found.2), (*text, *number), "{key} {name}");
            assert_eq!(found.3, text.is_some(), "{key} {name} is set");
            assert_eq!(found.4.is_empty(), json.is_none(), "{key} {name} raw");
        }
    }
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn a_question_over_its_limits_names_the_setting_and_leaves_the_engine_alone() {
    let test = TestStore::start().await;
    let pid = test.engine_pid();
    let limits = Limits {
        timeout: Duration::from_millis(300),
        memory_bytes_max: Some(50_000_000),
        rows_read_max: None,
        timeout_setting: "query.timeout",
        read_only: false,
    };
    let slow = Sql::new("SELECT count() AS n FROM system.numbers WHERE NOT ignore(sipHash64(number))");
    let answer = test.store.select_within::<(u64,)>(slow, limits).await;
    assert!(matches!(answer, Err(StoreError::Timeout { setting: "query.timeout", .. })), "{answer:?}");
    let large = Sql::new("SELECT length(groupArray(toString(number))) AS n FROM numbers(100000000)");
    let limits = Limits { timeout: Duration::from_secs(20), ..limits };
    let answer = test.store.select_within::<(u64,)>(large, limits).await;
    assert!(matches!(answer, Err(StoreError::Limit { setting: "query.memory_max", .. })), "{answer:?}");
    let limits = Limits { memory_bytes_max: None, rows_read_max: Some(1_000_000), ..limits };
    let many = Sql::new("SELECT sum(number) AS n FROM numbers(100000000)");
    let answer = test.store.select_within::<(u64,)>(many, limits).await;
    assert!(matches!(answer, Err(StoreError::Limit { setting: "query.rows_read_max", .. })), "{answer:?}");
    let wrong = test.store.select::<(u64,)>(Sql::new("SELEKT 1")).await;
    assert!(matches!(wrong, Err(StoreError::Query(_))), "{wrong:?}");
    // Asked and left: the answer is under way when the connection is given up.
    for _ in 0..5 {
        let sql = Sql::new("SELECT number AS n, toString(number) AS t FROM system.numbers LIMIT 5000000");
        let mut rows = test.store.stream::<(u64, String)>(sql).await.unwrap();
        assert!(rows.next_chunk().await.unwrap().is_some());
    }
    test.store.probe().await.unwrap();
    assert_eq!(test.engine_pid(), pid, "the engine has died of a connection that was given up");
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_counted_and_moved_on() {
    let test = TestStore::start().await;
    let letter = |offset: i64, kind: &str, version: u64, status: &str| DeadLetterRow {
        origin: DeadLetterOrigin { topic: "events".to_owned(), topic_id: TOPIC, partition: 0, offset },
        project_id: "proj".to_owned(),
        environment_id: "env".to_owned(),
        event_id: format!("id-{offset}"),
        error_kind: kind.to_owned(),
        error_message: "no".to_owned(),
        stage: "event-consumers".to_owned(),
        // Two of each moment: the pages must not depend on time alone.
        dlq_ts: Timestamp::from_millis(1_700_000_000_000 + offset / 2),
        attempts: 1,
        recoveries: 0,
        writer: "test".to_owned(),
        record_key: "ann".to_owned(),
        raw_kind: "json".to_owned(),
        raw: r#"{"x":1}"#.to_owned(),
        dlq_topic_id: TOPIC,
        dlq_partition: 0,
        dlq_offset: offset,
        status: status.to_owned(),
        status_at: Timestamp::from_millis(1_700_000_000_000),
        reason: String::new(),
        job_id: String::new(),
        version,
    };
    let rows: Vec<_> = (0..25)
        .map(|offset| {
            letter(offset, if offset % 5 == 0 { "invalid_json" } else { "missing_field" }, 0, "open")
        })
        .collect();
    test.store.insert_dead_letters(&rows, "a").await.unwrap();
    test.store.insert_dead_letters(&[letter(3, "missing_field", 1, "replayed")], "b").await.unwrap();
    let filter = DeadLetterFilter { status: Some("open".to_owned()), ..DeadLetterFilter::default() };
    let mut seen: Vec<i64> = Vec::new();
    let mut last: Option<DeadLetterRow> = None;
    loop {
        let after = last.as_ref().map(|row| (row.dlq_ts, &row.origin));
        let page = test.store.list_dead_letters(&filter, after, 7).await.unwrap();
        seen.extend(page.iter().map(|row| row.origin.offset));
        let Some(end) = page.into_iter().last() else { break };
        last = Some(end);
    }
    let expected: Vec<i64> = (0..25).rev().filter(|offset| *offset != 3).collect();
    assert_eq!(seen, expected);
    let counts = test.store.count_dead_letters(&DeadLetterFilter::default()).await.unwrap();
    let counts: Vec<_> =
        counts.iter().map(|count| (&*count.error_kind, &*count.status, count.count)).collect();
    assert_eq!(
        counts,
        [("invalid_json", "open", 5), ("missing_field", "open", 19), ("missing_field", "replayed", 1)]
    );
    let found = test.store.dead_letters_at(&[rows[3].origin.clone(), rows[4].origin.clone()]).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.contains(&rows[4]), "every field reads back");
    let elsewhere =
        DeadLetterFilter { scope: Some(("proj".into(), "other".into())), ..DeadLetterFilter::default() };
    assert_eq!(test.store.list_dead_letters(&elsewhere, None, 10).await.unwrap(), []);
    test.store.close(CLOSE).await;
}

#[expect(unsafe_code, reason = "a test sends SIGKILL to a process it started")]
fn kill(pid: u32) {
    // SAFETY: kill touches no memory; the pid is that of this test's own engine.
    assert_eq!(unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), libc::SIGKILL) }, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn how_fast_rows_go_in() {
    let begun = Instant::now();
    let test = TestStore::start().await;
    eprintln!("engine and tables after {:?}", begun.elapsed());
    let blocks: Vec<EventBlock> = (0..25).map(measured_block).collect();
    let begun = Instant::now();
    let client = cpu("self");
    let built = measured_block(25);
    eprintln!("built 20000 rows in {:?} cpu {:?}", begun.elapsed(), cpu("self") - client);
    let engine_process = test.engine_pid().to_string();
    let (begun, client, engine) = (Instant::now(), cpu("self"), cpu(&engine_process));
    for (index, block) in blocks.iter().enumerate() {
        test.store.insert_events(block, &format!("t{index}")).await.unwrap();
    }
    let rows = blocks.len() * built.len();
    eprintln!(
        "{rows} rows in {:?}, cpu of ours {:?}, of the engine {:?}; {} bytes a block",
        begun.elapsed(),
        cpu("self") - client,
        cpu(&engine_process) - engine,
        built.bytes()
    );
    let begun = Instant::now();
    for _ in 0..200 {
        test.store.probe().await.unwrap();
    }
    eprintln!("a ping takes {:?}", begun.elapsed() / 200);
    test.store.close(CLOSE).await;
}

fn measured_block(batch: i64) -> EventBlock {
    let mut block = EventBlock::with_capacity(20_000);
    for index in 0..20_000 {
        let id = format!("01890a5d-ac96-774b-bcce-{batch:04}{index:08}");
        let person = format!("person-{}", index * 7919 % 5000);
        let properties = format!(
            r#"{{"path":"/items/{}","price":{}.5,"currency":"EUR","ad_id":"ad-{}","item_id":"item-{}","country":"DE","device":"phone","k{}":"text","plan":"pro","n":{index},"flag":true}}"#,
            index % 100,
            index % 37,
            index % 50,
            index % 1000,
            index % 300
        );
        let own = row(&id, batch * 20_000 + index, &properties);
        block.push(&EventRow { distinct_id: &person, ..own });
    }
    block
}

/// User and system time of a process so far.
fn cpu(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
