//! What rooms keep here, on both databases: transforms, schemas, documents, meters, features, corrections. And what the
//! audit trail says of changes to them.

use serde_json::Value;

use super::*;
use crate::event::EnvironmentId;

on_both! {
    versions_of_a_transform_follow_each_other_and_belong_to_their_scope,
    versions_of_a_schema_follow_each_other_and_belong_to_their_project,
    a_document_is_changed_from_its_newest_revision_alone,
    meters_and_features_have_versions_bounds_and_names_of_their_scope,
    corrections_are_found_by_event_and_by_time,
    a_number_is_given_out_once,
    changes_of_what_decides_over_events_are_in_the_audit_trail_with_who_made_them,
    a_deleted_project_ends_its_jobs_and_is_told_nothing,
    minutes_of_processes_add_up_and_the_oldest_go,
}

const KIND: DocumentKind =
    DocumentKind { name: "thing", plural: "things", setting: "things_max", audited: None };

fn scope(project: &ProjectId, environment: &str) -> Scope {
    Scope { project: project.clone(), environment: EnvironmentId::new(environment) }
}

/// Two projects that have the same ids in everything, and two environments of the first.
async fn scopes(bench: &Bench) -> [Scope; 3] {
    let (mine, theirs) = (bench.project("mine").await, bench.project("theirs").await);
    let scopes = [scope(&mine, "env"), scope(&mine, "other"), scope(&theirs, "env")];
    bench.named(scopes.clone()).await;
    scopes
}

async fn versions_of_a_transform_follow_each_other_and_belong_to_their_scope(engine: Engine) {
    let bench = bench(engine).await;
    let (scopes, transforms) = (scopes(&bench).await, bench.meta.transforms());
    let [here, there, theirs] = &scopes;
    let spec = |n: i64| json!({ "description": n.to_string() });
    let id = transforms.create(here, "raw", spec(1), None, 2).await.unwrap().unwrap();
    assert_eq!(transforms.create(here, "raw", spec(1), None, 2).await.unwrap(), None, "the name is taken");
    let other = transforms.create(there, "raw", spec(7), None, 2).await.unwrap().unwrap();
    transforms.create(here, "more", spec(1), None, 2).await.unwrap().unwrap();
    let full = transforms.create(here, "third", spec(1), None, 2).await;
    assert!(matches!(full, Err(MetaError::Full { setting: "transform.transforms_max", .. })), "{full:?}");

    let by = Some("key_1".to_owned());
    assert_eq!(transforms.add_version(here, &id, spec(2), by, 2).await.unwrap(), Some(2));
    let full = transforms.add_version(here, &id, spec(3), None, 2).await;
    assert!(matches!(full, Err(MetaError::Full { setting: "transform.versions_max", .. })), "{full:?}");
    let versions = transforms.versions(here, &id).await.unwrap();
    let seen: Vec<_> = versions.iter().map(|one| (one.version, one.spec.0.clone())).collect();
    assert_eq!(seen, [(1, spec(1)), (2, spec(2))]);
    assert_eq!(transforms.newest_by_name(here, "raw").await.unwrap(), versions.last().cloned());
    let listed = transforms.list(here).await.unwrap();
    let names: Vec<_> =
        listed.iter().map(|(one, newest)| (&*one.name, newest.as_ref().unwrap().version)).collect();
    assert_eq!(names, [("more", 1), ("raw", 2)]);

    for elsewhere in [there, theirs] {
        assert_eq!(transforms.find(elsewhere, &id).await.unwrap(), None);
        assert_eq!(transforms.versions(elsewhere, &id).await.unwrap(), []);
        assert_eq!(transforms.add_version(elsewhere, &id, spec(9), None, 9).await.unwrap(), None);
        assert!(!transforms.delete(elsewhere, &id).await.unwrap());
    }
    assert_eq!(transforms.newest_by_name(theirs, "raw").await.unwrap(), None);
    assert!(transforms.delete(here, &id).await.unwrap());
    assert_eq!(transforms.versions(here, &id).await.unwrap(), []);
    assert!(transforms.find(there, &other).await.unwrap().is_some());
}

fn next_version(n: usize) -> NewSchemaVersion {
    let upcast = Some(json!({ "remove": ["a"] }));
    NewSchemaVersion { definition: json!({ "n": n }), upcast, created_by: None }
}

async fn versions_of_a_schema_follow_each_other_and_belong_to_their_project(engine: Engine) {
    let bench = bench(engine).await;
    let (mine, theirs) = (bench.project("mine").await, bench.project("theirs").await);
    let schemas = bench.meta.schemas();
    let new = async |project: &ProjectId, event: &str| {
        schemas.create(project, event, ("backward", "flag"), json!({}), None, 2).await
    };
    let id = new(&mine, "seen").await.unwrap();
    assert!(matches!(new(&mine, "seen").await, Err(MetaError::Exists(_))));
    let same = new(&theirs, "seen").await.unwrap();
    new(&mine, "bought").await.unwrap();
    assert!(matches!(new(&mine, "third").await, Err(MetaError::Full { setting: "schema.schemas_max", .. })));

    // Of many who saw the first version one makes the second.
    let other = bench.another().await;
    let pools = [&bench.meta, &other];
    let next = (0..10).map(|n| {
        let (meta, project, id) = (pools[n % 2], &mine, &id);
        async move { meta.schemas().add_version(project, id, 1, next_version(n)).await.unwrap() }
    });
    assert_eq!(join_all(next).await.into_iter().filter(|made| *made).count(), 1);
    let (row, versions) = schemas.find(&mine, &id).await.unwrap().unwrap();
    assert_eq!((row.policy.as_str(), versions.len()), ("flag", 2));
    assert_eq!(versions[0].upcast, None);
    assert_eq!(versions[1].upcast, Some(JsonText(json!({ "remove": ["a"] }))));
    assert!(schemas.change(&mine, &id, "none", "reject").await.unwrap());
    assert_eq!(schemas.find(&mine, &id).await.unwrap().unwrap().0.policy, "reject");

    assert_eq!(schemas.find(&theirs, &id).await.unwrap(), None);
    assert!(!schemas.change(&theirs, &id, "none", "accept").await.unwrap());
    assert!(!schemas.add_version(&theirs, &id, 2, next_version(0)).await.unwrap());
    assert!(!schemas.delete(&theirs, &id).await.unwrap());
    let events = |found: Vec<(SchemaRow, Vec<SchemaVersion>)>| -> Vec<String> {
        found.into_iter().map(|(row, _)| row.event_name).collect()
    };
    assert_eq!(events(schemas.list(&mine).await.unwrap()), ["bought", "seen"]);
    assert_eq!(events(schemas.list(&theirs).await.unwrap()), ["seen"]);
    assert_eq!(schemas.of_all_projects().await.unwrap().len(), 3);
    assert!(schemas.delete(&mine, &id).await.unwrap());
    assert!(schemas.find(&theirs, &same).await.unwrap().is_some());
}

async fn a_document_is_changed_from_its_newest_revision_alone(engine: Engine) {
    let bench = bench(engine).await;
    let (scopes, things) = (scopes(&bench).await, bench.meta.documents(KIND));
    let [here, there, theirs] = &scopes;
    let made = things.create(here, "a", json!({ "n": 0 }), 2).await.unwrap();
    assert_eq!(things.find(here, &made.id).await.unwrap().unwrap(), made);
    let other = bench.another().await;
    let pools = [&bench.meta, &other];
    let changes = (0..10).map(|n| {
        let (meta, made) = (pools[n % 2], &made);
        async move { meta.documents(KIND).change(here, made, "b", json!({ "n": n })).await.unwrap() }
    });
    assert_eq!(join_all(changes).await.into_iter().filter(|changed| *changed).count(), 1);
    let now = things.find(here, &made.id).await.unwrap().unwrap();
    assert_eq!((now.revision, now.name.as_str()), (2, "b"));

    for elsewhere in [there, theirs] {
        assert_eq!(things.find(elsewhere, &made.id).await.unwrap(), None);
        assert_eq!(things.list(elsewhere).await.unwrap(), []);
        assert!(!things.change(elsewhere, &now, "c", json!({})).await.unwrap());
        assert!(!things.delete(elsewhere, &made.id).await.unwrap());
    }
    let another = DocumentKind { name: "another", ..KIND };
    assert_eq!(bench.meta.documents(another).find(here, &made.id).await.unwrap(), None);
    things.create(here, "second", json!({}), 2).await.unwrap();
    assert!(matches!(things.create(here, "x", json!({}), 2).await, Err(MetaError::Full { .. })));
    things.create(theirs, "theirs", json!({}), 2).await.unwrap();
    assert_eq!(things.scopes().await.unwrap().len(), 2);
    bench.meta.projects().delete(&theirs.project).await.unwrap().unwrap();
    let left = things.scopes().await.unwrap();
    assert_eq!(left, std::slice::from_ref(here), "nothing is done for a deleted project");
    assert!(things.delete(here, &made.id).await.unwrap());
    assert_eq!(things.list(here).await.unwrap().len(), 1);
}

fn version(n: i64) -> NewVersion {
    NewVersion {
        definition: json!({ "n": n }),
        effective_from: Timestamp::from_millis(n),
        created_by: Some("key_1".to_owned()),
    }
}

async fn meters_and_features_have_versions_bounds_and_names_of_their_scope(engine: Engine) {
    let bench = bench(engine).await;
    let (scopes, meters, features) = (scopes(&bench).await, bench.meta.meters(), bench.meta.features());
    let [here, there, theirs] = &scopes;
    let id = meters.create(here, "tokens", version(1), 1).await.unwrap();
    assert!(matches!(meters.create(here, "x", version(1), 1).await, Err(MetaError::Full { .. })));
    assert!(meters.add_version(here, &id, "tokens out", version(2), 2).await.unwrap());
    assert!(matches!(meters.add_version(here, &id, "x", version(3), 2).await, Err(MetaError::Full { .. })));
    let (meter, versions) = meters.find(here, &id).await.unwrap().unwrap();
    assert_eq!((meter.name.as_str(), versions.len()), ("tokens out", 2));
    assert_eq!(meters.published(here).await.unwrap(), [(meter, versions)]);
    assert_eq!(meters.list(here, 0, 10).await.unwrap().1, 1);
    let coverage = bench.meta.meter_coverage();
    assert_eq!(coverage.versions(&id).await.unwrap(), None);
    coverage.set(&id, 1).await.unwrap();
    coverage.set(&id, 2).await.unwrap();
    assert_eq!(coverage.versions(&id).await.unwrap(), Some(2));

    let new = |key: &str, meter: Option<&str>| NewFeature {
        lookup_key: key.to_owned(),
        name: key.to_owned(),
        meter_id: meter.map(str::to_owned),
        body: json!({}),
    };
    let feature = features.create(here, new("tokens", Some(&id)), 2).await.unwrap();
    assert!(matches!(features.create(here, new("tokens", None), 2).await, Err(MetaError::Exists(_))));
    assert!(matches!(features.create(here, new("x", Some("no")), 2).await, Err(MetaError::Missing(_))));
    features.create(theirs, new("tokens", None), 2).await.unwrap();
    assert!(features.update(here, &feature.id, new("tokens2", Some(&id))).await.unwrap());

    for elsewhere in [there, theirs] {
        assert_eq!(meters.find(elsewhere, &id).await.unwrap(), None);
        assert_eq!(meters.published(elsewhere).await.unwrap(), []);
        assert!(!meters.add_version(elsewhere, &id, "x", version(3), 9).await.unwrap());
        assert!(!meters.set_status(elsewhere, &id, ARCHIVED).await.unwrap());
        assert_eq!(features.find(elsewhere, &feature.id).await.unwrap(), None);
        assert!(!features.update(elsewhere, &feature.id, new("y", None)).await.unwrap());
        assert!(!features.delete(elsewhere, &feature.id).await.unwrap());
    }
    assert_eq!(features.find(here, &feature.id).await.unwrap().unwrap().lookup_key, "tokens2");
    assert!(features.delete(here, &feature.id).await.unwrap());
    assert!(meters.set_status(here, &id, ARCHIVED).await.unwrap());
    assert_eq!(meters.published(here).await.unwrap(), []);
}

async fn corrections_are_found_by_event_and_by_time(engine: Engine) {
    let bench = bench(engine).await;
    let (scopes, corrections) = (scopes(&bench).await, bench.meta.corrections());
    let [here, there, theirs] = &scopes;
    let new = |event: &str| NewCorrection {
        event_id: event.to_owned(),
        action: "void",
        reason: "twice".to_owned(),
        made_by: None,
        before: json!([{ "event_id": event }]),
        after: None,
    };
    let first = corrections.insert(here, new("e1")).await.unwrap();
    bench.clock.advance(Duration::from_secs(1));
    let second = corrections.insert(here, new("e2")).await.unwrap();
    let third = corrections.insert(here, new("e1")).await.unwrap();
    assert_eq!(corrections.of_event(here, "e1", 10).await.unwrap(), [first.clone(), third.clone()]);
    assert_eq!(corrections.made_after(here, first.made_at, 10).await.unwrap(), [second, third]);
    for elsewhere in [there, theirs] {
        assert_eq!(corrections.of_event(elsewhere, "e1", 10).await.unwrap(), []);
        assert_eq!(corrections.made_after(elsewhere, Timestamp::EPOCH, 10).await.unwrap(), []);
    }
}

async fn a_number_is_given_out_once(engine: Engine) {
    let bench = bench(engine).await;
    let other = bench.another().await;
    let pools = [&bench.meta, &other];
    let numbers = join_all((0..20).map(|n| pools[n % 2].next_number("test_number"))).await;
    let mut numbers: Vec<u64> = numbers.into_iter().map(Result::unwrap).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
}

const RULE: DocumentKind = DocumentKind {
    audited: Some([AuditAction::RuleCreated, AuditAction::RuleChanged, AuditAction::RuleDeleted]),
    ..KIND
};

async fn changes_of_what_decides_over_events_are_in_the_audit_trail_with_who_made_them(engine: Engine) {
    let bench = bench(engine).await;
    let project = bench.project("shop").await;
    let here = scope(&project, "env");
    bench.named([here.clone()]).await;
    let meta = bench.meta.by(Actor::new(ActorKind::Key, "key_1", "ff_x"));
    let id = meta.transforms().create(&here, "raw", json!({}), None, 9).await.unwrap().unwrap();
    meta.transforms().add_version(&here, &id, json!({}), None, 9).await.unwrap();
    meta.transforms().delete(&here, &id).await.unwrap();
    // A deletion leaves no row of its own, and yet counts as a change.
    let (before, after) =
        (meta.now().minus(Duration::from_secs(60)), meta.now().plus(Duration::from_secs(60)));
    assert!(meta.transforms().changed_since(&project, before).await.unwrap());
    assert!(!meta.transforms().changed_since(&project, after).await.unwrap());
    let id = meta.schemas().create(&project, "seen", ("none", "flag"), json!({}), None, 9).await.unwrap();
    meta.schemas().add_version(&project, &id, 1, next_version(0)).await.unwrap();
    meta.schemas().change(&project, &id, "none", "reject").await.unwrap();
    meta.schemas().delete(&project, &id).await.unwrap();
    let rule = meta.documents(RULE).create(&here, "rule", json!({}), 9).await.unwrap();
    meta.documents(RULE).change(&here, &rule, "rule", json!({})).await.unwrap();
    meta.documents(RULE).delete(&here, &rule.id).await.unwrap();
    meta.documents(KIND).create(&here, "a dashboard", json!({}), 9).await.unwrap();
    let new = |status| NewWebhook {
        environment_id: None,
        url: "https://user:hunter2@hooks.example.com/services/T0/SECRET?token=hunter2".to_owned(),
        description: String::new(),
        kinds: Vec::new(),
        ordered: false,
        status,
    };
    let hook =
        meta.webhooks().create(&project, new(WebhookStatus::Enabled), "whsec_hunter2", 9).await.unwrap();
    meta.webhooks().change(&project, &hook.id, new(WebhookStatus::Disabled)).await.unwrap();
    meta.webhooks().rotate(&project, &hook.id, "whsec_hunter3", bench.meta.now()).await.unwrap();
    bench.meta.webhooks().set_gone(&project, &hook.id).await.unwrap();
    meta.webhooks().delete(&project, &hook.id).await.unwrap();
    assert!(!meta.webhooks().change(&project, &hook.id, new(WebhookStatus::Enabled)).await.unwrap());

    let entries = meta.audit_log().list(Some(&project), None, 100).await.unwrap();
    let done: Vec<(&str, &str)> =
        entries.iter().rev().map(|one| (&*one.action, &*one.actor_id)).skip(4).collect();
    let system = Actor::system();
    let expected: Vec<(&str, &str)> = [
        "transform_created",
        "transform_changed",
        "transform_deleted",
        "schema_created",
        "schema_changed",
        "schema_changed",
        "schema_deleted",
        "rule_created",
        "rule_changed",
        "rule_deleted",
        "webhook_created",
        "webhook_changed",
        "webhook_secret_rotated",
        "webhook_changed",
        "webhook_deleted",
    ]
    .into_iter()
    .enumerate()
    .map(|(n, action)| (action, if n == 13 { &*system.id } else { "key_1" }))
    .collect();
    assert_eq!(done, expected);
    let text = format!("{entries:?}");
    assert!(text.contains("hooks.example.com"), "{text}");
    assert!(!text.contains("hunter") && !text.contains("SECRET"), "{text}");
}

async fn a_deleted_project_ends_its_jobs_and_is_told_nothing(engine: Engine) {
    let bench = bench(engine).await;
    let (project, kept) = (bench.project("shop").await, bench.project("kept").await);
    let job = |project| NewJob { project: Some(project), kind: "replay", spec: json!({}), run_after: None };
    let jobs = bench.meta.jobs();
    let running = jobs.insert(job(&project)).await.unwrap().id;
    let now = bench.meta.now();
    let held = jobs.claim_next("a", &["replay"], now, LEASE).await.unwrap().unwrap();
    let waiting = jobs.insert(job(&project)).await.unwrap().id;
    let theirs = jobs.insert(job(&kept)).await.unwrap().id;
    let new = NewWebhook {
        environment_id: None,
        url: "https://hooks.example.com/".to_owned(),
        description: String::new(),
        kinds: Vec::new(),
        ordered: false,
        status: WebhookStatus::Enabled,
    };
    let hook = bench.meta.webhooks().create(&project, new, "whsec_x", 9).await.unwrap();
    let event = |id: &str| Deliverable {
        event_id: id.to_owned(),
        kind: crate::event::SystemEventKind::JobFinished,
        project_id: Some(project.clone()),
        environment_id: None,
        body: "{}".to_owned(),
    };
    bench.meta.deliveries().add(&[event("a")], LEASE).await.unwrap();
    assert_eq!(bench.meta.webhooks().due(now).await.unwrap().len(), 1);

    bench.meta.projects().delete(&project).await.unwrap().unwrap();
    assert!(jobs.heartbeat(&running, held.fence, now, LEASE).await.unwrap(), "it is told to end");
    assert_eq!(jobs.get(None, &waiting).await.unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(jobs.get(None, &theirs).await.unwrap().unwrap().state, JobState::Queued);
    assert_eq!(bench.meta.webhooks().due(now).await.unwrap(), []);
    assert_eq!(bench.meta.deliveries().add(&[event("b")], LEASE).await.unwrap(), 0);
    assert_eq!(
        bench.meta.webhooks().find(&project, &hook.id).await.unwrap().unwrap().status,
        WebhookStatus::Enabled
    );
    let details: Vec<Value> = bench
        .meta
        .audit_log()
        .list(Some(&project), None, 1)
        .await
        .unwrap()
        .into_iter()
        .map(|one| one.details.0)
        .collect();
    assert_eq!(details, [json!({ "name": "shop" })]);
}

async fn minutes_of_processes_add_up_and_the_oldest_go(engine: Engine) {
    let bench = bench(engine).await;
    let (here, other) = (&bench.meta, bench.another().await);
    let minute = |n: i64| Timestamp::from_millis(1_700_000_040_000 + n * 60_000);
    let counts = |captured, stored| PipelineCounts { captured, stored, ..PipelineCounts::default() };
    let sums = async |from| {
        let found = here.pipeline_history().minutes(minute(from)).await.unwrap();
        let of = |row: &PipelineMinute| (row.minute, row.processes, row.counts.captured, row.counts.stored);
        found.iter().map(of).collect::<Vec<_>>()
    };
    let rows = [(minute(0), counts(1, 0)), (minute(1), counts(2, 0))];
    here.pipeline_history().write("a", "capture", &rows).await.unwrap();
    // Written again, and then with more: the row is replaced.
    here.pipeline_history().write("a", "capture", &rows[1..]).await.unwrap();
    here.pipeline_history().write("a", "capture", &[(minute(1), counts(5, 0))]).await.unwrap();
    other.pipeline_history().write("b", "consumer", &[(minute(1), counts(0, 4))]).await.unwrap();
    other.pipeline_history().write("b", "consumer", &[]).await.unwrap();
    assert_eq!(sums(0).await, [(minute(0), 1, 1, 0), (minute(1), 2, 5, 4)]);
    assert_eq!(sums(1).await, [(minute(1), 2, 5, 4)]);
    let seen = here.pipeline_history().processes(minute(0), 9).await.unwrap();
    let of = |row: &PipelineProcess| {
        (row.roles.clone(), row.first, row.last, row.counts.captured, row.counts.stored)
    };
    let told: Vec<_> = seen.iter().map(of).collect();
    let expected = [("capture", minute(0), 6, 0), ("consumer", minute(1), 0, 4)];
    let expected = expected
        .map(|(roles, first, captured, stored)| (roles.to_owned(), first, minute(1), captured, stored));
    assert_eq!(told, expected);
    assert_eq!(here.pipeline_history().processes(minute(0), 1).await.unwrap(), seen[..1]);

    for (n, lag) in [(0, 7), (1, 8), (1, 9)] {
        here.pipeline_history().write_lag(minute(n), json!([["g", "t", lag, {}]])).await.unwrap();
    }
    assert_eq!(here.pipeline_history().lag_looked_at(minute(1)).await.unwrap(), Some(bench.clock.now()));
    assert_eq!(here.pipeline_history().lag_looked_at(minute(2)).await.unwrap(), None);
    let lags = async || -> Vec<_> {
        let found = here.pipeline_history().lags(minute(0)).await.unwrap();
        found.into_iter().map(|row| (row.minute, row.lags.0[0][2].clone())).collect()
    };
    assert_eq!(lags().await, [(minute(0), json!(7)), (minute(1), json!(9))]);

    here.pipeline_history().forget(minute(0), 3).await.unwrap();
    assert_eq!((sums(0).await.len(), lags().await.len()), (2, 2), "as many as there may be");
    here.pipeline_history().write("c", "query", &[(minute(2), counts(0, 0))]).await.unwrap();
    // Four rows: what no longer fits goes with its whole minute.
    here.pipeline_history().forget(minute(0), 2).await.unwrap();
    assert_eq!(sums(0).await, [(minute(2), 1, 0, 0)]);
    here.pipeline_history().forget(minute(3), 2).await.unwrap();
    assert_eq!((sums(0).await, lags().await), (vec![], vec![]));
}
