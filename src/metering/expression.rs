//! Arithmetic over an event's properties: `input_tokens + 4 * output_tokens`, parsed by SQL's expression grammar and
//! computed in decimals.
//!
//! | written | means |
//! |---|---|
//! | `tokens`, `"odd name"`, `properties.tokens` | the property's number |
//! | `1.5` | a number |
//! | `+ - * / %`, brackets, sign | as usual; a quotient is rounded at 18 digits |
//! | `abs ceil floor round(x)`, `least greatest(x, y, …)` | as usual; `round` takes halves to the even neighbour |
//! | `coalesce(x, …)` | the first that is there: the one way to give a missing property a value |
//!
//! A property that is missing makes the whole value missing, one that is no number makes it not numeric; so does a
//! division by zero. Nothing is taken for 0 that is not.

use std::str::FromStr;

use bigdecimal::{BigDecimal, RoundingMode, Zero};
use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator, Value,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::number::{Quantity, divide, rounded};

/// Longest expression, in bytes; most parts of one; deepest nesting of its text.
pub const TEXT_BYTES_MAX: usize = 1000;
const PARTS_MAX: usize = 100;
const DEPTH_MAX: usize = 25;

/// A parsed expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expression {
    root: Part,
    /// The properties it reads, each once.
    properties: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Number(BigDecimal),
    /// By its place in `properties`.
    Property(usize),
    Negated(Box<Part>),
    Binary(Operator, Box<Part>, Box<Part>),
    Call(Name, Vec<Part>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Plus,
    Minus,
    Times,
    By,
    Modulo,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Name {
    Abs,
    Ceil,
    Floor,
    Round,
    Least,
    Greatest,
    Coalesce,
}

const NAMES: [(&str, Name); 7] = [
    ("abs", Name::Abs),
    ("ceil", Name::Ceil),
    ("floor", Name::Floor),
    ("round", Name::Round),
    ("least", Name::Least),
    ("greatest", Name::Greatest),
    ("coalesce", Name::Coalesce),
];

/// Why a text is no expression that can be computed; said to whoever wrote it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAnExpression(String);

impl Expression {
    /// The value of one property: what a meter without an expression reads.
    pub fn property(name: &str) -> Self {
        Self { root: Part::Property(0), properties: vec![name.to_owned()] }
    }

    /// Reads an expression.
    ///
    /// # Errors
    /// It is not one, or is longer, larger or deeper than is taken.
    pub fn parse(text: &str) -> Result<Self, NotAnExpression> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(NotAnExpression(format!("it has more than {TEXT_BYTES_MAX} bytes")));
        }
        let wrong = |error: sqlparser::parser::ParserError| NotAnExpression(error.to_string());
        let mut parser = Parser::new(&GenericDialect {})
            .with_recursion_limit(DEPTH_MAX)
            .try_with_sql(text)
            .map_err(wrong)?;
        let parsed = parser.parse_expr().map_err(wrong)?;
        if parser.peek_token().token != Token::EOF {
            return Err(NotAnExpression(format!("it does not end at {}", parser.peek_token().token)));
        }
        let mut reader = Reader { properties: Vec::new(), parts: 0 };
        let root = reader.part(&parsed)?;
        if reader.properties.is_empty() {
            return Err(NotAnExpression("it reads no property".to_owned()));
        }
        Ok(Self { root, properties: reader.properties })
    }

    /// The property that it is and nothing else.
    pub fn as_property(&self) -> Option<&str> {
        match self.root {
            Part::Property(place) => self.properties.get(place).map(String::as_str),
            _ => None,
        }
    }

    /// The properties it reads, in the order [`Expression::value`] takes their values.
    pub fn properties(&self) -> &[String] {
        &self.properties
    }

    /// Its value for these values of its properties.
    pub fn value(&self, properties: &[Quantity]) -> Quantity {
        match compute(&self.root, properties) {
            Ok(number) if matches!(self.root, Part::Property(_)) => Quantity::checked(&number),
            Ok(number) => Quantity::checked(&rounded(&number)),
            Err(other) => other,
        }
    }
}

struct Reader {
    properties: Vec<String>,
    parts: usize,
}

impl Reader {
    fn part(&mut self, expression: &Expr) -> Result<Part, NotAnExpression> {
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(NotAnExpression(format!("it has more than {PARTS_MAX} parts")));
        }
        match expression {
            Expr::Identifier(name) => Ok(self.property(&name.value)),
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [first, name] if first.value == "properties" => Ok(self.property(&name.value)),
                _ => Err(NotAnExpression(format!(
                    "{expression} is no property: write properties.name, or \"a.b\" for a name with a dot"
                ))),
            },
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) => BigDecimal::from_str(&text.to_string())
                    .ok()
                    .and_then(|number| match Quantity::checked(&number) {
                        Quantity::Number(number) => Some(Part::Number(number)),
                        _ => None,
                    })
                    .ok_or_else(|| NotAnExpression(format!("{text} has more digits than are kept"))),
                other => Err(NotAnExpression(format!("{other} is neither a number nor a property"))),
            },
            Expr::Nested(inner) => self.part(inner),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Ok(Part::Negated(Box::new(self.part(expr)?))),
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => self.part(expr),
            Expr::BinaryOp { left, op, right } => {
                let operator = match op {
                    BinaryOperator::Plus => Operator::Plus,
                    BinaryOperator::Minus => Operator::Minus,
                    BinaryOperator::Multiply => Operator::Times,
                    BinaryOperator::Divide => Operator::By,
                    BinaryOperator::Modulo => Operator::Modulo,
                    other => {
                        return Err(NotAnExpression(format!(
                            "{other} is no operator here; there are + - * / %"
                        )));
                    }
                };
                Ok(Part::Binary(operator, Box::new(self.part(left)?), Box::new(self.part(right)?)))
            }
            // SQL has a grammar of its own for these two.
            Expr::Ceil { expr, .. } => Ok(Part::Call(Name::Ceil, vec![self.part(expr)?])),
            Expr::Floor { expr, .. } => Ok(Part::Call(Name::Floor, vec![self.part(expr)?])),
            Expr::Function(function) => self.call(function),
            other => Err(NotAnExpression(format!("{other} is not arithmetic over properties"))),
        }
    }

    fn property(&mut self, name: &str) -> Part {
        let place = self.properties.iter().position(|known| known == name);
        Part::Property(place.unwrap_or_else(|| {
            self.properties.push(name.to_owned());
            self.properties.len() - 1
        }))
    }

    fn call(&mut self, function: &Function) -> Result<Part, NotAnExpression> {
        let given = function.name.to_string().to_lowercase();
        let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == given) else {
            let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
            return Err(NotAnExpression(format!(
                "there is no function {given}; there are {}",
                known.join(", ")
            )));
        };
        let plain = function.over.is_none() && function.filter.is_none() && function.within_group.is_empty();
        let FunctionArguments::List(list) = &function.args else {
            return Err(NotAnExpression(format!("{given} needs arguments in brackets")));
        };
        let mut arguments = Vec::new();
        for argument in &list.args {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(inner)) => arguments.push(self.part(inner)?),
                other => return Err(NotAnExpression(format!("{other} is no argument of {given}"))),
            }
        }
        let one = matches!(name, Name::Abs | Name::Ceil | Name::Floor | Name::Round);
        if !plain || arguments.is_empty() || (one && arguments.len() != 1) {
            let number = if one { "one argument" } else { "at least one argument" };
            return Err(NotAnExpression(format!("{given} takes {number} and nothing else")));
        }
        Ok(Part::Call(*name, arguments))
    }
}

fn compute(part: &Part, properties: &[Quantity]) -> Result<BigDecimal, Quantity> {
    match part {
        Part::Number(number) => Ok(number.clone()),
        Part::Property(place) => match properties.get(*place) {
            Some(Quantity::Number(number)) => Ok(number.clone()),
            Some(other) => Err(other.clone()),
            None => Err(Quantity::Missing),
        },
        Part::Negated(inner) => Ok(-compute(inner, properties)?),
        Part::Binary(operator, left, right) => {
            let (left, right) = (compute(left, properties)?, compute(right, properties)?);
            match operator {
                Operator::Plus => Ok(left + right),
                Operator::Minus => Ok(left - right),
                Operator::Times => Ok(left * right),
                Operator::By => divide(&left, &right).ok_or(Quantity::NotNumeric),
                Operator::Modulo if right.is_zero() => Err(Quantity::NotNumeric),
                Operator::Modulo => Ok(left % right),
            }
        }
        Part::Call(name, arguments) => call(*name, arguments, properties),
    }
}

fn call(name: Name, arguments: &[Part], properties: &[Quantity]) -> Result<BigDecimal, Quantity> {
    if name == Name::Coalesce {
        let mut last = Err(Quantity::Missing);
        for argument in arguments {
            last = compute(argument, properties);
            if last != Err(Quantity::Missing) {
                break;
            }
        }
        return last;
    }
    let mut values =
        arguments.iter().map(|argument| compute(argument, properties)).collect::<Result<Vec<_>, _>>()?;
    let to_integer = |number: BigDecimal, mode| number.with_scale_round(0, mode);
    let picked = match name {
        Name::Least => values.into_iter().min(),
        Name::Greatest => values.into_iter().max(),
        Name::Abs => values.pop().map(|number| number.abs()),
        Name::Ceil => values.pop().map(|number| to_integer(number, RoundingMode::Ceiling)),
        Name::Floor => values.pop().map(|number| to_integer(number, RoundingMode::Floor)),
        Name::Round => values.pop().map(|number| to_integer(number, RoundingMode::HalfEven)),
        Name::Coalesce => None,
    };
    picked.ok_or(Quantity::Missing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metering::number::plain;

    fn of(text: &str, properties: &[(&str, &str)]) -> String {
        let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let values: Vec<Quantity> = expression
            .properties()
            .iter()
            .map(|name| {
                let json = properties.iter().find(|(known, _)| known == name).map_or("", |(_, json)| json);
                Quantity::of_json(json)
            })
            .collect();
        match expression.value(&values) {
            Quantity::Number(number) => plain(&number),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn arithmetic_is_exact() {
        let properties = [
            ("a", "0.1"),
            ("b", "\"0.2\""),
            ("odd name", "3"),
            ("zero", "0"),
            ("text", "\"x\""),
            ("neg", "-7.5"),
        ];
        for (text, wanted) in [
            ("a + b", "0.3"),
            ("a + b * 2", "0.5"),
            ("(a + b) * 2 - -1", "1.6"),
            ("properties.a * \"odd name\"", "0.3"),
            ("a / 3", "0.033333333333333333"),
            ("a / zero", "NotNumeric"),
            ("a % zero", "NotNumeric"),
            ("a + gone", "Missing"),
            ("a + text", "NotNumeric"),
            ("a + coalesce(gone, 1)", "1.1"),
            ("coalesce(gone, text, 1)", "NotNumeric"),
            ("ceil(neg)", "-7"),
            ("floor(neg)", "-8"),
            ("round(neg)", "-8"),
            ("abs(neg) % 2", "1.5"),
            ("least(a, b, neg)", "-7.5"),
            ("greatest(a, b)", "0.2"),
            ("a * 0.00000000000000001", "0.000000000000000001"),
        ] {
            assert_eq!(of(text, &properties), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_not_arithmetic_is_refused() {
        for text in [
            "",
            "1 + 1",
            "a +",
            "a b",
            "a; drop table events",
            "(select 1)",
            "a = 1",
            "a || b",
            "now()",
            "sleep(3)",
            "'text'",
            "a.b",
            "abs(a, b)",
            "count(*)",
            "least()",
            "a IS NULL",
            "sum(a) over ()",
            "1e99 * a",
        ] {
            assert!(Expression::parse(text).is_err(), "{text:?} was taken");
        }
        let deep = format!("{}a{}", "(".repeat(300), ")".repeat(300));
        assert!(Expression::parse(&deep).is_err());
        let long = vec!["a"; 150].join("+");
        assert!(Expression::parse(&long).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,60}|[-a-c0-9.+*/%() ,]{0,60}") {
            if let Ok(expression) = Expression::parse(&text) {
                let values = vec![Quantity::Number(3.into()); expression.properties().len()];
                let _ = expression.value(&values);
            }
        }

        #[test]
        fn sums_and_products_are_those_of_integers(a in -1_000_000_i64..1_000_000, b in -1_000_i64..1_000, c in 1_i64..99) {
            let properties = [("a", a.to_string()), ("b", b.to_string()), ("c", c.to_string())];
            let properties: Vec<(&str, &str)> = properties.iter().map(|(k, v)| (*k, v.as_str())).collect();
            prop_assert_eq!(of("a * b + c - a % c", &properties), (a * b + c - a % c).to_string());
        }
    }
}
