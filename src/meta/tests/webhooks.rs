//! Webhooks and their deliveries: added once, claimed by one, in order where that is asked for.

use secrecy::ExposeSecret;

use super::*;
use crate::event::{EnvironmentId, SystemEventKind};

on_both! {
    a_system_event_is_added_once_to_every_webhook_that_wants_it,
    a_delivery_is_claimed_by_one_of_many_and_again_once_its_lease_is_over,
    an_ordered_webhook_gives_out_its_oldest_delivery_alone,
    a_replayed_delivery_is_due_again_and_old_ones_are_deleted,
    deliveries_about_an_event_are_found_by_its_id_alone,
}

async fn with_projects(engine: Engine) -> Bench {
    let bench = bench(engine).await;
    bench.named([Scope::new("proj_mine", "env_1"), Scope::new("proj_theirs", "env_1")]).await;
    bench
}

fn new(kinds: &[SystemEventKind], environment: Option<&str>, ordered: bool) -> NewWebhook {
    NewWebhook {
        environment_id: environment.map(EnvironmentId::new),
        url: "https://hooks.example.com/".to_owned(),
        description: String::new(),
        kinds: kinds.to_vec(),
        ordered,
        status: WebhookStatus::Enabled,
    }
}

async fn webhook(bench: &Bench, project: &ProjectId, new: NewWebhook) -> Webhook {
    bench.meta.webhooks().create(project, new, "whsec_x", 10).await.unwrap()
}

fn event(
    id: &str,
    kind: SystemEventKind,
    project: Option<&ProjectId>,
    environment: Option<&str>,
) -> Deliverable {
    Deliverable {
        event_id: id.to_owned(),
        kind,
        project_id: project.cloned(),
        environment_id: environment.map(EnvironmentId::new),
        body: format!("{{\"id\":\"{id}\"}}"),
    }
}

async fn deliveries_about_an_event_are_found_by_its_id_alone(engine: Engine) {
    let bench = with_projects(engine).await;
    let mine = ProjectId::new("proj_mine");
    let hook = webhook(&bench, &mine, new(&[], None, false)).await;
    let ids = ["a", "a_", "ab", "A_", "%", "say \"a\""];
    let about = |(at, id): (usize, &&str)| Deliverable {
        body: json!({"data": {"payload": {"event_id": id, "event_type": "a"}}}).to_string(),
        ..event(&format!("s{at}"), SystemEventKind::EventUnmetered, Some(&mine), None)
    };
    let events: Vec<Deliverable> = ids.iter().enumerate().map(about).collect();
    bench.meta.deliveries().add(&events, KEEP_TRYING).await.unwrap();
    for (at, id) in ids.iter().enumerate() {
        let filter = DeliveryFilter { about: Some(id), ..DeliveryFilter::default() };
        let found = bench.meta.deliveries().list(&mine, &hook.id, filter, 10).await.unwrap();
        assert_eq!(found.iter().map(|one| &*one.event_id).collect::<Vec<_>>(), [format!("s{at}")], "{id}");
    }
}

fn ended(delivery: &Delivery, state: DeliveryState, due_at: Timestamp) -> Attempted {
    Attempted { id: delivery.id.clone(), fence: delivery.fence, state, due_at, log: json!([]) }
}

const KEEP_TRYING: Duration = Duration::from_secs(3600);

async fn a_system_event_is_added_once_to_every_webhook_that_wants_it(engine: Engine) {
    use SystemEventKind::{BreakerChanged, JobFinished};
    let bench = with_projects(engine).await;
    let (mine, theirs) = (ProjectId::new("proj_mine"), ProjectId::new("proj_theirs"));
    let all = webhook(&bench, &mine, new(&[], None, false)).await;
    let jobs = webhook(&bench, &mine, new(&[JobFinished], Some("env_1"), false)).await;
    webhook(&bench, &mine, new(&[BreakerChanged], None, false)).await;
    let off = NewWebhook { status: WebhookStatus::Disabled, ..new(&[], None, false) };
    webhook(&bench, &mine, off).await;
    webhook(&bench, &theirs, new(&[], None, false)).await;
    let events = [
        event("a", JobFinished, Some(&mine), Some("env_1")),
        event("b", JobFinished, Some(&mine), Some("env_2")),
        // Nobody's: there is no default project here.
        event("c", BreakerChanged, None, None),
    ];
    let deliveries = bench.meta.deliveries();
    assert_eq!(deliveries.add(&events, KEEP_TRYING).await.unwrap(), 3);
    assert_eq!(deliveries.add(&events, KEEP_TRYING).await.unwrap(), 0, "told twice");
    let names = |found: Vec<Delivery>| found.into_iter().map(|one| one.event_id).collect::<Vec<_>>();
    let filter = DeliveryFilter::default();
    assert_eq!(names(deliveries.list(&mine, &all.id, filter.clone(), 10).await.unwrap()), ["b", "a"]);
    assert_eq!(names(deliveries.list(&mine, &jobs.id, filter.clone(), 10).await.unwrap()), ["a"]);
    assert!(deliveries.list(&theirs, &all.id, filter, 10).await.unwrap().is_empty());
    assert_eq!(deliveries.count_pending().await.unwrap(), 3);
    assert!(!bench.meta.webhooks().delete(&theirs, &all.id).await.unwrap());
    assert!(bench.meta.webhooks().delete(&mine, &all.id).await.unwrap());
    assert_eq!(deliveries.count_pending().await.unwrap(), 1);
}

async fn a_delivery_is_claimed_by_one_of_many_and_again_once_its_lease_is_over(engine: Engine) {
    let bench = with_projects(engine).await;
    let mine = ProjectId::new("proj_mine");
    let hook = webhook(&bench, &mine, new(&[], None, false)).await;
    let events: Vec<Deliverable> =
        (0..20).map(|i| event(&format!("e{i}"), SystemEventKind::JobFinished, Some(&mine), None)).collect();
    bench.meta.deliveries().add(&events, KEEP_TRYING).await.unwrap();
    let now = bench.clock.now();
    assert_eq!(bench.meta.webhooks().due(now).await.unwrap().len(), 1);
    let pools = join_all((0..4).map(|_| bench.another())).await;
    let claims = join_all(pools.iter().map(|pool| async {
        let mut all = Vec::new();
        loop {
            let some = pool.deliveries().claim(&hook, 3, now, LEASE).await.unwrap();
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }))
    .await;
    let mut claimed: Vec<Delivery> = claims.into_iter().flatten().collect();
    claimed.sort_by(|a, b| a.id.cmp(&b.id));
    claimed.dedup_by(|a, b| a.id == b.id);
    assert_eq!(claimed.len(), 20, "each once");
    assert!(bench.meta.webhooks().due(now).await.unwrap().is_empty());

    bench.clock.advance(LEASE);
    let now = bench.clock.now();
    let again = bench.meta.deliveries().claim(&hook, 100, now, LEASE).await.unwrap();
    assert_eq!(again.len(), 20, "their holders died");
    let late = claimed.iter().map(|one| ended(one, DeliveryState::Dead, now)).collect();
    bench.meta.deliveries().attempted(late).await.unwrap();
    assert_eq!(bench.meta.deliveries().count_pending().await.unwrap(), 20, "a former holder changes nothing");
    let good = again.iter().map(|one| ended(one, DeliveryState::Delivered, now)).collect();
    bench.meta.deliveries().attempted(good).await.unwrap();
    assert_eq!(bench.meta.deliveries().count_pending().await.unwrap(), 0);
}

async fn an_ordered_webhook_gives_out_its_oldest_delivery_alone(engine: Engine) {
    let bench = with_projects(engine).await;
    let mine = ProjectId::new("proj_mine");
    let hook = webhook(&bench, &mine, new(&[], None, true)).await;
    let events = ["a", "b"].map(|id| event(id, SystemEventKind::JobFinished, Some(&mine), None));
    let deliveries = bench.meta.deliveries();
    deliveries.add(&events, KEEP_TRYING).await.unwrap();
    let now = bench.clock.now();
    let first = deliveries.claim(&hook, 10, now, LEASE).await.unwrap();
    assert_eq!(first.iter().map(|one| one.event_id.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(deliveries.claim(&hook, 10, now, LEASE).await.unwrap().is_empty(), "it is under way");
    let later = now.plus(Duration::from_secs(5));
    deliveries.attempted(vec![ended(&first[0], DeliveryState::Pending, later)]).await.unwrap();
    assert!(
        deliveries.claim(&hook, 10, now, LEASE).await.unwrap().is_empty(),
        "it waits for its next attempt"
    );
    let first = deliveries.claim(&hook, 10, later, LEASE).await.unwrap();
    assert_eq!((first[0].event_id.as_str(), first[0].attempts), ("a", 1));
    deliveries.attempted(vec![ended(&first[0], DeliveryState::Delivered, later)]).await.unwrap();
    assert_eq!(deliveries.claim(&hook, 10, later, LEASE).await.unwrap()[0].event_id, "b");
}

async fn a_replayed_delivery_is_due_again_and_old_ones_are_deleted(engine: Engine) {
    let bench = with_projects(engine).await;
    let mine = ProjectId::new("proj_mine");
    let hook = webhook(&bench, &mine, new(&[], None, false)).await;
    let events = ["a", "b"].map(|id| event(id, SystemEventKind::JobFinished, Some(&mine), None));
    let deliveries = bench.meta.deliveries();
    deliveries.add(&events, KEEP_TRYING).await.unwrap();
    let now = bench.clock.now();
    let claimed = deliveries.claim(&hook, 10, now, LEASE).await.unwrap();
    let states = [DeliveryState::Dead, DeliveryState::Delivered];
    let all = claimed.iter().zip(states).map(|(one, state)| ended(one, state, now)).collect();
    deliveries.attempted(all).await.unwrap();
    assert_eq!(deliveries.replay(&ProjectId::new("other"), &hook.id, None, KEEP_TRYING).await.unwrap(), 0);
    assert_eq!(deliveries.replay(&mine, &hook.id, None, KEEP_TRYING).await.unwrap(), 1, "the dead one");
    let again = deliveries.claim(&hook, 10, now, LEASE).await.unwrap();
    assert_eq!((again.len(), &again[0].id), (1, &claimed[0].id), "under the same id");
    deliveries.attempted(vec![ended(&again[0], DeliveryState::Delivered, now)]).await.unwrap();
    assert_eq!(deliveries.replay(&mine, &hook.id, Some(&claimed[1].id), KEEP_TRYING).await.unwrap(), 1);
    assert_eq!(deliveries.delete_ended(now).await.unwrap(), 0);
    assert_eq!(deliveries.delete_ended(now.plus(KEEP_TRYING)).await.unwrap(), 1, "the other one waits again");
    assert!(bench.meta.webhooks().rotate(&mine, &hook.id, "whsec_y", now.plus(LEASE)).await.unwrap());
    let hook = bench.meta.webhooks().find(&mine, &hook.id).await.unwrap().unwrap();
    let secrets = |at| {
        let open = bench.meta.webhooks().secrets(&hook, at).unwrap();
        open.iter().map(|one| one.expose_secret().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(secrets(now), ["whsec_y", "whsec_x"]);
    assert_eq!(secrets(now.plus(LEASE)), ["whsec_y"]);
}
