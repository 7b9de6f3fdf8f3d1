-- What each meter counts of each event: one row an event and meter, written by the stage that reads the log for it, by
-- backfills and by corrections. Rows with the same sort key are one; the highest version counts. Read it with FINAL.
CREATE TABLE IF NOT EXISTS feature_usage
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    meter_id LowCardinality(String),
    event_name LowCardinality(String),
    distinct_id String,
    event_id String,
    customer_id String,
    source LowCardinality(String),
    -- number, missing, not_numeric or too_precise: what the value was.
    state LowCardinality(String),
    -- The exact decimal as text; empty unless state is number.
    quantity_text String,
    source_topic LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(T64, LZ4),
    received_at DateTime64(3, 'UTC') CODEC(T64, LZ4),
    source_topic_id UUID,
    source_partition Int32,
    source_offset Int64 CODEC(T64, LZ4),
    version UInt64,
    is_deleted UInt8,
    -- At most 38 digits before the point and 18 behind, so that no sum overflows.
    quantity Decimal(76, 18) DEFAULT toDecimal256(if(quantity_text = '', '0', quantity_text), 18),
    stored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(T64, LZ4),
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1,
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (project_id, environment_id, meter_id, toDate(timestamp), cityHash64(distinct_id), event_id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
