//! ClickHouse's own Kafka engine with a materialized view into the same table, from the same topic: what the consumer is
//! measured beside. It neither recognises a repeated event nor keeps what it cannot read.

use std::time::{Duration, Instant};

use flexflow::store::{Sql, Store};

use crate::catch_up::open_store;
use crate::pipeline::engine_cpu_of;

/// Consumers of the engine's table; as many as there are cores. One and four are slower.
const CONSUMERS: u64 = 2;

/// What it did.
pub struct Outcome {
    /// From its first rows on: joining the group is not counted.
    pub rows_per_second: f64,
    pub cpu_micros_a_row: f64,
}

/// Reads the first `records` records of the topic `events`.
pub async fn run(bootstrap: &str, records: u64) -> Outcome {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, tasks) = open_store(dir.path()).await;
    let outcome = measure(&store, bootstrap, records).await;
    store.close(Duration::from_secs(30)).await;
    drop(tasks);
    outcome
}

async fn measure(store: &Store, bootstrap: &str, records: u64) -> Outcome {
    store.execute(source(bootstrap)).await.expect("a Kafka table");
    let before = engine_cpu_of(std::process::id());
    store.execute(view()).await.expect("a view");
    let mut first: Option<(Instant, u64)> = None;
    let (since, had) = loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let stored =
            store.select::<(u64,)>(Sql::new("SELECT count() AS rows FROM events")).await.expect("a count");
        let stored = stored[0].0;
        if stored > 0 {
            let from = *first.get_or_insert((Instant::now(), stored));
            if stored >= records {
                break from;
            }
        }
    };
    let cpu = engine_cpu_of(std::process::id()) - before;
    Outcome {
        rows_per_second: records.saturating_sub(had) as f64 / since.elapsed().as_secs_f64(),
        cpu_micros_a_row: cpu * 1e6 / records as f64,
    }
}

fn source(bootstrap: &str) -> Sql {
    Sql::new(
        "CREATE TABLE kafka_events (id String, project_id String, environment_id String, event_name String, \
         distinct_id String, session_id String, customer_id String, source String, timestamp DateTime64(3, 'UTC'), \
         received_at DateTime64(3, 'UTC'), schema_version UInt32, properties String) ENGINE = Kafka SETTINGS \
         kafka_topic_list = 'events', kafka_group_name = 'clickhouse', kafka_format = 'JSONEachRow', \
         kafka_thread_per_consumer = 1, kafka_max_block_size = 65536, kafka_poll_max_batch_size = 65536, \
         kafka_flush_interval_ms = 1000, input_format_json_read_objects_as_strings = 1, \
         date_time_input_format = 'best_effort', input_format_skip_unknown_fields = 1, kafka_broker_list = ",
    )
    .arg(bootstrap)
    .push(", kafka_num_consumers = ")
    .arg(CONSUMERS)
}

/// Fills every column that the consumer fills.
fn view() -> Sql {
    Sql::new(
        "CREATE MATERIALIZED VIEW kafka_view TO events AS SELECT project_id, environment_id, event_name, distinct_id, id AS \
         event_id, customer_id, session_id, source, 'capture' AS producer, '' AS raw_event_id, _topic AS source_topic, \
         properties, timestamp, received_at, schema_version, toUUID('3f2504e0-4f89-41d3-9a0c-0305e82c3301') AS source_topic_id, \
         toInt32(_partition) AS source_partition, toInt64(_offset) AS source_offset, \
         toUInt64(toUnixTimestamp64Milli(received_at)) AS version, toUInt8(0) AS is_deleted, \
         JSONExtractRaw(properties, '$current_url') AS p_current_url, JSONExtractRaw(properties, 'path') AS p_path, \
         JSONExtractRaw(properties, 'referrer') AS p_referrer, JSONExtractRaw(properties, 'utm_source') AS p_utm_source, \
         JSONExtractRaw(properties, 'country') AS p_country, JSONExtractRaw(properties, 'device') AS p_device, \
         JSONExtractRaw(properties, 'plan') AS p_plan, JSONExtractRaw(properties, 'currency') AS p_currency, \
         JSONExtractRaw(properties, 'price') AS p_price, JSONExtractRaw(properties, 'amount') AS p_amount, \
         JSONExtractRaw(properties, 'ad_id') AS p_ad_id, JSONExtractRaw(properties, 'item_id') AS p_item_id \
         FROM kafka_events",
    )
}
