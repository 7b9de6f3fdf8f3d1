//! Every metric of every role: name, kind, labels and help. RUNBOOK explains each; a test keeps that list complete.

use super::{Kind, Metric};

/// Milliseconds to seconds, for what a client waits for.
const LATENCY: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// From a flush at once to half an hour behind.
const VISIBILITY: &[f64] =
    &[0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

macro_rules! metrics {
    ($($name:ident = $text:literal, $kind:expr, [$($label:literal),*], $help:literal;)+) => {
        $(#[doc = $help] pub const $name: Metric = Metric { name: $text, kind: $kind, labels: &[$($label),*], help: $help };)+
        /// Every metric there is.
        pub const ALL: &[&Metric] = &[$(&$name),+];
    };
}

metrics! {
    BUILD_INFO = "flexflow_build_info", Kind::Gauge, ["version"], "1, with the version that runs.";
    COMPONENT_UP = "component_up", Kind::Gauge, ["component"], "1 while a component of /ready is up or degraded, else 0.";
    TASK_FAILURES = "task_failures_total", Kind::Counter, ["task"], "Supervised tasks that ended on their own.";
    BREAKER_STATE = "breaker_state", Kind::Gauge, ["dependency"], "Circuit breaker around a dependency: 0 closed, 1 half-open, 2 open.";
    BREAKER_OPENED = "breaker_opened_total", Kind::Counter, ["dependency"], "Times a circuit breaker opened.";
    PIPELINE_HISTORY_FAILURES = "pipeline_history_failures_total", Kind::Counter, [], "Writes of the pipeline's history that the metadata database did not take; counts are written later, the lag of that look is lost.";
    HTTP_REQUESTS = "http_requests_total", Kind::Counter, ["route", "method", "status"], "HTTP requests by route pattern.";

    CAPTURE_REQUESTS = "capture_requests_total", Kind::Counter, ["status"], "Capture requests by HTTP status.";
    CAPTURE_REQUEST_DURATION = "capture_request_duration_seconds", Kind::Histogram(LATENCY), [], "Capture requests, first byte to answer.";
    CAPTURE_EVENTS_ACCEPTED = "capture_events_accepted_total", Kind::Counter, [], "Events answered with 202: each is one durable log record.";
    CAPTURE_EVENTS_REJECTED = "capture_events_rejected_total", Kind::Counter, ["code"], "Events refused by name in a capture answer.";
    CAPTURE_TIMESTAMPS_CLAMPED = "capture_timestamps_clamped_total", Kind::Counter, [], "Events dated too far ahead, set to their time of receipt.";
    CAPTURE_IN_FLIGHT_BYTES = "capture_in_flight_bytes", Kind::Gauge, [], "Bytes of events read but not yet durable.";
    CAPTURE_PRODUCE = "capture_kafka_produce_total", Kind::Counter, [], "Records produced to the log by capture, whatever the backend.";
    CAPTURE_PRODUCE_ERRORS = "capture_kafka_produce_errors_total", Kind::Counter, ["error"], "Records the log did not take, by error.";
    CAPTURE_PRODUCE_DURATION = "capture_kafka_produce_duration_seconds", Kind::Histogram(LATENCY), [], "Wait for the log's acknowledgement.";

    EVENTLOG_TOPICS_MISSING = "eventlog_topics_missing", Kind::Gauge, [], "Topics this process needs that do not exist.";
    EVENTLOG_RECORDS_PRODUCED = "eventlog_records_produced_total", Kind::Counter, ["topic"], "Records acknowledged by the log.";
    EVENTLOG_SYNCS = "eventlog_syncs_total", Kind::Counter, [], "Times the embedded log made records durable (one for many requests).";
    EVENTLOG_SYNC_DURATION = "eventlog_sync_duration_seconds", Kind::Histogram(LATENCY), [], "One write and fsync of the embedded log.";
    EVENTLOG_RECORDS_EXPIRED = "eventlog_records_expired_total", Kind::Counter, ["topic"], "Records deleted by the embedded log's retention.";
    KAFKA_PRODUCE_REQUESTS = "kafka_produce_requests_total", Kind::Counter, [], "Produce requests sent to Kafka's brokers.";
    KAFKA_PRODUCE_RETRIES = "kafka_produce_retries_total", Kind::Counter, ["reason"], "Batches that a broker did not take or did not answer for, by reason.";
    KAFKA_PRODUCER_IDS = "kafka_producer_ids_total", Kind::Counter, [], "Producer ids taken: one a process, and one more each time the brokers forgot it.";
    EVENTLOG_DISK_BYTES = "eventlog_disk_bytes", Kind::Gauge, [], "Disk the embedded log takes.";

    CONSUMER_MESSAGES_CONSUMED = "consumer_messages_consumed_total", Kind::Counter, ["topic"], "Records read from the log into batches.";
    CONSUMER_RECORDS_STORED = "consumer_records_stored_total", Kind::Counter, ["topic"], "Accounting: records whose row the store confirmed.";
    CONSUMER_RECORDS_ALREADY_STORED = "consumer_records_already_stored_total", Kind::Counter, ["topic"], "Accounting: records found stored by the scan on assignment.";
    CONSUMER_DUPLICATES = "consumer_duplicates_total", Kind::Counter, ["topic"], "Accounting: records whose event id was stored before, inside the id window.";
    CONSUMER_RECORDS_DROPPED = "consumer_records_dropped_total", Kind::Counter, ["topic", "reason"], "Accounting: records passed over for good, by reason.";
    CONSUMER_DLQ_MESSAGES = "consumer_dlq_messages_total", Kind::Counter, ["topic", "error_kind"], "Accounting: records that became dead letters, by kind.";
    CONSUMER_RECORDS_RELEASED = "consumer_records_released_total", Kind::Counter, ["topic", "reason"], "Accounting: records read but given back uncommitted; whoever reads them next counts them again.";
    CONSUMER_RECORDS_IN_FLIGHT = "consumer_records_in_flight", Kind::Gauge, ["topic"], "Accounting: records read and not yet committed.";
    CONSUMER_PARSE_ERRORS = "consumer_parse_errors_total", Kind::Counter, ["topic"], "Records that could not be decoded.";
    CONSUMER_BATCHES_WRITTEN = "consumer_batches_written_total", Kind::Counter, [], "Batches confirmed by the store.";
    CONSUMER_BATCH_ROWS = "consumer_batch_rows", Kind::Histogram(&[1.0, 10.0, 100.0, 1000.0, 5000.0, 10000.0, 20000.0, 50000.0]), [], "Rows of a confirmed batch.";
    CONSUMER_INSERT_ERRORS = "consumer_insert_errors_total", Kind::Counter, ["class"], "Inserts that failed, by class; each is tried again.";
    CONSUMER_INSERT_DURATION = "consumer_insert_duration_seconds", Kind::Histogram(LATENCY), [], "One insert into the store.";
    CONSUMER_COMMITS = "consumer_commits_total", Kind::Counter, ["outcome"], "Offset commits by outcome.";
    CONSUMER_LAG = "consumer_lag_messages", Kind::Gauge, ["topic", "partition"], "End offset less committed offset.";
    CONSUMER_VISIBILITY = "consumer_visibility_seconds", Kind::Histogram(VISIBILITY), [], "Receipt of an event until it can be queried.";
    CONSUMER_ID_WINDOW_IDS = "consumer_id_window_ids", Kind::Gauge, [], "Ids remembered to recognise duplicates.";
    CONSUMER_ID_WINDOW_SECONDS = "consumer_id_window_seconds", Kind::Gauge, [], "How far back the remembered ids reach; less than consumer.dedupe_window when memory binds.";
    CONSUMER_PARTITIONS_STOPPED = "consumer_partitions_stopped", Kind::Gauge, ["topic"], "Partitions stopped by the flood rule.";
    CONSUMER_SWEPT = "consumer_sweep_tombstones_total", Kind::Counter, [], "Rows the sweep found stored under a second key and removed.";

    POST_PROCESSING_PUBLISHED = "post_processing_published_total", Kind::Counter, [], "Stored events that were handed on to the post-processing topic.";
    POST_PROCESSING_FAILURES = "post_processing_failures_total", Kind::Counter, [], "Tries to hand events on, or to find the topic for them, that failed; each is tried again.";
    POST_PROCESSING_DROPPED = "post_processing_dropped_total", Kind::Counter, [], "Stored events that the post-processing topic takes none of for their size.";

    ATTRIBUTION_ROWS = "attribution_rows_total", Kind::Counter, [], "Rows of attributed conversions that were written or taken away.";
    ATTRIBUTION_SKIPPED = "attribution_skipped_total", Kind::Counter, [], "Keys that were not attributed because they have too many events.";

    SYSTEM_EVENTS = "system_events_total", Kind::Counter, ["outcome"], "System events, by outcome: told (the log has them) or lost.";
    SYSTEM_EVENTS_WAITING = "system_events_waiting", Kind::Gauge, [], "System events that the log has not taken yet.";
    WEBHOOK_DELIVERIES = "webhook_deliveries_total", Kind::Counter, [], "Deliveries of system events that were added.";
    WEBHOOK_ATTEMPTS = "webhook_attempts_total", Kind::Counter, ["outcome"], "Attempts to deliver, by outcome.";
    WEBHOOK_ATTEMPT_DURATION = "webhook_attempt_duration_seconds", Kind::Histogram(LATENCY), [], "One attempt to deliver.";
    WEBHOOK_PENDING = "webhook_deliveries_pending", Kind::Gauge, [], "Deliveries that wait for their first or next attempt.";
    RAW_EVENTS = "raw_events_total", Kind::Counter, ["outcome", "reason"], "Raw events that went through their transform: published, dropped (by reason) or error.";

    REPROCESS_EVENTS = "reprocess_events_total", Kind::Counter, ["outcome"], "Raw events that were reprocessed: found, published, dropped, transform_error, publish_failed.";
    REPROCESS_DROPPED = "reprocess_dropped_total", Kind::Counter, ["reason"], "Raw events that reprocessing dropped, by reason.";
    REPROCESS_BATCH_DURATION = "reprocess_batch_duration_seconds", Kind::Histogram(LATENCY), [], "One batch of a reprocess job.";
    REPROCESS_TIMEOUTS = "reprocess_timeouts_total", Kind::Counter, [], "Reprocess jobs that worked for as long as reprocess.timeout allows.";

    PERSON_REFUSED = "person_refused_total", Kind::Counter, ["reason"], "What events said of people and was passed over, by reason.";

    STORE_ENGINE_RESTARTS = "store_engine_restarts_total", Kind::Counter, [], "Times the embedded engine was started again after it was lost.";
    STORE_CONNECTIONS = "store_connections", Kind::Gauge, ["state"], "Connections of the pool, idle and in use.";
    STORE_SETTLED_READS = "store_settled_reads_total", Kind::Counter, ["how"], "Statements that read days at rest without FINAL: all of it (plain) or some (mixed); and those that rows overtook, so that they were asked again with FINAL.";
    STORE_ENGINE_MEMORY = "store_engine_memory_bytes", Kind::Gauge, [], "Resident memory of the embedded engine.";

    QUERY_REQUESTS = "query_requests_total", Kind::Counter, ["question", "status"], "Questions by kind and HTTP status.";
    QUERY_ERRORS = "query_errors_total", Kind::Counter, ["question", "code"], "Questions that failed, by error code.";
    QUERY_EVENTS_DURATION = "query_events_duration_seconds", Kind::Histogram(LATENCY), [], "Lists of events.";
    QUERY_LIVE_DURATION = "query_live_duration_seconds", Kind::Histogram(LATENCY), [], "Looks of the streams of arriving events, their opening included.";
    QUERY_LIVE_CLIENTS = "query_live_clients", Kind::Gauge, [], "Streams of arriving events that are open.";
    QUERY_LIVE_DROPPED = "query_live_dropped_total", Kind::Counter, [], "Events that arrived faster than a stream tells them, and were only counted in it.";
    QUERY_TREND_DURATION = "query_trend_duration_seconds", Kind::Histogram(LATENCY), [], "Trends.";
    QUERY_TRACE_DURATION = "query_trace_duration_seconds", Kind::Histogram(LATENCY), [], "Traces of one event.";
    QUERY_NAMES_DURATION = "query_names_duration_seconds", Kind::Histogram(LATENCY), [], "Lists of names of events and properties.";
    QUERY_VALUES_DURATION = "query_values_duration_seconds", Kind::Histogram(LATENCY), [], "Lists of values of a property.";
    QUERY_PERSONS_DURATION = "query_persons_duration_seconds", Kind::Histogram(LATENCY), [], "Lists of persons and of groups, and one of them.";
    QUERY_SQL_DURATION = "query_sql_duration_seconds", Kind::Histogram(LATENCY), [], "Questions in SQL.";
    QUERY_DASHBOARD_DURATION = "query_dashboard_duration_seconds", Kind::Histogram(LATENCY), [], "Refreshes of a whole dashboard.";
    QUERY_CACHE = "query_cache_total", Kind::Counter, ["outcome"], "Questions by whether the answer was remembered.";
    QUERY_FUNNEL_DURATION = "query_funnel_duration_seconds", Kind::Histogram(LATENCY), [], "Funnels.";
    QUERY_RETENTION_DURATION = "query_retention_duration_seconds", Kind::Histogram(LATENCY), [], "Retention.";
    QUERY_LIFECYCLE_DURATION = "query_lifecycle_duration_seconds", Kind::Histogram(LATENCY), [], "Lifecycles.";
    QUERY_STICKINESS_DURATION = "query_stickiness_duration_seconds", Kind::Histogram(LATENCY), [], "Stickiness.";
    QUERY_PATHS_DURATION = "query_paths_duration_seconds", Kind::Histogram(LATENCY), [], "Paths.";

    QUERY_ATTRIBUTION_DURATION = "query_attribution_duration_seconds", Kind::Histogram(LATENCY), [], "Questions for what a rule of attribution credited.";
    SCHEMA_CHECKED = "schema_checked_total", Kind::Counter, ["outcome"], "Events held against the schema of their name, by outcome.";

    METERING_ROWS = "metering_rows_stored_total", Kind::Counter, [], "Rows of tracked usage that the store confirmed.";
    METERING_UNMETERED = "metering_unmetered_total", Kind::Counter, [], "System events about events that no meter counts.";

    AUTH_REQUESTS = "auth_requests_total", Kind::Counter, ["outcome"], "Keys checked, by outcome.";
    AUTH_REQUEST_DURATION = "auth_request_duration_seconds", Kind::Histogram(LATENCY), [], "Checks of a key, cache included.";
    AUTH_ENVIRONMENT_MISMATCH = "auth_environment_mismatch_total", Kind::Counter, [], "Requests that named an environment their key does not have.";

    JOB_RUNS = "job_runs_total", Kind::Counter, ["kind", "outcome"], "Durable jobs that ended, by kind and outcome.";
    DLQ_REPLAYED = "dlq_replayed_total", Kind::Counter, ["outcome"], "Dead letters handled by replay, by outcome.";
    DLQ_DISCARDED = "dlq_discarded_total", Kind::Counter, [], "Dead letters discarded, each with a logged reason.";
}

/// What these counters' one label says. They begin at zero, as those without labels do: a counter that appears with its
/// first count is no increase to Prometheus, and no alert would hear of the first of its kind.
pub const FROM_ZERO: &[(&Metric, &[&str])] = &[
    (&CONSUMER_INSERT_ERRORS, &["unavailable", "outcome_unknown", "schema", "rejected"]),
    (&WEBHOOK_ATTEMPTS, &["delivered", "dead", "refused", "unanswered"]),
    (&REPROCESS_EVENTS, &["found", "published", "dropped", "transform_error", "publish_failed"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_as_their_kind_asks() {
        for metric in ALL {
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        }
    }
}
