//! The one place of this room that names the tables of events and of tracked usage: every statement begins here, with
//! the project and the environment in it, and reads the deduplicated view.

use bigdecimal::BigDecimal;

use super::meter::MeterFilter;
use super::number::SHORT_DIGITS_MAX;
use crate::event::{Scope, Timestamp};
use crate::store::{Property, Sql, StoreError};

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
        let (keys, others) = self.of_events();
        self.deduplicated("events", columns, &keys, &others)
    }

    /// The same of every version, those of deleted events among them: of what was ever stored.
    pub(super) fn select_ever(&self, columns: &Sql) -> Sql {
        let (keys, others) = self.of_events();
        Sql::new("SELECT ")
            .append(columns)
            .push(" FROM events PREWHERE ")
            .join(" AND ", &keys)
            .push(" WHERE ")
            .join(" AND ", &others)
    }

    /// The same of a meter's tracked usage; it holds no properties to filter by.
    pub(super) fn select_usage(&self, meter_id: &str, columns: &Sql) -> Sql {
        let (mut keys, mut others) = (self.keys(), self.others());
        keys.push(Sql::new("meter_id = ").arg(meter_id));
        others.extend(self.named());
        self.deduplicated("feature_usage", columns, &keys, &others)
    }

    /// Conditions on the key are met before versions are told apart: other columns are read only of rows that meet them
    /// (a customer's month out of 5 M events takes less than half as long).
    fn deduplicated(&self, table: &'static str, columns: &Sql, keys: &[Sql], others: &[Sql]) -> Sql {
        let days = day_number(self.from)..=day_number(self.last());
        let sql = Sql::new("SELECT ").append(columns);
        let sql = sql.deduplicated(table, (self.scope, days), &Sql::default(), keys);
        sql.push(" WHERE ").join(" AND ", others)
    }

    fn last(&self) -> Timestamp {
        Timestamp::from_millis(self.end.as_millis() - 1)
    }

    fn of_events(&self) -> (Vec<Sql>, Vec<Sql>) {
        let mut keys = self.keys();
        keys.extend(self.named());
        (keys, self.others())
    }

    fn named(&self) -> Option<Sql> {
        self.event_name.map(|name| Sql::new("event_name = ").arg(name))
    }

    /// Conditions on what both tables are sorted by: all versions of a row meet them, or none.
    fn keys(&self) -> Vec<Sql> {
        let mut keys = vec![
            Sql::new("project_id = ").arg(self.scope.project.as_str()),
            Sql::new("environment_id = ").arg(self.scope.environment.as_str()),
            Sql::new("toDate(timestamp) >= ").arg(day(self.from)),
            Sql::new("toDate(timestamp) <= ").arg(day(self.last())),
        ];
        if let Some(customer) = self.external_customer_id {
            // The hash stands in the key, the id itself does not.
            keys.push(Sql::new("cityHash64(distinct_id) = cityHash64(").arg(customer).push(")"));
        }
        keys
    }

    fn others(&self) -> Vec<Sql> {
        let mut conditions = vec![
            Sql::new(MILLIS).push(" >= ").arg(self.from.as_millis()),
            Sql::new(MILLIS).push(" < ").arg(self.end.as_millis()),
        ];
        if let Some(customer) = self.external_customer_id {
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
    let days = i64::from(day_number(at));
    Timestamp::from_millis(days * 86_400_000).to_utc().format("%Y-%m-%d").to_string()
}

/// The same as days since 1970.
fn day_number(at: Timestamp) -> u16 {
    let days = at.as_millis().div_euclid(86_400_000).clamp(0, i64::from(u16::MAX));
    u16::try_from(days).unwrap_or(u16::MAX)
}

/// The JSON texts of properties, and the whole of the properties where those texts may have been changed on the way:
/// the server's JSON functions read numbers as floats, so what is longer than a float keeps (or has a large exponent)
/// is read here from the sender's own text instead.
pub(super) fn texts(keys: &[String]) -> (Vec<Sql>, Sql) {
    if keys.is_empty() {
        return (Vec::new(), Sql::new("''"));
    }
    let raws: Vec<Sql> = keys.iter().map(|key| Property::new(key).raw()).collect();
    // A text between quotes is as it was sent.
    let numbers: Vec<Sql> =
        raws.iter().map(|raw| Sql::new("match(").append(raw).push(", '^[-0-9]')")).collect();
    let whole = Sql::new("if((")
        .join(" OR ", &numbers)
        .push(") AND match(properties, '[0-9][0-9.]{15}|[0-9][eE][-+]?[0-9]{2}'), properties, '')");
    (raws, whole)
}

/// Numbers that the server itself can add up, to the last digit: whether a row's value is one, and the value (0 where
/// it is none). They have at most [`SHORT_DIGITS_MAX`] digits before the point, so that no sum of them overflows, and their text is as it
/// was sent.
pub(super) fn short(key: &str, fraction_digits_max: u64) -> (Sql, Sql) {
    let raw = Property::new(key).raw();
    let (_, whole) = texts(&[key.to_owned()]);
    let fraction = match fraction_digits_max {
        0 => String::new(),
        digits => format!("([.][0-9]{{1,{digits}}})?"),
    };
    let pattern = format!("^\"?-?[0-9]{{1,{SHORT_DIGITS_MAX}}}{fraction}\"?$");
    let is_short =
        Sql::new("(match(").append(&raw).push(", ").arg(pattern).push(") AND ").append(&whole).push(" = '')");
    let number = Sql::new("if(")
        .append(&is_short)
        .push(", toDecimal256OrZero(trim(BOTH '\"' FROM ")
        .append(&raw)
        .push("), 18), toDecimal256(0, 18))");
    (is_short, number)
}

/// The start of the window that holds a row, in milliseconds; `starts` in their order, the first before every row.
pub(super) fn window(starts: &[i64]) -> Sql {
    Sql::new("roundDown(toInt64(").push(MILLIS).push("), CAST(").arg(starts).push(", 'Array(Int64)'))")
}

/// A decimal as the store writes it, without the zeros up to its scale. They are cut from the text: normalizing a number
/// takes it apart digit by digit.
pub(super) fn decimal(text: &str) -> Result<BigDecimal, StoreError> {
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    short.parse().map_err(|_| StoreError::Query(format!("{text:?} is no decimal")))
}
