//! Which target events must be computed anew when an event comes, and what each is credited to. Pure: a function of the
//! set of events, so neither the order in which they arrive nor their repetition can change an answer.

use std::collections::BTreeMap;

use super::rule::{Definition, Model};
use crate::event::Timestamp;

/// A source event of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touch {
    pub at: Timestamp,
    pub event_id: String,
    pub event: String,
    pub dimension: String,
}

/// A target event of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub at: Timestamp,
    pub event_id: String,
    pub distinct_id: String,
    pub value: Option<f64>,
}

/// The events of one key within a stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfKey {
    pub sources: Vec<Touch>,
    pub targets: Vec<Target>,
}

/// A target event and the sources that are credited with it, oldest first; their shares add up to one (none: to zero).
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    pub key: String,
    pub target: Target,
    /// Sources in the look-back window, credited or not.
    pub touches: usize,
    pub credited: Vec<(Touch, f64)>,
}

/// Target events of a key, from one moment to another (both included), that an event may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    pub key: String,
    pub from: Timestamp,
    pub to: Timestamp,
}

/// What an event of this name and time changes: as a source of `source_key`, as a target of `target_key`.
pub fn affected(
    rule: &Definition,
    event: &str,
    at: Timestamp,
    (source_key, target_key): (&str, &str),
) -> Vec<Affected> {
    let mut found = Vec::new();
    if rule.is_source(event) && !source_key.is_empty() {
        found.push(Affected { key: source_key.to_owned(), from: at, to: at.plus(rule.look_back) });
    }
    if rule.target == event && !target_key.is_empty() {
        found.push(Affected { key: target_key.to_owned(), from: at, to: at });
    }
    found
}

/// One stretch a key, over all of its own.
pub fn merged(all: impl IntoIterator<Item = Affected>) -> Vec<Affected> {
    let mut by_key: BTreeMap<String, (Timestamp, Timestamp)> = BTreeMap::new();
    for one in all {
        let (from, to) = by_key.entry(one.key).or_insert((one.from, one.to));
        (*from, *to) = ((*from).min(one.from), (*to).max(one.to));
    }
    let mut all: Vec<Affected> =
        by_key.into_iter().map(|(key, (from, to))| Affected { key, from, to }).collect();
    // Those of one time together: what is read for some of them reaches from the first to the last.
    all.sort_by_key(|one| one.from);
    all
}

/// The share of each of `count` sources, oldest first.
fn shares(model: Model, count: usize) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "counts of touches")]
    let n = count as f64;
    (0..count)
        .map(|place| {
            let (first, last) = (place == 0, place + 1 == count);
            match model {
                Model::FirstTouch => f64::from(u8::from(first)),
                Model::LastTouch => f64::from(u8::from(last)),
                Model::Linear => 1.0 / n,
                Model::Position => match count {
                    1 => 1.0,
                    2 => 0.5,
                    _ if first || last => 0.4,
                    _ => 0.2 / (n - 2.0),
                },
            }
        })
        .collect()
}

/// The conversions of a key: of each of its target events from `from` to `to`, which sources are credited. Of more
/// than `touches_max` sources that share the credit, the latest do.
pub fn conversions(
    rule: &Definition,
    key: &str,
    mut events: OfKey,
    (from, to): (Timestamp, Timestamp),
    touches_max: usize,
) -> Vec<Conversion> {
    events.sources.sort();
    events.sources.dedup_by(|a, b| a.event_id == b.event_id && a.at == b.at);
    let look_back = i64::try_from(rule.look_back.as_millis()).unwrap_or(i64::MAX);
    let targets = events.targets.into_iter().filter(|target| from <= target.at && target.at <= to);
    targets
        .map(|target| {
            let earliest = Timestamp::from_millis(target.at.as_millis().saturating_sub(look_back));
            let begin = events.sources.partition_point(|touch| touch.at < earliest);
            let end = events.sources.partition_point(|touch| touch.at <= target.at);
            let window = events.sources.get(begin..end).unwrap_or_default();
            // An event is not the cause of itself.
            let own = window.iter().filter(|touch| touch.event_id != target.event_id);
            let touches: Vec<&Touch> = own.collect();
            let credited = credited(rule.model, &touches, touches_max);
            Conversion { key: key.to_owned(), target, touches: touches.len(), credited }
        })
        .collect()
}

fn credited(model: Model, touches: &[&Touch], touches_max: usize) -> Vec<(Touch, f64)> {
    let sharing = match model {
        Model::FirstTouch => touches.get(..1.min(touches.len())),
        Model::LastTouch => touches.get(touches.len().saturating_sub(1)..),
        Model::Linear | Model::Position => touches.get(touches.len().saturating_sub(touches_max.max(1))..),
    };
    let sharing = sharing.unwrap_or_default();
    let shares = shares(model, sharing.len());
    sharing.iter().map(|touch| (*touch).clone()).zip(shares).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::attribution::rule::Join;

    fn rule(model: Model) -> Definition {
        Definition {
            sources: vec!["click".to_owned(), "both".to_owned()],
            target: "order".to_owned(),
            join: Join::SessionId,
            look_back: Duration::from_millis(20),
            model,
            dimension: None,
            value: None,
        }
    }

    /// An event as it lies in the store.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Event {
        id: u8,
        name: &'static str,
        at: i64,
        key: u8,
    }

    impl Event {
        fn at(&self) -> Timestamp {
            Timestamp::from_millis(self.at)
        }
    }

    const MODELS: [Model; 4] = [Model::FirstTouch, Model::LastTouch, Model::Linear, Model::Position];

    /// What is stored of a key in a stretch of time.
    fn gather(stored: &BTreeSet<Event>, rule: &Definition, key: &str, from: i64, to: i64) -> OfKey {
        let mut found = OfKey::default();
        for event in stored.iter().filter(|event| event.key.to_string() == key) {
            if !(from..=to).contains(&event.at) {
                continue;
            }
            if rule.is_source(event.name) {
                found.sources.push(Touch {
                    at: event.at(),
                    event_id: event.id.to_string(),
                    event: event.name.to_owned(),
                    dimension: String::new(),
                });
            }
            if rule.target == event.name {
                found.targets.push(Target {
                    at: event.at(),
                    event_id: event.id.to_string(),
                    distinct_id: String::new(),
                    value: None,
                });
            }
        }
        found
    }

    type Table = BTreeMap<String, Vec<(String, f64)>>;

    /// Every target against every source, in the plainest words.
    fn naive(rule: &Definition, stored: &BTreeSet<Event>) -> Table {
        let look_back = i64::try_from(rule.look_back.as_millis()).unwrap();
        let mut table = Table::new();
        for target in stored.iter().filter(|event| event.name == rule.target) {
            let mut before: Vec<&Event> = stored
                .iter()
                .filter(|event| rule.sources.iter().any(|name| name == event.name) && event.key == target.key)
                .filter(|event| event.id != target.id && event.at <= target.at)
                .filter(|event| target.at - event.at <= look_back)
                .collect();
            before.sort_by_key(|event| (event.at, event.id.to_string()));
            let n = before.len();
            let mut row = Vec::new();
            for (place, source) in before.iter().enumerate() {
                let share = match rule.model {
                    Model::FirstTouch => {
                        if place == 0 {
                            1.0
                        } else {
                            0.0
                        }
                    }
                    Model::LastTouch => {
                        if place == n - 1 {
                            1.0
                        } else {
                            0.0
                        }
                    }
                    Model::Linear => 1.0 / n as f64,
                    Model::Position if n == 1 => 1.0,
                    Model::Position if n == 2 => 0.5,
                    Model::Position if place == 0 || place == n - 1 => 0.4,
                    Model::Position => 0.2 / (n as f64 - 2.0),
                };
                if share > 0.0 {
                    row.push((source.id.to_string(), share));
                }
            }
            table.insert(target.id.to_string(), row);
        }
        table
    }

    /// Batch after batch is stored, and what it affects is computed anew from the store.
    fn arrive(rule: &Definition, batches: &[Vec<Event>]) -> Table {
        let (mut stored, mut table) = (BTreeSet::new(), Table::new());
        for batch in batches {
            stored.extend(batch.iter().cloned());
            let changed = batch.iter().flat_map(|event| {
                let key = event.key.to_string();
                affected(rule, event.name, event.at(), (&key, &key))
            });
            for one in merged(changed) {
                let look_back = i64::try_from(rule.look_back.as_millis()).unwrap();
                let (from, to) = (one.from.as_millis(), one.to.as_millis());
                let events = gather(&stored, rule, &one.key, from - look_back, to);
                for found in conversions(rule, &one.key, events, (one.from, one.to), 100) {
                    let credited =
                        found.credited.iter().map(|(touch, share)| (touch.event_id.clone(), *share));
                    table.insert(found.target.event_id, credited.collect());
                }
            }
        }
        table
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event =
            (0_i64..60, 0_u8..3, prop_oneof![Just("click"), Just("both"), Just("order"), Just("other")]);
        proptest::collection::vec(event, 0..24).prop_map(|drawn| {
            let numbered = (0_u8..).zip(drawn);
            numbered.map(|(id, (at, key, name))| Event { id, name, at, key }).collect()
        })
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_of_arrival_gives_the_table_of_a_naive_reference(
            (events, order) in events().prop_flat_map(|events| {
                // Every event at least once, any of them again, in any order.
                let again = proptest::sample::subsequence(events.clone(), 0..=events.len());
                let all = again.prop_map({
                    let events = events.clone();
                    move |again| events.iter().cloned().chain(again).collect::<Vec<_>>()
                });
                (Just(events), all.prop_shuffle())
            }),
            cut in 1_usize..6,
            model in proptest::sample::select(MODELS.to_vec()),
            target_is_source in any::<bool>(),
        ) {
            let mut rule = rule(model);
            if target_is_source {
                rule.target = "both".to_owned();
            }
            let batches: Vec<Vec<Event>> = order.chunks(cut).map(<[Event]>::to_vec).collect();
            let stored: BTreeSet<Event> = events.into_iter().collect();
            prop_assert_eq!(arrive(&rule, &batches), naive(&rule, &stored));
        }

        #[test]
        fn the_shares_of_a_conversion_add_up_to_one(count in 1_usize..500, model in proptest::sample::select(MODELS.to_vec())) {
            let sum: f64 = shares(model, count).iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn of_more_sources_than_are_kept_the_latest_share_the_credit() {
        let touch = |at: i64| Touch {
            at: Timestamp::from_millis(at),
            event_id: at.to_string(),
            event: "click".to_owned(),
            dimension: String::new(),
        };
        let target = Target {
            at: Timestamp::from_millis(10),
            event_id: "o".to_owned(),
            distinct_id: "d".to_owned(),
            value: Some(2.0),
        };
        let events = OfKey { sources: (0..10).map(touch).collect(), targets: vec![target] };
        let all = (Timestamp::EPOCH, Timestamp::from_millis(100));
        let found = conversions(&rule(Model::Linear), "k", events.clone(), all, 4);
        assert_eq!(found[0].touches, 10);
        let ids: Vec<&str> = found[0].credited.iter().map(|(touch, _)| touch.event_id.as_str()).collect();
        assert_eq!(ids, ["6", "7", "8", "9"]);
        let first = conversions(&rule(Model::FirstTouch), "k", events, all, 4);
        assert_eq!(first[0].credited[0].0.event_id, "0");
    }
}
