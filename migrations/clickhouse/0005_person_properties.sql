-- Person properties as distinct ids set them: the latest $set or $unset (kind 0), and the earliest $set_once (kind 1),
-- each kept by its version. A person's value is the latest of kind 0 over its ids, else the earliest of kind 1. Read it
-- with FINAL.
CREATE TABLE IF NOT EXISTS person_properties
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    key String,
    distinct_id String,
    kind UInt8,
    -- JSON text; empty: unset.
    value String CODEC(ZSTD(1)),
    version UInt64,
    id_hash UInt64 MATERIALIZED cityHash64(distinct_id),
    INDEX id_hash_bloom id_hash TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project_id, environment_id, key, distinct_id, kind)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
