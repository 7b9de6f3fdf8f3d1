//! The functions of expressions, and how expressions are computed. Deterministic, and bounded: every value costs fuel.

use std::borrow::Cow;

use bigdecimal::RoundingMode;
use chrono::{NaiveDate, NaiveDateTime};
use sha2::{Digest, Sha256};

use super::expression::{Expression, Operator, Step};
use super::json::Json;
use super::value::{Computed, Fault, Number, Value, shown};
use crate::event::Timestamp;

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $least:literal..=$most:expr;)+) => {
        /// A function of expressions.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Function {
            $($(#[$doc])* $name,)+
        }

        impl Function {
            /// Every function.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// How it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Fewest and most arguments.
            pub(super) const fn arguments(self) -> (usize, usize) {
                match self { $(Self::$name => ($least, $most),)+ }
            }

            /// The function of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|function| function.as_str() == name)
            }
        }
    };
}

/// Arguments of a function that takes as many as one likes.
const MANY: usize = 50;

functions! {
    /// The value as a text: numbers as they are written, arrays and objects as JSON, null as "".
    Text = "text", 1..=1;
    /// The value as a number; a text that is none is an error.
    Number = "number", 1..=1;
    /// The value as a number, or the second one where it is none.
    NumberOr = "number_or", 2..=2;
    /// The whole part of a number.
    Integer = "integer", 1..=1;
    /// The whole part of a number, or the second value where it is none.
    IntegerOr = "integer_or", 2..=2;
    /// true and false, also as texts.
    Boolean = "boolean", 1..=1;
    /// RFC 3339, or as the second argument says: 'unix', 'unix_ms', or a format such as '%d.%m.%Y %H:%M' (in UTC).
    Time = "time", 1..=2;
    /// In small letters.
    Lower = "lower", 1..=1;
    /// In capitals.
    Upper = "upper", 1..=1;
    /// Without white space around it.
    Trim = "trim", 1..=1;
    /// The texts of the arguments joined; what is missing is left out.
    Concat = "concat", 1..=MANY;
    /// Every place of the second text in the first replaced by the third.
    Replace = "replace", 3..=3;
    /// The part with this number (from 0; -1 is the last) of a text that is split at the second one.
    Split = "split", 3..=3;
    /// Characters of a text from a place on (from 0), at most so many.
    Substring = "substring", 2..=3;
    /// Characters of a text, elements of an array, keys of an object.
    Length = "length", 1..=1;
    /// Has the text this in it? Has the array this element?
    Contains = "contains", 2..=2;
    StartsWith = "starts_with", 2..=2;
    EndsWith = "ends_with", 2..=2;
    /// The first that is not missing, null or a text with nothing in it.
    First = "first", 1..=MANY;
    /// The first that is not missing or null.
    Default = "default", 1..=MANY;
    /// The second if the first holds, else the third (or nothing).
    If = "if", 2..=3;
    /// Is there something other than null?
    Present = "present", 1..=1;
    /// Is it missing, null or a text with nothing in it?
    Empty = "empty", 1..=1;
    /// An object's `value` if it has one, else the argument itself.
    Plain = "plain", 1..=1;
    /// A text of 32 digits that stands for the arguments: the same ones, the same text.
    Hash = "hash", 1..=MANY;
    /// To so many digits behind the point (0), halves to the even neighbour.
    Round = "round", 1..=2;
    Floor = "floor", 1..=1;
    Ceil = "ceil", 1..=1;
    Abs = "abs", 1..=1;
    Least = "least", 1..=MANY;
    Greatest = "greatest", 1..=MANY;
    /// What sort of value it is: text, number, boolean, time, array, object, null or missing.
    Type = "type", 1..=1;
}

/// One payload on its way through a transform.
pub(super) struct Run<'a> {
    pub(super) payload: &'a Json<'a>,
    pub(super) defined: Vec<Value<'a>>,
    /// Where `each` is.
    pub(super) item: Option<(usize, &'a Json<'a>)>,
    /// Parts computed and bytes of texts made, that are still allowed.
    pub(super) fuel: usize,
}

impl<'a> Run<'a> {
    /// Takes fuel for a value of so many bytes.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.fuel = self.fuel.checked_sub(1 + bytes).ok_or_else(|| {
            Fault("the transform does more for it than transform.work_max allows".to_owned())
        })?;
        Ok(())
    }

    /// A text that was made, paid for.
    fn made(&mut self, text: impl Into<Cow<'a, str>>) -> Computed<'a> {
        let text = text.into();
        if let Cow::Owned(text) = &text {
            self.spend(text.len())?;
        }
        Ok(Value::Text(text))
    }

    /// Computes an expression.
    pub(super) fn compute(&mut self, expression: &'a Expression) -> Computed<'a> {
        self.spend(0)?;
        Ok(match expression {
            Expression::Text(text) => Value::text(text.as_str()),
            Expression::Number(text) => Value::Number(text.as_str().into()),
            Expression::Bool(value) => Value::Bool(*value),
            Expression::Null => Value::Null,
            Expression::Path(steps) => at(self.payload, steps),
            Expression::Defined(place, steps) => match self.defined.get(*place) {
                None => Value::Missing,
                Some(value) if steps.is_empty() => value.clone(),
                Some(Value::Json(json)) => at(json, steps),
                Some(_) => Value::Missing,
            },
            Expression::Item(steps) => self.item.map_or(Value::Missing, |(_, item)| at(item, steps)),
            Expression::Index => {
                self.item.map_or(Value::Missing, |(index, _)| Value::Number(index.to_string().into()))
            }
            Expression::Call(function, given) => return self.call(*function, given),
            Expression::Binary(operator, left, right) => return self.binary(*operator, left, right),
            Expression::Not(inner) => Value::Bool(!self.compute(inner)?.truth()?),
            Expression::Negated(inner) => match self.compute(inner)? {
                nothing if nothing.is_nothing() => nothing,
                value => value.number()?.negate().into_value()?,
            },
        })
    }

    fn binary(&mut self, operator: Operator, left: &'a Expression, right: &'a Expression) -> Computed<'a> {
        let a = self.compute(left)?;
        match operator {
            Operator::And if !a.truth()? => return Ok(Value::Bool(false)),
            Operator::Or if a.truth()? => return Ok(Value::Bool(true)),
            _ => {}
        }
        let b = self.compute(right)?;
        let ordered = |holds: fn(std::cmp::Ordering) -> bool| match a.compare(&b) {
            Some(order) => Ok(Value::Bool(holds(order))),
            None if a.is_nothing() || b.is_nothing() => Ok(Value::Bool(false)),
            None => Err(Fault(format!("{} cannot be compared with {}", a.kind(), b.kind()))),
        };
        match operator {
            Operator::And | Operator::Or => Ok(Value::Bool(b.truth()?)),
            Operator::Equal => Ok(Value::Bool(a.compare(&b).is_some_and(std::cmp::Ordering::is_eq))),
            Operator::Unequal => Ok(Value::Bool(!a.compare(&b).is_some_and(std::cmp::Ordering::is_eq))),
            Operator::Less => ordered(std::cmp::Ordering::is_lt),
            Operator::LessOrEqual => ordered(std::cmp::Ordering::is_le),
            Operator::Greater => ordered(std::cmp::Ordering::is_gt),
            Operator::GreaterOrEqual => ordered(std::cmp::Ordering::is_ge),
            // What is missing makes the whole missing: nothing is taken for 0.
            _ if a.is_nothing() || b.is_nothing() => Ok(Value::Missing),
            Operator::Plus => a.number()?.add(&b.number()?).into_value(),
            Operator::Minus => a.number()?.add(&b.number()?.negate()).into_value(),
            Operator::Times => a.number()?.multiply(&b.number()?).into_value(),
            Operator::By => a.number()?.divide(&b.number()?)?.into_value(),
            Operator::Modulo => a.number()?.remainder(&b.number()?)?.into_value(),
        }
    }

    fn call(&mut self, function: Function, given: &'a [Expression]) -> Computed<'a> {
        // Those that look at no more arguments than they need, or at missing ones.
        match function {
            Function::If => {
                let holds = self.compute(&given[0])?.truth()?;
                return match given.get(if holds { 1 } else { 2 }) {
                    Some(chosen) => self.compute(chosen),
                    None => Ok(Value::Missing),
                };
            }
            Function::First | Function::Default => {
                for expression in given {
                    let value = self.compute(expression)?;
                    let passed_over =
                        if function == Function::First { value.is_empty() } else { value.is_nothing() };
                    if !passed_over {
                        return Ok(value);
                    }
                }
                return Ok(Value::Missing);
            }
            Function::Concat => return self.concat(given),
            Function::Hash => return self.hash(given),
            Function::Least | Function::Greatest => return self.extreme(function, given),
            _ => {}
        }
        let value = self.compute(&given[0])?;
        match function {
            Function::Present => return Ok(Value::Bool(!value.is_nothing())),
            Function::Empty => return Ok(Value::Bool(value.is_empty())),
            Function::Type => return Ok(Value::text(kind(&value))),
            Function::Text => {
                return Ok(value.into_text().map_or(Value::Missing, Value::Text));
            }
            Function::NumberOr | Function::IntegerOr => {
                return match value.number() {
                    Ok(number) if function == Function::IntegerOr => number.truncated().into_value(),
                    Ok(number) => number.into_value(),
                    Err(_) => self.compute(&given[1]),
                };
            }
            _ if value.is_nothing() => return Ok(Value::Missing),
            _ => {}
        }
        match function {
            Function::Number
            | Function::Integer
            | Function::Round
            | Function::Floor
            | Function::Ceil
            | Function::Abs => self.arithmetic(function, &value, given.get(1)),
            Function::Boolean => boolean(&value),
            Function::Plain => Ok(plain(value)),
            Function::Length => length(&value),
            Function::Time => {
                let format = given.get(1).map(|format| self.compute(format)).transpose()?;
                time(&value, format.as_ref()).map(Value::Time)
            }
            Function::Contains => self.contains(&value, &given[1]),
            _ => self.of_text(function, value, given),
        }
    }

    fn arithmetic(
        &mut self,
        function: Function,
        value: &Value<'a>,
        digits: Option<&'a Expression>,
    ) -> Computed<'a> {
        // A number keeps its text.
        if function == Function::Number && matches!(value, Value::Number(_)) {
            return Ok(value.clone());
        }
        let number = value.number()?;
        match function {
            Function::Integer => number.truncated(),
            Function::Floor => number.rounded(0, RoundingMode::Floor),
            Function::Ceil => number.rounded(0, RoundingMode::Ceiling),
            Function::Abs if number.is_less(&Number::Whole(0)) => number.negate(),
            Function::Round => {
                let digits = match digits {
                    Some(digits) => self.compute(digits)?.number()?.to_i64().unwrap_or(-1),
                    None => 0,
                };
                if !(0..=18).contains(&digits) {
                    return Err(Fault(format!("round takes 0 to 18 digits, given {digits}")));
                }
                number.rounded(digits, RoundingMode::HalfEven)
            }
            _ => number,
        }
        .into_value()
    }

    fn contains(&mut self, value: &Value<'a>, needle: &'a Expression) -> Computed<'a> {
        let needle = self.compute(needle)?;
        Ok(Value::Bool(match value {
            Value::Json(Json::Array { items, .. }) => {
                self.spend(items.len())?;
                items
                    .iter()
                    .any(|item| Value::from(item).compare(&needle).is_some_and(std::cmp::Ordering::is_eq))
            }
            value => want_text(value.clone())?.contains(&*want_text(needle)?),
        }))
    }

    fn of_text(&mut self, function: Function, value: Value<'a>, given: &'a [Expression]) -> Computed<'a> {
        let text = want_text(value)?;
        let mut more = [Value::Missing, Value::Missing];
        for (value, expression) in more.iter_mut().zip(given.iter().skip(1)) {
            *value = self.compute(expression)?;
        }
        let [second, third] = more;
        match function {
            Function::Lower if text.chars().all(|c| c.is_ascii() && !c.is_ascii_uppercase()) => {
                Ok(Value::Text(text))
            }
            Function::Lower => self.made(text.to_lowercase()),
            Function::Upper => self.made(text.to_uppercase()),
            Function::Trim => Ok(Value::Text(match text {
                Cow::Borrowed(text) => text.trim().into(),
                Cow::Owned(text) => text.trim().to_owned().into(),
            })),
            Function::StartsWith => Ok(Value::Bool(text.starts_with(&*want_text(second)?))),
            Function::EndsWith => Ok(Value::Bool(text.ends_with(&*want_text(second)?))),
            Function::Replace => {
                let (from, to) = (want_text(second)?, want_text(third)?);
                if from.is_empty() {
                    return Err(Fault("replace cannot look for an empty text".to_owned()));
                }
                self.spend(text.len() / from.len() * to.len())?;
                self.made(text.replace(&*from, &to))
            }
            Function::Split => {
                let (at, place) = (want_text(second)?, place(&third)?);
                if at.is_empty() {
                    return Err(Fault("split cannot split at an empty text".to_owned()));
                }
                let part = if place < 0 {
                    text.rsplit(&*at).nth(usize::try_from(-1 - place).unwrap_or(usize::MAX))
                } else {
                    text.split(&*at).nth(usize::try_from(place).unwrap_or(usize::MAX))
                };
                part.map_or(Ok(Value::Missing), |part| self.made(part.to_owned()))
            }
            _ => {
                let from = usize::try_from(place(&second)?).unwrap_or(0);
                let most = if third == Value::Missing {
                    usize::MAX
                } else {
                    usize::try_from(place(&third)?).unwrap_or(0)
                };
                self.made(text.chars().skip(from).take(most).collect::<String>())
            }
        }
    }

    fn concat(&mut self, given: &'a [Expression]) -> Computed<'a> {
        let mut joined = String::new();
        for expression in given {
            let value = self.compute(expression)?;
            if let Some(text) = value.into_text() {
                self.spend(text.len())?;
                joined.push_str(&text);
            }
        }
        Ok(Value::Text(joined.into()))
    }

    fn hash(&mut self, given: &'a [Expression]) -> Computed<'a> {
        let mut hash = Sha256::new();
        for expression in given {
            let value = self.compute(expression)?;
            let text = value.into_text().unwrap_or_default();
            self.spend(text.len())?;
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        let digest = hash.finalize();
        Ok(Value::Text(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()))
    }

    /// The least or the greatest number of those that are there.
    fn extreme(&mut self, function: Function, given: &'a [Expression]) -> Computed<'a> {
        let mut found: Option<Number> = None;
        for expression in given {
            let value = self.compute(expression)?;
            if value.is_nothing() {
                continue;
            }
            let number = value.number()?;
            let better = found.as_ref().is_none_or(|found| match function {
                Function::Least => number.is_less(found),
                _ => found.is_less(&number),
            });
            if better {
                found = Some(number);
            }
        }
        found.map_or(Ok(Value::Missing), Number::into_value)
    }
}

/// What stands at a path.
pub(super) fn at<'a>(from: &'a Json<'a>, steps: &[Step]) -> Value<'a> {
    let mut now = from;
    for step in steps {
        let next = match (step, now) {
            (Step::Key(key), json) => json.get(key),
            (Step::Place(place), Json::Array { items, .. }) => items.get(*place),
            (Step::Place(_), _) => None,
        };
        match next {
            Some(next) => now = next,
            None => return Value::Missing,
        }
    }
    Value::from(now)
}

/// An object's `value`, or the value itself.
pub(super) fn plain(value: Value<'_>) -> Value<'_> {
    match &value {
        Value::Json(json) => json.get("value").map_or(value.clone(), Value::from),
        _ => value,
    }
}

fn want_text(value: Value<'_>) -> Result<Cow<'_, str>, Fault> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(Fault(format!("{} where a text is needed", other.kind()))),
    }
}

fn place(value: &Value<'_>) -> Result<i64, Fault> {
    value.number()?.to_i64().ok_or_else(|| Fault("a place is too large a number".to_owned()))
}

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Missing => "missing",
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::Text(_) => "text",
        Value::Time(_) => "time",
        Value::Json(Json::Array { .. }) => "array",
        Value::Json(_) => "object",
    }
}

fn boolean<'a>(value: &Value<'a>) -> Computed<'a> {
    match value {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        Value::Text(text) if text.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
        Value::Text(text) if text.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
        Value::Text(text) => Err(Fault(format!("{} is neither true nor false", shown(text)))),
        other => Err(Fault(format!("{} is neither true nor false", other.kind()))),
    }
}

fn length<'a>(value: &Value<'a>) -> Computed<'a> {
    let length = match value {
        Value::Text(text) => text.chars().count(),
        Value::Json(Json::Array { items, .. }) => items.len(),
        Value::Json(Json::Object { fields, .. }) => fields.len(),
        other => return Err(Fault(format!("{} has no length", other.kind()))),
    };
    Ok(Value::Number(length.to_string().into()))
}

/// A time, in the form that is named, or RFC 3339.
pub(super) fn time(value: &Value<'_>, format: Option<&Value<'_>>) -> Result<Timestamp, Fault> {
    let millis = |factor: i64| {
        let number = value.number()?.multiply(&Number::Whole(factor)).truncated();
        let millis = number.to_i64().ok_or_else(|| Fault("a time is too large a number".to_owned()))?;
        Ok(Timestamp::from_millis(millis))
    };
    let text = || match value {
        Value::Text(text) => Ok(text.as_ref()),
        other => Err(Fault(format!("{} is no time", other.kind()))),
    };
    match (value, format) {
        (Value::Time(at), _) => Ok(*at),
        (_, None) => {
            let text = text()?;
            Timestamp::parse(text).map_err(|error| Fault(format!("{} is {error}", shown(text))))
        }
        (_, Some(Value::Text(format))) => match format.as_ref() {
            "unix" => millis(1000),
            "unix_ms" => millis(1),
            format => {
                let text = text()?;
                let read = NaiveDateTime::parse_from_str(text, format).ok().or_else(|| {
                    NaiveDate::parse_from_str(text, format).ok().and_then(|day| day.and_hms_opt(0, 0, 0))
                });
                read.map(|at| Timestamp::from_millis(at.and_utc().timestamp_millis()))
                    .ok_or_else(|| Fault(format!("{} is not a time as {format:?}", shown(text))))
            }
        },
        (_, Some(other)) => Err(Fault(format!("a format of a time is a text, given {}", other.kind()))),
    }
}
