//! Produce: one idempotent producer a process, all partitions of a broker in one request.
//!
//! A call puts its records into the queues of their partitions and waits. One task ([`sender`]) makes batches of what is
//! queued, sends them, and sends them again byte for byte until each has an outcome ([`lane`] has the rules). A call is
//! answered within `eventlog.kafka.delivery_timeout`: what was never written down is dropped then and said to be not
//! written; what was is [`LogError::OutcomeUnknown`] and is still sent until the broker answers, because what is behind it
//! counts on it. `eventlog.queue_bytes_max` bounds the records held (as encoded batches once more).

mod answers;
mod broker;
mod inbox;
mod lane;
mod partition;
mod payload;
mod reply;
mod sender;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::KafkaOptions;
use super::cluster::{Cluster, Topic};
use super::limits::RecordLimits;
use crate::eventlog::partitioner::Placement;
use crate::eventlog::{LogError, NewRecord, Position};
use crate::lifecycle::{Policy, Tasks};
use inbox::{Command, Inbox};
use reply::{Answers, Reply, Slot};
use sender::Sender;

/// The sender answers at the deadline; a little later nobody waits for it any more.
const GRACE: Duration = Duration::from_secs(1);
/// Longest a close waits for batches whose outcome nobody knows yet. Nobody waits for them any more: their calls were
/// answered.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a sender that panicked is started again; what it held is answered as unknown.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// The records of one call.
struct Job {
    topic: Arc<Topic>,
    records: Vec<(i32, NewRecord, Slot)>,
    bytes: usize,
}

/// Hands records to the sender.
pub(super) struct Producer {
    cluster: Arc<Cluster>,
    limits: RecordLimits,
    inbox: Inbox,
    /// One permit a KiB.
    room: Arc<Semaphore>,
    room_kib: u32,
    delivery_timeout: Duration,
    turns: AtomicU64,
    trouble: Trouble,
}

/// Why records wait longer than they should; none while they do not.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

impl Producer {
    /// Starts the task `kafka-producer`.
    pub(super) fn start(options: &KafkaOptions, cluster: &Arc<Cluster>, tasks: &Tasks) -> Self {
        let (inbox, taker) = Inbox::new();
        let taker = Arc::new(tokio::sync::Mutex::new(taker));
        let room_kib = u32::try_from(options.buffer_bytes_max / 1024).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        let trouble = Trouble::default();
        let (started, of) = ((options.clone(), cluster.clone(), trouble.clone()), tasks.stop().clone());
        tasks.spawn("kafka-producer", Policy::Restart(RESTART_AFTER), move || {
            let ((options, cluster, trouble), taker, stop) = (started.clone(), taker.clone(), of.clone());
            async move {
                let taker = taker.lock().await;
                tokio::select! {
                    () = stop.hard_token().cancelled() => {}
                    () = Sender::new(options, cluster, trouble).run(&taker) => {}
                }
                Ok(())
            }
        });
        Self {
            cluster: cluster.clone(),
            limits: RecordLimits::new(cluster.clone(), options.metadata_max_age),
            inbox,
            room: Arc::new(Semaphore::new(usize::try_from(room_kib).unwrap_or(usize::MAX))),
            room_kib,
            delivery_timeout: options.delivery_timeout,
            turns: AtomicU64::new(0),
            trouble,
        }
    }

    /// See [`EventLog::produce`](crate::eventlog::EventLog::produce).
    ///
    /// # Errors
    /// Nothing of the call was written, or nobody knows.
    pub(super) async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Answers, LogError> {
        let deadline = Instant::now() + self.delivery_timeout;
        let handed_over = async {
            let topic = self.cluster.topic(topic).await?;
            let bytes_max = self.limits.of(&topic).await;
            self.hand_over(topic, records, bytes_max, deadline).await
        };
        let answered = match timeout_at(deadline, handed_over).await {
            Ok(answered) => answered?,
            Err(_) => return Err(self.too_late()),
        };
        match answered {
            Handed::Answered(answers) => Ok(answers),
            Handed::Waiting(answered) => match timeout_at(deadline + GRACE, answered).await {
                Ok(Ok(answers)) => Ok(answers),
                Ok(Err(_)) => Err(LogError::OutcomeUnknown("the producer was started again".to_owned())),
                Err(_) => Err(LogError::OutcomeUnknown("the producer does not answer".to_owned())),
            },
        }
    }

    async fn hand_over(
        &self,
        topic: Arc<Topic>,
        records: Vec<NewRecord>,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<Handed, LogError> {
        let checked: Vec<Result<(), LogError>> =
            records.iter().map(|record| record.check_size(bytes_max)).collect();
        let bytes: usize =
            records.iter().zip(&checked).filter(|(_, ok)| ok.is_ok()).map(|(record, _)| record.bytes()).sum();
        let answers: Vec<Option<Result<Position, LogError>>> =
            checked.iter().map(|checked| checked.clone().err().map(Err)).collect();
        if answers.iter().all(Option::is_some) {
            return Ok(Handed::Answered(answers.into_iter().flatten().collect()));
        }
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(self.room_kib);
        let closed = |_| LogError::Unavailable("the log is closed".to_owned());
        let room = self.room.clone().acquire_many_owned(kib).await.map_err(closed)?;
        let (reply, answered) = Reply::new(answers, deadline, room);
        let placement = Placement::new(&self.turns, topic.partitions());
        let place = |(index, record): (usize, NewRecord)| {
            let partition = placement.partition(record.key.as_deref());
            (partition, record, Slot { reply: reply.clone(), index })
        };
        let good = records.into_iter().enumerate().zip(&checked).filter(|(_, checked)| checked.is_ok());
        let records = good.map(|(record, _)| place(record)).collect();
        let job = Job { topic, records, bytes };
        let handed_over = self.inbox.push(Command::Produce(job));
        handed_over.map_err(|_| LogError::Unavailable("the log is closed".to_owned()))?;
        Ok(Handed::Waiting(answered))
    }

    fn too_late(&self) -> LogError {
        let reason = self.trouble.get().unwrap_or_else(|| "eventlog.queue_bytes_max is reached".to_owned());
        LogError::Unavailable(format!("nothing was written within {:?}: {reason}", self.delivery_timeout))
    }

    /// Why records that were handed over are not written, if that is so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.get()
    }

    /// Sends what is queued, for [`FLUSH_TIMEOUT`] at most.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.inbox.push(Command::Flush(done)).is_ok() {
                // An error: the sender has ended, and nothing is queued any more.
                let _ = flushed.await;
            }
        };
        // What is not out by then is not going to be.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, flush).await;
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.inbox.end();
    }
}

enum Handed {
    Answered(Answers),
    Waiting(oneshot::Receiver<Answers>),
}
