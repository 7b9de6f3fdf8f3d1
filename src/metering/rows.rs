//! The one place of this room that names the tables of events and of tracked usage: every statement begins here, with the project and the
//! environment in it, and reads the deduplicated view.

use super::meter::MeterFilter;
use crate::event::{Scope, Timestamp};
use crate::store::{Property, Sql};

/// A row's time in milliseconds, in a form that the server cannot hold against a part's smallest and greatest time:
/// versions of one event may differ in their time of day, and a part that holds the version that counts must not be
/// left out (`query/statement.rs` says more).
pub(super) const MILLIS: &str = "bitOr(toUnixTimestamp64Milli(timestamp), 0)";

/// Which events of a scope.
#[derive(Clone, Debug)]
pub(super) struct Which<'a> {
    pub scope: &'a Scope,
    /// None: of any name.
    pub event_name: Option<&'a str>,
    pub from: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    pub filters: Vec<MeterFilter>,
    pub external_customer_id: Option<&'a str>,
    pub customer_id: Option<&'a str>,
    /// Empty: from any.
    pub sources: &'a [String],
    /// Only rows that were stored by then.
    pub as_of: Option<Timestamp>,
}

impl Which<'_> {
    /// `SELECT columns FROM …` with every condition.
    pub(super) fn select(&self, columns: &Sql) -> Sql {
        let conditions = self.conditions();
        Sql::new("SELECT ").append(columns).push(" FROM events FINAL WHERE ").join(" AND ", &conditions)
    }

    /// The same of a meter's tracked usage; it holds no properties to filter by.
    pub(super) fn select_usage(&self, meter_id: &str, columns: &Sql) -> Sql {
        let mut conditions = self.conditions();
        conditions.insert(2, Sql::new("meter_id = ").arg(meter_id));
        Sql::new("SELECT ")
            .append(columns)
            .push(" FROM feature_usage FINAL WHERE ")
            .join(" AND ", &conditions)
    }

    fn conditions(&self) -> Vec<Sql> {
        let mut conditions = vec![
            Sql::new("project_id = ").arg(self.scope.project.as_str()),
            Sql::new("environment_id = ").arg(self.scope.environment.as_str()),
        ];
        let last = Timestamp::from_millis(self.end.as_millis() - 1);
        conditions.push(Sql::new("toDate(timestamp) >= ").arg(day(self.from)));
        conditions.push(Sql::new("toDate(timestamp) <= ").arg(day(last)));
        conditions.push(Sql::new(MILLIS).push(" >= ").arg(self.from.as_millis()));
        conditions.push(Sql::new(MILLIS).push(" < ").arg(self.end.as_millis()));
        if let Some(name) = self.event_name {
            conditions.push(Sql::new("event_name = ").arg(name));
        }
        if let Some(customer) = self.external_customer_id {
            // The hash stands in the table's key, the id itself does not.
            conditions.push(Sql::new("cityHash64(distinct_id) = cityHash64(").arg(customer).push(")"));
            conditions.push(Sql::new("distinct_id = ").arg(customer));
        }
        if let Some(customer) = self.customer_id {
            conditions.push(Sql::new("customer_id = ").arg(customer));
        }
        if !self.sources.is_empty() {
            conditions.push(Sql::new("source IN ").list(self.sources));
        }
        for filter in &self.filters {
            let text = Property::new(&filter.key).text();
            conditions
                .push(Sql::new("ifNull(").append(&text).push(" IN ").list(&filter.values).push(", false)"));
        }
        if let Some(as_of) = self.as_of {
            conditions.push(Sql::new("toUnixTimestamp64Milli(ingested_at) <= ").arg(as_of.as_millis()));
        }
        conditions
    }
}

/// The date in UTC, within what the server's `Date` can hold (1970-01-01 to 2149-06-06).
fn day(at: Timestamp) -> String {
    let days = at.as_millis().div_euclid(86_400_000).clamp(0, 65_535);
    Timestamp::from_millis(days * 86_400_000).to_utc().format("%Y-%m-%d").to_string()
}

/// The JSON texts of properties, and the whole of the properties where those texts may have been changed on the way:
/// the server's JSON functions read numbers as floats, so what is longer than a float keeps (or has a large exponent)
/// is read here from the sender's own text instead.
pub(super) fn texts(keys: &[String]) -> (Sql, Sql) {
    let none = || Sql::new("CAST([], 'Array(String)')");
    if keys.is_empty() {
        return (none(), Sql::new("''"));
    }
    let raws: Vec<Sql> = keys.iter().map(|key| Property::new(key).raw()).collect();
    let texts = Sql::new("[").join(", ", &raws).push("]");
    let whole = Sql::new("if(match(properties, '[0-9][0-9.]{15}|[0-9][eE][-+]?[0-9]{2}'), properties, '')");
    (texts, whole)
}

/// The start of the window that holds a row, in milliseconds; `starts` in their order, the first before every row.
pub(super) fn window(starts: &[i64]) -> Sql {
    Sql::new("roundDown(toInt64(").push(MILLIS).push("), CAST(").arg(starts).push(", 'Array(Int64)'))")
}
