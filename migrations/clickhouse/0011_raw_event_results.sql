-- What became of each raw event: the events it is now, or why it is none. A row a raw event, under its key; the highest
-- version counts (0 live, then the generations of reprocessing). Read it with FINAL.
CREATE TABLE IF NOT EXISTS raw_event_results
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    external_customer_id String,
    timestamp DateTime64(3, 'UTC') CODEC(T64, LZ4),
    event_name LowCardinality(String),
    id String,
    -- published, dropped or error.
    outcome LowCardinality(String),
    -- Why it was dropped, or what the error is.
    reason String,
    transform_id LowCardinality(String),
    transform_version UInt64,
    -- The events that it is now: a JSON array of [id, name, distinct id, milliseconds].
    events String CODEC(ZSTD(1)),
    received_at DateTime64(3, 'UTC') CODEC(T64, LZ4),
    source_topic LowCardinality(String),
    source_topic_id UUID,
    source_partition Int32,
    source_offset Int64 CODEC(T64, LZ4),
    version UInt64,
    decided_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(T64, LZ4),
    INDEX id_bloom id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_offset_minmax source_offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (project_id, environment_id, external_customer_id, timestamp, event_name, id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
