//! Answers that are remembered.
//!
//! The key is the question without its order of fields, in its scope. An answer is told again while nothing has happened
//! that it would show: an event that this process stored with a day up to the end of the answer's range (late or not; of
//! any day, where it hangs on a cohort, a session or a funnel within), or a merge, makes it forgotten at once. What other
//! processes store is not seen, so an answer lasts at most `query.cache_past_ttl`, and `query.cache_open_ttl` where its
//! range reaches into the present or is counted from it. `refresh: true` asks anew, and remembers. Equal questions at the
//! same time are asked once. The cache holds at most `query.cache_bytes_max` of answers as JSON text, a quarter of it
//! for closed buckets of trends (`trends/closed.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::trends::closed::PART;
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::Store;
use crate::telemetry::names;

const DAY_MILLIS: i64 = 86_400_000;

/// An answer as it was given.
#[derive(Debug)]
struct Kept {
    answer: Value,
    bytes: u32,
    at: Instant,
    ttl: Duration,
    seen: Seen,
}

/// What the answer could have seen: events up to a day (since 1970), and the people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    last_day: i64,
    /// The store's count of changes when the question was asked.
    changes: u64,
    persons: u64,
    /// Of properties of persons and groups; `None`: the question does not ask for any.
    properties: Option<u64>,
}

impl Seen {
    /// Has nothing of it changed since?
    fn holds(&self, store: &Store, scope: &Scope) -> bool {
        store.events_changed(scope, self.last_day) <= self.changes
            && store.persons_generation(scope) == self.persons
            && self.properties.is_none_or(|seen| store.person_properties_generation(scope) == seen)
    }
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(super) struct Answers {
    kept: Cache<[u8; 32], Arc<Kept>>,
    open_ttl: Duration,
    past_ttl: Duration,
}

impl Answers {
    pub(super) fn new(limits: &config::Query) -> Self {
        let kept = Cache::builder()
            .max_capacity(limits.cache_bytes_max.as_u64() / PART * (PART - 1))
            .weigher(|_, kept: &Arc<Kept>| kept.bytes)
            .time_to_live(limits.cache_past_ttl)
            .build();
        Self { kept, open_ttl: limits.cache_open_ttl, past_ttl: limits.cache_past_ttl }
    }

    /// The answer to `question` of this kind, remembered or asked by `ask`.
    ///
    /// # Errors
    /// Those of `ask`; they are not remembered.
    pub(super) async fn get(
        &self,
        store: &Store,
        scope: &Scope,
        kind: &str,
        question: &Value,
        now: Timestamp,
        ask: impl Future<Output = Result<Value, Problem>>,
    ) -> Result<Value, Problem> {
        let key = key(scope, kind, question);
        let began = Instant::now();
        let refresh = question.get("refresh") == Some(&Value::Bool(true));
        if let Some(kept) = self.kept.get(&key).await
            && (refresh || !kept.is_fresh(store, scope))
        {
            self.kept.invalidate(&key).await;
        }
        // Before the store is asked: what happens meanwhile makes the answer old.
        let (changes, persons) = (store.changes(), store.persons_generation(scope));
        let properties = asks_properties(kind, question).then(|| store.person_properties_generation(scope));
        let mut asked = false;
        let kept = self
            .kept
            .try_get_with(key, async {
                asked = true;
                let answer = ask.await?;
                let last_day = if looks_further(question) { i64::MAX } else { last_day(&answer) };
                let seen = Seen { last_day, changes, persons, properties };
                Ok::<_, Problem>(Arc::new(self.keep(question, answer, now, seen)))
            })
            .await
            .map_err(|problem: Arc<Problem>| problem.for_request())?;
        names::QUERY_CACHE.counter(&[("outcome", if asked { "miss" } else { "hit" })]).increment(1);
        let mut answer = kept.answer.clone();
        if !asked && let Some(meta) = answer.get_mut("meta").and_then(Value::as_object_mut) {
            meta.insert("cached".to_owned(), Value::Bool(true));
            let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            meta.insert("elapsed_ms".to_owned(), elapsed.into());
        }
        Ok(answer)
    }

    fn keep(&self, question: &Value, answer: Value, now: Timestamp, seen: Seen) -> Kept {
        let closed = seen.last_day < now.as_millis().div_euclid(DAY_MILLIS) && !is_relative(question);
        let ttl = if closed { self.past_ttl } else { self.open_ttl };
        let bytes = u32::try_from(answer.to_string().len()).unwrap_or(u32::MAX);
        Kept { answer, bytes, at: Instant::now(), ttl, seen }
    }
}

impl Kept {
    fn is_fresh(&self, store: &Store, scope: &Scope) -> bool {
        self.at.elapsed() < self.ttl && self.seen.holds(store, scope)
    }
}

fn key(scope: &Scope, kind: &str, question: &Value) -> [u8; 32] {
    let mut question = question.clone();
    if let Some(fields) = question.as_object_mut() {
        fields.remove("refresh");
        fields.remove("environment_id");
        fields.retain(|_, value| !value.is_null());
    }
    // Fields of JSON objects are sorted.
    let text = serde_json::json!([scope.project, scope.environment, kind, question]).to_string();
    Sha256::digest(text).into()
}

/// The last day (UTC, one more for zones) whose events the answer can hang on; earlier ones all may: first times look at
/// all of history.
fn last_day(answer: &Value) -> i64 {
    let to = answer.get("meta").and_then(|meta| meta.get("date_to")).and_then(Value::as_str);
    let to = to.and_then(|text| Timestamp::parse(text).ok());
    to.map_or(i64::MAX, |at| at.as_millis().div_euclid(DAY_MILLIS) + 1)
}

/// May the answer hang on events after its range? Of a cohort on what people did until now, of a session on all of its
/// events, of the steps of a funnel within on that funnel's own range.
fn looks_further(question: &Value) -> bool {
    let text = question.to_string();
    ["\"cohort\"", "\"session\"", "\"funnel\":{"].iter().any(|name| text.contains(name))
}

/// May the answer hang on properties of persons or groups? They change with many events, most questions do not ask for
/// them.
fn asks_properties(kind: &str, question: &Value) -> bool {
    let text = question.to_string();
    let names = ["\"person\"", "person.", "\"cohort\"", "\"filter_test_accounts\":true", "group"];
    kind == "sql" || names.iter().any(|name| text.contains(name))
}

/// Is its range counted from the present?
fn is_relative(question: &Value) -> bool {
    let absolute = |name: &str| {
        question
            .get(name)
            .and_then(Value::as_str)
            .is_some_and(|text| text.starts_with(|first: char| first.is_ascii_digit()))
    };
    !absolute("date_to") || (question.get("date_from").is_some() && !absolute("date_from"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_questions_have_one_key_and_other_scopes_another() {
        let (here, there) = (Scope::new("p", "a"), Scope::new("p", "b"));
        let question = json!({"date_from": "-7d", "series": [{"event": "a"}], "refresh": true});
        let same =
            json!({"series": [{"event": "a"}], "environment_id": "a", "formula": null, "date_from": "-7d"});
        assert_eq!(key(&here, "trends", &question), key(&here, "trends", &same));
        assert_ne!(key(&here, "trends", &question), key(&there, "trends", &question));
        assert_ne!(key(&here, "trends", &question), key(&here, "funnel", &question));
        let other = json!({"date_from": "-8d", "series": [{"event": "a"}]});
        assert_ne!(key(&here, "trends", &question), key(&here, "trends", &other));
    }

    #[test]
    fn a_question_of_cohorts_sessions_or_a_funnel_within_looks_beyond_its_range() {
        let range =
            json!({"date_from": "2026-01-01", "date_to": "2026-01-31", "steps": [{"event": "cohorts"}]});
        assert!(!looks_further(&range));
        for (name, value) in [
            ("filters", json!([{"type": "cohort", "value": "a"}])),
            ("breakdown", json!({"type": "cohort", "property": ["a"]})),
            ("filters", json!([{"type": "session", "key": "$event_count", "value": 1}])),
            ("funnel", json!({"step": 0, "part": "after", "funnel": range})),
        ] {
            let mut question = range.clone();
            question[name] = value;
            assert!(looks_further(&question), "{question}");
        }
    }

    #[test]
    fn only_a_range_of_dates_that_are_written_out_is_past_for_good() {
        assert!(!is_relative(&json!({"date_from": "2026-01-01", "date_to": "2026-01-31"})));
        for relative in [
            json!({}),
            json!({"date_from": "2026-01-01"}),
            json!({"date_from": "-7d", "date_to": "2026-01-31"}),
            json!({"date_from": "2026-01-01", "date_to": "-1d"}),
            json!({"date_from": "all", "date_to": "2026-01-31"}),
        ] {
            assert!(is_relative(&relative), "{relative}");
        }
    }
}
