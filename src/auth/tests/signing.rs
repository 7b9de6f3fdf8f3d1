//! What signs access tokens: configured keys of both kinds, and their rotation without logging anybody out.

use std::process::Command;

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;
use crate::auth::people::TokenPair;

on_both! {
    a_configured_key_is_rotated_without_logging_anybody_out,
    an_installation_moves_from_its_own_secrets_to_a_configured_key,
    a_token_is_good_until_it_expires_whichever_process_signed_it_with_whichever_key,
    a_refresh_that_cannot_be_answered_uses_no_token_up,
}

/// An Ed25519 private key as RUNBOOK makes it.
fn ed25519() -> SecretString {
    let made = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519"]).output().unwrap();
    assert!(made.status.success());
    String::from_utf8(made.stdout).unwrap().into()
}

async fn process_of(place: &Place, signing: &SecretString, previous: &SecretString) -> Process {
    let config = config::Auth {
        signing_key: signing.clone(),
        previous_signing_key: previous.clone(),
        key_cache_ttl: Duration::ZERO,
        ..config()
    };
    process_with(place, config, pool(&place.url, 4, Duration::from_secs(20))).await
}

impl Process {
    async fn knows(&self, pair: &TokenPair) -> bool {
        let token = pair.access_token.expose_secret();
        self.keys.0.people.identify(token.as_bytes()).await.is_ok()
    }

    async fn refreshed(&self, pair: &TokenPair) -> TokenPair {
        self.keys.0.people.refresh(&pair.refresh_token, None).await.unwrap()
    }
}

fn algorithm(pair: &TokenPair) -> Algorithm {
    jsonwebtoken::decode_header(pair.access_token.expose_secret()).unwrap().alg
}

async fn a_configured_key_is_rotated_without_logging_anybody_out(engine: Engine) {
    let place = Place::on(engine).await;
    let none = SecretString::from("");
    let (secret, first, second) = (SecretString::from("s".repeat(32)), ed25519(), ed25519());
    let before = process_of(&place, &secret, &none).await;
    let made = first_run(&before.keys, |_| Ok(())).await.unwrap().unwrap();
    let old = before.keys.0.people.login(&made.email, &made.password, None).await.unwrap();
    assert_eq!(algorithm(&old), Algorithm::HS256);

    // A text gives way to an Ed25519 key, and that to another.
    let during = process_of(&place, &first, &secret).await;
    assert!(during.knows(&old).await, "the former key is believed");
    let new = during.refreshed(&old).await;
    assert_eq!(algorithm(&new), Algorithm::EdDSA);
    assert!(during.knows(&new).await && !before.knows(&new).await);
    let later = process_of(&place, &second, &first).await;
    assert!(later.knows(&new).await && !later.knows(&old).await);
    let newest = later.refreshed(&new).await;
    assert!(later.knows(&newest).await && !during.knows(&newest).await);

    // Without the former key its tokens are refused, and the session goes on all the same.
    let after = process_of(&place, &second, &none).await;
    assert!(!after.knows(&new).await);
    assert!(after.knows(&newest).await);
    assert!(after.knows(&after.refreshed(&newest).await).await);
    let listed = after.keys.0.people.tokens.list().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let refused = after.keys.0.people.tokens.rotate(after.keys.meta()).await;
    assert!(matches!(refused, Err(AuthError::ConfiguredKey)));
}

async fn an_installation_moves_from_its_own_secrets_to_a_configured_key(engine: Engine) {
    let place = Place::on(engine).await;
    let (none, key) = (SecretString::from(""), ed25519());
    let before = process_of(&place, &none, &none).await;
    let made = first_run(&before.keys, |_| Ok(())).await.unwrap().unwrap();
    let old = before.keys.0.people.login(&made.email, &made.password, None).await.unwrap();
    let after = process_of(&place, &key, &none).await;
    assert!(!after.knows(&old).await, "the database's secrets are not asked for beside a configured key");
    let new = after.refreshed(&old).await;
    assert!(after.knows(&new).await && algorithm(&new) == Algorithm::EdDSA);
    // And back, within the life of its tokens' session.
    let back = process_of(&place, &none, &none).await;
    assert!(back.knows(&back.refreshed(&new).await).await);
}

async fn a_token_is_good_until_it_expires_whichever_process_signed_it_with_whichever_key(engine: Engine) {
    let place = Place::on(engine).await;
    let (here, there) = (process(&place).await, process(&place).await);
    let made = first_run(&here.keys, |_| Ok(())).await.unwrap().unwrap();
    let login = async |process: &Process| {
        process.keys.0.people.login(&made.email, &made.password, None).await.unwrap()
    };
    login(&there).await;
    here.keys.0.people.tokens.rotate(here.keys.meta()).await.unwrap();
    // The other process does not know yet, and signs with the key that is retired.
    let soon = START.plus(config().key_cache_ttl - Duration::from_millis(1));
    there.clock.set(soon);
    let late = login(&there).await;
    here.clock.set(soon);
    let newest = login(&here).await;
    let kid = |pair: &TokenPair| jsonwebtoken::decode_header(pair.access_token.expose_secret()).unwrap().kid;
    assert_ne!(kid(&late), kid(&newest));
    // Times in a token are whole seconds.
    let last = Timestamp::from_millis(soon.as_millis() / 1000 * 1000).plus(config().access_ttl);
    for process in [&here, &there] {
        process.clock.set(last.minus(Duration::from_millis(1)));
        assert!(process.knows(&late).await && process.knows(&newest).await);
        process.clock.set(last);
        for pair in [&late, &newest] {
            let token = pair.access_token.expose_secret();
            let refused = process.keys.0.people.identify(token.as_bytes()).await.err();
            assert!(matches!(refused, Some(Denied::TokenExpired { at }) if at == last), "{refused:?}");
        }
    }
}

async fn a_refresh_that_cannot_be_answered_uses_no_token_up(engine: Engine) {
    let place = Place::on(engine).await;
    let here = process(&place).await;
    let made = first_run(&here.keys, |_| Ok(())).await.unwrap().unwrap();
    let pair = here.keys.0.people.login(&made.email, &made.password, None).await.unwrap();
    // A process that has just begun, and whose database is away: it has nothing to sign with.
    let fresh = process(&place).await;
    fresh.keys.meta().close().await;
    let refused = fresh.keys.0.people.refresh(&pair.refresh_token, None).await;
    assert!(matches!(&refused, Err(AuthError::Meta(error)) if error.is_unavailable()), "{refused:?}");
    // The same token, tried again, is no reuse.
    assert!(here.knows(&here.refreshed(&pair).await).await);
}

#[tokio::test]
async fn a_token_that_names_another_algorithm_than_its_key_is_refused() {
    let place = Place::on(Engine::Sqlite).await;
    let (none, key) = (SecretString::from(""), ed25519());
    let here = process_of(&place, &key, &none).await;
    let made = first_run(&here.keys, |_| Ok(())).await.unwrap().unwrap();
    let good = here.keys.0.people.login(&made.email, &made.password, None).await.unwrap();
    let token = good.access_token.expose_secret();
    let kid = jsonwebtoken::decode_header(token).unwrap().kid;
    let claims: serde_json::Value =
        jsonwebtoken::dangerous::insecure_decode(token).map(|data| data.claims).unwrap();
    // Signed with what everybody may know: the public key's bytes, the key's id, nothing.
    for secret in [kid.clone().unwrap(), String::new(), "public".to_owned()] {
        let header = Header { kid: kid.clone(), ..Header::new(Algorithm::HS256) };
        let forged =
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
        assert!(here.keys.0.people.identify(forged.as_bytes()).await.is_err());
    }
    let body = token.split('.').nth(1).unwrap();
    let unsigned = format!("eyJhbGciOiJub25lIn0.{body}.");
    assert!(here.keys.0.people.identify(unsigned.as_bytes()).await.is_err());
}

#[tokio::test]
async fn a_key_that_cannot_sign_is_refused_by_its_setting_without_being_repeated() {
    let place = Place::on(Engine::Sqlite).await;
    let pem = "-----BEGIN PRIVATE KEY-----\nhunter2hunter2hunter2hunter2\n-----END PRIVATE KEY-----\n";
    let config = config::Auth { signing_key: pem.into(), ..config() };
    let (clock, tasks) = (Arc::new(ManualClock::at(START)), Tasks::new(Stop::default()));
    let health = Health::new(clock.clone());
    let pool = pool(&place.url, 4, Duration::from_secs(20));
    let meta = Meta::open(&pool, place.path(), clock.clone(), Arc::new(RandomIds), &health).await.unwrap();
    let refused = Keys::new(meta, &config, clock, Arc::new(RandomIds), &tasks).err().unwrap().to_string();
    assert!(refused.contains("auth.signing_key") && !refused.contains("hunter2"), "{refused}");
}
