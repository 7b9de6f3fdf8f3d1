//! Days at rest against a real engine: whatever comes to them, no answer differs from FINAL's.

use std::time::Duration;

use flexflow::config;
use flexflow::event::{Scope, Timestamp};
use flexflow::store::{EventBlock, EventRow, Settling, Sql};

use crate::support::store::{TestStore, config as store_config, row};

const CLOSE: Duration = Duration::from_secs(20);
const FIRST_DAY: i64 = 20_513;
const DAY_MILLIS: i64 = 86_400_000;

/// A store that looks into days only when the test does.
async fn store() -> TestStore {
    let test =
        TestStore::start_with(&config::Store { settle_interval: Duration::ZERO, ..store_config() }).await;
    // As a promoted property has it.
    let column = "ALTER TABLE events ADD COLUMN promoted String MATERIALIZED JSONExtractRaw(properties, 'n')";
    test.store.execute(Sql::new(column)).await.unwrap();
    test
}

/// Deduplicated events of the four days, with this behind the key's conditions.
fn events(condition: &'static str) -> Sql {
    let scope = Scope::new("proj", "env");
    let day = |after: i64| u16::try_from(FIRST_DAY + after).unwrap();
    let keys = [
        Sql::new("project_id = ").arg("proj"),
        Sql::new("environment_id = ").arg("env"),
        Sql::new("toDate(timestamp) >= toDate(20513) AND toDate(timestamp) <= toDate(20516)"),
    ];
    Sql::new("SELECT count() AS events, sum(cityHash64(event_id, properties, timestamp)) AS sum")
        .deduplicated("events", (&scope, day(0)..=day(3)), &Sql::default(), &keys)
        .push(condition)
}

/// The same as it stands.
fn with_final(condition: &'static str) -> Sql {
    Sql::new(
        "SELECT count() AS events, sum(cityHash64(event_id, properties, timestamp)) AS sum FROM events FINAL PREWHERE \
         project_id = 'proj' AND environment_id = 'env' AND toDate(timestamp) >= toDate(20513) AND toDate(timestamp) <= \
         toDate(20516)",
    )
    .push(condition)
}

/// Each holds of some version of an event and not of another: no row may be left out before versions are told apart.
const CONDITIONS: [&str; 7] = [
    "",
    " WHERE promoted > '4'",
    " WHERE bitOr(toUnixTimestamp64Milli(timestamp), 0) % 86400000 < 43200000",
    " WHERE JSONExtractInt(properties, 'n') > 4",
    " WHERE received_at < fromUnixTimestamp64Milli(1772400000000, 'UTC')",
    " WHERE source_offset < 50",
    " WHERE raw_event_id = 'raw-1'",
];

/// Repeatable numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % end
    }
}

struct Drawn {
    id: String,
    raw_id: String,
    properties: String,
    at: i64,
    received: i64,
    offset: i64,
    version: u64,
    is_deleted: bool,
}

impl Drawn {
    /// An event of a few, in any version.
    fn of(numbers: &mut Numbers) -> Self {
        // An event has one day, and any time in it.
        let id = numbers.below(400);
        let day = FIRST_DAY + id % 4;
        Self {
            id: format!("id-{id}"),
            raw_id: format!("raw-{}", numbers.below(3)),
            properties: format!(r#"{{"n":{}}}"#, numbers.below(10)),
            at: day * DAY_MILLIS + numbers.below(DAY_MILLIS),
            received: 1_772_300_000_000 + numbers.below(200_000_000),
            offset: numbers.below(100),
            version: u64::try_from(numbers.below(3)).unwrap(),
            is_deleted: numbers.below(12) == 0,
        }
    }

    fn row(&self) -> EventRow<'_> {
        EventRow {
            raw_event_id: &self.raw_id,
            timestamp: Timestamp::from_millis(self.at),
            received_at: Timestamp::from_millis(self.received),
            version: self.version,
            is_deleted: self.is_deleted,
            ..row(&self.id, self.offset, &self.properties)
        }
    }
}

async fn insert(test: &TestStore, rows: &[EventRow<'_>], token: &str) {
    let mut block = EventBlock::new();
    rows.iter().for_each(|row| block.push(row));
    test.store.insert_events(&block, token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_to_a_day_at_rest_counts_as_with_final() {
    let test = store().await;
    let mut numbers = Numbers(7);
    let mut settling = Settling::default();
    let (mut plain, mut mixed, mut overtaken) = (0, 0, 0);
    for round in 0..60 {
        let count = if numbers.below(4) == 0 { 60 } else { numbers.below(4) };
        let drawn: Vec<Drawn> = (0..count).map(|_| Drawn::of(&mut numbers)).collect();
        if !drawn.is_empty() {
            let rows: Vec<EventRow<'_>> = drawn.iter().map(Drawn::row).collect();
            insert(&test, &rows, &format!("round {round}")).await;
        }
        match numbers.below(12) {
            0 => test.store.execute(Sql::new("OPTIMIZE TABLE events FINAL")).await.unwrap(),
            1 => {
                let gone = Sql::new("ALTER TABLE events DELETE WHERE event_id = ")
                    .arg(format!("id-{}", numbers.below(400)));
                test.store.execute(gone.push(" SETTINGS mutations_sync = 1")).await.unwrap();
            }
            2..8 => {
                for _ in 0..2 {
                    test.store.settle_once(&mut settling).await.unwrap();
                }
            }
            _ => {}
        }
        for condition in CONDITIONS {
            let sql = events(condition);
            let asked = test.store.asked(&sql);
            let found: Vec<(u64, u64)> = test.store.select(sql.clone()).await.unwrap();
            let expected: Vec<(u64, u64)> = test.store.select(with_final(condition)).await.unwrap();
            assert_eq!(found, expected, "round {round}: {asked}");
            if asked.contains("throwIf") {
                match asked.contains("FINAL") {
                    true => mixed += 1,
                    false => plain += 1,
                }
                overtaken += u32::from(!test.store.asked(&sql).contains("throwIf"));
            }
        }
    }
    assert!(plain > 5 && mixed > 10, "{plain} plain, {mixed} mixed, {overtaken} overtaken");
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_rows_overtake_is_asked_again_with_final() {
    let test = store().await;
    let mut settling = Settling::default();
    let at = |text: &str| Timestamp::parse(text).unwrap();
    let other = EventRow { timestamp: at("2026-03-02T12:00:00Z"), ..row("b", 1, r#"{"n":6}"#) };
    insert(&test, &[row("a", 0, r#"{"n":5}"#), other], "1").await;
    let later = EventRow { version: 1, timestamp: at("2026-03-01T20:00:00Z"), ..row("a", 2, "{}") };
    let gone =
        EventRow { version: 1, is_deleted: true, timestamp: at("2026-03-02T20:00:00Z"), ..row("b", 3, "{}") };
    // What hides the first row of an event does not itself meet the conditions on it.
    for (token, row, left) in [("2", later, 1), ("3", gone, 0)] {
        let sql = events(" WHERE JSONExtractInt(properties, 'n') > 4");
        test.store.select::<(u64, u64)>(sql.clone()).await.unwrap();
        for _ in 0..2 {
            test.store.settle_once(&mut settling).await.unwrap();
        }
        assert!(test.store.asked(&sql).contains("throwIf"), "{}", test.store.asked(&sql));
        insert(&test, &[row], token).await;
        let found: Vec<(u64, u64)> = test.store.select(sql.clone()).await.unwrap();
        assert_eq!(found[0].0, left);
        assert!(!test.store.asked(&sql).contains("throwIf"), "{}", test.store.asked(&sql));
    }
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_anew_is_not_taken_for_the_one_that_was() {
    let test = store().await;
    let mut settling = Settling::default();
    let count = async || {
        let found: Vec<(u64, u64)> = test.store.select(events("")).await.unwrap();
        found[0].0
    };
    insert(&test, &[row("a", 0, "{}")], "1").await;
    assert_eq!(count().await, 1);
    for _ in 0..2 {
        test.store.settle_once(&mut settling).await.unwrap();
    }
    assert!(test.store.asked(&events("")).contains("throwIf"));
    test.store.execute(Sql::new("DROP TABLE events SYNC")).await.unwrap();
    test.store.execute(Sql::new("TRUNCATE TABLE schema_migrations")).await.unwrap();
    test.store.migrate().await.unwrap();
    insert(&test, &[row("a", 0, "{}"), row("b", 1, "{}")], "2").await;
    test.store.settle_once(&mut settling).await.unwrap();
    assert_eq!(count().await, 2);
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rows_of_other_scopes_and_days_come_does_not_overtake_a_question() {
    let test = store().await;
    let mut settling = Settling::default();
    let count = async || {
        let found: Vec<(u64, u64)> = test.store.select(events("")).await.unwrap();
        found[0].0
    };
    insert(&test, &[row("a", 0, "{}"), row("b", 1, "{}")], "1").await;
    assert_eq!(count().await, 2);
    for _ in 0..2 {
        test.store.settle_once(&mut settling).await.unwrap();
    }
    assert!(test.store.asked(&events("")).contains("throwIf"));
    let others = [
        EventRow { project_id: "other", ..row("a", 2, "{}") },
        EventRow { environment_id: "other", ..row("a", 3, "{}") },
        EventRow { timestamp: Timestamp::parse("2026-03-29T00:00:00Z").unwrap(), ..row("a", 4, "{}") },
    ];
    insert(&test, &others, "2").await;
    assert_eq!(count().await, 2);
    assert!(test.store.asked(&events("")).contains("throwIf"), "it was not asked again with FINAL");
    test.store.close(CLOSE).await;
}
