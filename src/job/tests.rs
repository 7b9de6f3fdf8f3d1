//! Jobs over a real SQLite file: workers that die, hang, lose their lease, fail, and are asked to stop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::*;
use crate::config;
use crate::event::{Clock, ManualClock, ProjectId, RandomIds, Scope, Timestamp};
use crate::lifecycle::{Health, Stop, Tasks};
use crate::meta::{JobFilter, JobState, Meta};
use crate::store::StoreError;

const LEASE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    jobs: Jobs,
    meta: Meta,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn settings() -> config::Jobs {
    config::Jobs {
        concurrency: 1,
        lease: LEASE,
        poll_interval: Duration::from_millis(20),
        step_timeout: PATIENCE,
        attempts_max: 3,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        open_max: 10,
        keep_ended: Duration::from_secs(3600),
    }
}

async fn bench_with(settings: config::Jobs) -> Bench {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let folder = tempfile::tempdir().unwrap();
    let config = config::Meta {
        url: None,
        connections_max: 4,
        timeout: PATIENCE,
        secret_key: "".into(),
        previous_secret_key: "".into(),
    };
    let health = Health::new(clock.clone());
    let meta = Meta::open(&config, folder.path(), clock.clone(), Arc::new(RandomIds), &health).await.unwrap();
    meta.migrate().await.unwrap();
    Bench { jobs: Jobs::new(meta.clone(), settings, clock.clone()), meta, clock, _folder: folder }
}

async fn bench() -> Bench {
    bench_with(settings()).await
}

impl Bench {
    async fn start(&self, spec: Value) -> String {
        self.jobs.start(NewJob { project: None, kind: "count", spec }).await.unwrap().id
    }

    async fn job(&self, id: &str) -> Overview {
        self.jobs.get(None, id).await.unwrap().unwrap()
    }

    fn worker(&self, handler: &Arc<Script>) -> (Worker, Stop) {
        let stop = Stop::default();
        let handlers: Vec<Arc<dyn Handler>> = vec![handler.clone()];
        (Worker::new(self.jobs.clone(), handlers, Arc::new(RandomIds), &Tasks::new(stop.clone())), stop)
    }

    async fn run_one(&self, handler: &Arc<Script>) -> bool {
        timeout(PATIENCE, self.worker(handler).0.run_one()).await.unwrap().unwrap()
    }
}

/// What the next step does besides its work.
enum Play {
    /// Waits until a permit is given.
    Hang,
    Fail(JobError),
    Panic,
    /// Somebody asks to cancel the job while the step runs.
    Cancel(Box<Jobs>),
    /// Goes on after this wait.
    Pause(Duration),
}

/// Counts from 0 up to `spec.to`, one number a step; each step leaves its number in `done` (its effect).
#[derive(Default)]
struct Script {
    plays: Mutex<Vec<Play>>,
    done: Mutex<Vec<u64>>,
    running: AtomicUsize,
    gate: Gate,
}

struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Script {
    fn new(plays: impl IntoIterator<Item = Play>) -> Arc<Self> {
        let plays: Vec<Play> = plays.into_iter().collect();
        Arc::new(Self { plays: Mutex::new(plays.into_iter().rev().collect()), ..Self::default() })
    }

    fn done(&self) -> Vec<u64> {
        self.done.lock().unwrap().clone()
    }

    async fn hangs(&self) {
        eventually(|| async { self.running.load(Ordering::SeqCst) > 0 }).await;
    }
}

async fn eventually<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "it did not happen");
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Handler for Script {
    fn kind(&self) -> &'static str {
        "count"
    }

    async fn step(
        &self,
        context: &JobContext,
        spec: &Value,
        checkpoint: Option<&Value>,
    ) -> Result<Step, JobError> {
        let at = checkpoint.map_or(0, |at| at["next"].as_u64().unwrap());
        let play = self.plays.lock().unwrap().pop();
        if let Some(Play::Fail(error)) = play {
            return Err(error);
        }
        assert!(!matches!(play, Some(Play::Panic)), "scripted panic");
        self.done.lock().unwrap().push(at);
        let mut wait = Duration::ZERO;
        match play {
            Some(Play::Hang) => {
                self.running.fetch_add(1, Ordering::SeqCst);
                self.gate.0.acquire().await.unwrap().forget();
            }
            Some(Play::Cancel(jobs)) => {
                jobs.cancel(None, context.job_id()).await.unwrap();
            }
            Some(Play::Pause(long)) => wait = long,
            _ => {}
        }
        let then = if at + 1 >= spec["to"].as_u64().unwrap() { Then::Done } else { Then::Continue(wait) };
        Ok(Step { checkpoint: json!({ "next": at + 1 }), progress: json!({ "counted": at + 1 }), then })
    }
}

#[tokio::test]
async fn a_job_counts_to_its_end_and_tells_how_far_it_came() {
    let (bench, handler) = (bench().await, Script::new([]));
    let id = bench.start(json!({ "to": 3 })).await;
    assert!(bench.run_one(&handler).await);
    let job = bench.job(&id).await;
    assert_eq!((job.state, job.progress), (JobState::Succeeded, Some(json!({ "counted": 3 }))));
    assert_eq!(handler.done(), [0, 1, 2]);
    assert!(!bench.run_one(&handler).await);
}

#[tokio::test]
async fn a_crash_between_a_step_and_its_checkpoint_repeats_that_step_and_no_other() {
    let bench = bench().await;
    let handler = Script::new([Play::Pause(Duration::ZERO), Play::Hang]);
    let id = bench.start(json!({ "to": 4 })).await;
    let (worker, _) = bench.worker(&handler);
    let crashed = async { worker.run_one().await.map(|_| ()) };
    tokio::select! {
        _ = crashed => panic!("it hangs"),
        () = handler.hangs() => {}
    }
    assert!(!bench.run_one(&handler).await, "the lease of the dead worker stands");
    bench.clock.advance(LEASE);
    assert!(bench.run_one(&handler).await);
    assert_eq!(handler.done(), [0, 1, 1, 2, 3]);
    assert_eq!(bench.job(&id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_can_neither_checkpoint_nor_finish() {
    let bench = bench().await;
    let stale = Script::new([Play::Hang]);
    let id = bench.start(json!({ "to": 2 })).await;
    let (worker, _) = bench.worker(&stale);
    let late = async {
        stale.hangs().await;
        bench.clock.advance(LEASE);
        let taker = Script::new([Play::Fail(JobError::Retry("down".to_owned()))]);
        assert!(bench.run_one(&taker).await);
        stale.gate.0.add_permits(10);
    };
    let (ran, ()) = tokio::join!(timeout(PATIENCE, worker.run_one()), late);
    assert!(ran.unwrap().unwrap());
    assert_eq!(stale.done(), [0], "it did not go on to its second step");
    let job = bench.job(&id).await;
    assert_eq!((job.state, job.progress, job.claims), (JobState::Queued, None, 2));
    assert_eq!(job.error.as_deref(), Some("down"), "the stale worker overwrote nothing");
}

#[tokio::test]
async fn the_lease_is_prolonged_while_a_step_runs() {
    let bench = bench_with(config::Jobs { lease: Duration::from_millis(90), ..settings() }).await;
    let handler = Script::new([Play::Hang]);
    let id = bench.start(json!({ "to": 1 })).await;
    let (worker, _) = bench.worker(&handler);
    let watch = async {
        handler.hangs().await;
        for _ in 0..5 {
            bench.clock.advance(Duration::from_millis(80));
            let expected = bench.clock.now().plus(Duration::from_millis(90));
            eventually(|| async {
                bench.meta.jobs().get(None, &id).await.unwrap().unwrap().lease_expires_at == Some(expected)
            })
            .await;
        }
        handler.gate.0.add_permits(1);
    };
    let (ran, ()) = tokio::join!(timeout(PATIENCE, worker.run_one()), watch);
    assert!(ran.unwrap().unwrap());
    assert_eq!(bench.job(&id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_lease_from_before_the_clock_jumped_back_does_not_hold() {
    let (bench, handler) = (bench().await, Script::new([Play::Hang]));
    let id = bench.start(json!({ "to": 1 })).await;
    let (worker, _) = bench.worker(&handler);
    tokio::select! {
        _ = worker.run_one() => panic!("it hangs"),
        () = handler.hangs() => {}
    }
    bench.clock.set(bench.clock.now().minus(Duration::from_secs(86_400)));
    assert!(bench.run_one(&handler).await);
    assert_eq!(bench.job(&id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_cancelled_job_ends_between_two_steps_and_can_be_resumed_where_it_stood() {
    let bench = bench().await;
    let handler = Script::new([Play::Cancel(Box::new(bench.jobs.clone()))]);
    let id = bench.start(json!({ "to": 3 })).await;
    assert!(bench.run_one(&handler).await);
    assert_eq!(bench.job(&id).await.state, JobState::Cancelled);
    assert_eq!(handler.done(), [0]);
    assert!(!bench.run_one(&handler).await);
    assert_eq!(bench.jobs.resume(None, &id).await.unwrap().unwrap().state, JobState::Queued);
    assert!(bench.run_one(&handler).await);
    assert_eq!(handler.done(), [0, 1, 2]);
    assert_eq!(bench.job(&id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_job_cancelled_before_anybody_claimed_it_never_runs() {
    let (bench, handler) = (bench().await, Script::new([]));
    let id = bench.start(json!({ "to": 3 })).await;
    assert_eq!(bench.jobs.cancel(None, &id).await.unwrap().unwrap().state, JobState::Cancelled);
    assert!(!bench.run_one(&handler).await);
    assert_eq!(handler.done(), Vec::<u64>::new());
}

#[tokio::test]
async fn a_step_that_fails_is_tried_again_after_its_wait() {
    let bench = bench().await;
    let handler = Script::new([Play::Fail(JobError::Retry("store is down".to_owned())), Play::Panic]);
    let id = bench.start(json!({ "to": 1 })).await;
    assert!(bench.run_one(&handler).await);
    let job = bench.job(&id).await;
    assert_eq!((job.state, job.error.as_deref()), (JobState::Queued, Some("store is down")));
    assert!(!bench.run_one(&handler).await, "it waits");
    bench.clock.advance(settings().backoff_max);
    assert!(bench.run_one(&handler).await);
    assert!(bench.job(&id).await.error.unwrap().contains("scripted panic"));
    bench.clock.advance(settings().backoff_max);
    assert!(bench.run_one(&handler).await);
    assert_eq!(bench.job(&id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn failures_in_a_row_end_a_job_and_progress_forgives_them() {
    let bench = bench().await;
    let fail = || Play::Fail(JobError::Retry("no".to_owned()));
    let go = || Play::Pause(Duration::ZERO);
    let handler = Script::new([fail(), fail(), go(), fail(), fail(), fail(), fail()]);
    let id = bench.start(json!({ "to": 3 })).await;
    for _ in 0..6 {
        assert!(bench.run_one(&handler).await);
        assert_eq!(bench.job(&id).await.state, JobState::Queued);
        bench.clock.advance(settings().backoff_max);
    }
    assert!(bench.run_one(&handler).await);
    let job = bench.job(&id).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.error.as_deref(), Some("given up after 3 tries without progress; the last one: no"));
    bench.jobs.resume(None, &id).await.unwrap().unwrap();
    assert!(bench.run_one(&handler).await);
    assert_eq!((bench.job(&id).await.state, handler.done()), (JobState::Succeeded, vec![0, 1, 2]));
}

#[tokio::test]
async fn a_job_waits_for_what_is_away_however_long_and_is_forgiven_nothing_else() {
    let bench = bench().await;
    let away = || Play::Fail(StoreError::Unavailable("the engine starts".to_owned()).into());
    let fail = || Play::Fail(JobError::Retry("no".to_owned()));
    let mut plays = vec![fail()];
    plays.extend((0..20).map(|_| away()));
    plays.push(fail());
    plays.extend((0..20).map(|_| away()));
    let tries = plays.len();
    let handler = Script::new(plays);
    let id = bench.start(json!({ "to": 1 })).await;
    for _ in 0..tries {
        assert!(bench.run_one(&handler).await);
        assert_eq!(bench.job(&id).await.state, JobState::Queued);
        bench.clock.advance(settings().backoff_max);
    }
    let told = bench.job(&id).await.error.unwrap();
    assert!(told.contains("the engine starts"), "{told}");
    assert!(bench.run_one(&handler).await);
    assert_eq!((bench.job(&id).await.state, handler.done()), (JobState::Succeeded, vec![0]));

    // Failures before, between and after outages are a row: the third ends it.
    let handler = Script::new([fail(), away(), fail(), away(), fail()]);
    let id = bench.start(json!({ "to": 1 })).await;
    for _ in 0..5 {
        assert!(bench.run_one(&handler).await);
        assert_eq!(bench.job(&id).await.state, JobState::Queued);
        bench.clock.advance(settings().backoff_max);
    }
    assert!(bench.run_one(&handler).await);
    assert_eq!(bench.job(&id).await.state, JobState::Failed);
}

#[tokio::test]
async fn a_job_that_kills_its_workers_ends_as_failed() {
    let bench = bench().await;
    let handler = Script::new([Play::Hang, Play::Hang, Play::Hang]);
    let id = bench.start(json!({ "to": 1 })).await;
    for died in 0..3 {
        let (worker, _) = bench.worker(&handler);
        tokio::select! {
            _ = worker.run_one() => panic!("it hangs"),
            () = eventually(|| async { handler.running.load(Ordering::SeqCst) > died }) => {}
        }
        bench.clock.advance(LEASE);
    }
    assert!(bench.run_one(&handler).await);
    assert_eq!(bench.job(&id).await.state, JobState::Failed);
    assert_eq!(handler.done().len(), 3);
}

#[tokio::test]
async fn an_error_that_will_not_pass_fails_the_job_at_once() {
    let bench = bench().await;
    let handler = Script::new([Play::Fail(JobError::Fatal("the topic was made again".to_owned()))]);
    let id = bench.start(json!({ "to": 1 })).await;
    assert!(bench.run_one(&handler).await);
    let job = bench.job(&id).await;
    assert_eq!((job.state, job.error.as_deref()), (JobState::Failed, Some("the topic was made again")));
}

#[tokio::test]
async fn a_step_over_its_time_is_given_up_and_says_which_setting_it_was() {
    let bench = bench_with(config::Jobs { step_timeout: Duration::from_millis(10), ..settings() }).await;
    let handler = Script::new([Play::Hang]);
    let id = bench.start(json!({ "to": 1 })).await;
    assert!(bench.run_one(&handler).await);
    assert!(bench.job(&id).await.error.unwrap().contains("jobs.step_timeout"));
}

#[tokio::test]
async fn a_stop_gives_the_job_back_at_once_for_others() {
    let bench = bench().await;
    let handler = Script::new([Play::Pause(Duration::from_secs(3600))]);
    let id = bench.start(json!({ "to": 2 })).await;
    let (worker, stop) = bench.worker(&handler);
    let stopping = async {
        eventually(|| async { bench.job(&id).await.progress.is_some() }).await;
        stop.soft();
    };
    let (ran, ()) = tokio::join!(timeout(PATIENCE, worker.run_one()), stopping);
    assert!(ran.unwrap().unwrap());
    assert_eq!(bench.job(&id).await.state, JobState::Queued);
    assert!(bench.run_one(&handler).await);
    assert_eq!(handler.done(), [0, 1]);
}

#[tokio::test]
async fn supervised_workers_take_up_a_job_that_is_queued_later() {
    let (bench, handler) = (bench().await, Script::new([]));
    let tasks = Tasks::new(Stop::default());
    run(
        &bench.jobs,
        vec![handler.clone()],
        &(Arc::new(RandomIds) as Arc<dyn crate::event::IdSource>),
        &tasks,
    );
    let id = bench.start(json!({ "to": 2 })).await;
    eventually(|| async { bench.job(&id).await.state == JobState::Succeeded }).await;
    tasks.stop().soft();
    assert!(tasks.drained(PATIENCE).await);
    assert_eq!(tasks.failure(), None);
}

#[tokio::test]
async fn open_jobs_are_bounded_and_ended_ones_do_not_stay_for_ever() {
    let bench = bench_with(config::Jobs { open_max: 2, ..settings() }).await;
    let first = bench.start(json!({ "to": 1 })).await;
    bench.start(json!({ "to": 1 })).await;
    let third = bench.jobs.start(NewJob { project: None, kind: "count", spec: json!({}) }).await;
    assert!(matches!(third, Err(JobsError::TooMany { open: 2, max: 2 })), "{third:?}");
    bench.jobs.cancel(None, &first).await.unwrap();
    assert_eq!(bench.jobs.prune().await.unwrap(), 0);
    bench.clock.advance(settings().keep_ended + Duration::from_millis(1));
    assert_eq!(bench.jobs.prune().await.unwrap(), 1);
    assert_eq!(bench.jobs.list(None, JobFilter::default(), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_project_sees_and_changes_its_own_jobs_only() {
    let bench = bench().await;
    let (mine, theirs) = (ProjectId::new("proj_mine"), ProjectId::new("proj_theirs"));
    bench.meta.configure([Scope::new("proj_mine", "env_1")]);
    bench.meta.keep_configured().await.unwrap();
    let new = NewJob { project: Some(&mine), kind: "count", spec: json!({ "to": 1 }) };
    let id = bench.jobs.start(new).await.unwrap().id;
    assert_eq!(bench.jobs.get(Some(&theirs), &id).await.unwrap(), None);
    assert_eq!(bench.jobs.cancel(Some(&theirs), &id).await.unwrap(), None);
    assert_eq!(bench.jobs.resume(Some(&theirs), &id).await.unwrap(), None);
    assert_eq!(bench.jobs.list(Some(&theirs), JobFilter::default(), 10).await.unwrap(), []);
    assert_eq!(bench.job(&id).await.state, JobState::Queued);
    let refused = bench.jobs.resume(Some(&mine), &id).await;
    assert!(matches!(refused, Err(JobsError::NotResumable { state: JobState::Queued, .. })), "{refused:?}");
}
