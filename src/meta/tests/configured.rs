//! Rows of what the configuration names: made once by many, also by a write that comes first; kept, and not deleted while it
//! is named. And nothing is kept of a project or environment that has none.

use super::*;
use crate::event::EnvironmentId;

on_both! {
    what_the_configuration_names_gets_rows_once_from_many_processes,
    what_the_configuration_names_is_written_after_the_first_project,
    a_write_before_the_database_was_brought_up_makes_the_rows_it_refers_to,
    a_project_that_the_configuration_names_is_renamed_and_not_deleted,
    a_deleted_project_that_the_configuration_names_stays_deleted_and_is_told_of,
    nothing_is_kept_of_what_has_no_row,
}

async fn rows(meta: &Meta, project: &str) -> Vec<(String, String, Origin)> {
    let found = meta.environments().list(&ProjectId::new(project)).await.unwrap();
    let mut found: Vec<_> = found.into_iter().map(|row| (row.id.to_string(), row.name, row.origin)).collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn row(id: &str, name: &str) -> (String, String, Origin) {
    (id.to_owned(), name.to_owned(), Origin::Configuration)
}

async fn what_the_configuration_names_gets_rows_once_from_many_processes(engine: Engine) {
    let bench = bench(engine).await;
    // Called as the configuration calls another, which must not cost it its name.
    let taken = bench.project("proj_named").await;
    let own = bench.meta.environments().list(&taken).await.unwrap()[0].id.clone();
    let named = [
        Scope::new("proj_named", "env_x"),
        Scope::new("proj_named", "env_x"),
        Scope::new("proj_other", "env_x"),
        Scope::new("proj_other", "env_y"),
        // A project of people: what it has stays as it is, and gets another environment.
        Scope { project: taken.clone(), environment: own.clone() },
        Scope { project: taken.clone(), environment: EnvironmentId::new("production") },
    ];
    let pools = join_all((0..4).map(|_| bench.another())).await;
    pools.iter().for_each(|meta| meta.configure(named.clone()));
    let kept = join_all(pools.iter().map(Meta::keep_configured)).await;
    assert!(kept.into_iter().all(|deleted| deleted.unwrap().is_empty()));

    let find = async |id: &str| bench.meta.projects().find(&ProjectId::new(id)).await.unwrap().unwrap();
    let (one, other) = (find("proj_named").await, find("proj_other").await);
    assert_eq!((&*one.name, one.origin), ("proj_named (configuration)", Origin::Configuration));
    assert_eq!((&*other.name, other.origin, &*other.time_zone), ("proj_other", Origin::Configuration, "UTC"));
    assert_eq!(
        (&*find(taken.as_str()).await.name, find(taken.as_str()).await.origin),
        ("proj_named", Origin::Made)
    );
    assert_eq!(rows(&bench.meta, "proj_named").await, [row("env_x", "env_x")]);
    assert_eq!(rows(&bench.meta, "proj_other").await, [row("env_x", "env_x"), row("env_y", "env_y")]);
    let mixed = rows(&bench.meta, taken.as_str()).await;
    assert_eq!(mixed.len(), 3, "{mixed:?}");
    assert!(mixed.contains(&(own.to_string(), "production".to_owned(), Origin::Made)), "{mixed:?}");
    assert!(mixed.contains(&row("production", "production (configuration)")), "{mixed:?}");
    // Each once, in nobody's name.
    let entries = bench.meta.audit_log().list(Some(&one.id), None, 10).await.unwrap();
    let told: Vec<_> = entries.iter().rev().map(|entry| (&*entry.action, &*entry.actor_kind)).collect();
    assert_eq!(told, [("project_created", "system"), ("environment_created", "system")]);
    // Taken out of the configuration, they stay.
    assert!(bench.another().await.keep_configured().await.unwrap().is_empty());
    assert_eq!(bench.meta.projects().list_all(10).await.unwrap().len(), 3);
    let known = bench.meta.environments();
    let asked = [("proj_named", "env_x"), ("proj_other", "env_y"), ("proj_named", "env_y")]
        .map(|(project, environment)| (ProjectId::new(project), EnvironmentId::new(environment)));
    let known = known.known(&asked).await.unwrap();
    assert!(
        known.contains(&asked[0]) && known.contains(&asked[1]) && !known.contains(&asked[2]),
        "{known:?}"
    );
}

async fn what_the_configuration_names_is_written_after_the_first_project(engine: Engine) {
    let bench = bench(engine).await;
    bench.meta.configure([Scope::new("default", "production")]);
    assert!(!bench.meta.is_founded().await.unwrap());
    bench.meta.next_number("test").await.unwrap();
    assert!(!bench.meta.is_founded().await.unwrap(), "what is configured founds nothing");
    let first = NewFirstProject {
        project: "default",
        key_name: "first",
        key_prefix: "ff_x",
        key_sha256: "0".repeat(64),
        key_scopes: "ingest,query".to_owned(),
        owner: NewFirstUser { email: "admin@localhost", name: "Admin", password_hash: String::new() },
    };
    let first = bench.meta.make_first_project(first, |_| Ok(())).await.unwrap().unwrap();
    assert_eq!(first.project.name, "default");
    bench.meta.keep_configured().await.unwrap();
    let named = bench.meta.projects().find(&ProjectId::new("default")).await.unwrap().unwrap();
    assert_eq!(named.name, "default (configuration)");
    assert_eq!(bench.meta.default_scope().await.unwrap().unwrap().project, first.project.id);
}

async fn a_write_before_the_database_was_brought_up_makes_the_rows_it_refers_to(engine: Engine) {
    let bench = bench(engine).await;
    bench.project("first").await;
    let scope = Scope::new("proj_named", "env_named");
    bench.meta.configure([scope.clone()]);
    let job = NewJob { project: Some(&scope.project), kind: "replay", spec: json!({}), run_after: None };
    bench.meta.by(Actor::new(ActorKind::Key, "static-0", "static-0")).jobs().insert(job).await.unwrap();
    assert_eq!(rows(&bench.meta, "proj_named").await, [row("env_named", "env_named")]);
    let version = || NewVersion { definition: json!({}), effective_from: Timestamp::EPOCH, created_by: None };
    bench.meta.meters().create(&scope, "tokens", version(), 9).await.unwrap();
    let entries = bench.meta.audit_log().list(Some(&scope.project), None, 10).await.unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert!(entries.iter().all(|entry| entry.actor_kind == "system"), "{entries:?}");
    bench.meta.keep_configured().await.unwrap();
    assert_eq!(rows(&bench.meta, "proj_named").await.len(), 1);
}

async fn a_project_that_the_configuration_names_is_renamed_and_not_deleted(engine: Engine) {
    let bench = bench(engine).await;
    let (project, environment) = (ProjectId::new("proj_named"), EnvironmentId::new("env"));
    // Another project's environment has the same id.
    bench.meta.configure([Scope::new("proj_named", "env"), Scope::new("proj_twin", "env")]);
    bench.meta.keep_configured().await.unwrap();
    let changed = bench.meta.projects().change(&project, Some("shop"), Some("Europe/Berlin")).await;
    assert_eq!(changed.unwrap().unwrap().name, "shop");
    bench.meta.environments().rename(&project, &environment, "live").await.unwrap().unwrap();
    assert_eq!(rows(&bench.meta, "proj_twin").await, [row("env", "env")]);
    bench.meta.keep_configured().await.unwrap();
    let found = bench.meta.projects().find(&project).await.unwrap().unwrap();
    assert_eq!((&*found.name, &*found.time_zone), ("shop", "Europe/Berlin"), "a start changes nothing back");
    assert_eq!(rows(&bench.meta, "proj_named").await, [row("env", "live")]);
    let refused = bench.meta.projects().delete(&project).await.unwrap_err();
    assert!(matches!(refused, MetaError::ConfiguredProject), "{refused}");
    assert!(refused.to_string().contains("auth.static_keys"), "{refused}");
}

async fn a_deleted_project_that_the_configuration_names_stays_deleted_and_is_told_of(engine: Engine) {
    let bench = bench(engine).await;
    let scope = Scope::new("proj_named", "env");
    bench.meta.configure([scope.clone()]);
    bench.meta.keep_configured().await.unwrap();
    let later = bench.another().await;
    later.projects().delete(&scope.project).await.unwrap().unwrap();
    let again = bench.another().await;
    again.configure([scope.clone(), Scope::new("proj_named", "env_new")]);
    assert_eq!(again.keep_configured().await.unwrap(), std::slice::from_ref(&scope.project));
    assert_eq!(again.deleted_configured().await.unwrap(), std::slice::from_ref(&scope.project));
    assert_eq!(again.projects().find(&scope.project).await.unwrap(), None);
    assert_eq!(again.projects().list_all(10).await.unwrap(), []);
}

async fn nothing_is_kept_of_what_has_no_row(engine: Engine) {
    let bench = bench(engine).await;
    let (mine, theirs) = (bench.project("mine").await, bench.project("theirs").await);
    let environment = bench.meta.environments().list(&theirs).await.unwrap()[0].id.clone();
    let nobody = ProjectId::new("proj_nobody");
    let job = NewJob { project: Some(&nobody), kind: "replay", spec: json!({}), run_after: None };
    let refused = bench.meta.jobs().insert(job).await;
    assert!(matches!(refused, Err(MetaError::Missing(_))), "{refused:?}");
    let elsewhere = Scope { project: mine.clone(), environment };
    let refused = bench.meta.transforms().create(&elsewhere, "raw", json!({}), None, 9).await;
    assert!(matches!(refused, Err(MetaError::Missing(_))), "{refused:?}");
    // But for notices: what others wrote into the log may be about anybody, and is told.
    let notice = |id: &str, project: &ProjectId| NewNotice {
        id: id.to_owned(),
        project_id: Some(project.clone()),
        record: "{}".to_owned(),
        max: 10,
    };
    bench.meta.notices().add(&[notice("a", &nobody), notice("b", &mine)]).await.unwrap();
    let kept = bench.meta.notices().oldest(9).await.unwrap();
    let kept: Vec<_> = kept.into_iter().map(|one| (one.id, one.project_id)).collect();
    assert_eq!(kept, [("a".to_owned(), None), ("b".to_owned(), Some(mine))]);
}
