//! The conformance suite over a real broker. One broker serves all cases, each under names of its own.
//!
//! Two cases are not Kafka's: a group has many owners there, and retention is the brokers' own.

mod apart;
#[path = "../../../tests/it/support/kafka.rs"]
#[expect(dead_code, reason = "the integration tests use the rest of it")]
mod broker;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{KafkaLog, KafkaOptions};
use crate::event::{IdSource, ManualClock, RandomIds};
use crate::eventlog::EventLog;
use crate::eventlog::conformance::{self, Backend};
use apart::Apart;
use broker::Kafka;

struct OnKafka {
    options: KafkaOptions,
    prefix: String,
    log: Arc<Apart>,
    clock: ManualClock,
}

async fn kafka() -> OnKafka {
    let broker = Kafka::shared().await;
    let options = KafkaOptions {
        session_timeout: Duration::from_secs(2),
        heartbeat_interval: Duration::from_millis(500),
        ..KafkaOptions::for_test(broker.bootstrap())
    };
    let mut random = [0; 8];
    RandomIds.fill(&mut random);
    let prefix = format!("c{:x}-", u64::from_be_bytes(random));
    let log = open(&options, &prefix);
    OnKafka { options, prefix, log, clock: ManualClock::default() }
}

fn open(options: &KafkaOptions, prefix: &str) -> Arc<Apart> {
    let log = KafkaLog::open(options.clone(), Arc::new(RandomIds)).unwrap();
    Arc::new(Apart { log, prefix: prefix.to_owned() })
}

#[async_trait]
impl Backend for OnKafka {
    fn log(&self) -> Arc<dyn EventLog> {
        self.log.clone()
    }

    async fn restart(&mut self) {
        self.log.close().await;
        self.log = open(&self.options, &self.prefix);
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn enforce_retention(&self) {}
}

conformance::conformance_suite!(kafka().await;
    records_come_back_as_written_and_offsets_go_on_over_a_restart
    a_fetch_starts_inside_a_batch_and_keeps_to_its_limits
    positions_outside_of_the_log_are_named
    an_idle_fetch_answers_empty_after_its_wait
    a_waiting_fetch_wakes_at_once_when_a_record_comes
    a_record_too_large_is_refused_alone
    concurrent_produces_keep_one_order_and_lose_nothing
    commits_are_kept_and_are_all_or_none
    a_topic_made_again_is_another_topic
    a_missing_topic_is_named_until_it_is_made
    a_grown_topic_gives_its_new_partitions_and_keeps_commits_in_flight
    offsets_are_found_by_time_though_the_clock_jumped_back
    a_closed_log_says_so
);
