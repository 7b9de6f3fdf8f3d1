-- What `$groupidentify` says of groups: of each property the latest value (kind 0), of each group (kind 1, without a key)
-- and of each type of groups (kind 2, without a key and a group) when it was first named, each kept by its version, so
-- that order and repetition of inserts change nothing. Read it with FINAL.
CREATE TABLE IF NOT EXISTS group_properties
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    -- First in the key: which types there are is looked up often.
    kind UInt8,
    group_type String,
    key String,
    group_key String,
    -- JSON text.
    value String CODEC(ZSTD(1)),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project_id, environment_id, kind, group_type, key, group_key)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
