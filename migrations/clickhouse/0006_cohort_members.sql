-- Who was put into a static cohort, by any of their distinct ids. Of an id the highest version counts. Read it with FINAL.
CREATE TABLE IF NOT EXISTS cohort_members
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    cohort_id String,
    distinct_id String,
    is_member UInt8,
    version UInt64,
    id_hash UInt64 MATERIALIZED cityHash64(distinct_id)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project_id, environment_id, cohort_id, distinct_id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
