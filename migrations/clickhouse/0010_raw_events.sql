-- Every raw event as it was sent, byte for byte. Rows with the same sort key are one; the one received last counts. Read it
-- with FINAL.
CREATE TABLE IF NOT EXISTS raw_events
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    external_customer_id String,
    timestamp DateTime64(3, 'UTC') CODEC(T64, LZ4),
    event_name LowCardinality(String) DEFAULT '',
    id String,
    -- The JSON object, byte for byte: the source of truth.
    payload String CODEC(ZSTD(3)),
    received_at DateTime64(3, 'UTC') CODEC(T64, LZ4),
    source_topic LowCardinality(String),
    source_topic_id UUID,
    source_partition Int32,
    source_offset Int64 CODEC(T64, LZ4),
    -- Milliseconds of the receipt.
    version UInt64,
    ingested_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(T64, LZ4),
    tenant_id String ALIAS project_id,
    INDEX id_bloom id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_offset_minmax source_offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMMDD(timestamp)
PRIMARY KEY (project_id, environment_id, external_customer_id, timestamp)
ORDER BY (project_id, environment_id, external_customer_id, timestamp, event_name, id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
