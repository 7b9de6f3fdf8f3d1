//! A place in a group: a task of its own that has the core's requests made, whatever its caller is doing, and the handles
//! through which the caller hears of it, releases and commits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::error::ResponseError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::core::{Core, Effect, Failure, Input, Topics};
use super::wire::{Identity, Wire};
use crate::eventlog::{
    CommitError, Committer, Generation, GroupEvent, GroupMember, LogError, TopicId, TopicPartition,
};
use crate::lifecycle::Tasks;

/// Events on their way to the caller, who reads them all the time.
const EVENTS_MAX: usize = 16;
/// Refused commits on their way to the task; one that finds no room is heard of by the next heartbeat.
const REFUSALS_MAX: usize = 16;
/// How often the topics are looked at.
const TOPICS_EVERY: Duration = Duration::from_secs(1);

enum Command {
    Release(Vec<TopicPartition>, oneshot::Sender<()>),
    Leave(oneshot::Sender<Result<(), Failure>>),
}

/// What the task shows to committers.
#[derive(Default)]
struct View {
    who: Option<Identity>,
    committable: BTreeMap<TopicPartition, (TopicId, Generation)>,
    ended: Option<LogError>,
}

struct Handle {
    wire: Arc<Wire>,
    view: Mutex<View>,
    refusals: mpsc::Sender<(i32, Failure)>,
}

impl Handle {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> LogError {
        let closed = || LogError::Unavailable("the log is closed".to_owned());
        self.view().ended.clone().unwrap_or_else(closed)
    }
}

/// See the [module](self).
pub(super) struct Member {
    handle: Arc<Handle>,
    events: mpsc::Receiver<GroupEvent>,
    commands: mpsc::Sender<Command>,
}

impl Member {
    /// Starts the task; `core` is made at the given time of its clock.
    pub(super) fn start(wire: Arc<Wire>, core: impl FnOnce(Duration) -> Core, tasks: &Tasks) -> Self {
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let (commands, ordered) = mpsc::channel(1);
        let (refusals, refused) = mpsc::channel(REFUSALS_MAX);
        let handle = Arc::new(Handle { wire: wire.clone(), view: Mutex::default(), refusals });
        let task = Task {
            core: core(Duration::ZERO),
            wire,
            handle: handle.clone(),
            began: Instant::now(),
            answers: FuturesUnordered::new(),
            told: VecDeque::new(),
            events: tell,
            polling: false,
        };
        drop(tasks.spawn_bounded(task.run(ordered, refused)));
        Self { handle, events, commands }
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn next(&mut self) -> Result<GroupEvent, LogError> {
        self.events.recv().await.ok_or_else(|| self.handle.ended())
    }

    fn committer(&self) -> Arc<dyn Committer> {
        self.handle.clone()
    }

    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let (done, is_done) = oneshot::channel();
        let ended = |_| self.handle.ended();
        self.commands
            .send(Command::Release(partitions.to_vec(), done))
            .await
            .map_err(|_| self.handle.ended())?;
        is_done.await.map_err(ended)
    }

    async fn leave(self: Box<Self>) -> Result<(), LogError> {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).await.is_err() {
            // It is out already.
            return Ok(());
        }
        match is_done.await {
            Ok(Err(failure)) => Err(super::failed(failure, self.handle.wire.whose())),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Committer for Handle {
    async fn commit(
        &self,
        generation: Generation,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), CommitError> {
        let (who, offsets) = {
            let view = self.view();
            let who = view.who.clone().ok_or(CommitError::Fenced)?;
            let own = |(partition, offset): (&TopicPartition, &i64)| {
                let (topic_id, since) = view.committable.get(partition)?;
                (*since <= generation).then(|| (partition.clone(), (*topic_id, *offset)))
            };
            let own: Option<BTreeMap<_, _>> = offsets.iter().map(own).collect();
            (who, own.ok_or(CommitError::Fenced)?)
        };
        let Err(failure) = self.wire.commit(&who, &offsets).await else { return Ok(()) };
        // A full queue means that the task knows already.
        let _ = self.refusals.try_send((who.generation, failure.clone()));
        Err(match failure {
            Failure::Code(ResponseError::FencedInstanceId) => CommitError::Fenced,
            // What became of the membership is told by the events.
            Failure::Code(
                ResponseError::RebalanceInProgress
                | ResponseError::IllegalGeneration
                | ResponseError::UnknownMemberId,
            ) => CommitError::Rebalancing,
            Failure::Lost(reason) => CommitError::Log(LogError::OutcomeUnknown(reason)),
            other => CommitError::Log(super::failed(other, self.wire.whose())),
        })
    }
}

/// What came of something that was asked.
enum Answer {
    Input(Input),
    /// The regular look at the topics.
    Polled(Option<Topics>),
}

/// What the task waited for.
enum Happened {
    Closed,
    /// `None`: the caller is gone.
    Told(Option<Command>),
    Input(Option<Input>),
    PollTopics,
}

/// It waits nowhere but where it waits for everything, so that the requests under way are always driven: they hold the
/// locks that others wait for.
struct Task {
    core: Core,
    wire: Arc<Wire>,
    handle: Arc<Handle>,
    began: Instant,
    /// One request to the coordinator, one look at the topics, and lookups until they are answered.
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Events that the caller has not taken yet.
    told: VecDeque<GroupEvent>,
    events: mpsc::Sender<GroupEvent>,
    polling: bool,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut refused: mpsc::Receiver<(i32, Failure)>,
    ) {
        let shared = self.wire.shared().clone();
        let mut poll = tokio::time::interval(TOPICS_EVERY);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut input = Some(Input::Tick);
        let mut released: Option<oneshot::Sender<()>> = None;
        while self.handle.view().ended.is_none() {
            if let Some(input) = input.take() {
                self.handle(input);
            }
            // Only now is nothing of it committed any more.
            if let Some(done) = released.take() {
                // The caller may have gone away.
                let _ = done.send(());
            }
            let far = Duration::from_secs(3600);
            let wake = self.began + self.core.deadline().unwrap_or_else(|| self.began.elapsed() + far);
            let waiting = !self.told.is_empty();
            let happened = tokio::select! {
                biased;
                () = shared.closed.cancelled() => Happened::Closed,
                command = commands.recv() => Happened::Told(command),
                Some((generation, failure)) = refused.recv() => {
                    Happened::Input(Some(Input::CommitRefused { generation, failure }))
                }
                Some(answer) = self.answers.next() => Happened::Input(match answer {
                    Answer::Input(input) => Some(input),
                    Answer::Polled(topics) => {
                        self.polling = false;
                        topics.map(Input::Topics)
                    }
                }),
                Ok(room) = self.events.reserve(), if waiting => {
                    if let Some(event) = self.told.pop_front() {
                        room.send(event);
                    }
                    Happened::Input(None)
                }
                _ = poll.tick(), if !self.polling => Happened::PollTopics,
                () = tokio::time::sleep_until(wake) => Happened::Input(Some(Input::Tick)),
            };
            match happened {
                Happened::Closed => return self.end(LogError::Unavailable("the log is closed".to_owned())),
                Happened::Told(Some(Command::Release(partitions, done))) => {
                    released = Some(done);
                    input = Some(Input::Released(partitions));
                }
                Happened::Told(Some(Command::Leave(done))) => {
                    // The caller may have gone away.
                    let _ = done.send(self.leave().await);
                    return;
                }
                Happened::Told(None) => {
                    if let Err(failure) = self.leave().await {
                        tracing::debug!(?failure, "left the group without a word");
                    }
                    return;
                }
                Happened::Input(next) => input = next,
                Happened::PollTopics => self.poll_topics(),
            }
        }
        self.tell_the_rest(&shared.closed).await;
    }

    fn poll_topics(&mut self) {
        self.polling = true;
        let (wire, topics) = (self.wire.clone(), self.core.topics());
        self.answers.push(Box::pin(async move { Answer::Polled(wire.topics(&topics).await.ok()) }));
    }

    fn handle(&mut self, input: Input) {
        let effects = self.core.handle(self.began.elapsed(), input);
        {
            // Before anybody hears of it: what is not held any more is not committed any more.
            let mut view = self.handle.view();
            let member_id = self.core.member_id();
            let who = Identity { member_id: member_id.to_owned(), generation: self.core.generation() };
            view.who = (!member_id.is_empty()).then_some(who);
            view.committable = self.core.committable();
        }
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        let wire = self.wire.clone();
        match effect {
            Effect::Tell(event) => self.told.push_back(event),
            Effect::FindCoordinator => wire.forget_coordinator(),
            Effect::Join { member_id, subscription } => {
                self.ask(async move { wire.join(member_id, subscription).await });
            }
            Effect::Sync { member_id, generation, assignment } => {
                let who = Identity { member_id, generation };
                self.ask(async move { Input::Synced(wire.sync(&who, &assignment).await) });
            }
            Effect::Beat { member_id, generation } => {
                let who = Identity { member_id, generation };
                self.ask(async move { Input::Beaten(wire.beat(&who).await) });
            }
            Effect::LookUp { lookup, partitions } => {
                self.ask(async move { Input::LookedUp { lookup, found: wire.look_up(&partitions).await } });
            }
            Effect::AskTopics(topics) => {
                self.answers.push(Box::pin(async move {
                    match wire.topics(&topics).await {
                        Ok(topics) => Answer::Input(Input::Topics(topics)),
                        Err(failure) => Answer::Input(Input::TopicsUnknown(failure)),
                    }
                }));
            }
            Effect::Fenced => {
                if let Some(instance) = wire.instance_id() {
                    let mut fenced = wire.shared().fenced.lock().unwrap_or_else(PoisonError::into_inner);
                    fenced.insert((wire.whose().group.clone(), instance.clone()));
                }
            }
            Effect::End(error) => self.end(error),
        }
    }

    fn ask(&mut self, request: impl Future<Output = Input> + Send + 'static) {
        self.answers.push(Box::pin(async move { Answer::Input(request.await) }));
    }

    fn end(&mut self, error: LogError) {
        let mut view = self.handle.view();
        view.who = None;
        view.committable.clear();
        view.ended = Some(error);
    }

    /// A static member keeps its place for the session time-out, so that a restart finds everything as it was.
    async fn leave(&mut self) -> Result<(), Failure> {
        self.end(LogError::Unavailable("the member left the group".to_owned()));
        // Nobody goes on with what is under way: it must not keep the connection that leaving needs.
        self.answers.clear();
        let member_id = self.core.member_id();
        if member_id.is_empty() || self.wire.instance_id().is_some() {
            return Ok(());
        }
        self.wire.leave(member_id).await
    }

    async fn tell_the_rest(mut self, closed: &tokio_util::sync::CancellationToken) {
        while let Some(event) = self.told.pop_front() {
            tokio::select! {
                () = closed.cancelled() => return,
                sent = self.events.send(event) => {
                    if sent.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
