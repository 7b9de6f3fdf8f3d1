-- Which person a distinct id belongs to, folded from person_edges; an id without a row is a person of its own. The
-- highest version counts: the server's microseconds when the fold began to read. Read it with FINAL.
CREATE TABLE IF NOT EXISTS person_overrides
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    distinct_id String,
    -- The distinct id that the person is named after; of a person with one id, that id.
    person String,
    version UInt64,
    id_hash UInt64 MATERIALIZED cityHash64(distinct_id),
    actor UInt64 MATERIALIZED cityHash64(person)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project_id, environment_id, distinct_id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
