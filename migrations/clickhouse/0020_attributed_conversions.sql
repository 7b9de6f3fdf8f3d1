-- What each target event of a rule of attribution is credited to: one row an event and rule, replaced whole whenever it is
-- computed anew. Rows with the same sort key are one; the highest version counts (the rule's version before the moment
-- when the reading began). Read it with FINAL.
CREATE TABLE IF NOT EXISTS attributed_conversions
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    rule_id LowCardinality(String),
    rule_version UInt32,
    join_key String,
    target_event LowCardinality(String),
    target_event_id String,
    target_distinct_id String,
    target_at DateTime64(3, 'UTC') CODEC(T64, LZ4),
    -- Of the rule's value property; has_value 0: it has no number there.
    value Float64,
    has_value UInt8,
    -- Source events in the look-back window, credited or not.
    touches UInt32,
    -- Those that are credited, oldest first; in the order of the other arrays.
    source_ids Array(String),
    source_events Array(LowCardinality(String)),
    source_at Array(Int64),
    dimensions Array(String),
    credits Array(Float64),
    version UInt64,
    is_deleted UInt8,
    computed_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(T64, LZ4),
    INDEX target_event_id_bloom target_event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_ids_bloom source_ids TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(target_at)
ORDER BY (project_id, environment_id, rule_id, toDate(target_at), cityHash64(target_distinct_id), target_event_id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
