-- What the properties of each event were on each day (UTC), written and replaced like event_rollups. Read it with FINAL.
CREATE TABLE IF NOT EXISTS event_quality
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    day Date,
    event_name LowCardinality(String),
    property String,
    -- Events of the name on that day, those that have the property, and those that have not.
    events UInt64,
    present UInt64,
    missing UInt64,
    -- Values by type.
    texts UInt64,
    numbers UInt64,
    booleans UInt64,
    nulls UInt64,
    objects UInt64,
    arrays UInt64,
    -- Values of another type than most, null aside.
    drifted UInt64,
    -- Numbers further than three interquartile ranges outside the quartiles of the day.
    out_of_range UInt64,
    smallest Float64,
    greatest Float64,
    version UInt64,
    is_deleted UInt8
)
ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY (project_id, environment_id, day, event_name, property)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
