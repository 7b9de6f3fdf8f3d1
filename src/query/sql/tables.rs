//! The tables there are: each the scoped, deduplicated read that stands for it.

use crate::event::Scope;
use crate::query::actor::Actors;
use crate::query::statement::{self, View};
use crate::store::Sql;

pub(super) fn cte_name(name: &str) -> String {
    format!("cte_{name}")
}

pub(super) type TableOf = fn(&Scope, &Actors) -> Sql;

/// The scoped, deduplicated read that stands for a table.
pub(super) fn table(name: &str) -> Option<TableOf> {
    match name {
        "events" => Some(events),
        "persons" => Some(persons),
        "event_rollups" => Some(rollups),
        "event_quality" => Some(quality),
        _ => None,
    }
}

pub(super) fn events(scope: &Scope, actors: &Actors) -> Sql {
    // Times in a form that the store cannot hold against a part's smallest and greatest: see `View::time`.
    let columns = Sql::new("event_id, toString(event_name) AS event, toString(event_name) AS event_name, distinct_id, ")
        .append(&actors.id())
        .push(
            " AS person_id, fromUnixTimestamp64Milli(bitOr(toUnixTimestamp64Milli(events.timestamp), 0), 'UTC') AS \
             timestamp, toDate(events.timestamp) AS day, \
             fromUnixTimestamp64Milli(bitOr(toUnixTimestamp64Milli(events.received_at), 0), 'UTC') AS received_at, \
             properties, session_id, toString(source) AS source, customer_id, toString(schema_state) AS \
             schema_state",
        );
    statement::events(scope, View::Deduplicated, &columns).actors(actors).sql()
}

fn rollups(scope: &Scope, _: &Actors) -> Sql {
    built(
        "SELECT toString(grain) AS grain, bucket, toString(event_name) AS event, events, people, sessions FROM \
         event_rollups FINAL",
        scope,
    )
}

fn quality(scope: &Scope, _: &Actors) -> Sql {
    built(
        "SELECT day, toString(event_name) AS event, property, events, present, missing, texts, numbers, booleans, nulls, \
         objects, arrays, drifted, out_of_range, smallest, greatest FROM event_quality FINAL",
        scope,
    )
}

/// What the room of rollups has built of this scope.
fn built(select: &'static str, scope: &Scope) -> Sql {
    Sql::new(select)
        .push(" WHERE project_id = ")
        .arg(scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(scope.environment.as_str())
}

pub(super) fn persons(scope: &Scope, actors: &Actors) -> Sql {
    let columns = Sql::new("").append(&actors.id()).push(
        " AS acting, arraySort(groupUniqArray(100)(distinct_id)) AS distinct_ids, min(events.timestamp) AS \
             first_seen, max(events.timestamp) AS last_seen, count() AS events",
    );
    let seen = statement::events(scope, View::Deduplicated, &columns)
        .actors(actors)
        .then(Sql::new("GROUP BY acting"))
        .sql();
    actors.with_all_properties(&seen)
}
