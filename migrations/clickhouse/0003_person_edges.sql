-- What says that two distinct ids are, or are no longer, one person. Each edge stands in both directions. Rows are
-- facts that only ever grow: of an edge the earliest join (kind 1), the latest join (2) and the latest cut (3), each
-- kept by its version, so that order and repetition of inserts change nothing. Read it with FINAL.
CREATE TABLE IF NOT EXISTS person_edges
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    distinct_id String,
    other_id String,
    kind UInt8,
    -- Milliseconds since 1970.
    at Int64,
    -- Is distinct_id the one that the other was joined to?
    is_target UInt8,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project_id, environment_id, distinct_id, other_id, kind)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
