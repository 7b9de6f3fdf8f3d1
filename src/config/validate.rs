//! What the types cannot say: limits that make no sense, alone or beside each other.

mod stages;

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::ExposeSecret;

use super::{Config, EventLogKind, KafkaSaslMechanism};

/// Room in a record for what capture adds to an event's properties: ids, names, times, headers.
const RECORD_OVERHEAD: ByteSize = ByteSize::kib(16);

/// Kafka's bound on a topic's name.
const TOPIC_CHARACTERS_MAX: usize = 249;

const TOPIC_NAMES: &str = "1 to 249 of a-z A-Z 0-9 . _ -";

/// The history of the pipeline is by minute, and a chart has so many points at most.
const HISTORY_INTERVAL_MAX: Duration = Duration::from_secs(60);
const HISTORY_RETENTION: RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(14 * 24 * 3600);

const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
const SCOPES: &[&str] = &["ingest", "query", "admin"];

/// A value that makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub key: &'static str,
    pub problem: String,
    pub valid: String,
}

fn is_topic_name(name: &str) -> bool {
    (1..=TOPIC_CHARACTERS_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && name != "."
        && name != ".."
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, key: &'static str, problem: impl Into<String>, valid: impl Into<String>) {
        self.0.push(Fault { key, problem: problem.into(), valid: valid.into() });
    }

    fn positive(&mut self, counts: &[(&'static str, usize)]) {
        for (key, count) in counts {
            if *count == 0 {
                self.add(key, "is zero", "1 or more");
            }
        }
    }

    fn not_empty(&mut self, sizes: &[(&'static str, ByteSize)]) {
        for (key, size) in sizes {
            if size.0 == 0 {
                self.add(key, "is zero", "1 B or more");
            }
        }
    }

    fn lasting(&mut self, durations: &[(&'static str, Duration)]) {
        for (key, duration) in durations {
            if duration.is_zero() {
                self.add(key, "is zero", "longer than zero");
            }
        }
    }
}

impl Config {
    /// The values that make no sense, and what deserves a warning.
    pub(super) fn validate(&self) -> (Vec<Fault>, Vec<String>) {
        let mut faults = Faults::default();
        self.check_counts(&mut faults);
        self.check_sizes_and_durations(&mut faults);
        self.check_pairs(&mut faults);
        self.check_names(&mut faults);
        self.check_people(&mut faults);
        self.check_stages(&mut faults);
        self.check_static_keys(&mut faults);
        if self.eventlog.kind == EventLogKind::Kafka {
            self.check_kafka(&mut faults);
        }
        let mut warnings = Vec::new();
        if !self.server.listen.ip().is_loopback() {
            warnings.push(format!(
                "server.listen = {} takes connections from other machines, and without TLS: put something in front of it that speaks TLS",
                self.server.listen
            ));
        }
        if self.data_dir.as_os_str().is_empty() {
            faults.add("data_dir", "is empty", "a folder");
        }
        (faults.0, warnings)
    }

    fn check_counts(&self, faults: &mut Faults) {
        let (capture, query, consumer) = (&self.capture, &self.query, &self.consumer);
        faults.positive(&[
            ("capture.batch_events_max", capture.batch_events_max),
            ("capture.properties_depth_max", capture.properties_depth_max),
            ("capture.properties_keys_max", capture.properties_keys_max),
            ("query.page_rows_max", query.page_rows_max),
            ("query.buckets_max", query.buckets_max),
            ("query.breakdown_values_max", query.breakdown_values_max),
            ("query.concurrency", query.concurrency),
            ("query.breakdown_properties_max", query.breakdown_properties_max),
            ("query.series_max", query.series_max),
            ("query.filters_max", query.filters_max),
            ("query.filter_depth_max", query.filter_depth_max),
            ("query.people_max", query.people_max),
            ("query.points_max", query.points_max),
            ("query.funnel_steps_max", query.funnel_steps_max),
            ("query.retention_intervals_max", query.retention_intervals_max),
            ("query.paths_edges_max", query.paths_edges_max),
            ("query.gather_values_max", query.gather_values_max),
            ("metering.values_max", self.metering.values_max),
            ("query.sql_rows_max", query.sql_rows_max),
            ("query.live_rows_max", query.live_rows_max),
            ("query.dashboard_concurrency", query.dashboard_concurrency),
            ("query.project_concurrency", query.project_concurrency),
            ("consumer.batch_rows_max", consumer.batch_rows_max),
            ("consumer.flood_records_min", consumer.flood_records_min),
            ("consumer.flood_run_max", consumer.flood_run_max),
            ("person.ids_max", self.person.ids_max.saturating_sub(1)),
            ("store.connections_max", self.store.connections_max),
            ("server.connections_max", self.server.connections_max),
            ("server.history_partitions_max", self.server.history_partitions_max),
            ("jobs.concurrency", self.jobs.concurrency),
            ("dlq.replay_page_records_max", self.dlq.replay_page_records_max),
            ("transform.events_max", self.transform.events_max),
            ("transform.work_max", self.transform.work_max),
            ("reprocess.attempts", self.reprocess.attempts as usize),
            ("reprocess.parallelism_max", self.reprocess.parallelism_max),
        ]);
        for (key, failures) in [
            ("capture.breaker_failures", capture.breaker_failures),
            ("consumer.breaker_failures", consumer.breaker_failures),
        ] {
            if failures == 0 {
                faults.add(key, "is zero", "1 or more");
            }
        }
        if self.server.history_rows_max == 0 {
            faults.add("server.history_rows_max", "is zero", "1 or more");
        }
        if self.jobs.attempts_max == 0 {
            faults.add("jobs.attempts_max", "is zero", "1 or more");
        }
        if self.jobs.open_max == 0 {
            faults.add("jobs.open_max", "is zero", "1 or more");
        }
        if self.eventlog.partitions < 1 {
            faults.add("eventlog.partitions", "is less than one", "1 or more");
        }
        let ratio = consumer.flood_ratio_max;
        if !(ratio > 0.0 && ratio <= 1.0) {
            faults.add("consumer.flood_ratio_max", "is not a share", "more than 0 and at most 1");
        }
    }

    fn check_sizes_and_durations(&self, faults: &mut Faults) {
        let (capture, query, consumer) = (&self.capture, &self.query, &self.consumer);
        faults.not_empty(&[
            ("server.body_bytes_max", self.server.body_bytes_max),
            ("capture.body_bytes_max", capture.body_bytes_max),
            ("capture.inflated_bytes_max", capture.inflated_bytes_max),
            ("capture.properties_bytes_max", capture.properties_bytes_max),
            ("capture.in_flight_bytes_max", capture.in_flight_bytes_max),
            ("query.memory_max", query.memory_max),
            ("query.project_memory_max", query.project_memory_max),
            ("consumer.batch_bytes_max", consumer.batch_bytes_max),
            ("eventlog.segment_bytes", self.eventlog.segment_bytes),
            ("eventlog.queue_bytes_max", self.eventlog.queue_bytes_max),
            ("store.engine.memory_max", self.store.engine.memory_max),
            ("dlq.replay_page_bytes_max", self.dlq.replay_page_bytes_max),
        ]);
        faults.lasting(&[
            ("server.shutdown_timeout", self.server.shutdown_timeout),
            ("capture.breaker_wait_min", capture.breaker_wait_min),
            ("capture.produce_timeout", capture.produce_timeout),
            ("query.timeout", query.timeout),
            ("consumer.backoff_min", consumer.backoff_min),
            ("consumer.sweep_interval", consumer.sweep_interval),
            ("consumer.sweep_horizon", consumer.sweep_horizon),
            ("store.request_timeout", self.store.request_timeout),
            ("query.queue_timeout", query.queue_timeout),
            ("query.live_interval", query.live_interval),
            ("query.live_time_max", query.live_time_max),
            ("meta.timeout", self.meta.timeout),
            ("auth.lookup_timeout", self.auth.lookup_timeout),
            ("server.head_timeout", self.server.head_timeout),
            ("server.body_timeout", self.server.body_timeout),
            ("server.history_interval", self.server.history_interval),
            ("jobs.lease", self.jobs.lease),
            ("jobs.poll_interval", self.jobs.poll_interval),
            ("jobs.step_timeout", self.jobs.step_timeout),
            ("jobs.backoff_min", self.jobs.backoff_min),
        ]);
        if self.server.history_interval > HISTORY_INTERVAL_MAX {
            faults.add(
                "server.history_interval",
                "is longer than a minute",
                "at most 1m: the history is by minute",
            );
        }
        if !HISTORY_RETENTION.contains(&self.server.history_retention) {
            faults.add("server.history_retention", "is too short or too long", "1h to 14d");
        }
        if self.eventlog.retention_age.is_some_and(|age| age.is_zero()) {
            faults.add(
                "eventlog.retention_age",
                "is zero",
                "longer than zero, or \"\" to keep records for ever",
            );
        }
        if self.eventlog.retention_bytes.is_some_and(|bytes| bytes.0 == 0) {
            faults.add("eventlog.retention_bytes", "is zero", "1 B or more, or \"\" for no bound");
        }
    }

    fn check_pairs(&self, faults: &mut Faults) {
        let (capture, consumer) = (&self.capture, &self.consumer);
        if self.jobs.backoff_max < self.jobs.backoff_min {
            let valid =
                format!("at least jobs.backoff_min, {}", humantime::format_duration(self.jobs.backoff_min));
            faults.add("jobs.backoff_max", "is shorter than jobs.backoff_min", valid);
        }
        if self.reprocess.checkpoint_interval >= self.jobs.step_timeout {
            let valid = "shorter than jobs.step_timeout, within which a step has to end";
            faults.add("reprocess.checkpoint_interval", "is not shorter than jobs.step_timeout", valid);
        }
        if consumer.backoff_max < consumer.backoff_min {
            let valid = format!(
                "at least consumer.backoff_min, {}",
                humantime::format_duration(consumer.backoff_min)
            );
            faults.add("consumer.backoff_max", "is shorter than consumer.backoff_min", valid);
        }
        if capture.breaker_wait_max < capture.breaker_wait_min {
            let valid = format!(
                "at least capture.breaker_wait_min, {}",
                humantime::format_duration(capture.breaker_wait_min)
            );
            faults.add("capture.breaker_wait_max", "is shorter than capture.breaker_wait_min", valid);
        }
        if capture.inflated_bytes_max < capture.body_bytes_max {
            let valid = format!("at least capture.body_bytes_max, {}", capture.body_bytes_max);
            faults.add("capture.inflated_bytes_max", "is smaller than capture.body_bytes_max", valid);
        }
        if capture.in_flight_bytes_max < capture.body_bytes_max {
            let valid = format!("at least capture.body_bytes_max, {}", capture.body_bytes_max);
            faults.add(
                "capture.in_flight_bytes_max",
                "cannot hold one body of capture.body_bytes_max",
                valid,
            );
        }
        let record_min = ByteSize(capture.properties_bytes_max.0.saturating_add(RECORD_OVERHEAD.0));
        if self.eventlog.record_bytes_max < record_min {
            let valid = format!("at least {record_min} (capture.properties_bytes_max and {RECORD_OVERHEAD})");
            faults.add("eventlog.record_bytes_max", "cannot hold an event that capture takes", valid);
        }
        if consumer.batch_bytes_max < self.eventlog.record_bytes_max {
            let valid = format!("at least eventlog.record_bytes_max, {}", self.eventlog.record_bytes_max);
            faults.add("consumer.batch_bytes_max", "cannot hold one record", valid);
        }
        if consumer.dlq_topic == self.topics.events || consumer.dlq_topic == self.topics.raw_events {
            faults.add("consumer.dlq_topic", "is topics.events or topics.raw_events", "a topic of its own");
        }
        let others = [&self.topics.events, &self.topics.raw_events, &self.consumer.dlq_topic];
        if others.contains(&&self.reprocess.output_topic) {
            faults.add("reprocess.output_topic", "is another stage's topic", "a topic of its own");
        }
        if self.topics.raw_events == self.topics.events {
            faults.add("topics.raw_events", "is topics.events", "a topic of its own");
        }
    }

    fn check_names(&self, faults: &mut Faults) {
        for (key, topic) in [
            ("topics.events", &self.topics.events),
            ("topics.raw_events", &self.topics.raw_events),
            ("reprocess.output_topic", &self.reprocess.output_topic),
            ("topics.system_events", &self.topics.system_events),
            ("topics.post_processing", &self.topics.post_processing),
            ("topics.post_processing_backfill", &self.topics.post_processing_backfill),
            ("topics.feature_tracking_backfill", &self.topics.feature_tracking_backfill),
            ("consumer.dlq_topic", &self.consumer.dlq_topic),
        ] {
            if !is_topic_name(topic) {
                faults.add(key, "is not a topic's name", TOPIC_NAMES);
            }
        }
        self.check_groups(faults);
        let plain = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !plain(&self.store.database) {
            faults.add(
                "store.database",
                "is not a plain name",
                "letters, digits and _, not beginning with a digit",
            );
        }
        if self.store.url.as_deref().is_some_and(|url| !url.starts_with("clickhouse://")) {
            faults.add(
                "store.url",
                "is not the native address of a ClickHouse server",
                "\"clickhouse://host:9000\", or \"\" for the embedded engine",
            );
        }
        if self.store.cluster.is_some() && self.store.url.is_none() {
            faults.add(
                "store.cluster",
                "is a cluster of servers, and store.url names none of them",
                "\"\", or store.url = \"clickhouse://host:9000\" of a server of the cluster",
            );
        }
        let known = ["sqlite:", "postgres://", "postgresql://"];
        if self.meta.url.as_deref().is_some_and(|url| !known.iter().any(|scheme| url.starts_with(scheme))) {
            faults.add(
                "meta.url",
                "is neither a SQLite nor a PostgreSQL address",
                "\"sqlite://path/meta.db\", \"postgres://user:password@host/database\", or \"\" for SQLite below data_dir",
            );
        }
        for origin in self.server.cors_origins.iter().filter(|origin| *origin != "*") {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if !host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '?', '#'])) {
                let valid = "scheme, host and port alone, such as \"https://app.example.com\", or \"*\"";
                faults.add("server.cors_origins", format!("{origin:?} is not a web origin"), valid);
            }
        }
        for directive in self.log.level.split(',') {
            let level = directive.rsplit('=').next().unwrap_or_default().trim().to_lowercase();
            if !LEVELS.contains(&level.as_str()) {
                let valid =
                    format!("{}, or directives such as info,flexflow::consumer=debug", LEVELS.join(", "));
                faults.add("log.level", format!("{directive:?} names no level"), valid);
            }
        }
    }

    /// Each stage has a group of its own.
    fn check_groups(&self, faults: &mut Faults) {
        if self.consumer.group_id.trim().is_empty() {
            faults.add("consumer.group_id", "is empty", "a consumer group's name");
        }
        let raw = self.consumer.raw_group_id.trim();
        if raw.is_empty() || raw == self.consumer.group_id || raw == self.metering.group_id {
            faults.add(
                "consumer.raw_group_id",
                "is empty, or another stage's",
                "a consumer group's own name",
            );
        }
        let reprocessed = self.reprocess.group_id.trim();
        if reprocessed.is_empty()
            || [&self.consumer.group_id, &self.consumer.raw_group_id, &self.metering.group_id]
                .contains(&&self.reprocess.group_id)
        {
            faults.add("reprocess.group_id", "is empty, or another stage's", "a consumer group's own name");
        }
        let tracking = self.metering.group_id.trim();
        if tracking.is_empty() || tracking == self.consumer.group_id {
            faults.add(
                "metering.group_id",
                "is empty, or consumer.group_id's",
                "a consumer group's own name",
            );
        }
    }

    fn check_kafka_tls(&self, faults: &mut Faults) {
        let kafka = &self.eventlog.kafka;
        for (key, file) in [
            ("eventlog.kafka.tls_ca_file", &kafka.tls_ca_file),
            ("eventlog.kafka.tls_cert_file", &kafka.tls_cert_file),
            ("eventlog.kafka.tls_key_file", &kafka.tls_key_file),
        ] {
            if file.is_some() && !kafka.tls {
                faults.add(key, "is set, and eventlog.kafka.tls is false", "tls = true, or \"\"");
            }
        }
        if kafka.tls_cert_file.is_some() != kafka.tls_key_file.is_some() {
            faults.add(
                "eventlog.kafka.tls_cert_file",
                "goes with eventlog.kafka.tls_key_file, and one of them is empty",
                "both files, or none",
            );
        }
    }

    fn check_kafka(&self, faults: &mut Faults) {
        let kafka = &self.eventlog.kafka;
        if kafka.bootstrap_servers.is_empty() {
            faults.add(
                "eventlog.kafka.bootstrap_servers",
                "is empty, and eventlog.kind is \"kafka\"",
                "brokers, such as [\"kafka:9092\"]",
            );
        }
        for server in &kafka.bootstrap_servers {
            let port = server.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains("://"));
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
                let problem = format!("{server:?} is no address of a broker");
                faults.add(
                    "eventlog.kafka.bootstrap_servers",
                    problem,
                    "host and port, such as \"kafka:9092\"",
                );
            }
        }
        if kafka.replication_factor < 0 {
            faults.add(
                "eventlog.kafka.replication_factor",
                "is negative",
                "1 or more, or 0 for the brokers' default",
            );
        }
        self.check_kafka_tls(faults);
        let wants_login = kafka.sasl.mechanism != KafkaSaslMechanism::None;
        if wants_login && kafka.sasl.username.is_empty() {
            faults.add("eventlog.kafka.sasl.username", "is empty", "the name that the brokers know");
        }
        if !wants_login && !kafka.sasl.username.is_empty() {
            faults.add(
                "eventlog.kafka.sasl.mechanism",
                "is empty, and eventlog.kafka.sasl.username is set",
                "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
            );
        }
        faults.not_empty(&[
            ("eventlog.kafka.batch_bytes_max", kafka.batch_bytes_max),
            ("eventlog.kafka.inflated_bytes_max", kafka.inflated_bytes_max),
        ]);
        faults.lasting(&[
            ("eventlog.kafka.delivery_timeout", kafka.delivery_timeout),
            ("eventlog.kafka.connect_timeout", kafka.connect_timeout),
            ("eventlog.kafka.request_timeout", kafka.request_timeout),
            ("eventlog.kafka.metadata_max_age", kafka.metadata_max_age),
            ("eventlog.kafka.session_timeout", kafka.session_timeout),
            ("eventlog.kafka.heartbeat_interval", kafka.heartbeat_interval),
        ]);
        if kafka.heartbeat_interval * 3 > kafka.session_timeout {
            let valid = format!(
                "at most a third of eventlog.kafka.session_timeout, {}",
                humantime::format_duration(kafka.session_timeout)
            );
            faults.add("eventlog.kafka.heartbeat_interval", "leaves no room for a lost heartbeat", valid);
        }
        if kafka.inflated_bytes_max < self.eventlog.record_bytes_max {
            let valid = format!("at least eventlog.record_bytes_max, {}", self.eventlog.record_bytes_max);
            faults.add("eventlog.kafka.inflated_bytes_max", "cannot hold one record", valid);
        }
    }

    fn check_people(&self, faults: &mut Faults) {
        let auth = &self.auth;
        faults.positive(&[
            ("auth.password_concurrency", auth.password_concurrency),
            ("auth.password_passes", auth.password_passes as usize),
            ("auth.login_attempts_max", auth.login_attempts_max as usize),
            ("auth.login_address_attempts_max", auth.login_address_attempts_max as usize),
            ("auth.login_entries_max", auth.login_entries_max),
        ]);
        faults.lasting(&[
            ("auth.access_ttl", auth.access_ttl),
            ("auth.refresh_ttl", auth.refresh_ttl),
            ("auth.invitation_ttl", auth.invitation_ttl),
            ("auth.login_window", auth.login_window),
            ("auth.audit_keep", auth.audit_keep),
        ]);
        for (key, count) in [
            ("auth.users_max", auth.users_max),
            ("auth.members_max", auth.members_max),
            ("auth.sessions_max", auth.sessions_max),
        ] {
            if count == 0 {
                faults.add(key, "is zero", "1 or more");
            }
        }
        if !(ByteSize::mib(1)..=ByteSize::gib(4)).contains(&auth.password_memory) {
            faults.add("auth.password_memory", "is no cost that protects", "1 MiB to 4 GiB");
        }
        if auth.access_ttl > auth.refresh_ttl {
            faults.add("auth.access_ttl", "is longer than auth.refresh_ttl", "shorter than auth.refresh_ttl");
        }
        if !auth.admin_email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
        {
            faults.add(
                "auth.admin_email",
                "is not an e-mail address",
                "an address such as \"admin@localhost\"",
            );
        }
        for (key, secret) in [
            ("meta.secret_key", &self.meta.secret_key),
            ("meta.previous_secret_key", &self.meta.previous_secret_key),
        ] {
            if (1..32).contains(&secret.expose_secret().trim().len()) {
                faults.add(key, "is too short to seal with", "a text of 32 bytes or more, or \"\"");
            }
        }
        for (key, secret) in [
            ("auth.signing_key", &auth.signing_key),
            ("auth.previous_signing_key", &auth.previous_signing_key),
        ] {
            // Its text is not repeated: it is a secret.
            let length = secret.expose_secret().trim().len();
            if (1..32).contains(&length) {
                faults.add(
                    key,
                    "is too short to sign with",
                    "a text of 32 bytes or more, an Ed25519 private key in PEM, or \"\" for secrets of FlexFlow's own",
                );
            }
        }
    }

    fn check_static_keys(&self, faults: &mut Faults) {
        const KEY: &str = "auth.static_keys";
        let keys = &self.auth.static_keys;
        for (i, key) in keys.iter().enumerate() {
            if key.sha256.len() != 64 || !key.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                faults.add(KEY, format!("sha256 of key {i} is not a SHA-256"), "64 hexadecimal digits");
            }
            if keys[..i].iter().any(|other| other.sha256.eq_ignore_ascii_case(&key.sha256)) {
                faults.add(KEY, format!("key {i} is there twice"), "each sha256 once");
            }
            if key.project_id.is_empty() || key.environment_id.is_empty() {
                faults.add(KEY, format!("key {i} belongs nowhere"), "a project_id and an environment_id");
            }
            if key.scopes.is_empty() {
                faults.add(
                    KEY,
                    format!("key {i} may do nothing"),
                    format!("scopes of {}", SCOPES.join(", ")),
                );
            }
            for scope in key.scopes.iter().filter(|scope| !SCOPES.contains(&scope.as_str())) {
                faults.add(KEY, format!("key {i} has scope {scope:?}"), SCOPES.join(", "));
            }
        }
    }
}
