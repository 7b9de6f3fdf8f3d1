//! When the sender is woken, and what it finds then.

use std::pin::pin;

use bytes::Bytes;
use futures::poll;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::event::Timestamp;
use crate::eventlog::kafka::cluster::Topic;
use crate::eventlog::kafka::producer::reply::{Reply, Slot};
use crate::eventlog::{Headers, NewRecord, TopicId};

const RECORD_BYTES: usize = 100;

fn call(records: usize) -> Command {
    let topic = Topic {
        name: "events".into(),
        id: TopicId(Uuid::from_u128(1)),
        leaders: Vec::new(),
        replicas: 1,
        internal: false,
    };
    let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (reply, _) = Reply::new(vec![None; records], Instant::now(), room);
    let record = |index| {
        let record = NewRecord {
            key: None,
            value: Bytes::from_static(&[0; RECORD_BYTES]),
            headers: Headers::from([]),
            timestamp: Timestamp::from_millis(0),
        };
        (0, record, Slot { reply: reply.clone(), index })
    };
    let records: Vec<_> = (0..records).map(record).collect();
    let bytes = records.len() * RECORD_BYTES;
    Command::Produce(Job { topic: Arc::new(topic), records, bytes })
}

#[tokio::test]
async fn the_sender_is_woken_once_for_as_many_records_as_it_wants() {
    let (inbox, taker) = Inbox::new();
    let mut waiting = pin!(taker.wait(Wanted { records: 3, bytes: usize::MAX }));
    assert!(poll!(&mut waiting).is_pending());
    inbox.push(call(2)).unwrap();
    assert!(poll!(&mut waiting).is_pending());
    inbox.push(call(1)).unwrap();
    assert!(poll!(&mut waiting).is_ready());
    let mut taken = Vec::new();
    assert!(taker.take(&mut taken));
    assert_eq!(taken.len(), 2);
}

#[tokio::test]
async fn bytes_that_fill_a_batch_wake_it_as_well() {
    let (inbox, taker) = Inbox::new();
    let mut waiting = pin!(taker.wait(Wanted { records: usize::MAX, bytes: 3 * RECORD_BYTES }));
    inbox.push(call(2)).unwrap();
    assert!(poll!(&mut waiting).is_pending());
    inbox.push(call(1)).unwrap();
    assert!(poll!(&mut waiting).is_ready());
}

#[tokio::test]
async fn what_came_before_it_waited_is_not_waited_for() {
    let (inbox, taker) = Inbox::new();
    inbox.push(call(2)).unwrap();
    taker.wait(Wanted::ANY).await;
    let mut taken = Vec::new();
    assert!(taker.take(&mut taken));
    let mut waiting = pin!(taker.wait(Wanted::ANY));
    assert!(poll!(&mut waiting).is_pending(), "it was taken");
    assert!(taker.take(&mut taken) && taken.is_empty());
}

#[tokio::test]
async fn a_flush_wakes_it_however_little_there_is() {
    let (inbox, taker) = Inbox::new();
    let (done, _flushed) = oneshot::channel();
    let mut waiting = pin!(taker.wait(Wanted { records: 64, bytes: 1 << 20 }));
    assert!(poll!(&mut waiting).is_pending());
    inbox.push(Command::Flush(done)).unwrap();
    assert!(poll!(&mut waiting).is_ready());
}

#[tokio::test]
async fn the_last_calls_are_taken_before_it_ends_and_none_after_it_ended() {
    let (inbox, taker) = Inbox::new();
    inbox.push(call(1)).unwrap();
    inbox.end();
    assert_eq!(inbox.push(call(1)), Err(Closed));
    let mut taken = Vec::new();
    taker.wait(Wanted { records: 64, bytes: 1 << 20 }).await;
    assert!(taker.take(&mut taken));
    assert_eq!(taken.len(), 1);
    assert!(!taker.take(&mut taken), "that was the last");

    let (inbox, taker) = Inbox::new();
    drop(taker);
    assert_eq!(inbox.push(call(1)), Err(Closed), "nobody takes it");
}
