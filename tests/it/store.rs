//! The event store against a real engine.

use std::time::Instant;

use flexflow::store::{EventBlock, Sql};

use crate::support::store::{TestStore, row};

async fn count(store: &TestStore, sql: &'static str) -> u64 {
    let rows: Vec<(u64,)> = store.store.select(Sql::new(sql)).await.unwrap();
    rows[0].0
}

#[tokio::test]
async fn the_same_rows_under_the_same_token_are_stored_once_and_under_another_counted_once() {
    let test = TestStore::start().await;
    let mut block = EventBlock::new();
    block.push(&row("a", 0, r#"{"price":1.5}"#));
    block.push(&row("b", 1, "{}"));
    test.store.insert_events(&block, "one").await.unwrap();
    test.store.insert_events(&block, "one").await.unwrap();
    assert_eq!(count(&test, "SELECT count() FROM events").await, 2);
    test.store.insert_events(&block, "two").await.unwrap();
    assert_eq!(count(&test, "SELECT count() FROM events FINAL").await, 2);
    test.store.close(std::time::Duration::from_secs(20)).await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn how_fast_rows_go_in() {
    let test = TestStore::start().await;
    for batch in 0..20 {
        let begun = Instant::now();
        let mut block = EventBlock::new();
        for index in 0..20_000 {
            let id = format!("01890a5d-ac96-774b-bcce-{batch:04}{index:08}");
            let properties = format!(
                r#"{{"path":"/items/{}","price":{}.5,"currency":"EUR","ad_id":"ad-{}","item_id":"item-{}","country":"DE","device":"phone","referrer":"https://example.com/","k{}":"some text here","plan":"pro"}}"#,
                index % 100,
                index % 37,
                index % 50,
                index % 1000,
                index % 300
            );
            block.push(&row(&id, batch * 20_000 + index, &properties));
        }
        let built = begun.elapsed();
        let begun = Instant::now();
        test.store.insert_events(&block, &format!("t{batch}")).await.unwrap();
        eprintln!("built in {built:?}, inserted in {:?}, {} bytes", begun.elapsed(), block.bytes());
    }
    let begun = Instant::now();
    for _ in 0..100 {
        test.store.probe().await.unwrap();
    }
    eprintln!("a ping: {:?}", begun.elapsed() / 100);
}
