-- Every accepted event, one row a key. Rows with the same sort key are one event: the highest version counts, and a
-- deleted one hides it. Read it with FINAL.
CREATE TABLE IF NOT EXISTS events
(
    project_id LowCardinality(String),
    environment_id LowCardinality(String),
    event_name LowCardinality(String),
    distinct_id String,
    event_id String,
    customer_id String,
    session_id String,
    source LowCardinality(String),
    producer LowCardinality(String),
    raw_event_id String,
    source_topic LowCardinality(String),
    -- The JSON object as it was sent, byte for byte: the source of truth.
    properties String CODEC(ZSTD(1)),
    timestamp DateTime64(3, 'UTC') CODEC(T64, LZ4),
    received_at DateTime64(3, 'UTC') CODEC(T64, LZ4),
    schema_version UInt32,
    source_topic_id UUID,
    source_partition Int32,
    source_offset Int64 CODEC(T64, LZ4),
    version UInt64,
    is_deleted UInt8,
    -- Hot property keys: the JSON text of one value each; empty when absent.
    p_current_url String,
    p_path String,
    p_referrer String,
    p_utm_source String,
    p_country String,
    p_device String,
    p_plan String,
    p_currency String,
    p_price String,
    p_amount String,
    p_ad_id String,
    p_item_id String,
    ingested_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(T64, LZ4),
    ingestion_id String ALIAS concat(source_topic, '-', toString(source_partition), '-', toString(source_offset)),
    id String ALIAS event_id,
    external_customer_id String ALIAS distinct_id,
    tenant_id String ALIAS project_id,
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX raw_event_id_bloom raw_event_id TYPE bloom_filter(0.01) GRANULARITY 16,
    INDEX source_offset_minmax source_offset TYPE minmax GRANULARITY 4,
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 4
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(timestamp)
-- Without the id: it would be most of the index, and a search for one would go through all of it in vain.
PRIMARY KEY (project_id, environment_id, toDate(timestamp), event_name, cityHash64(distinct_id))
ORDER BY (project_id, environment_id, toDate(timestamp), event_name, cityHash64(distinct_id), event_id)
SETTINGS
    -- A page of the list takes a row here and there of a whole day: the fewer rows are read along with each, the better.
    index_granularity = 2048,
    min_compress_block_size = 16384,
    -- Merge at least about eight parts at a time: a row is written about half as often as with the default of 5.
    merge_selector_base = 8,
    -- Column by column from the first row on: of 38 columns, few are looked at to find the order.
    vertical_merge_algorithm_min_rows_to_activate = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 480,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
