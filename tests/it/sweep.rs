//! The sweep: events that came again under another key, and deleted ones that did.

use std::time::Duration;

use flexflow::store::{EventBlock, EventRow, Sql, Tombstone, VOID_VERSION};

use crate::support::Log;
use crate::support::store::{TestStore, row};

const CLOSE: Duration = Duration::from_secs(20);

fn block<'a>(rows: impl IntoIterator<Item = EventRow<'a>>) -> EventBlock {
    let mut block = EventBlock::new();
    for row in rows {
        block.push(&row);
    }
    block
}

/// Environment, id and offset of every live row.
async fn live(test: &TestStore) -> Vec<(String, String, i64)> {
    let sql =
        "SELECT environment_id AS e, event_id AS i, source_offset AS o FROM events FINAL ORDER BY e, i, o";
    test.store.select(Sql::new(sql)).await.unwrap()
}

fn rows(expected: &[(&str, &str, i64)]) -> Vec<(String, String, i64)> {
    expected.iter().map(|(e, i, o)| ((*e).to_owned(), (*i).to_owned(), *o)).collect()
}

#[tokio::test]
async fn the_sweep_keeps_the_first_of_an_event_stored_under_several_keys() {
    the_first_of_an_event_is_kept(Log::Embedded).await;
}

/// No log is needed for it.
pub(crate) async fn the_first_of_an_event_is_kept(_: Log) {
    let test = TestStore::start().await;
    let first = row("a", 5, "{}");
    let later = first.received_at.plus(Duration::from_secs(5));
    let renamed = EventRow { event_name: "Click", received_at: later, source_offset: 3, ..first };
    let next_day =
        EventRow { timestamp: first.timestamp.plus(Duration::from_secs(86_400)), source_offset: 9, ..first };
    let elsewhere = EventRow { environment_id: "other", event_name: "Click", ..first };
    let sent = block([first, renamed, next_day, elsewhere, row("b", 6, "{}")]);
    test.store.insert_events(&sent, "t").await.unwrap();
    let since = first.received_at.minus(Duration::from_secs(60));
    let late = later.plus(Duration::from_secs(1));
    assert_eq!(test.store.sweep(since, Some(late)).await.unwrap().events, 0, "none of its rows is that late");
    let swept = test.store.sweep(since, Some(later)).await.unwrap();
    assert_eq!((swept.events, swept.tombstones), (1, 2));
    assert_eq!(live(&test).await, rows(&[("env", "a", 5), ("env", "b", 6), ("other", "a", 5)]));
    assert_eq!(test.store.sweep(since, None).await.unwrap().tombstones, 0);
    test.store.close(CLOSE).await;
}

#[tokio::test]
async fn a_deleted_event_that_comes_again_under_another_key_goes_with_the_next_sweep() {
    let test = TestStore::start().await;
    let first = row("a", 5, "{}");
    test.store.insert_events(&block([first, row("b", 6, "{}")]), "t").await.unwrap();
    let deleted = Tombstone {
        project_id: first.project_id.to_owned(),
        environment_id: first.environment_id.to_owned(),
        event_id: first.event_id.to_owned(),
        event_name: first.event_name.to_owned(),
        distinct_id: first.distinct_id.to_owned(),
        timestamp: first.timestamp,
        received_at: first.received_at,
        version: VOID_VERSION,
    };
    test.store.tombstone(&[deleted]).await.unwrap();
    // Weeks later, so that the sweep's horizon has left the deletion behind: another day, name and person; and the
    // same id where nothing was deleted.
    let weeks = Duration::from_secs(60 * 86_400);
    let again = EventRow { received_at: first.received_at.plus(weeks), source_offset: 7, ..first };
    let next_day = EventRow { timestamp: first.timestamp.plus(Duration::from_secs(86_400)), ..again };
    let renamed = EventRow { event_name: "Click", source_offset: 8, ..again };
    let of_another = EventRow { distinct_id: "bob", source_offset: 9, ..again };
    let elsewhere = EventRow { environment_id: "other", source_offset: 10, ..again };
    let sent = block([next_day, renamed, of_another, elsewhere]);
    test.store.insert_events(&sent, "again").await.unwrap();
    let since = first.received_at.plus(weeks).minus(Duration::from_secs(60));

    let swept = test.store.sweep(since, None).await.unwrap();

    assert_eq!((swept.events, swept.voided, swept.tombstones), (0, 3, 3));
    let expected = rows(&[("env", "b", 6), ("other", "a", 10)]);
    assert_eq!(live(&test).await, expected);
    // For good: the same rows once more are hidden at once, before and after a merge.
    test.store.insert_events(&sent, "once more").await.unwrap();
    assert_eq!(live(&test).await, expected);
    test.store.select::<(u8,)>(Sql::new("OPTIMIZE TABLE events FINAL")).await.unwrap();
    assert_eq!(live(&test).await, expected);
    assert_eq!(test.store.sweep(since, None).await.unwrap().tombstones, 0);
    test.store.close(CLOSE).await;
}
