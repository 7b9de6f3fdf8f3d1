//! The metadata database, on a real SQLite file and on a real PostgreSQL.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use futures::future::join_all;
use sea_orm::ConnectionTrait;
use serde_json::json;

use super::*;
use crate::event::{ManualClock, ProjectId, RandomIds, Scope};
use crate::lifecycle::ComponentState;
use crate::telemetry::Counted;

const LEASE: Duration = Duration::from_secs(30);

/// Which database a test runs on.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Engine {
    Sqlite,
    Postgres,
}

/// Each of these tests runs on both.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Engine::Sqlite).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Engine::Postgres).await;
            })+
        }
    };
}

on_both! {
    two_processes_that_migrate_at_once_apply_every_migration_once,
    a_database_without_its_tables_is_down_and_names_the_command,
    a_migration_that_was_applied_with_another_text_is_refused,
    a_hundred_creations_of_one_name_at_once_leave_one,
    pools_that_start_at_once_on_an_empty_database_make_one_first_project,
    a_key_cannot_be_bound_to_another_projects_environment,
    no_finder_returns_another_projects_rows,
    bounds_on_rows_name_their_setting,
    a_closed_database_is_unavailable_and_down,
    a_pool_that_is_used_up_is_unavailable_until_a_connection_is_free,
    a_job_is_claimed_by_one_of_many,
    an_expired_lease_passes_on_with_the_checkpoint_and_fences_the_earlier_holder,
    what_nobody_can_be_told_of_is_counted_and_stops_no_job,
    a_released_job_waits_for_its_time,
    a_waiting_job_is_cancelled_at_once_and_a_running_one_is_told,
    jobs_of_kinds_nobody_here_runs_are_left_alone,
    what_cannot_be_written_down_is_not_made,
    a_database_of_the_version_before_is_brought_up_and_keeps_its_rows,
}

mod configured;
mod kept;
mod people;
mod tables;
mod webhooks;

struct Bench {
    meta: Meta,
    health: Health,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
    url: Option<String>,
}

impl Bench {
    /// Another pool on the same database, as another process would have.
    async fn another(&self) -> Meta {
        self.another_with(4, Duration::from_secs(20)).await
    }

    async fn another_with(&self, connections_max: u32, timeout: Duration) -> Meta {
        self.another_of(config::Meta { connections_max, timeout, ..settings(self.url.clone()) }).await
    }

    async fn another_of(&self, config: config::Meta) -> Meta {
        let folder = self.folder.path();
        Meta::open(&config, folder, self.clock.clone(), Arc::new(RandomIds), &self.health).await.unwrap()
    }

    /// Makes rows for these, as another process's configuration would.
    async fn named(&self, scopes: impl IntoIterator<Item = Scope>) {
        let other = self.another().await;
        other.configure(scopes);
        other.keep_configured().await.unwrap();
    }

    async fn project(&self, name: &str) -> ProjectId {
        self.meta.projects().create(name, 1000).await.unwrap().0.id
    }
}

fn settings(url: Option<String>) -> config::Meta {
    config::Meta {
        url,
        connections_max: 4,
        timeout: Duration::from_secs(20),
        secret_key: "".into(),
        previous_secret_key: "".into(),
    }
}

async fn unmigrated(engine: Engine) -> Bench {
    let url = match engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(test_server::Postgres::shared().database().await),
    };
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let (health, folder) = (Health::new(clock.clone()), tempfile::tempdir().unwrap());
    let config = settings(url.clone());
    let meta = Meta::open(&config, folder.path(), clock.clone(), Arc::new(RandomIds), &health).await.unwrap();
    Bench { meta, health, clock, folder, url }
}

async fn bench(engine: Engine) -> Bench {
    let bench = unmigrated(engine).await;
    bench.meta.migrate().await.unwrap();
    bench
}

async fn two_processes_that_migrate_at_once_apply_every_migration_once(engine: Engine) {
    let bench = unmigrated(engine).await;
    let pools = join_all((0..4).map(|_| bench.another())).await;
    let applied = join_all(pools.iter().map(Meta::migrate)).await;
    let names: Vec<String> = applied.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(names, migrations::names());
    assert_eq!(bench.meta.migrate().await.unwrap(), Vec::<String>::new());
}

async fn a_database_without_its_tables_is_down_and_names_the_command(engine: Engine) {
    let bench = unmigrated(engine).await;
    assert!(matches!(bench.meta.probe().await, Err(MetaError::Schema { cure: "flexflow migrate", .. })));
    let status = bench.health.get("meta").unwrap();
    assert_eq!(status.state, ComponentState::Down);
    assert!(status.reason.contains("flexflow migrate"), "{}", status.reason);
    bench.meta.migrate().await.unwrap();
    bench.meta.probe().await.unwrap();
    assert_eq!(bench.health.get("meta").unwrap().state, ComponentState::Up);
}

async fn a_migration_that_was_applied_with_another_text_is_refused(engine: Engine) {
    let bench = bench(engine).await;
    bench
        .meta
        .connection()
        .execute_unprepared("UPDATE schema_migrations SET sha256 = 'other' WHERE name = '0001_foundation'")
        .await
        .unwrap();
    assert!(bench.meta.migrate().await.unwrap_err().to_string().contains("another text"));
    let newer = "UPDATE schema_migrations SET name = '9999_later' WHERE name = '0001_foundation'";
    bench.meta.connection().execute_unprepared(newer).await.unwrap();
    assert!(bench.meta.probe().await.unwrap_err().to_string().contains("9999_later"));
}

#[tokio::test]
async fn the_file_is_private_and_the_settings_against_loss_are_in_force() {
    let bench = bench(Engine::Sqlite).await;
    let path = bench.folder.path().join("meta.sqlite");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    bench.another().await;
    for file in ["meta.sqlite", "meta.sqlite-wal", "meta.sqlite-shm"] {
        let mode = std::fs::metadata(bench.folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    for (pragma, wanted) in [("synchronous", 2), ("foreign_keys", 1)] {
        let row = bench
            .meta
            .connection()
            .query_one_raw(sea_orm::Statement::from_string(DbBackend::Sqlite, format!("PRAGMA {pragma}")));
        assert_eq!(row.await.unwrap().unwrap().try_get_by_index::<i32>(0).unwrap(), wanted, "{pragma}");
    }
}

async fn a_hundred_creations_of_one_name_at_once_leave_one(engine: Engine) {
    let bench = bench(engine).await;
    let other = bench.another().await;
    let pools = [&bench.meta, &other];
    let projects = (0..100).map(|n| async move { pools[n % 2].projects().create("shop", 1000).await });
    let made: Vec<_> = join_all(projects).await.into_iter().filter_map(settled).collect();
    assert_eq!(made.len(), 1);
    assert_eq!(bench.meta.projects().list_all(10).await.unwrap().len(), 1);
    assert_eq!(bench.meta.environments().list(&made[0].0.id).await.unwrap(), made[0].1);

    let project = &made[0].0.id;
    let environments =
        (0..100).map(|n| async move { pools[n % 2].environments().create(project, "staging", 1000).await });
    assert_eq!(join_all(environments).await.into_iter().filter_map(settled).count(), 1);
    assert_eq!(bench.meta.environments().list(project).await.unwrap().len(), 3);
}

/// The row that was made; nothing if it existed; any other error fails the test.
fn settled<T: std::fmt::Debug>(outcome: Result<T, MetaError>) -> Option<T> {
    match outcome {
        Ok(made) => Some(made),
        Err(MetaError::Exists(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn pools_that_start_at_once_on_an_empty_database_make_one_first_project(engine: Engine) {
    let bench = unmigrated(engine).await;
    let pools = join_all((0..8).map(|_| bench.another())).await;
    let made = join_all(pools.iter().enumerate().map(|(n, meta)| async move {
        meta.migrate().await.unwrap();
        let first = NewFirstProject {
            project: "default",
            key_name: "first",
            key_prefix: "ff_x",
            key_sha256: format!("{n:064}"),
            key_scopes: "ingest,query".to_owned(),
            owner: NewFirstUser { email: "admin@localhost", name: "Admin", password_hash: String::new() },
        };
        meta.make_first_project(first, |_| Ok(())).await.unwrap()
    }))
    .await;
    let made: Vec<FirstProject> = made.into_iter().flatten().collect();
    assert_eq!(made.len(), 1);
    let scope = bench.meta.default_scope().await.unwrap().unwrap();
    assert_eq!((&scope.project, &scope.environment), (&made[0].project.id, &made[0].production));
    let environment = bench.meta.environments().find(&scope.project, &scope.environment).await.unwrap();
    assert_eq!(environment.unwrap().name, "production");
}

async fn a_key_cannot_be_bound_to_another_projects_environment(engine: Engine) {
    let bench = bench(engine).await;
    let (mine, theirs) = (bench.project("mine").await, bench.project("theirs").await);
    let environment = bench.meta.environments().list(&theirs).await.unwrap()[0].id.clone();
    let made = bench.meta.api_keys().create(&mine, new_key(&environment), 10).await;
    assert!(matches!(made, Err(MetaError::Missing(_))), "{made:?}");
}

async fn no_finder_returns_another_projects_rows(engine: Engine) {
    let bench = bench(engine).await;
    let (mine, theirs) = (bench.project("mine").await, bench.project("theirs").await);
    let environment = bench.meta.environments().list(&mine).await.unwrap()[0].id.clone();
    let key = bench.meta.api_keys().create(&mine, new_key(&environment), 10).await.unwrap();
    let job = NewJob { project: Some(&mine), kind: "replay", spec: json!({}), run_after: None };
    let job = bench.meta.jobs().insert(job).await.unwrap();

    assert_eq!(bench.meta.environments().find(&theirs, &environment).await.unwrap(), None);
    assert_eq!(bench.meta.api_keys().find(&theirs, &key.id).await.unwrap(), None);
    assert_eq!(bench.meta.api_keys().list(&theirs, 10).await.unwrap(), []);
    assert_eq!(bench.meta.api_keys().revoke(&theirs, &key.id).await.unwrap(), None);
    assert_eq!(bench.meta.api_keys().find(&mine, &key.id).await.unwrap().unwrap().revoked_at, None);
    assert_eq!(bench.meta.jobs().get(Some(&theirs), &job.id).await.unwrap(), None);
    assert_eq!(bench.meta.jobs().list(Some(&theirs), JobFilter::default(), 10).await.unwrap(), []);
    let now = bench.meta.now();
    assert_eq!(bench.meta.jobs().request_cancel(Some(&theirs), &job.id, now, |_| None).await.unwrap(), None);
    assert_eq!(bench.meta.jobs().get(Some(&mine), &job.id).await.unwrap().unwrap(), job);
}

fn new_key(environment: &crate::event::EnvironmentId) -> NewApiKey<'_> {
    NewApiKey {
        environment,
        name: "web",
        prefix: "ff_x",
        sha256: "0".repeat(64),
        scopes: "ingest".to_owned(),
        expires_at: None,
        rate_max: None,
    }
}

async fn bounds_on_rows_name_their_setting(engine: Engine) {
    let bench = bench(engine).await;
    let project = bench.project("shop").await;
    let environment = bench.meta.environments().list(&project).await.unwrap()[0].id.clone();
    let full = [
        bench.meta.projects().create("two", 1).await.unwrap_err(),
        bench.meta.environments().create(&project, "third", 2).await.unwrap_err(),
        bench.meta.api_keys().create(&project, new_key(&environment), 0).await.unwrap_err(),
    ];
    let settings = full.map(|error| match error {
        MetaError::Full { setting, .. } => setting,
        other => panic!("{other}"),
    });
    assert_eq!(settings, ["auth.projects_max", "auth.environments_max", "auth.keys_max"]);
}

async fn a_closed_database_is_unavailable_and_down(engine: Engine) {
    let bench = bench(engine).await;
    bench.meta.close().await;
    assert!(bench.meta.projects().list_all(1).await.unwrap_err().is_unavailable());
    assert!(bench.meta.projects().create("x", 9).await.unwrap_err().is_unavailable());
    assert_eq!(bench.health.get("meta").unwrap().state, ComponentState::Down);
}

async fn a_pool_that_is_used_up_is_unavailable_until_a_connection_is_free(engine: Engine) {
    let bench = bench(engine).await;
    // Long enough to connect, too short to wait for a connection that is held.
    let small =
        bench.another_with(1, Duration::from_millis(if engine == Engine::Sqlite { 50 } else { 1000 })).await;
    let held = small.begin_write().await.unwrap();
    assert!(small.default_scope().await.unwrap_err().is_unavailable());
    assert_eq!(bench.health.get("meta").unwrap().state, ComponentState::Down);
    commit(held).await.unwrap();
    small.default_scope().await.unwrap();
    assert_eq!(bench.health.get("meta").unwrap().state, ComponentState::Up);
}

#[tokio::test]
async fn urls_of_other_databases_are_refused_without_showing_a_password() {
    let refused =
        open::sqlite_path(Some("mysql://root:hunter2@db/x"), Path::new("/d")).unwrap_err().to_string();
    assert!(refused.contains("\"mysql\"") && !refused.contains("hunter2"), "{refused}");
    assert_eq!(open::sqlite_path(None, Path::new("/d")).unwrap(), Path::new("/d/meta.sqlite"));
    assert_eq!(open::sqlite_path(Some("sqlite:///v/m.db"), Path::new("/d")).unwrap(), Path::new("/v/m.db"));
    assert!(open::sqlite_path(Some("sqlite::memory:"), Path::new("/d")).is_err());
}

async fn a_job_is_claimed_by_one_of_many(engine: Engine) {
    let bench = bench(engine).await;
    let other = bench.another().await;
    for _ in 0..5 {
        let job = NewJob { project: None, kind: "replay", spec: json!({"a": 1}), run_after: None };
        bench.meta.jobs().insert(job).await.unwrap();
    }
    let (pools, now) = ([&bench.meta, &other], bench.meta.now());
    let claims = join_all((0..20).map(|n| async move {
        pools[n % 2].jobs().claim_next(&format!("worker-{n}"), &["replay"], now, LEASE).await.unwrap()
    }))
    .await;
    let mut claimed: Vec<Job> = claims.into_iter().flatten().collect();
    claimed.sort_by(|a, b| a.id.cmp(&b.id));
    claimed.dedup_by(|a, b| a.id == b.id);
    assert_eq!(claimed.len(), 5);
    assert!(claimed.iter().all(|job| job.fence == 1 && job.attempts == 1 && job.state == JobState::Running));
}

async fn an_expired_lease_passes_on_with_the_checkpoint_and_fences_the_earlier_holder(engine: Engine) {
    let bench = bench(engine).await;
    let jobs = bench.meta.jobs();
    let job = NewJob { project: None, kind: "replay", spec: json!({}), run_after: None };
    let id = jobs.insert(job).await.unwrap().id;
    let start = bench.meta.now();
    let first = jobs.claim_next("a", &["replay"], start, LEASE).await.unwrap().unwrap();
    jobs.save_checkpoint(&id, first.fence, json!({"at": 7}), Some(json!({"done": 7})), start).await.unwrap();
    assert_eq!(jobs.claim_next("b", &["replay"], start.plus(LEASE / 2), LEASE).await.unwrap(), None);

    let later = start.plus(LEASE);
    let second = jobs.claim_next("b", &["replay"], later, LEASE).await.unwrap().unwrap();
    assert_eq!((second.fence, second.attempts), (2, 2));
    assert_eq!(second.checkpoint, Some(JsonText(json!({"at": 7}))));
    let lost = [
        jobs.heartbeat(&id, first.fence, later, LEASE).await.unwrap_err(),
        jobs.save_checkpoint(&id, first.fence, json!({"at": 9}), None, later).await.unwrap_err(),
        jobs.release(&id, first.fence, later, None, later).await.unwrap_err(),
        jobs.finish(&id, first.fence, JobEnd::Cancelled, later, Some(notice("lost"))).await.unwrap_err(),
    ];
    assert!(lost.iter().all(|error| matches!(error, MetaError::LeaseLost(_))), "{lost:?}");
    assert_eq!(jobs.get(None, &id).await.unwrap().unwrap(), second);

    let end = JobEnd::Succeeded(json!({"replayed": 9}));
    jobs.finish(&id, second.fence, end, later, Some(notice("ended"))).await.unwrap();
    assert_eq!(kept(&bench).await, ["ended"], "none of those whose lease was lost");
    let ended = jobs.get(None, &id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.lease_owner), (JobState::Succeeded, None));
    assert!(matches!(jobs.heartbeat(&id, second.fence, later, LEASE).await, Err(MetaError::LeaseLost(_))));
}

async fn what_nobody_can_be_told_of_is_counted_and_stops_no_job(engine: Engine) {
    let bench = bench(engine).await;
    let counted = Counted::begin();
    let _here = counted.here();
    let jobs = bench.meta.jobs();
    let now = bench.meta.now();
    for n in 0..2 {
        let job = NewJob { project: None, kind: "replay", spec: json!({}), run_after: None };
        let id = jobs.insert(job).await.unwrap().id;
        let held = jobs.claim_next("a", &["replay"], now, LEASE).await.unwrap().unwrap();
        let told = NewNotice { max: 1, ..notice(&n.to_string()) };
        jobs.finish(&id, held.fence, JobEnd::Succeeded(json!({})), now, Some(told)).await.unwrap();
        assert_eq!(jobs.get(None, &id).await.unwrap().unwrap().state, JobState::Succeeded);
    }
    assert_eq!(kept(&bench).await, ["0"]);
    let counts = counted.render();
    assert!(counts.contains("{outcome=\"lost\"} 1"), "{counts}");
}

fn notice(id: &str) -> NewNotice {
    NewNotice { id: id.to_owned(), project_id: None, record: "{}".to_owned(), max: 10 }
}

async fn kept(bench: &Bench) -> Vec<String> {
    bench.meta.notices().oldest(10).await.unwrap().into_iter().map(|notice| notice.id).collect()
}

async fn a_released_job_waits_for_its_time(engine: Engine) {
    let bench = bench(engine).await;
    let jobs = bench.meta.jobs();
    let job = NewJob { project: None, kind: "replay", spec: json!({}), run_after: None };
    let id = jobs.insert(job).await.unwrap().id;
    let now = bench.meta.now();
    let held = jobs.claim_next("a", &["replay"], now, LEASE).await.unwrap().unwrap();
    jobs.release(&id, held.fence, now.plus(LEASE), Some("store is down".to_owned()), now).await.unwrap();
    assert_eq!(jobs.claim_next("a", &["replay"], now, LEASE).await.unwrap(), None);
    let again = jobs.claim_next("a", &["replay"], now.plus(LEASE), LEASE).await.unwrap().unwrap();
    assert_eq!((again.fence, again.error.as_deref()), (2, Some("store is down")));
}

async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_is_told(engine: Engine) {
    let bench = bench(engine).await;
    let jobs = bench.meta.jobs();
    let now = bench.meta.now();
    let job = NewJob { project: None, kind: "replay", spec: json!({}), run_after: None };
    let waiting = jobs.insert(job.clone()).await.unwrap().id;
    for _ in 0..2 {
        let told = |job: &Job| Some(notice(&job.id));
        let found = jobs.request_cancel(None, &waiting, now, told).await.unwrap().unwrap();
        assert_eq!(found.state, JobState::Cancelled);
    }
    assert_eq!(kept(&bench).await, [waiting.as_str()], "it has ended, once");
    assert_eq!(jobs.claim_next("a", &["replay"], now, LEASE).await.unwrap(), None);

    let running = jobs.insert(job).await.unwrap().id;
    let held = jobs.claim_next("a", &["replay"], now, LEASE).await.unwrap().unwrap();
    assert!(!jobs.heartbeat(&running, held.fence, now, LEASE).await.unwrap());
    let found = jobs.request_cancel(None, &running, now, |_| unreachable!()).await.unwrap().unwrap();
    assert_eq!(found.state, JobState::Running, "its worker will end it");
    assert!(jobs.heartbeat(&running, held.fence, now, LEASE).await.unwrap());
    jobs.finish(&running, held.fence, JobEnd::Cancelled, now, None).await.unwrap();
    let cancelled = JobFilter { state: Some(JobState::Cancelled), ..JobFilter::default() };
    let listed = jobs.list(None, cancelled, 10).await.unwrap();
    assert_eq!(listed.iter().map(|job| &job.id).collect::<Vec<_>>(), [&running, &waiting]);
}

async fn jobs_of_kinds_nobody_here_runs_are_left_alone(engine: Engine) {
    let bench = bench(engine).await;
    let job = NewJob { project: None, kind: "future", spec: json!({}), run_after: None };
    bench.meta.jobs().insert(job).await.unwrap();
    let now = bench.meta.now();
    assert_eq!(bench.meta.jobs().claim_next("a", &["replay"], now, LEASE).await.unwrap(), None);
}

/// A crash after the first project was written down and before it was committed leaves nothing but the note.
async fn what_cannot_be_written_down_is_not_made(engine: Engine) {
    let bench = bench(engine).await;
    let first = || NewFirstProject {
        project: "default",
        key_name: "first",
        key_prefix: "ff_x",
        key_sha256: "0".repeat(64),
        key_scopes: "ingest,query".to_owned(),
        owner: NewFirstUser { email: "admin@localhost", name: "Admin", password_hash: String::new() },
    };
    let full = bench.meta.make_first_project(first(), |_| Err(std::io::Error::other("disk full"))).await;
    assert!(matches!(full, Err(MetaError::Keep(_))), "{full:?}");
    assert!(!bench.meta.is_founded().await.unwrap());
    assert!(bench.meta.make_first_project(first(), |_| Ok(())).await.unwrap().is_some());
}

async fn a_database_of_the_version_before_is_brought_up_and_keeps_its_rows(engine: Engine) {
    let bench = unmigrated(engine).await;
    migrations::migrate_first(&bench.meta, 1).await.unwrap();
    for statement in [
        "INSERT INTO projects (id, name, created_at, updated_at) VALUES ('proj_old', 'old', 1, 1)",
        "INSERT INTO environments (id, project_id, name, created_at, updated_at) VALUES ('env_old', 'proj_old', 'production', 1, 1)",
        "INSERT INTO api_keys (id, project_id, environment_id, name, prefix, sha256, scopes, created_at, updated_at) VALUES ('key_old', 'proj_old', 'env_old', 'k', 'ff_x', 'abc', 'ingest', 1, 1)",
        "INSERT INTO settings (name, value, created_at, updated_at) VALUES ('default_project_id', 'proj_old', 1, 1), ('default_environment_id', 'env_old', 1, 1)",
    ] {
        bench.meta.connection().execute_unprepared(statement).await.unwrap();
    }
    assert!(matches!(bench.meta.probe().await, Err(MetaError::Schema { .. })));
    let others = join_all((0..3).map(|_| bench.another())).await;
    let applied = join_all(others.iter().map(Meta::migrate)).await;
    let applied: Vec<String> = applied.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(applied, migrations::names()[1..]);
    bench.meta.probe().await.unwrap();
    let project = ProjectId::new("proj_old");
    assert_eq!(bench.meta.projects().find(&project).await.unwrap().unwrap().deleted_at, None);
    assert_eq!(bench.meta.api_keys().find_by_sha256("abc").await.unwrap().unwrap().rate_max, None);
    assert_eq!(bench.meta.default_scope().await.unwrap().unwrap().project, project);
    assert!(matches!(bench.meta.projects().delete(&project).await, Err(MetaError::DefaultProject)));
}
