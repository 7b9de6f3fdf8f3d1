//! Values of expressions: what a path, a function or an operator gives. Numbers are exact decimals, kept as text until
//! somebody counts with them.

use std::borrow::Cow;
use std::cmp::Ordering;

use bigdecimal::{BigDecimal, RoundingMode, ToPrimitive as _, Zero as _};

use super::json::Json;
use crate::event::Timestamp;

/// Longest number that is counted with, in characters, and its largest exponent: sums stay small.
const NUMBER_CHARS_MAX: usize = 60;
const EXPONENT_MAX: i64 = 60;
/// Digits behind the point of a quotient.
const QUOTIENT_DIGITS: i64 = 18;

/// See the [module](self).
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value<'a> {
    /// There is nothing at this path.
    Missing,
    Null,
    Bool(bool),
    /// As it is written.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    Time(Timestamp),
    /// An array or an object.
    Json(&'a Json<'a>),
}

/// An expression cannot be computed for this payload; says why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault(pub(super) String);

pub(super) type Computed<'a> = Result<Value<'a>, Fault>;

impl<'a> From<&'a Json<'a>> for Value<'a> {
    fn from(json: &'a Json<'a>) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(text) => Self::Number(Cow::Borrowed(text)),
            Json::Text(text) => Self::Text(Cow::Borrowed(text)),
            json @ (Json::Array { .. } | Json::Object { .. }) => Self::Json(json),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    /// What sort of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Time(_) => "a time",
            Self::Json(json) => json.kind(),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Missing | Self::Null)
    }

    /// Nothing, or a text with nothing in it but white space.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            other => other.is_nothing(),
        }
    }

    /// As a text: numbers as they are written, times in RFC 3339, arrays and objects as their JSON; null is "".
    pub(super) fn into_text(self) -> Option<Cow<'a, str>> {
        Some(match self {
            Self::Missing => return None,
            Self::Null => Cow::Borrowed(""),
            Self::Bool(true) => Cow::Borrowed("true"),
            Self::Bool(false) => Cow::Borrowed("false"),
            Self::Number(text) | Self::Text(text) => text,
            Self::Time(at) => Cow::Owned(at.to_string()),
            Self::Json(Json::Array { raw, .. } | Json::Object { raw, .. }) => Cow::Borrowed(*raw),
            Self::Json(_) => Cow::Borrowed(""),
        })
    }

    /// Is this condition true? Nothing is not.
    pub(super) fn truth(&self) -> Result<bool, Fault> {
        match self {
            Self::Bool(value) => Ok(*value),
            Self::Missing | Self::Null => Ok(false),
            other => Err(Fault(format!("{} is no condition", other.kind()))),
        }
    }

    /// As a number that can be counted with.
    pub(super) fn number(&self) -> Result<Number, Fault> {
        match self {
            Self::Number(text) => {
                Number::of(text).ok_or_else(|| Fault(format!("{} is too long a number", shown(text))))
            }
            Self::Text(text) => {
                Number::of(text.trim()).ok_or_else(|| Fault(format!("{} is no number", shown(text))))
            }
            other => Err(Fault(format!("{} is no number", other.kind()))),
        }
    }

    /// The order of two values; none if they cannot be compared.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(_), Self::Number(_)) => self.number().ok()?.compare(&other.number().ok()?),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (a, b) if a.is_nothing() && b.is_nothing() => Some(Ordering::Equal),
            _ => None,
        }
    }
}

/// What was found, cut to a length that a message can bear.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// A decimal; whole ones of 18 digits without any allocation.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Number {
    Whole(i64),
    Decimal(BigDecimal),
}

impl Number {
    pub(super) fn of(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.len() <= 18 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().map(Self::Whole);
        }
        if text.len() > NUMBER_CHARS_MAX {
            return None;
        }
        if let Some((_, exponent)) = text.split_once(['e', 'E'])
            && !exponent.parse::<i64>().is_ok_and(|exponent| exponent.abs() <= EXPONENT_MAX)
        {
            return None;
        }
        text.parse().ok().map(Self::Decimal)
    }

    fn decimal(&self) -> BigDecimal {
        match self {
            Self::Whole(whole) => (*whole).into(),
            Self::Decimal(decimal) => decimal.clone(),
        }
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(b),
            (a, b) => a.decimal().cmp(&b.decimal()),
        })
    }

    pub(super) fn add(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => {
                a.checked_add(*b).map_or_else(|| Self::Decimal(self.decimal() + other.decimal()), Self::Whole)
            }
            (a, b) => Self::Decimal(a.decimal() + b.decimal()),
        }
    }

    pub(super) fn negate(&self) -> Self {
        match self {
            Self::Whole(whole) => {
                whole.checked_neg().map_or_else(|| Self::Decimal(-self.decimal()), Self::Whole)
            }
            Self::Decimal(decimal) => Self::Decimal(-decimal),
        }
    }

    pub(super) fn multiply(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => {
                a.checked_mul(*b).map_or_else(|| Self::Decimal(self.decimal() * other.decimal()), Self::Whole)
            }
            (a, b) => Self::Decimal(a.decimal() * b.decimal()),
        }
    }

    pub(super) fn divide(&self, other: &Self) -> Result<Self, Fault> {
        let by = other.decimal();
        if by.is_zero() {
            return Err(Fault("a division by zero".to_owned()));
        }
        let quotient = self.decimal() / by;
        Ok(Self::Decimal(quotient.with_scale_round(QUOTIENT_DIGITS, RoundingMode::HalfEven)))
    }

    pub(super) fn remainder(&self, other: &Self) -> Result<Self, Fault> {
        let by = other.decimal();
        if by.is_zero() {
            return Err(Fault("a division by zero".to_owned()));
        }
        Ok(match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => Self::Whole(a.wrapping_rem(*b)),
            (a, _) => Self::Decimal(a.decimal() % by),
        })
    }

    /// At most this many digits behind the point.
    pub(super) fn rounded(&self, digits: i64, mode: RoundingMode) -> Self {
        match self {
            Self::Whole(whole) => Self::Whole(*whole),
            Self::Decimal(decimal) if decimal.fractional_digit_count() <= digits => self.clone(),
            Self::Decimal(decimal) => Self::Decimal(decimal.with_scale_round(digits, mode)),
        }
    }

    /// The whole number towards zero.
    pub(super) fn truncated(&self) -> Self {
        let whole = self.rounded(0, RoundingMode::Down);
        match whole.decimal().to_i64() {
            Some(small) => Self::Whole(small),
            None => whole,
        }
    }

    pub(super) fn is_less(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Less)
    }

    /// Without an exponent and without zeros at its end.
    pub(super) fn into_value<'a>(self) -> Result<Value<'a>, Fault> {
        let text = match self {
            Self::Whole(whole) => whole.to_string(),
            Self::Decimal(decimal) => {
                if decimal.digits() > 120 || decimal.fractional_digit_count().abs() > 120 {
                    return Err(Fault("a number has more than 120 digits".to_owned()));
                }
                decimal.normalized().to_plain_string()
            }
        };
        Ok(Value::Number(Cow::Owned(text)))
    }

    pub(super) fn to_i64(&self) -> Option<i64> {
        match self {
            Self::Whole(whole) => Some(*whole),
            Self::Decimal(decimal) => decimal.to_i64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::of(text).unwrap()
    }

    fn written(number: Number) -> String {
        number.into_value().unwrap().into_text().unwrap().into_owned()
    }

    #[test]
    fn decimals_are_exact_and_written_plainly() {
        assert_eq!(written(number("0.1").add(&number("0.2"))), "0.3");
        assert_eq!(written(number("150").multiply(&number("3"))), "450");
        assert_eq!(written(number("1e3").add(&number("1"))), "1001");
        assert_eq!(written(number("9223372036854775807").add(&number("1"))), "9223372036854775808");
        assert_eq!(written(number("1").divide(&number("3")).unwrap()), "0.333333333333333333");
        assert_eq!(written(number("-7.9").truncated()), "-7");
    }

    #[test]
    fn a_number_that_would_grow_without_bound_is_refused() {
        assert_eq!(Number::of("1e1000000000"), None);
        assert_eq!(Number::of(&"9".repeat(100)), None);
        assert_eq!(Number::of(""), None);
        assert_eq!(Number::of("-"), None);
        assert!(number("1").divide(&number("0.0")).is_err());
    }
}
