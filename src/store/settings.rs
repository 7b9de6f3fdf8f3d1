//! The settings that deduplication and durability depend on. They are sent with every query or written into every
//! table, and `flexflow doctor` reads them back from the store.

/// Sent with every query of every connection, and the embedded engine's profile.
pub(super) const QUERY: [(&str, &str); 14] = [
    // The server would gather inserts and answer before they are durable (its default since 26.2).
    ("async_insert", "0"),
    // A retry under the same token is the same insert …
    ("insert_deduplicate", "1"),
    // … also for materialized views.
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    // Late events of many months come in one block.
    ("max_partitions_per_insert_block", "0"),
    // The partition is a function of the sort key, so FINAL never has to look across partitions.
    ("do_not_merge_across_partitions_select_final", "1"),
    // On a cluster, a confirmed insert is on a majority of replicas. Without replicas it means nothing.
    ("insert_quorum", "auto"),
    // Lists of ids in a statement are bounded by their callers, not by the parser.
    ("max_query_size", "8388608"),
    // Each index is asked about what the one before it left: not the bloom filter of every granule when the smallest and
    // greatest ids have left a day (ARCHITECTURE: "A page of the list, and an event by its id"). For speed alone.
    ("use_skip_indexes_on_data_read", "0"),
    // Of a cluster (elsewhere they mean nothing): an insert is on every shard's disk before it is confirmed,
    ("distributed_foreground_insert", "1"),
    // what a statement computes over all shards is written once, not by each shard for its own rows,
    ("parallel_distributed_insert_select", "0"),
    // the other side of a join, and what IN looks into, is that of all shards,
    ("distributed_product_mode", "global"),
    // a question is answered from the replica that is written to while it lives, not from the quickest,
    ("load_balancing", "in_order"),
    ("use_hedged_requests", "0"),
    // and never without the rows of a shard.
    ("skip_unavailable_shards", "0"),
];

/// Of every table that rows are inserted into.
pub(super) const TABLE: [(&str, &str); 7] = [
    // How many tokens a table remembers; 0, the default of a single server, is none.
    ("non_replicated_deduplication_window", "10000"),
    // Against power loss: an insert is confirmed when its files …
    ("fsync_after_insert", "1"),
    // … and the names of its files are on the disk,
    ("fsync_part_directory", "1"),
    // a merge's result is on the disk before its sources go,
    ("min_rows_to_fsync_after_merge", "1"),
    // and the sources stay a while even then (the embedded engine's default is 0).
    ("old_parts_lifetime", "480"),
    // A month that has gone quiet becomes one part: FINAL costs nothing then.
    ("min_age_to_force_merge_seconds", "3600"),
    ("min_age_to_force_merge_on_partition_only", "1"),
];
