//! Runs the core of one stage against the real log and store: hears what happens, asks the core what to do, has it
//! done. The group is heard while an insert is tried again and again.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures::future::BoxFuture;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::control::Control;
use super::core::{Core, Effect, Input, Now, RebuildId, Settings};
use super::observer::Observer;
use super::stage::{Payload, Stage};
use super::work::Work;
use crate::event::Clock;
use crate::eventlog::{EventLog, GroupEvent, GroupMember, GroupSpec, LogError, TopicPartition};
use crate::lifecycle::{Component, Jitter, Stop, Tasks};
use crate::telemetry::names;

/// Answers on their way back to the core; a lane has a handful of questions open at most.
const ANSWERS_MAX: usize = 64;

/// What a driver needs besides its stage.
pub(super) struct Setup {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) group: GroupSpec,
    pub(super) dlq_topic: Arc<str>,
    pub(super) dlq_record_bytes_max: usize,
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    pub(super) component: Component,
    pub(super) control: Control,
}

/// An answer to an effect, or the panic that kept it from coming.
pub(super) enum Answer<R> {
    Input(Input<Payload<R>>),
    Panicked(&'static str),
}

/// The place in the group.
enum Membership {
    /// Not before then.
    Waiting(Instant),
    Joining(BoxFuture<'static, Result<Box<dyn GroupMember>, LogError>>),
    Joined(Box<dyn GroupMember>),
}

/// What the membership brought.
enum News {
    TryJoin,
    Joined(Box<dyn GroupMember>),
    Group(GroupEvent),
    Failed(LogError),
}

impl Membership {
    /// The next thing; cancel-safe, because a join under way is kept.
    async fn next(&mut self) -> News {
        match self {
            Self::Waiting(until) => {
                tokio::time::sleep_until(*until).await;
                News::TryJoin
            }
            Self::Joining(join) => match join.await {
                Ok(member) => News::Joined(member),
                Err(error) => News::Failed(error),
            },
            Self::Joined(member) => match member.next().await {
                Ok(event) => News::Group(event),
                Err(error) => News::Failed(error),
            },
        }
    }
}

/// One stage at work.
pub(super) struct Driver<S: Stage> {
    core: Core<Payload<S::Row>>,
    work: Arc<Work<S>>,
    log: Arc<dyn EventLog>,
    group: GroupSpec,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    observer: Observer,
    began: Instant,
    membership: Membership,
    join_failures: u32,
    jitter: Jitter,
    backoff: (Duration, Duration),
    answers: mpsc::Sender<Answer<S::Row>>,
    heard: mpsc::Receiver<Answer<S::Row>>,
    resumed: broadcast::Receiver<TopicPartition>,
    /// They end with the driver: nobody else would take what they find.
    rebuilds: HashMap<RebuildId, AbortOnDropHandle<()>>,
    left: bool,
}

impl<S: Stage> Driver<S> {
    pub(super) fn new(stage: Arc<S>, setup: Setup) -> Self {
        let (answers, heard) = mpsc::channel(ANSWERS_MAX);
        let began = Instant::now();
        let now = Now { mono: Duration::ZERO, wall: setup.clock.now() };
        let settings = setup.settings;
        Self {
            jitter: Jitter::new(settings.seed),
            backoff: (settings.backoff_min, settings.backoff_max),
            core: Core::new(settings, now),
            observer: Observer::new(
                (stage.name(), stage.writes_to()),
                stage.accounts(),
                setup.component,
                setup.control.clone(),
            ),
            work: Arc::new(Work {
                stage,
                log: setup.log.clone(),
                dlq_topic: setup.dlq_topic,
                dlq_record_bytes_max: setup.dlq_record_bytes_max,
                clock: setup.clock.clone(),
            }),
            log: setup.log,
            group: setup.group,
            clock: setup.clock,
            tasks: setup.tasks,
            began,
            membership: Membership::Waiting(began),
            join_failures: 0,
            answers,
            heard,
            resumed: setup.control.subscribe(),
            rebuilds: HashMap::new(),
            left: false,
        }
    }

    /// Works until a soft stop is through, or a hard one comes.
    pub(super) async fn run(mut self, stop: &Stop) -> anyhow::Result<()> {
        let mut stopping = false;
        let mut lag_shown = self.began;
        while !self.left {
            let wake =
                self.core.deadline().map_or(self.began + Duration::from_secs(3600), |at| self.began + at);
            let wake = wake.min(lag_shown + Duration::from_secs(5));
            let input = tokio::select! {
                biased;
                () = stop.hard_token().cancelled() => return Ok(()),
                () = stop.soft_token().cancelled(), if !stopping => {
                    stopping = true;
                    Some(Input::Stop)
                }
                news = self.membership.next() => self.news(news),
                Some(answer) = self.heard.recv() => match answer {
                    Answer::Input(input) => Some(input),
                    Answer::Panicked(what) => bail!("{} panicked while {what}", self.work.stage.name()),
                },
                Ok(partition) = self.resumed.recv() => Some(Input::Resume { partition }),
                () = tokio::time::sleep_until(wake) => Some(Input::Tick),
            };
            if lag_shown.elapsed() >= Duration::from_secs(5) {
                lag_shown = Instant::now();
                self.show_window();
            }
            if let Some(input) = input {
                let now = Now { mono: self.began.elapsed(), wall: self.clock.now() };
                for effect in self.core.handle(now, input) {
                    self.perform(effect).await;
                }
            }
        }
        Ok(())
    }

    fn show_window(&self) {
        if self.core.window().is_enabled() {
            let window = self.core.window();
            names::CONSUMER_ID_WINDOW_IDS.gauge(&[]).set(window.ids() as f64);
            let reach = window.effective(self.clock.now());
            names::CONSUMER_ID_WINDOW_SECONDS.gauge(&[]).set(reach.as_secs_f64());
        }
    }

    fn news(&mut self, news: News) -> Option<Input<Payload<S::Row>>> {
        match news {
            News::TryJoin => {
                let (log, group) = (self.log.clone(), self.group.clone());
                self.membership = Membership::Joining(Box::pin(async move { log.join(group).await }));
                None
            }
            News::Joined(member) => {
                self.join_failures = 0;
                self.observer.joined(Ok(()));
                self.membership = Membership::Joined(member);
                None
            }
            News::Failed(error) => {
                let why =
                    if matches!(error, LogError::Forbidden(_)) { "refuses it" } else { "does not answer" };
                let reason = format!("its group {why}, tried again by itself: {error}");
                self.observer.joined(Err(reason));
                self.join_failures = self.join_failures.saturating_add(1);
                let wait = self.jitter.wait(self.backoff.0, self.backoff.1, self.join_failures);
                // A member that fails is given up: what it owned is lost to it.
                self.membership = Membership::Waiting(Instant::now() + wait);
                let partitions = self.core.owned().map(|(name, ..)| name.clone()).collect();
                Some(Input::Lost { partitions })
            }
            News::Group(event) => Some(match event {
                GroupEvent::Assigned { generation, partitions } => {
                    tracing::info!(
                        stage = self.work.stage.name(),
                        generation = generation.0,
                        ?partitions,
                        "assigned"
                    );
                    Input::Assigned { generation, partitions }
                }
                GroupEvent::Revoking { partitions } => Input::Revoking { partitions },
                GroupEvent::Lost { partitions } => {
                    tracing::warn!(stage = self.work.stage.name(), ?partitions, "lost");
                    Input::Lost { partitions }
                }
                GroupEvent::TopicMissing { topic } => Input::TopicMissing { topic },
                GroupEvent::TopicBack { topic } => Input::TopicBack { topic },
            }),
        }
    }

    async fn perform(&mut self, effect: Effect<Payload<S::Row>>) {
        let work = self.work.clone();
        match effect {
            Effect::Tell(notice) => self.observer.note(notice),
            Effect::Scan { scan, from } => {
                self.spawn("asking what is stored", async move { work.scan(scan, from).await });
            }
            Effect::Rebuild { rebuild, partitions, since, limit } => {
                let answers = self.answers.clone();
                let task = async move { work.rebuild(rebuild, partitions, since, limit, answers).await };
                let task = AbortOnDropHandle::new(self.spawn("rebuilding the id window", task));
                self.rebuilds.retain(|_, task| !task.is_finished());
                self.rebuilds.insert(rebuild, task);
            }
            Effect::CancelRebuild { rebuild } => drop(self.rebuilds.remove(&rebuild)),
            Effect::Fetch { lane, fetch, from, wait_max, bytes_max } => {
                let task = async move { work.fetch(lane, fetch, from, wait_max, bytes_max).await };
                self.spawn("fetching", task);
            }
            Effect::ProduceLetters { attempt, batch, letters } => {
                let task = async move { work.letters(attempt, &batch, &letters).await };
                self.spawn("writing dead letters", task);
            }
            Effect::Insert { attempt, batch, rows, token } => {
                let task = async move { work.insert(attempt, &batch, &rows, &token).await };
                self.spawn("inserting", task);
            }
            Effect::Commit { batch, attempt, generation, offsets } => {
                let committer = match &self.membership {
                    Membership::Joined(member) => Some(member.committer()),
                    _ => None,
                };
                let task = async move { work.commit(batch, attempt, committer, generation, &offsets).await };
                self.spawn("committing", task);
            }
            Effect::Release { partitions } => self.release(&partitions).await,
            Effect::Rejoin => {
                // Dropping the member leaves the group as a crash would; what it owned is forgotten already.
                tracing::warn!(stage = self.work.stage.name(), "fenced: joining again");
                self.membership = Membership::Waiting(Instant::now());
            }
            Effect::Probe => {
                self.spawn("probing the store", async move { work.probe().await });
            }
            Effect::Leave => self.leave().await,
        }
    }

    /// Has something done; its answer comes back as an input.
    fn spawn<F>(&self, what: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = Input<Payload<S::Row>>> + Send + 'static,
    {
        let answers = self.answers.clone();
        self.tasks.spawn_bounded(async move {
            let answer = match futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(task)).await {
                Ok(input) => Answer::Input(input),
                Err(_) => Answer::Panicked(what),
            };
            // Nobody listens any more: the driver has ended.
            let _ = answers.send(answer).await;
        })
    }

    async fn release(&mut self, partitions: &[TopicPartition]) {
        let Membership::Joined(member) = &mut self.membership else { return };
        if let Err(error) = member.release(partitions).await {
            tracing::warn!(stage = self.work.stage.name(), %error, "could not give partitions back: joining again");
            self.membership = Membership::Waiting(Instant::now());
        }
    }

    async fn leave(&mut self) {
        self.left = true;
        let membership = std::mem::replace(&mut self.membership, Membership::Waiting(self.began));
        if let Membership::Joined(member) = membership
            && let Err(error) = member.leave().await
        {
            tracing::warn!(stage = self.work.stage.name(), %error, "could not leave the group; it will notice");
        }
    }
}
