-- How often each event happened in each hour and day (UTC), computed from the deduplicated events. A build of a day writes
-- all of its rows in one statement under one version (the store's microseconds when it began to read); the highest counts,
-- and what is gone is deleted. Read it with FINAL.
CREATE TABLE IF NOT EXISTS event_rollups
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    -- hour or day.
    grain LowCardinality(String),
    bucket DateTime('UTC'),
    event_name LowCardinality(String),
    events UInt64,
    -- Distinct ids, and sessions, with at least one.
    people UInt64,
    sessions UInt64,
    version UInt64,
    is_deleted UInt8
)
ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY (project_id, environment_id, grain, bucket, event_name)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
