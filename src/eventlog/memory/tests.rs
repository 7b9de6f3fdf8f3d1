//! The conformance suite over the log in memory, and its faults.

use super::*;
use crate::event::{ManualClock, RandomIds};
use crate::eventlog::conformance::{self, Backend, produce, read_all, record, spec};

struct Memory {
    clock: Arc<ManualClock>,
    log: MemoryLog,
}

#[async_trait]
impl Backend for Memory {
    fn log(&self) -> Arc<dyn EventLog> {
        Arc::new(self.log.clone())
    }

    /// What a log in memory holds lives as long as the process: there is nothing to open again.
    async fn restart(&mut self) {}

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn enforce_retention(&self) {
        self.log.enforce_retention();
    }
}

fn memory() -> Memory {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    Memory { log: MemoryLog::new(clock.clone(), Arc::new(RandomIds)), clock }
}

conformance::conformance_suite!(memory());

async fn with_topic() -> MemoryLog {
    let log = memory().log;
    log.create_topics(&[spec("events", 1)]).await.unwrap();
    log
}

#[tokio::test]
async fn what_the_topic_does_not_hold_any_more_is_waited_for_no_longer() {
    let log = with_topic().await;
    log.produce("events", vec![record("k", "v", 1), record("k", "v", 2)]).await;
    let ends = crate::eventlog::ends(&log, "events").await.unwrap();
    assert_eq!(ends, [(0, 2)]);
    let has_passed = || crate::eventlog::has_passed(&log, "events", "nobody", ends.clone());
    assert!(!has_passed().await.unwrap());
    log.delete_records_before(&TopicPartition::new("events", 0), 1);
    assert!(!has_passed().await.unwrap(), "a record is left");
    log.delete_records_before(&TopicPartition::new("events", 0), 2);
    assert!(has_passed().await.unwrap());
    let missing = crate::eventlog::ends(&log, "elsewhere").await.unwrap_err();
    assert!(missing.to_string().contains("flexflow topics create"), "{missing}");
}

#[tokio::test]
async fn what_stood_in_a_topic_that_was_made_again_is_waited_for_no_longer() {
    let log = with_topic().await;
    log.produce("events", vec![record("k", "v", 1), record("k", "v", 2)]).await;
    let ends = crate::eventlog::ends(&log, "events").await.unwrap();
    log.delete_topic("events").await.unwrap();
    let missing = crate::eventlog::has_passed(&log, "events", "nobody", ends.clone()).await.unwrap_err();
    assert!(matches!(missing, LogError::TopicMissing(_)), "{missing}");
    log.create_topics(&[spec("events", 1)]).await.unwrap();
    assert!(crate::eventlog::has_passed(&log, "events", "nobody", ends).await.unwrap());
}

#[tokio::test]
async fn a_refused_produce_writes_nothing_and_a_lost_answer_writes_all() {
    let log = with_topic().await;
    log.script(Operation::Produce, [Fault::Refuse, Fault::Full, Fault::LoseAnswer]);
    let one = || vec![record("k", "v", 1)];
    assert!(matches!(log.produce("events", one()).await[..], [Err(LogError::Unavailable(_))]));
    assert!(matches!(log.produce("events", one()).await[..], [Err(LogError::Full(_))]));
    assert_eq!(read_all(&log, "events").await[&0].len(), 0);
    assert!(matches!(log.produce("events", one()).await[..], [Err(LogError::OutcomeUnknown(_))]));
    assert_eq!(read_all(&log, "events").await[&0].len(), 1);
    assert_eq!(log.calls(Operation::Produce), 3);
}

#[tokio::test]
async fn a_duplicated_produce_stands_twice() {
    let log = with_topic().await;
    log.script(Operation::Produce, [Fault::Duplicate]);
    assert_eq!(produce(&log, "events", vec![record("k", "v", 1)]).await[0].offset, 0);
    assert_eq!(produce(&log, "events", vec![record("k", "w", 1)]).await[0].offset, 2);
}

#[tokio::test]
async fn a_log_that_is_away_comes_back_after_its_calls() {
    let log = with_topic().await;
    log.go_away(2);
    for _ in 0..2 {
        assert!(matches!(log.topics().await, Err(LogError::Unavailable(_))));
    }
    assert_eq!(log.topics().await.unwrap().len(), 1);
    assert!(log.probe().await.is_err(), "each operation is away for its own calls");
    log.heal();
    log.probe().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_takes_its_time_and_works() {
    let log = with_topic().await;
    log.script(Operation::Produce, [Fault::Slow(Duration::from_secs(5))]);
    let started = Instant::now();
    produce(&log, "events", vec![record("k", "v", 1)]).await;
    assert_eq!(started.elapsed(), Duration::from_secs(5));
}
