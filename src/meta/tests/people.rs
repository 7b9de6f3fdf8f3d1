//! People, members, invitations, sessions, signing keys and the audit trail.

use super::*;

on_both! {
    a_deleted_project_is_hidden_with_all_it_has_and_its_name_is_free,
    a_project_keeps_an_owner,
    a_hundred_registrations_of_one_address_at_once_leave_one,
    an_invitation_lets_one_person_in_and_no_other,
    a_refresh_token_is_good_once_and_a_second_use_ends_its_session,
    a_session_that_was_refreshed_ten_thousand_times_ends,
    the_oldest_session_makes_room_and_another_password_ends_all_but_one,
    one_signing_key_is_made_however_many_begin_and_another_takes_its_place,
    every_change_of_who_may_do_what_is_in_the_audit_trail_with_who_did_it,
}

impl Bench {
    async fn user(&self, email: &str) -> User {
        self.meta.users().create(new_user(email), 1000).await.unwrap()
    }
}

fn new_user(email: &str) -> NewUser<'_> {
    NewUser {
        email,
        name: "x",
        password_hash: "h".to_owned(),
        is_admin: false,
        member: None,
        invitation: None,
    }
}

async fn a_deleted_project_is_hidden_with_all_it_has_and_its_name_is_free(engine: Engine) {
    let bench = bench(engine).await;
    let project = bench.project("shop").await;
    let environment = bench.meta.environments().list(&project).await.unwrap()[0].id.clone();
    let key = bench.meta.api_keys().create(&project, new_key(&environment), 10).await.unwrap();
    let user = bench.user("ann@example.com").await;
    bench.meta.members().add(&project, &user.id, Role::Owner, 10).await.unwrap();
    assert!(bench.meta.projects().delete(&project).await.unwrap().is_some());

    assert_eq!(bench.meta.projects().find(&project).await.unwrap(), None);
    assert_eq!(bench.meta.projects().list_all(10).await.unwrap(), []);
    assert_eq!(bench.meta.environments().list(&project).await.unwrap(), []);
    assert_eq!(bench.meta.environments().find(&project, &environment).await.unwrap(), None);
    assert_eq!(bench.meta.members().of_user(&user.id, 10).await.unwrap(), []);
    assert!(bench.meta.api_keys().find(&project, &key.id).await.unwrap().unwrap().revoked_at.is_some());
    assert_eq!(bench.meta.projects().delete(&project).await.unwrap(), None);
    // Whoever looked a moment ago, when it was there: nothing is made in it any more.
    let invitation = NewInvitation {
        email: "bob@example.com",
        role: Role::Viewer,
        sha256: "i".to_owned(),
        expires_at: bench.meta.now().plus(LEASE),
    };
    let late = bench.user("late@example.com").await;
    let refused = [
        bench.meta.api_keys().create(&project, new_key(&environment), 10).await.unwrap_err(),
        bench.meta.environments().create(&project, "late", 10).await.unwrap_err(),
        bench.meta.members().add(&project, &late.id, Role::Owner, 10).await.unwrap_err(),
        bench.meta.invitations().create(&project, invitation, 10).await.unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, MetaError::Missing("the project")), "{error}");
    }
    assert_ne!(bench.project("shop").await, project);
}

async fn a_project_keeps_an_owner(engine: Engine) {
    let bench = bench(engine).await;
    let project = bench.project("shop").await;
    let (ann, bob) = (bench.user("ann@example.com").await, bench.user("bob@example.com").await);
    let members = bench.meta.members();
    members.add(&project, &ann.id, Role::Owner, 10).await.unwrap();
    members.add(&project, &bob.id, Role::Viewer, 10).await.unwrap();
    assert!(matches!(members.add(&project, &bob.id, Role::Owner, 10).await, Err(MetaError::Exists(_))));
    assert!(matches!(members.set_role(&project, &ann.id, Role::Editor).await, Err(MetaError::LastOwner)));
    assert!(matches!(members.remove(&project, &ann.id).await, Err(MetaError::LastOwner)));
    members.set_role(&project, &bob.id, Role::Owner).await.unwrap().unwrap();
    members.remove(&project, &ann.id).await.unwrap().unwrap();
    let left = members.list(&project, 10).await.unwrap();
    assert_eq!(
        left.iter().map(|(one, user)| (one.role, &*user.email)).collect::<Vec<_>>(),
        [(Role::Owner, "bob@example.com")]
    );
}

async fn a_hundred_registrations_of_one_address_at_once_leave_one(engine: Engine) {
    let bench = bench(engine).await;
    let other = bench.another().await;
    let pools = [&bench.meta, &other];
    let made = join_all(
        (0..100).map(|n| async move { pools[n % 2].users().create(new_user("ann@example.com"), 1000).await }),
    );
    assert_eq!(made.await.into_iter().filter_map(settled).count(), 1);
    assert_eq!(bench.meta.users().list(10).await.unwrap().len(), 1);
}

async fn an_invitation_lets_one_person_in_and_no_other(engine: Engine) {
    let bench = bench(engine).await;
    let project = bench.project("shop").await;
    let expires_at = bench.meta.now().plus(Duration::from_secs(60));
    let new = |sha256: &str| NewInvitation {
        email: "ann@example.com",
        role: Role::Editor,
        sha256: sha256.to_owned(),
        expires_at,
    };
    let invitations = bench.meta.invitations();
    invitations.create(&project, new("a"), 2).await.unwrap();
    let taken_back = invitations.create(&project, new("b"), 2).await.unwrap();
    assert!(matches!(invitations.create(&project, new("c"), 2).await, Err(MetaError::Full { .. })));
    invitations.revoke(&project, &taken_back.id).await.unwrap().unwrap();
    let register = async |email: &'static str, invitation: &'static str| {
        let new = NewUser { invitation: Some(invitation), ..new_user(email) };
        bench.meta.users().create(new, 100).await
    };
    assert!(matches!(register("bob@example.com", "a").await, Err(MetaError::Missing("the invitation"))));
    assert!(matches!(register("ann@example.com", "b").await, Err(MetaError::Missing("the invitation"))));
    assert_eq!(bench.meta.users().list(10).await.unwrap().len(), 0, "a refused invitation makes nobody");
    let ann = register("ann@example.com", "a").await.unwrap();
    assert_eq!(bench.meta.members().of_user(&ann.id, 10).await.unwrap()[0].role, Role::Editor);
    assert!(!invitations.is_good("a", "ann@example.com").await.unwrap());
    bench.clock.advance(Duration::from_secs(60));
    invitations.create(&project, NewInvitation { expires_at, ..new("d") }, 2).await.unwrap();
    assert!(!invitations.is_good("d", "ann@example.com").await.unwrap(), "it has expired");
}

async fn a_refresh_token_is_good_once_and_a_second_use_ends_its_session(engine: Engine) {
    let bench = bench(engine).await;
    let other = bench.another().await;
    let user = bench.user("ann@example.com").await;
    let until = bench.meta.now().plus(Duration::from_secs(3600));
    let session = bench.meta.sessions().create(&user.id, "t1".to_owned(), until, 5).await.unwrap();
    assert!(matches!(
        bench.meta.sessions().rotate("nonsense", "x".to_owned()).await.unwrap(),
        Rotation::Unknown
    ));
    // Twenty at once with the same token: one gets the next, and the session ends with the second.
    let pools = [&bench.meta, &other];
    let rotations = join_all(
        (0..20).map(|n| async move { pools[n % 2].sessions().rotate("t1", format!("n{n}")).await.unwrap() }),
    )
    .await;
    let count = |is: fn(&Rotation) -> bool| rotations.iter().filter(|one| is(one)).count();
    assert_eq!(count(|one| matches!(one, Rotation::Rotated { .. })), 1);
    assert_eq!(count(|one| matches!(one, Rotation::Reused(_))), 1);
    assert_eq!(count(|one| matches!(one, Rotation::Ended)), 18);
    let ended = bench.meta.sessions().find(&session.id).await.unwrap().unwrap();
    assert_eq!(ended.revoked_as.as_deref(), Some("reuse"));
    assert_eq!(bench.meta.sessions().delete_ended(bench.meta.now()).await.unwrap(), 0);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.meta.sessions().delete_ended(bench.meta.now()).await.unwrap(), 1);
}

async fn a_session_that_was_refreshed_ten_thousand_times_ends(engine: Engine) {
    let bench = bench(engine).await;
    let user = bench.user("ann@example.com").await;
    let until = bench.meta.now().plus(Duration::from_secs(3600));
    let session = bench.meta.sessions().create(&user.id, "t0".to_owned(), until, 5).await.unwrap();
    let used = format!(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 9998) \
         INSERT INTO refresh_tokens SELECT 'used ' || n, '{}', 1, 0, 0 FROM numbers",
        session.id
    );
    bench.meta.connection().execute_unprepared(&used).await.unwrap();
    let rotated = bench.meta.sessions().rotate("t0", "t1".to_owned()).await.unwrap();
    assert!(matches!(rotated, Rotation::Rotated { .. }), "{rotated:?}");
    let rotated = bench.meta.sessions().rotate("t1", "t2".to_owned()).await.unwrap();
    assert!(matches!(rotated, Rotation::Ended), "{rotated:?}");
    let ended = bench.meta.sessions().find(&session.id).await.unwrap().unwrap();
    assert_eq!(ended.revoked_as.as_deref(), Some("worn_out"));
}

async fn the_oldest_session_makes_room_and_another_password_ends_all_but_one(engine: Engine) {
    let bench = bench(engine).await;
    let user = bench.user("ann@example.com").await;
    let until = bench.meta.now().plus(Duration::from_secs(3600));
    let mut sessions = Vec::new();
    for n in 0..3 {
        bench.clock.advance(Duration::from_millis(1));
        sessions.push(bench.meta.sessions().create(&user.id, format!("t{n}"), until, 2).await.unwrap().id);
    }
    let ends = async || {
        let mut ends = Vec::new();
        for id in &sessions {
            ends.push(bench.meta.sessions().find(id).await.unwrap().unwrap().revoked_as.unwrap_or_default());
        }
        ends
    };
    assert_eq!(ends().await, ["replaced", "", ""]);
    let keep = Some(sessions[2].as_str());
    bench
        .meta
        .users()
        .set_password(&user.id, "new".to_owned(), keep, SessionEnd::PasswordChanged)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ends().await, ["replaced", "password_changed", ""]);
    bench.meta.users().set_disabled(&user.id, true).await.unwrap().unwrap();
    assert_eq!(ends().await, ["replaced", "password_changed", "disabled"]);
    assert_eq!(bench.meta.users().set_disabled("user_x", true).await.unwrap(), None);
}

async fn one_signing_key_is_made_however_many_begin_and_another_takes_its_place(engine: Engine) {
    let bench = bench(engine).await;
    let keys = bench.meta.signing_keys();
    join_all((0..10).map(|n| {
        let keys = &keys;
        async move { keys.make_first(&format!("k{n}"), "c2VjcmV0".to_owned()).await.unwrap() }
    }))
    .await;
    let first = keys.list(Timestamp::EPOCH).await.unwrap();
    assert_eq!(first.len(), 1);
    bench.clock.advance(Duration::from_secs(1));
    keys.rotate("next", "c2VjcmV0".to_owned()).await.unwrap();
    let both = keys.list(Timestamp::EPOCH).await.unwrap();
    assert_eq!((both.len(), &*both[0].kid), (2, "next"));
    assert_eq!(both[1].retired_at, Some(bench.meta.now()));
    assert_eq!(keys.list(bench.meta.now()).await.unwrap().len(), 1);
}

async fn every_change_of_who_may_do_what_is_in_the_audit_trail_with_who_did_it(engine: Engine) {
    let bench = bench(engine).await;
    let ann = bench.user("ann@example.com").await;
    let meta = bench.meta.by(Actor::new(ActorKind::Person, ann.id.as_str(), "ann@example.com"));
    let (project, environments) = meta.projects().create("shop", 10).await.unwrap();
    let theirs = bench.project("theirs").await;
    let key = meta.api_keys().create(&project.id, new_key(&environments[0].id), 10).await.unwrap();
    meta.api_keys().revoke(&project.id, &key.id).await.unwrap();
    meta.api_keys().revoke(&project.id, &key.id).await.unwrap();
    let renamed = meta.projects().change(&project.id, Some("store"), None).await.unwrap().unwrap();
    assert_eq!((&*renamed.name, &*renamed.time_zone), ("store", "UTC"));
    let moved = meta.projects().change(&project.id, None, Some("Asia/Kathmandu")).await.unwrap().unwrap();
    assert_eq!(meta.projects().find(&project.id).await.unwrap(), Some(moved.clone()));
    assert_eq!((&*moved.name, &*moved.time_zone), ("store", "Asia/Kathmandu"));
    meta.environments().rename(&project.id, &environments[0].id, "live").await.unwrap().unwrap();
    let entries = meta.audit_log().list(Some(&project.id), None, 100).await.unwrap();
    let actions: Vec<&str> = entries.iter().rev().map(|entry| &*entry.action).collect();
    let expected = [
        "project_created",
        "member_added",
        "environment_created",
        "environment_created",
        "key_created",
        "key_revoked",
        "project_renamed",
        "project_zone_changed",
        "environment_renamed",
    ];
    assert_eq!(actions, expected);
    assert!(entries.iter().all(|entry| entry.actor_id == ann.id && entry.actor_kind == "person"));
    let text = format!("{entries:?}");
    assert!(!text.contains(&key.sha256), "{text}");
    let older = meta.audit_log().list(Some(&project.id), Some(&entries[2].id), 2).await.unwrap();
    assert_eq!(older, entries[3..5]);
    assert!(
        meta.audit_log()
            .list(Some(&theirs), None, 100)
            .await
            .unwrap()
            .iter()
            .all(|one| one.project_id.as_ref() == Some(&theirs))
    );
    bench.clock.advance(Duration::from_secs(1));
    assert!(meta.audit_log().delete_old(bench.meta.now()).await.unwrap() > expected.len() as u64);
}
