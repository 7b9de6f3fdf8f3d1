-- Index of dead letters: one row an origin (the record that was refused), the highest version counts. The DLQ topic is
-- the authority on which there are; this says what became of each, and is what lists and counts read (with FINAL).
-- Not partitioned: dead letters are few, and one origin must never stand in two partitions.
CREATE TABLE IF NOT EXISTS events_dlq
(
    source_topic LowCardinality(String),
    source_topic_id UUID,
    source_partition Int32,
    source_offset Int64,
    -- Empty where the record did not tell.
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    event_id String,
    error_kind LowCardinality(String),
    error_message String CODEC(ZSTD(1)),
    stage LowCardinality(String),
    dlq_ts DateTime64(3, 'UTC'),
    attempts UInt32,
    recoveries UInt32,
    writer LowCardinality(String),
    record_key String,
    -- What the payload is (json, base64, absent or truncated), and its beginning; the whole is in the DLQ topic.
    raw_kind LowCardinality(String),
    raw String CODEC(ZSTD(3)),
    dlq_topic_id UUID,
    dlq_partition Int32,
    dlq_offset Int64,
    status LowCardinality(String),
    status_at DateTime64(3, 'UTC'),
    reason String,
    job_id String,
    version UInt64,
    indexed_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    id String ALIAS concat(source_topic, '-', toString(source_partition), '-', toString(source_offset)),
    INDEX dlq_ts_minmax dlq_ts TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (source_topic, source_topic_id, source_partition, source_offset)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
