//! Keys on a real SQLite file and on a real PostgreSQL: what is believed, for how long, and what stops at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::config::{self, StaticKey};
use crate::event::{Clock, EnvironmentId, ManualClock, ProjectId, RandomIds, Scope, Timestamp};
use crate::lifecycle::{Health, Stop, Tasks};
use crate::meta::{Actor, Meta, test_server};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Which database a test runs on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Engine {
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
    the_first_key_ingests_and_queries_in_production_and_no_more,
    processes_that_start_at_once_make_one_first_project,
    nothing_that_is_printed_or_stored_shows_a_key,
    a_key_revoked_here_stops_at_once_and_elsewhere_within_the_cache_time,
    a_lookup_that_is_slower_than_a_revocation_does_not_bring_the_key_back,
    a_lookup_that_is_slower_than_a_projects_deletion_does_not_bring_its_keys_back,
    a_key_expires_by_the_clock_even_while_it_is_remembered,
    a_key_that_does_not_exist_is_remembered_and_costs_no_second_lookup,
    a_key_made_elsewhere_is_found_once_the_negative_answer_is_old,
    known_keys_go_on_while_the_database_is_gone_up_to_the_stale_time,
    an_outage_heals_on_its_own,
    a_key_in_use_is_checked_again_behind_the_requests,
    a_clock_that_jumps_back_has_the_database_asked_again,
    guesses_do_not_push_out_a_key_in_use,
    without_a_key_a_request_acts_in_the_default_project_only_where_that_is_allowed,
    without_a_key_and_without_a_first_start_the_answer_is_not_an_empty_result,
    another_environment_or_project_than_the_keys_is_refused_by_name,
    a_static_key_works_without_the_database,
    the_operator_acts_where_it_says_else_in_the_default_project,
    the_last_use_is_written_later_and_at_the_stop,
    a_key_for_an_environment_of_another_project_cannot_be_made,
}

mod signing;

/// A folder, and where the database is that processes share.
pub(super) struct Place {
    folder: tempfile::TempDir,
    url: Option<String>,
}

impl Place {
    async fn on(engine: Engine) -> Self {
        let url = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(test_server::Postgres::shared().database().await),
        };
        Self { folder: tempfile::tempdir().unwrap(), url }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A process: its own pool and its own memory of keys.
pub(super) struct Process {
    pub keys: Keys,
    pub clock: Arc<ManualClock>,
    tasks: Tasks,
}

/// An installation: a folder, and what its first start made.
pub(super) struct Installation {
    pub here: Process,
    pub first: FirstRun,
    pub folder: Place,
}

pub(super) fn config() -> config::Auth {
    let defaults = config::Config::from_overrides(&[]).unwrap().auth;
    config::Auth {
        lookup_timeout: Duration::from_secs(20),
        last_used_interval: Duration::from_secs(3600),
        projects_max: 10,
        // What protects in earnest would only be slow here.
        password_memory: bytesize::ByteSize::mib(1),
        password_passes: 1,
        static_keys: vec![StaticKey {
            sha256: KeyDigest::of(b"from-the-config").to_hex(),
            project_id: "proj_static".to_owned(),
            environment_id: "env_static".to_owned(),
            scopes: vec!["query".to_owned()],
        }],
        ..defaults
    }
}

fn pool(url: &Option<String>, connections_max: u32, timeout: Duration) -> config::Meta {
    let defaults = config::Config::from_overrides(&[]).unwrap().meta;
    config::Meta { url: url.clone(), connections_max, timeout, ..defaults }
}

async fn process_with(place: &Place, config: config::Auth, pool: config::Meta) -> Process {
    let clock = Arc::new(ManualClock::at(START));
    let tasks = Tasks::new(Stop::default());
    let health = Health::new(clock.clone());
    let meta = Meta::open(&pool, place.path(), clock.clone(), Arc::new(RandomIds), &health).await.unwrap();
    meta.migrate().await.unwrap();
    let keys = Keys::new(meta, &config, clock.clone(), Arc::new(RandomIds), &tasks).unwrap();
    Process { keys, clock, tasks }
}

async fn process(folder: &Place) -> Process {
    let pool = pool(&folder.url, 4, Duration::from_secs(20));
    process_with(folder, config(), pool).await
}

pub(super) async fn installation(engine: Engine) -> Installation {
    let folder = Place::on(engine).await;
    let here = process(&folder).await;
    let first = first_run(&here.keys, |_| Ok(())).await.unwrap().unwrap();
    Installation { here, first, folder }
}

impl Process {
    /// Asks to ingest with this key.
    async fn ingest(&self, key: &SecretString) -> Result<Access, Denied> {
        self.ask(Some(key.expose_secret()), Permission::Ingest).await
    }

    async fn ask(&self, token: Option<&str>, needed: Permission) -> Result<Access, Denied> {
        let request = Request { token: token.map(str::as_bytes), ..Request::default() };
        self.keys.authorize(request, needed, true).await
    }

    pub(super) async fn create(
        &self,
        scope: &Scope,
        permissions: &[Permission],
        expires_at: Option<Timestamp>,
    ) -> CreatedKey {
        let spec = KeySpec {
            environment: &scope.environment,
            name: "test",
            permissions: permissions.iter().copied().collect(),
            expires_at,
            rate_max: None,
        };
        self.keys.create(Actor::system(), &scope.project, &spec).await.unwrap()
    }
}

async fn the_first_key_ingests_and_queries_in_production_and_no_more(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let access = here.ingest(&first.api_key).await.unwrap();
    assert_eq!(access.scope, first.scope);
    assert_eq!(&*access.environments()[0].name, "production");
    assert_eq!(access.permissions.names(), ["ingest", "query"]);
    let lacking = here.ask(Some(first.api_key.expose_secret()), Permission::Admin).await.unwrap_err();
    assert_eq!(lacking.to_string(), "this needs the scope admin, which the key does not have");
    assert!(first_run(&here.keys, |_| Ok(())).await.unwrap().is_none(), "a second start makes nothing");
}

async fn processes_that_start_at_once_make_one_first_project(engine: Engine) {
    let folder = Place::on(engine).await;
    let processes = futures::future::join_all((0..4).map(|_| process(&folder))).await;
    let made = futures::future::join_all(processes.iter().map(|one| first_run(&one.keys, |_| Ok(())))).await;
    let made: Vec<FirstRun> = made.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(made.len(), 1);
    for process in &processes {
        assert_eq!(process.ingest(&made[0].api_key).await.unwrap().scope, made[0].scope);
    }
}

async fn nothing_that_is_printed_or_stored_shows_a_key(engine: Engine) {
    let Installation { here, first, folder } = installation(engine).await;
    let created = here.create(&first.scope, &[Permission::Ingest], None).await;
    let secret = created.api_key.expose_secret().to_owned();
    let access = here.ingest(&created.api_key).await.unwrap();
    let printed =
        format!("{created:?} {first:?} {access:?} {:?}", here.keys.list(&first.scope.project).await);
    assert!(!printed.contains(&secret) && !printed.contains(first.api_key.expose_secret()), "{printed}");
    assert!(!printed.contains(&KeyDigest::of(secret.as_bytes()).to_hex()), "{printed}");
    let unshown = &secret.as_bytes()[created.key.prefix.len()..];
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let stored = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!stored.windows(unshown.len()).any(|window| window == unshown));
    }
    assert!(secret.starts_with(&created.key.prefix) && created.key.prefix.len() < 12);
}

async fn a_key_revoked_here_stops_at_once_and_elsewhere_within_the_cache_time(engine: Engine) {
    let Installation { here, first, folder } = installation(engine).await;
    let there = process(&folder).await;
    here.ingest(&first.api_key).await.unwrap();
    there.ingest(&first.api_key).await.unwrap();

    let id = here.keys.list(&first.scope.project).await.unwrap()[0].id.clone();
    here.clock.advance(Duration::from_secs(5));
    let revoked = here.keys.revoke(Actor::system(), &first.scope.project, &id).await.unwrap().unwrap();
    let refused = here.ingest(&first.api_key).await.unwrap_err();
    assert!(matches!(refused, Denied::Revoked { at } if Some(at) == revoked.revoked_at), "{refused}");

    there.clock.advance(Duration::from_secs(10));
    there.ingest(&first.api_key).await.unwrap();
    there.clock.advance(Duration::from_secs(20));
    assert!(matches!(there.ingest(&first.api_key).await, Err(Denied::Revoked { .. })));
}

async fn a_lookup_that_is_slower_than_a_revocation_does_not_bring_the_key_back(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let key = here.keys.list(&first.scope.project).await.unwrap().remove(0);
    let digest = KeyDigest::from_hex(&key.sha256).unwrap();
    let read_before = here.keys.entry(&key, keys::access_of(&key, "production"), START, None);
    here.keys.revoke(Actor::system(), &first.scope.project, &key.id).await.unwrap().unwrap();
    here.keys.0.cache.remember(digest, Arc::new(read_before), here.keys.0.cache.begin());
    assert!(matches!(here.ingest(&first.api_key).await, Err(Denied::Revoked { .. })));
}

async fn a_lookup_that_is_slower_than_a_projects_deletion_does_not_bring_its_keys_back(engine: Engine) {
    let Installation { here, folder: _folder, .. } = installation(engine).await;
    let (project, environments) = here.keys.meta().projects().create("shop", 10).await.unwrap();
    let scope = Scope { project: project.id.clone(), environment: environments[0].id.clone() };
    let made = here.create(&scope, &[Permission::Ingest], None).await;
    let digest = KeyDigest::from_hex(&made.key.sha256).unwrap();
    let cache = &here.keys.0.cache;
    let begun = cache.begin();
    let read_before = here.keys.entry(&made.key, keys::access_of(&made.key, "production"), START, None);
    here.keys.delete_project(Actor::system(), &project.id).await.unwrap().unwrap();
    cache.remember(digest, Arc::new(read_before), begun);
    assert!(matches!(here.ingest(&made.api_key).await, Err(Denied::Revoked { .. })));
}

async fn a_key_expires_by_the_clock_even_while_it_is_remembered(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let ends = START.plus(Duration::from_secs(10));
    let key = here.create(&first.scope, &[Permission::Ingest], Some(ends)).await;
    here.clock.set(ends.minus(Duration::from_millis(1)));
    here.ingest(&key.api_key).await.unwrap();
    here.clock.set(ends);
    let refused = here.ingest(&key.api_key).await.unwrap_err();
    assert!(matches!(refused, Denied::Expired { at } if at == ends), "{refused}");
    assert!(refused.to_string().contains(&ends.to_string()));
}

async fn a_key_that_does_not_exist_is_remembered_and_costs_no_second_lookup(engine: Engine) {
    let Installation { here, first: _, folder: _folder } = installation(engine).await;
    let guess = format!("ff_{}", "x".repeat(43));
    assert!(matches!(here.ask(Some(&guess), Permission::Ingest).await, Err(Denied::Unknown)));
    // With the database gone, what has to be asked cannot be answered, and what is remembered can.
    here.keys.meta().close().await;
    assert!(matches!(here.ask(Some(&guess), Permission::Ingest).await, Err(Denied::Unknown)));
    let another = format!("ff_{}", "y".repeat(43));
    assert!(matches!(here.ask(Some(&another), Permission::Ingest).await, Err(Denied::Unavailable(_))));
    here.clock.advance(Duration::from_secs(30));
    assert!(matches!(here.ask(Some(&guess), Permission::Ingest).await, Err(Denied::Unavailable(_))));
    assert!(matches!(here.ask(Some("ff_short"), Permission::Ingest).await, Err(Denied::Unknown)));
}

async fn a_key_made_elsewhere_is_found_once_the_negative_answer_is_old(engine: Engine) {
    let Installation { here, first, folder } = installation(engine).await;
    let there = process(&folder).await;
    let key = here.create(&first.scope, &[Permission::Ingest], None).await;
    let digest = KeyDigest::of(key.api_key.expose_secret().as_bytes());
    there.keys.0.cache.remember_unknown(digest, START);
    assert!(matches!(there.ingest(&key.api_key).await, Err(Denied::Unknown)));
    there.clock.advance(Duration::from_secs(30));
    there.ingest(&key.api_key).await.unwrap();
}

async fn known_keys_go_on_while_the_database_is_gone_up_to_the_stale_time(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let unseen = here.create(&first.scope, &[Permission::Ingest], None).await;
    here.ingest(&first.api_key).await.unwrap();
    here.keys.meta().close().await;

    assert!(matches!(here.ingest(&unseen.api_key).await, Err(Denied::Unavailable(_))));
    here.clock.set(START.plus(Duration::from_secs(599)));
    here.ingest(&first.api_key).await.unwrap();
    here.ingest(&first.api_key).await.unwrap();
    here.clock.set(START.plus(Duration::from_secs(600)));
    assert!(matches!(here.ingest(&first.api_key).await, Err(Denied::Unavailable(_))));
}

async fn an_outage_heals_on_its_own(engine: Engine) {
    let folder = Place::on(engine).await;
    // Long enough to connect, too short to wait for a connection that is held.
    let timeout = Duration::from_millis(if engine == Engine::Sqlite { 50 } else { 1000 });
    let pool = pool(&folder.url, 1, timeout);
    let config = config::Auth { key_cache_ttl: Duration::ZERO, ..config() };
    let here = process_with(&folder, config, pool).await;
    let first = first_run(&here.keys, |_| Ok(())).await.unwrap().unwrap();
    let fresh = here.create(&first.scope, &[Permission::Ingest], None).await;
    here.ingest(&first.api_key).await.unwrap();

    // All connections of the pool are taken: to this process the database does not answer.
    let held = here.keys.meta().hold_connection().await;
    assert!(matches!(here.ingest(&fresh.api_key).await, Err(Denied::Unavailable(_))));
    here.ingest(&first.api_key).await.unwrap();
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(30);
    while here.ingest(&fresh.api_key).await.is_err() {
        assert!(Instant::now() < deadline, "the key is still refused long after the database came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_key_in_use_is_checked_again_behind_the_requests(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    here.ingest(&first.api_key).await.unwrap();
    here.clock.advance(Duration::from_secs(16));
    here.ingest(&first.api_key).await.unwrap();
    let digest = KeyDigest::of(first.api_key.expose_secret().as_bytes());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match here.keys.0.cache.recall(&digest, here.clock.now()) {
            cache::Recall::Fresh(entry) if entry.checked_at == here.clock.now() => break,
            _ => assert!(Instant::now() < deadline, "nobody checked the key again"),
        }
        tokio::task::yield_now().await;
    }
}

async fn a_clock_that_jumps_back_has_the_database_asked_again(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    here.ingest(&first.api_key).await.unwrap();
    here.clock.set(START.minus(Duration::from_secs(3600)));
    let digest = KeyDigest::of(first.api_key.expose_secret().as_bytes());
    assert!(matches!(here.keys.0.cache.recall(&digest, here.clock.now()), cache::Recall::Old(_)));
    here.ingest(&first.api_key).await.unwrap();
    assert!(matches!(here.keys.0.cache.recall(&digest, here.clock.now()), cache::Recall::Fresh(_)));
}

async fn guesses_do_not_push_out_a_key_in_use(engine: Engine) {
    let folder = Place::on(engine).await;
    let pool = pool(&folder.url, 4, Duration::from_secs(20));
    let config = config::Auth { key_cache_entries_max: 10, ..config() };
    let here = process_with(&folder, config, pool).await;
    let first = first_run(&here.keys, |_| Ok(())).await.unwrap().unwrap();
    here.ingest(&first.api_key).await.unwrap();
    for guess in 0..200 {
        let guess = format!("ff_{guess:043}");
        assert!(matches!(here.ask(Some(&guess), Permission::Ingest).await, Err(Denied::Unknown)));
    }
    here.keys.meta().close().await;
    here.ingest(&first.api_key).await.unwrap();
}

async fn without_a_key_a_request_acts_in_the_default_project_only_where_that_is_allowed(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let nothing = Request::default();
    assert!(matches!(here.ask(None, Permission::Ingest).await, Err(Denied::Missing)));
    for needed in [Permission::Ingest, Permission::Query] {
        let access = here.keys.authorize(nothing, needed, false).await.unwrap();
        assert_eq!((access.scope, access.key_id), (first.scope.clone(), None));
    }
    assert!(matches!(
        here.keys.authorize(nothing, Permission::Admin, false).await,
        Err(Denied::Lacking { .. })
    ));
    // A wrong key is wrong all the same, and a good one goes where it belongs.
    let wrong = Request { token: Some(b""), ..nothing };
    assert!(matches!(here.keys.authorize(wrong, Permission::Ingest, false).await, Err(Denied::Unknown)));
    let (other, _) = here.keys.meta().projects().create("other", 10).await.unwrap();
    let environment = here.keys.meta().environments().list(&other.id).await.unwrap().remove(1);
    let scope = Scope { project: other.id, environment: environment.id };
    let key = here.create(&scope, &[Permission::Ingest], None).await;
    let good = Request { token: Some(key.api_key.expose_secret().as_bytes()), ..nothing };
    assert_eq!(here.keys.authorize(good, Permission::Ingest, false).await.unwrap().scope, scope);
    // Known once, the default project is there also without the database.
    here.keys.meta().close().await;
    assert_eq!(here.keys.authorize(nothing, Permission::Query, false).await.unwrap().scope, first.scope);
}

async fn without_a_key_and_without_a_first_start_the_answer_is_not_an_empty_result(engine: Engine) {
    let folder = Place::on(engine).await;
    let here = process(&folder).await;
    let outcome = here.keys.authorize(Request::default(), Permission::Query, false).await;
    assert!(matches!(outcome, Err(Denied::NoDefault)));
}

async fn another_environment_or_project_than_the_keys_is_refused_by_name(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let token = Some(first.api_key.expose_secret().as_bytes());
    let project = first.scope.project.as_str();
    let own = Request { token, project: Some(project), environment: Some(first.scope.environment.as_str()) };
    here.keys.authorize(own, Permission::Query, true).await.unwrap();

    let development = here.keys.meta().environments().list(&first.scope.project).await.unwrap().remove(1).id;
    for given in [development.as_str(), "env_gone", ""] {
        let request = Request { environment: Some(given), ..own };
        match here.keys.authorize(request, Permission::Query, true).await.unwrap_err() {
            Denied::Environment(mismatch) => {
                assert_eq!(mismatch.given, given);
                assert_eq!(mismatch.valid.len(), 1);
                assert_eq!(mismatch.valid[0].id, first.scope.environment);
            }
            other => panic!("{other}"),
        }
    }
    let request = Request { project: Some("proj_other"), ..own };
    assert!(matches!(
        here.keys.authorize(request, Permission::Query, true).await,
        Err(Denied::Project { valid, .. }) if valid == [first.scope.project.clone()]
    ));
}

async fn a_static_key_works_without_the_database(engine: Engine) {
    let Installation { here, first: _, folder: _folder } = installation(engine).await;
    here.keys.meta().close().await;
    let access = here.ask(Some("from-the-config"), Permission::Query).await.unwrap();
    assert_eq!(access.scope, Scope::new("proj_static", "env_static"));
    assert!(matches!(
        here.ask(Some("from-the-config"), Permission::Ingest).await,
        Err(Denied::Lacking { .. })
    ));
}

async fn the_operator_acts_where_it_says_else_in_the_default_project(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let token = new_operator_token(&RandomIds);
    let operator = Request { token: Some(token.expose_secret().as_bytes()), ..Request::default() };
    assert!(matches!(here.keys.authorize(operator, Permission::Admin, true).await, Err(Denied::Unknown)));
    here.keys.set_operator_token(&token);
    let access = here.keys.authorize(operator, Permission::Ingest, true).await.unwrap();
    assert_eq!((access.operator, access.scope), (true, first.scope.clone()));

    let (other, environments) = here.keys.meta().projects().create("other", 10).await.unwrap();
    let there = Request { project: Some(other.id.as_str()), ..operator };
    let access = here.keys.authorize(there, Permission::Query, true).await.unwrap();
    assert_eq!(access.scope.environment, environments[0].id);
    let there = Request { environment: Some(environments[1].id.as_str()), ..there };
    let access = here.keys.authorize(there, Permission::Query, true).await.unwrap();
    assert_eq!(access.scope.environment, environments[1].id);
    let crossed = Request { environment: Some(first.scope.environment.as_str()), ..there };
    match here.keys.authorize(crossed, Permission::Query, true).await.unwrap_err() {
        Denied::Environment(mismatch) => assert_eq!(mismatch.valid.len(), 2),
        other => panic!("{other}"),
    }
    let gone = Request { project: Some("proj_gone"), ..operator };
    assert!(matches!(here.keys.authorize(gone, Permission::Admin, true).await, Err(Denied::Project { .. })));

    // What concerns the process needs no project: it works with the database gone.
    here.keys.meta().close().await;
    assert!(here.keys.authorize(operator, Permission::Admin, true).await.unwrap().operator);
    assert!(matches!(
        here.keys.authorize(operator, Permission::Query, true).await,
        Err(Denied::Unavailable(_))
    ));
}

async fn the_last_use_is_written_later_and_at_the_stop(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let last_used = async || here.keys.list(&first.scope.project).await.unwrap()[0].last_used_at;
    here.ingest(&first.api_key).await.unwrap();
    here.clock.advance(Duration::from_secs(3));
    here.ingest(&first.api_key).await.unwrap();
    assert_eq!(last_used().await, None);
    here.tasks.stop().soft();
    assert!(here.tasks.drained(Duration::from_secs(30)).await);
    assert_eq!(last_used().await, Some(START.plus(Duration::from_secs(3))));
    assert!(here.keys.0.cache.unwritten_uses().is_empty());
}

async fn a_key_for_an_environment_of_another_project_cannot_be_made(engine: Engine) {
    let Installation { here, first, folder: _folder } = installation(engine).await;
    let spec = KeySpec {
        environment: &EnvironmentId::new("env_elsewhere"),
        name: "x",
        permissions: Permissions::all(),
        expires_at: None,
        rate_max: None,
    };
    assert!(here.keys.create(Actor::system(), &first.scope.project, &spec).await.is_err());
    let (other, _) = here.keys.meta().projects().create("other", 10).await.unwrap();
    let spec = KeySpec { environment: &first.scope.environment, ..spec };
    assert!(here.keys.create(Actor::system(), &other.id, &spec).await.is_err());
    assert!(here.keys.create(Actor::system(), &ProjectId::new("proj_gone"), &spec).await.is_err());
    assert!(here.keys.create(Actor::system(), &first.scope.project, &spec).await.is_ok());
}
