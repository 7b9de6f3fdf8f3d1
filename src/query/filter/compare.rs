//! One value against what a filter gives.

use serde_json::Value;

use super::{Filter, Ground, Operator, semver};
use crate::http::Problem;
use crate::query::interval::Interval;
use crate::query::range::{self, Moment};
use crate::store::{Property, Sql};

/// Longest regular expression, in bytes: matching takes linear time in it.
const REGEX_BYTES_MAX: usize = 1000;
/// Most values in one filter.
const VALUES_MAX: usize = 1000;

/// The condition of a filter on this property; none where every event passes.
pub(super) fn condition(
    filter: &Filter,
    property: &Property,
    path: &str,
    ground: &Ground<'_>,
) -> Result<Option<Sql>, Problem> {
    let given = Given { filter, path };
    let not = |sql: Sql| Sql::new("NOT ").append(&sql);
    match filter.operator {
        Operator::IsSet => return Ok(Some(property.is_set())),
        Operator::IsNotSet => return Ok(Some(not(property.is_set()))),
        _ => {}
    }
    let values = given.values()?;
    if values.is_empty() {
        return Ok(None);
    }
    let text = property.text();
    // Of a missing value every comparison is NULL.
    let any = |each: Vec<Sql>| Sql::new("ifNull(").join(" OR ", &each).push(", false)");
    let condition = match filter.operator {
        Operator::IsSet | Operator::IsNotSet => property.is_set(),
        Operator::Exact | Operator::In => any(equal(property, &values)),
        Operator::IsNot | Operator::NotIn => not(any(equal(property, &values))),
        Operator::Icontains => any(values.iter().map(|value| contains(&text, &value.text)).collect()),
        Operator::NotIcontains => not(any(values.iter().map(|value| contains(&text, &value.text)).collect())),
        Operator::Regex => any(given.matches(&text, &values)?),
        Operator::NotRegex => not(any(given.matches(&text, &values)?)),
        Operator::Gt => compared(property, " > ", given.number(&values)?),
        Operator::Gte => compared(property, " >= ", given.number(&values)?),
        Operator::Lt => compared(property, " < ", given.number(&values)?),
        Operator::Lte => compared(property, " <= ", given.number(&values)?),
        Operator::Between | Operator::NotBetween => {
            let (low, high) = given.ends(&values)?;
            let inside = Sql::new("").append(&property.number()).push(" BETWEEN ").arg(low);
            let inside = inside.push(" AND ").arg(high);
            match filter.operator {
                Operator::Between => any(vec![inside]),
                _ => any(vec![Sql::new("NOT (").append(&inside).push(")")]),
            }
        }
        Operator::IsDateExact | Operator::IsDateBefore | Operator::IsDateAfter => {
            any(vec![given.dated(&text, &values, ground)?])
        }
        Operator::IsCleanedPathExact => {
            let cleaned = values.iter().map(|value| cleaned(&value.text));
            any(vec![cleaned_sql(&text).push(" IN ").list(cleaned)])
        }
        Operator::SemverNeq => not(given.version(&text, &values)?),
        _ => given.version(&text, &values)?,
    };
    Ok(Some(condition))
}

/// What a filter gives, to be held against a property.
struct Given<'a> {
    filter: &'a Filter,
    path: &'a str,
}

impl Given<'_> {
    fn values(&self) -> Result<Vec<Plain>, Problem> {
        let given = match &self.filter.value {
            Value::Null => return Ok(Vec::new()),
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        if given.len() > VALUES_MAX {
            return Err(self.refused("at most 1000 values"));
        }
        given
            .iter()
            .map(|value| {
                Plain::of(value).ok_or_else(|| self.refused("text, a number, a boolean or a list of them"))
            })
            .collect()
    }

    fn one<'v>(&self, values: &'v [Plain], expected: &str) -> Result<&'v Plain, Problem> {
        match values {
            [one] => Ok(one),
            _ => Err(self.refused(expected)),
        }
    }

    fn number(&self, values: &[Plain]) -> Result<f64, Problem> {
        self.one(values, "one number")?.as_number().ok_or_else(|| self.refused("one number"))
    }

    fn ends(&self, values: &[Plain]) -> Result<(f64, f64), Problem> {
        let expected = "two numbers, the smaller one first";
        match values {
            [low, high] => match (low.as_number(), high.as_number()) {
                (Some(low), Some(high)) if low <= high => Ok((low, high)),
                _ => Err(self.refused(expected)),
            },
            _ => Err(self.refused(expected)),
        }
    }

    fn matches(&self, text: &Sql, patterns: &[Plain]) -> Result<Vec<Sql>, Problem> {
        let field = format!("{}.value", self.path);
        patterns
            .iter()
            .map(|pattern| {
                if pattern.text.len() > REGEX_BYTES_MAX {
                    let message =
                        format!("{field} is a regular expression of more than {REGEX_BYTES_MAX} bytes");
                    return Err(Problem::invalid(&field, message).with("max", REGEX_BYTES_MAX));
                }
                Ok(Sql::new("match(").append(text).push(", ").arg(&pattern.text).push(")"))
            })
            .collect()
    }

    /// Before, on or after a day, or before, at or after a moment. A moment that is counted from now is exact to its
    /// day.
    fn dated(&self, text: &Sql, values: &[Plain], ground: &Ground<'_>) -> Result<Sql, Problem> {
        let field = format!("{}.value", self.path);
        let value = self.one(values, "one date")?;
        let operator = self.filter.operator;
        let (first, end) = match range::parse(&field, &value.text, ground.calendar, ground.now)? {
            Moment::Relative(at) if operator != Operator::IsDateExact => (at, at.plus(MILLISECOND)),
            Moment::Exact(at) => (at, at.plus(MILLISECOND)),
            Moment::Day(date) => {
                let start = ground.calendar.start_of_day(date);
                (start, ground.calendar.next(Interval::Day, start))
            }
            Moment::Relative(at) => {
                (ground.calendar.floor(Interval::Day, at), ground.calendar.next(Interval::Day, at))
            }
        };
        // A date without an offset is one by the question's clocks.
        let at = Sql::new("toUnixTimestamp64Milli(parseDateTime64BestEffortOrNull(")
            .append(text)
            .push(", 3, ")
            .arg(ground.calendar.zone.name())
            .push("))");
        Ok(match operator {
            Operator::IsDateBefore => at.push(" < ").arg(first.as_millis()),
            Operator::IsDateAfter => at.push(" >= ").arg(end.as_millis()),
            _ => {
                let begun = Sql::new("").append(&at).push(" >= ").arg(first.as_millis());
                begun.push(" AND ").append(&at).push(" < ").arg(end.as_millis())
            }
        })
    }

    fn version(&self, text: &Sql, values: &[Plain]) -> Result<Sql, Problem> {
        let expected = "one version such as 1.2.3";
        let value = self.one(values, expected)?;
        semver::condition(self.filter.operator, text, &value.text).ok_or_else(|| self.refused(expected))
    }

    fn refused(&self, expected: &str) -> Problem {
        let field = format!("{}.value", self.path);
        let shown: String = self.filter.value.to_string().chars().take(200).collect();
        let operator = serde_json::to_value(self.filter.operator).unwrap_or_default();
        let operator = operator.as_str().unwrap_or_default();
        Problem::invalid(&field, format!("{field} is {shown}; {operator} takes {expected}"))
            .with("given", shown)
    }
}

const MILLISECOND: std::time::Duration = std::time::Duration::from_millis(1);

/// A value as it is compared.
struct Plain {
    text: String,
    number: Option<f64>,
}

impl Plain {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self { text: text.clone(), number: None }),
            Value::Bool(truth) => Some(Self { text: truth.to_string(), number: None }),
            Value::Number(number) => Some(Self { text: number.to_string(), number: number.as_f64() }),
            _ => None,
        }
    }

    /// A number, or a text that is one.
    fn as_number(&self) -> Option<f64> {
        self.number.or_else(|| self.text.trim().parse().ok()).filter(|number| number.is_finite())
    }
}

fn equal(property: &Property, values: &[Plain]) -> Vec<Sql> {
    let texts =
        Sql::new("").append(&property.text()).push(" IN ").list(values.iter().map(|value| &value.text));
    let mut each = vec![texts];
    let numbers: Vec<f64> = values.iter().filter_map(|value| value.number).collect();
    if !numbers.is_empty() {
        each.push(Sql::new("ifNull(").append(&property.number()).push(" IN ").list(numbers).push(", false)"));
    }
    each
}

fn compared(property: &Property, operator: &'static str, number: f64) -> Sql {
    Sql::new("ifNull(").append(&property.number()).push(operator).arg(number).push(", false)")
}

fn contains(text: &Sql, part: &str) -> Sql {
    Sql::new("positionCaseInsensitiveUTF8(").append(text).push(", ").arg(part).push(") > 0")
}

/// A path without its query, its fragment and a last slash, as [`cleaned`] makes it.
pub(in crate::query) fn cleaned_sql(text: &Sql) -> Sql {
    Sql::new(r"replaceRegexpOne(replaceRegexpOne(")
        .append(text)
        .push(r", '(?s)[?#].*$', ''), '(?s)(.)/$', '\\1')")
}

fn cleaned(text: &str) -> String {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    match path.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter.to_owned(),
        _ => path.to_owned(),
    }
}
