//! The language of transforms: expressions over a JSON payload, without loops, side effects or a clock.
//!
//! | written | means |
//! |---|---|
//! | `orgId`, `data.modelName`, `items[0].id`, `` `odd name` `` | what stands at this path of the payload |
//! | `$name`, `$name.key` | what was defined under this name; `$item` and `$index` inside of `each` |
//! | `'text'`, `12.5`, `true`, `false`, `null` | itself (`''` inside of a text is one quote) |
//! | `a + b`, `-`, `*`, `/`, `%` | exact decimals; a quotient is rounded at 18 digits |
//! | `==`, `!=`, `<`, `<=`, `>`, `>=`, `and`, `or`, `not` | comparisons and conditions; nothing equals null |
//! | `name(a, b)` | a function, see [`Function`] |

use chrono::format::{Item, StrftimeItems};

use super::function::Function;

/// Longest expression in bytes, and deepest nesting of one.
const TEXT_BYTES_MAX: usize = 4000;
const DEPTH_MAX: usize = 40;

/// A parsed expression.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Expression {
    Text(String),
    Number(String),
    Bool(bool),
    Null,
    /// From the payload's root.
    Path(Vec<Step>),
    /// From a definition, by its place.
    Defined(usize, Vec<Step>),
    /// From the element that `each` is at.
    Item(Vec<Step>),
    /// The place of that element, from 0.
    Index,
    Call(Function, Vec<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Negated(Box<Expression>),
}

/// One step of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Key(String),
    Place(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Times,
    By,
    Modulo,
}

/// Binding power: what is tighter is higher.
const OPERATORS: &[(&str, Operator, u8)] = &[
    ("or", Operator::Or, 1),
    ("and", Operator::And, 2),
    ("==", Operator::Equal, 3),
    ("!=", Operator::Unequal, 3),
    ("<=", Operator::LessOrEqual, 3),
    (">=", Operator::GreaterOrEqual, 3),
    ("<", Operator::Less, 3),
    (">", Operator::Greater, 3),
    ("+", Operator::Plus, 4),
    ("-", Operator::Minus, 4),
    ("*", Operator::Times, 5),
    ("/", Operator::By, 5),
    ("%", Operator::Modulo, 5),
];

/// Parses an expression that may name these definitions; `each`: and `$item`, `$index`.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn parse(text: &str, defined: &[String], each: bool) -> Result<Expression, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("it has {} bytes, at most {TEXT_BYTES_MAX} are taken", text.len()));
    }
    let mut parser = Parser { text, at: 0, defined, each };
    let expression = parser.binary(1, 0)?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.wrong("expected an operator or the end"));
    }
    Ok(expression)
}

/// Parses a path of the payload and nothing else.
///
/// # Errors
/// It is something else.
pub(super) fn parse_path(text: &str) -> Result<Vec<Step>, String> {
    match parse(text, &[], false)? {
        Expression::Path(steps) => Ok(steps),
        _ => Err("it is no path of the payload, such as orgId or data.modelName".to_owned()),
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    defined: &'t [String],
    each: bool,
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl<'t> Parser<'t> {
    fn wrong(&self, expected: &str) -> String {
        let rest: String = self.rest().chars().take(20).collect();
        if rest.is_empty() {
            format!("{expected} at its end")
        } else {
            format!("{expected} at its byte {}, found {rest:?}", self.at)
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Passes `token` if it comes next; a word only as a whole.
    fn take(&mut self, token: &str) -> bool {
        self.space();
        let Some(after) = self.rest().strip_prefix(token) else { return false };
        if token.starts_with(is_name) && after.starts_with(is_name) {
            return false;
        }
        self.at += token.len();
        true
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.wrong(&format!("expected {token}"))) }
    }

    fn binary(&mut self, power_min: u8, depth: usize) -> Result<Expression, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX}"));
        }
        let mut left = self.unary(depth + 1)?;
        // A chain is a tree as deep as it is long.
        for links in depth.. {
            if links > DEPTH_MAX {
                return Err(format!("it is nested deeper than {DEPTH_MAX}"));
            }
            let before = self.at;
            let found = OPERATORS.iter().find(|(token, _, power)| *power >= power_min && self.take(token));
            let Some((_, operator, power)) = found else {
                self.at = before;
                return Ok(left);
            };
            let right = self.binary(power + 1, depth + 1)?;
            left = Expression::Binary(*operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self, depth: usize) -> Result<Expression, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX}"));
        }
        if self.take("not") {
            return Ok(Expression::Not(Box::new(self.binary(3, depth + 1)?)));
        }
        if self.take("-") {
            return Ok(Expression::Negated(Box::new(self.unary(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.binary(1, depth + 1)?;
            self.expect(")")?;
            return Ok(inner);
        }
        for (word, value) in
            [("true", Expression::Bool(true)), ("false", Expression::Bool(false)), ("null", Expression::Null)]
        {
            if self.take(word) {
                return Ok(value);
            }
        }
        self.space();
        match self.rest().chars().next() {
            Some('\'') => self.quoted('\'').map(Expression::Text),
            Some('0'..='9') => self.number(),
            Some('$') => self.named(),
            Some('`') => self.steps(None).map(Expression::Path),
            Some(c) if is_name(c) => {
                let name = self.word();
                if self.rest().starts_with('(') {
                    return self.call(name, depth);
                }
                self.steps(Some(name)).map(Expression::Path)
            }
            _ => Err(self.wrong("expected a value")),
        }
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// What stands between two of these quotes; a doubled one is one.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut said = String::new();
        self.at += 1;
        loop {
            let rest = self.rest();
            let Some(end) = rest.find(quote) else { return Err(self.wrong("expected a closing quote")) };
            said.push_str(&rest[..end]);
            self.at += end + 1;
            if !self.rest().starts_with(quote) {
                return Ok(said);
            }
            said.push(quote);
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<Expression, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let text = &rest[..end];
        if super::value::Number::of(text).is_none() {
            return Err(self.wrong("expected a number"));
        }
        self.at += end;
        Ok(Expression::Number(text.to_owned()))
    }

    /// `$name` and what follows.
    fn named(&mut self) -> Result<Expression, String> {
        self.at += 1;
        let name = self.word();
        match name {
            "item" if self.each => return Ok(Expression::Item(self.more_steps(Vec::new())?)),
            "index" if self.each => return Ok(Expression::Index),
            "item" | "index" => return Err(format!("${name} is known only in an event with each")),
            _ => {}
        }
        match self.defined.iter().position(|defined| defined == name) {
            Some(place) => Ok(Expression::Defined(place, self.more_steps(Vec::new())?)),
            None => {
                let known: Vec<String> = self.defined.iter().map(|name| format!("${name}")).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(format!("${name} is not defined before it; defined are: {known}"))
            }
        }
    }

    fn steps(&mut self, first: Option<&str>) -> Result<Vec<Step>, String> {
        let first = match first {
            Some(name) => name.to_owned(),
            None => self.quoted('`')?,
        };
        self.more_steps(vec![Step::Key(first)])
    }

    fn more_steps(&mut self, mut steps: Vec<Step>) -> Result<Vec<Step>, String> {
        loop {
            let rest = self.rest();
            if let Some(after) = rest.strip_prefix('.') {
                self.at += 1;
                let key = if after.starts_with('`') { self.quoted('`')? } else { self.word().to_owned() };
                if key.is_empty() {
                    return Err(self.wrong("expected a key"));
                }
                steps.push(Step::Key(key));
            } else if rest.starts_with('[') {
                self.at += 1;
                let place = self.word().parse().map_err(|_| self.wrong("expected a place such as [0]"))?;
                self.expect("]")?;
                steps.push(Step::Place(place));
            } else {
                return Ok(steps);
            }
        }
    }

    fn call(&mut self, name: &str, depth: usize) -> Result<Expression, String> {
        let function = Function::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = Function::ALL.iter().map(|function| function.as_str()).collect();
            format!("there is no function {name:?}; there are: {}", known.join(", "))
        })?;
        self.expect("(")?;
        let mut given = Vec::new();
        if !self.take(")") {
            loop {
                given.push(self.binary(1, depth + 1)?);
                if !self.take(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        let (least, most) = function.arguments();
        if !(least..=most).contains(&given.len()) {
            let takes = if least == most { least.to_string() } else { format!("{least} to {most}") };
            return Err(format!("{name} takes {takes} arguments, given {}", given.len()));
        }
        if let (Function::Time, [_, Expression::Text(format)]) = (function, given.as_slice())
            && StrftimeItems::new(format).any(|item| matches!(item, Item::Error))
        {
            return Err(format!(
                "time knows no format {format:?}; valid are 'unix', 'unix_ms' and such as '%d.%m.%Y'"
            ));
        }
        Ok(Expression::Call(function, given))
    }
}

impl Expression {
    /// Parts of it, itself included: what one look at it costs.
    pub(super) fn parts(&self) -> usize {
        1 + match self {
            Self::Call(_, given) => given.iter().map(Self::parts).sum(),
            Self::Binary(_, a, b) => a.parts() + b.parts(),
            Self::Not(inner) | Self::Negated(inner) => inner.parts(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        parse(text, &["known".to_owned()], false).unwrap_err()
    }

    #[test]
    fn operators_bind_as_usual() {
        let grouped = |text: &str| parse(text, &[], false).unwrap();
        assert_eq!(grouped("1 + 2 * 3"), grouped("1 + (2 * 3)"));
        assert_eq!(grouped("1 - 2 - 3"), grouped("(1 - 2) - 3"));
        assert_eq!(grouped("not a == 1 and b or c"), grouped("((not (a == 1)) and b) or c"));
        assert_eq!(grouped("order + android"), grouped("(order) + (android)"), "names may begin as words do");
    }

    #[test]
    fn paths_take_keys_places_and_odd_names() {
        let Expression::Path(steps) = parse("a.`b c`[2].d", &[], false).unwrap() else { panic!() };
        let key = |name: &str| Step::Key(name.to_owned());
        assert_eq!(steps, [key("a"), key("b c"), Step::Place(2), key("d")]);
        assert!(matches!(
            parse("'it''s'", &[], false).unwrap(),
            Expression::Text(text) if text == "it's"
        ));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(wrong("lower(a"), "expected ) at its end");
        assert!(wrong("lowr(a)").starts_with("there is no function \"lowr\"; there are: "));
        assert_eq!(wrong("lower(a, b)"), "lower takes 1 arguments, given 2");
        assert_eq!(wrong("$unknown"), "$unknown is not defined before it; defined are: $known");
        assert_eq!(wrong("$item"), "$item is known only in an event with each");
        assert_eq!(wrong("a b"), "expected an operator or the end at its byte 2, found \"b\"");
        assert_eq!(wrong(""), "expected a value at its end");
        assert!(wrong(&"(".repeat(1000)).contains("nested deeper"));
        assert!(wrong(&format!("'{}'", "a".repeat(5000))).contains("bytes"));
    }
}
