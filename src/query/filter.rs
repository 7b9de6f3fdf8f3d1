//! Filters on properties: typed, checked, then one condition of a statement.
//!
//! A property that an event does not have, and one that is `null`, are both *missing*: `is_not`, `not_icontains` and
//! `not_regex` are true for a missing property, everything else but `is_not_set` is false. Text and numbers meet by how
//! they are written: `exact` 10 finds `10`, `10.0` and `"10"`; `exact` "true" finds `true`. A filter with an operator
//! that needs a value but without one is incomplete and true for every event.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::Problem;
use crate::store::{Property, Sql};

/// One condition on a property, as it is sent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The property's name.
    pub key: String,
    #[serde(default)]
    pub operator: Operator,
    /// Text, number or boolean; with `exact`, `is_not`, `icontains`, `not_icontains`, `regex` and `not_regex` also a
    /// list of them, any of which may match.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// Whose property; events' are the only ones.
    #[serde(rename = "type", default)]
    pub kind: PropertyKind,
}

/// Whose property it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PropertyKind {
    #[default]
    Event,
}

/// How a property is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    #[default]
    Exact,
    IsNot,
    Icontains,
    NotIcontains,
    Regex,
    NotRegex,
    Gt,
    Gte,
    Lt,
    Lte,
    IsSet,
    IsNotSet,
}

/// Longest name of a property that is looked up, in bytes.
const KEY_BYTES_MAX: usize = 400;
/// Longest regular expression, in bytes: matching takes linear time in it.
const REGEX_BYTES_MAX: usize = 1000;
/// Most values in one filter.
const VALUES_MAX: usize = 1000;

/// The conditions of all filters; `path` names their place in the request.
///
/// # Errors
/// 400: more than `filters_max`, or one that cannot be meant.
pub(super) fn conditions(filters: &[Filter], path: &str, filters_max: usize) -> Result<Vec<Sql>, Problem> {
    if filters.len() > filters_max {
        let message =
            format!("{path} has {} filters, more than {filters_max} (query.filters_max)", filters.len());
        return Err(Problem::invalid(path, message)
            .with("max", filters_max)
            .with("setting", "query.filters_max"));
    }
    let each =
        filters.iter().enumerate().map(|(index, filter)| filter.condition(&format!("{path}[{index}]")));
    each.filter_map(Result::transpose).collect()
}

/// Refuses names of properties that no event can have.
///
/// # Errors
/// 400.
pub(super) fn check_key(field: &str, key: &str) -> Result<(), Problem> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let message = format!("{field} must be a property's name of 1 to {KEY_BYTES_MAX} bytes");
        return Err(Problem::invalid(field, message).with("max", KEY_BYTES_MAX));
    }
    Ok(())
}

impl Filter {
    /// The condition; none where every event passes.
    fn condition(&self, path: &str) -> Result<Option<Sql>, Problem> {
        check_key(&format!("{path}.key"), &self.key)?;
        let property = Property::new(&self.key);
        let set = || property.is_set();
        if matches!(self.operator, Operator::IsSet) {
            return Ok(Some(set()));
        }
        if matches!(self.operator, Operator::IsNotSet) {
            return Ok(Some(Sql::new("NOT ").append(&set())));
        }
        let values = self.values(path)?;
        if values.is_empty() {
            return Ok(None);
        }
        let text = property.text();
        // Of a missing property every comparison is NULL.
        let any = |each: Vec<Sql>| Sql::new("ifNull(").join(" OR ", &each).push(", false)");
        let not = |sql: Sql| Sql::new("NOT ").append(&sql);
        let condition = match self.operator {
            Operator::Exact => any(Self::equal(&property, &values)),
            Operator::IsNot => not(any(Self::equal(&property, &values))),
            Operator::Icontains | Operator::NotIcontains => {
                let each = values.iter().map(|value| contains(&text, value.as_text())).collect();
                if self.operator == Operator::Icontains { any(each) } else { not(any(each)) }
            }
            Operator::Regex | Operator::NotRegex => {
                let each =
                    values.iter().map(|value| matches(&text, value, path)).collect::<Result<_, _>>()?;
                if self.operator == Operator::Regex { any(each) } else { not(any(each)) }
            }
            Operator::Gt => self.compared(&property, " > ", &values, path)?,
            Operator::Gte => self.compared(&property, " >= ", &values, path)?,
            Operator::Lt => self.compared(&property, " < ", &values, path)?,
            Operator::Lte => self.compared(&property, " <= ", &values, path)?,
            Operator::IsSet | Operator::IsNotSet => set(),
        };
        Ok(Some(condition))
    }

    fn equal(property: &Property, values: &[Plain]) -> Vec<Sql> {
        let texts =
            Sql::new("").append(&property.text()).push(" IN ").list(values.iter().map(Plain::as_text));
        let mut each = vec![texts];
        let numbers: Vec<f64> = values.iter().filter_map(|value| value.number).collect();
        if !numbers.is_empty() {
            each.push(
                Sql::new("ifNull(").append(&property.number()).push(" IN ").list(numbers).push(", false)"),
            );
        }
        each
    }

    fn compared(
        &self,
        property: &Property,
        operator: &'static str,
        values: &[Plain],
        path: &str,
    ) -> Result<Sql, Problem> {
        let number = match values {
            [one] => one.number.or_else(|| one.text.trim().parse().ok()).filter(|number| number.is_finite()),
            _ => None,
        };
        let Some(number) = number else {
            return Err(self.refused(path, "one number"));
        };
        Ok(Sql::new("ifNull(").append(&property.number()).push(operator).arg(number).push(", false)"))
    }

    fn values(&self, path: &str) -> Result<Vec<Plain>, Problem> {
        let given = match &self.value {
            Value::Null => return Ok(Vec::new()),
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        if given.len() > VALUES_MAX {
            return Err(self.refused(path, "at most 1000 values"));
        }
        given
            .iter()
            .map(|value| {
                Plain::of(value)
                    .ok_or_else(|| self.refused(path, "text, a number, a boolean or a list of them"))
            })
            .collect()
    }

    fn refused(&self, path: &str, expected: &str) -> Problem {
        let field = format!("{path}.value");
        let shown: String = self.value.to_string().chars().take(200).collect();
        let operator = serde_json::to_value(self.operator).unwrap_or_default();
        let operator = operator.as_str().unwrap_or_default();
        Problem::invalid(&field, format!("{field} is {shown}; {operator} takes {expected}"))
            .with("given", shown)
    }
}

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

    fn as_text(&self) -> &str {
        &self.text
    }
}

fn contains(text: &Sql, part: &str) -> Sql {
    Sql::new("positionCaseInsensitiveUTF8(").append(text).push(", ").arg(part).push(") > 0")
}

fn matches(text: &Sql, pattern: &Plain, path: &str) -> Result<Sql, Problem> {
    if pattern.text.len() > REGEX_BYTES_MAX {
        let field = format!("{path}.value");
        let message = format!("{field} is a regular expression of more than {REGEX_BYTES_MAX} bytes");
        return Err(Problem::invalid(&field, message).with("max", REGEX_BYTES_MAX));
    }
    Ok(Sql::new("match(").append(text).push(", ").arg(&pattern.text).push(")"))
}
