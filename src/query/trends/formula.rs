//! Formulas over series: `A`, `A+2*B`, `(A-B)/C`.
//!
//! Letters name the series in their order. Dividing by zero gives 0, and so does what is no finite number.

use crate::http::Problem;

/// Longest formula, in bytes.
const FORMULA_BYTES_MAX: usize = 500;
/// Parentheses and signs inside each other, at most.
const DEPTH_MAX: usize = 50;

/// A formula that was checked against the series there are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Formula {
    /// As it was sent.
    pub(super) text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Series(usize),
    Minus(Box<Self>),
    Of(Box<Self>, Operator, Box<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Formula {
    /// Reads the formula in `field` over `series` series.
    ///
    /// # Errors
    /// 400: it cannot be read, or names a series that there is not.
    pub(super) fn parse(field: &str, text: &str, series: usize) -> Result<Self, Problem> {
        if text.len() > FORMULA_BYTES_MAX {
            let message = format!("{field} is longer than {FORMULA_BYTES_MAX} bytes");
            return Err(Problem::invalid(field, message).with("max", FORMULA_BYTES_MAX));
        }
        let mut reader = Reader { rest: text, series };
        let read = reader.sum(0).and_then(|root| match reader.peek() {
            None => Ok(root),
            Some(other) => Err(Wrong::Unexpected(other)),
        });
        let root = read.map_err(|wrong| wrong.problem(field, text, series))?;
        Ok(Self { text: text.to_owned(), root })
    }

    /// Its value where the series have these.
    pub(super) fn value(&self, series: &[f64]) -> f64 {
        self.root.value(series)
    }
}

impl Node {
    fn value(&self, series: &[f64]) -> f64 {
        let value = match self {
            Self::Number(number) => *number,
            Self::Series(index) => series.get(*index).copied().unwrap_or(0.0),
            Self::Minus(inner) => -inner.value(series),
            Self::Of(left, operator, right) => {
                let (left, right) = (left.value(series), right.value(series));
                match operator {
                    Operator::Add => left + right,
                    Operator::Subtract => left - right,
                    Operator::Multiply => left * right,
                    Operator::Divide => left / right,
                }
            }
        };
        // Negative zero would be shown as such.
        if value.is_finite() { value + 0.0 } else { 0.0 }
    }
}

/// What is wrong with a formula.
enum Wrong {
    Series(char),
    Unexpected(char),
    Ends,
    Number(String),
    Depth,
}

impl Wrong {
    fn problem(self, field: &str, text: &str, series: usize) -> Problem {
        let valid = letters(series);
        let what = match self {
            Self::Series(letter) => {
                format!("names series {letter}, but there are only {}", valid.join(", "))
            }
            Self::Unexpected(found) => {
                format!("has an unexpected {found:?}: a formula has numbers, series, + - * / and parentheses")
            }
            Self::Ends => "ends too early".to_owned(),
            Self::Number(number) => format!("has {number}, which is no number"),
            Self::Depth => format!("has more than {DEPTH_MAX} parentheses inside each other"),
        };
        Problem::invalid(field, format!("{field} is {text:?}; it {what}"))
            .with("given", text)
            .with("valid", valid)
    }
}

/// `A`, `B`, … of that many series.
fn letters(series: usize) -> Vec<String> {
    ('A'..='Z').take(series).map(String::from).collect()
}

struct Reader<'a> {
    rest: &'a str,
    series: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn skip(&mut self, character: char) {
        self.rest = self.rest.strip_prefix(character).unwrap_or(self.rest);
    }

    /// `a + b - c`.
    fn sum(&mut self, depth: usize) -> Result<Node, Wrong> {
        let mut left = self.product(depth)?;
        loop {
            let operator = match self.peek() {
                Some('+') => Operator::Add,
                Some('-') => Operator::Subtract,
                _ => return Ok(left),
            };
            self.skip(if operator == Operator::Add { '+' } else { '-' });
            left = Node::Of(Box::new(left), operator, Box::new(self.product(depth)?));
        }
    }

    /// `a * b / c`.
    fn product(&mut self, depth: usize) -> Result<Node, Wrong> {
        let mut left = self.factor(depth)?;
        loop {
            let operator = match self.peek() {
                Some('*') => Operator::Multiply,
                Some('/') => Operator::Divide,
                _ => return Ok(left),
            };
            self.skip(if operator == Operator::Multiply { '*' } else { '/' });
            left = Node::Of(Box::new(left), operator, Box::new(self.factor(depth)?));
        }
    }

    /// A number, a series, what stands in parentheses, or the negative of one of them.
    fn factor(&mut self, depth: usize) -> Result<Node, Wrong> {
        if depth >= DEPTH_MAX {
            return Err(Wrong::Depth);
        }
        match self.peek().ok_or(Wrong::Ends)? {
            '-' => {
                self.skip('-');
                Ok(Node::Minus(Box::new(self.factor(depth + 1)?)))
            }
            '(' => {
                self.skip('(');
                let inner = self.sum(depth + 1)?;
                match self.peek().ok_or(Wrong::Ends)? {
                    ')' => self.skip(')'),
                    other => return Err(Wrong::Unexpected(other)),
                }
                Ok(inner)
            }
            digit if digit.is_ascii_digit() || digit == '.' => self.number(),
            letter if letter.is_ascii_alphabetic() => self.series(letter),
            other => Err(Wrong::Unexpected(other)),
        }
    }

    fn number(&mut self) -> Result<Node, Wrong> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        number.parse().map(Node::Number).map_err(|_| Wrong::Number(number.to_owned()))
    }

    fn series(&mut self, letter: char) -> Result<Node, Wrong> {
        self.skip(letter);
        let upper = letter.to_ascii_uppercase();
        // Two letters beside each other are neither a series nor a product.
        if let Some(next) = self.rest.chars().next().filter(char::is_ascii_alphanumeric) {
            return Err(Wrong::Unexpected(next));
        }
        match ('A'..='Z').take(self.series).position(|known| known == upper) {
            Some(index) => Ok(Node::Series(index)),
            None => Err(Wrong::Series(upper)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str, series: &[f64]) -> f64 {
        Formula::parse("formula", text, series.len()).unwrap().value(series)
    }

    #[test]
    fn operators_bind_as_in_arithmetic() {
        let cases = [
            ("A+2*B", 7.0),
            ("(A+2)*B", 9.0),
            ("A-B-1", -3.0),
            ("B/A/2", 1.5),
            ("-A*-b", 3.0),
            ("2", 2.0),
            (" ( ( A ) ) ", 1.0),
            (".5*B", 1.5),
            ("A--B", 4.0),
        ];
        for (text, expected) in cases {
            assert!((value(text, &[1.0, 3.0]) - expected).abs() < 1e-12, "{text}");
        }
    }

    #[test]
    fn dividing_by_zero_and_overflow_give_zero() {
        for text in ["A/B", "B/B", "A/(B*2)", "1/0", "A/-B"] {
            assert!(value(text, &[5.0, 0.0]).to_bits() == 0, "{text}");
        }
        assert!(value("A*A", &[f64::MAX]).to_bits() == 0);
    }

    #[test]
    fn what_is_no_formula_is_refused_with_what_would_be_right() {
        let cases = [
            ("A+C", "names series C, but there are only A, B"),
            ("A+", "ends too early"),
            ("", "ends too early"),
            ("(A", "ends too early"),
            ("A B", "unexpected 'B'"),
            ("AB", "unexpected 'B'"),
            ("A**B", "unexpected '*'"),
            ("1.2.3", "1.2.3, which is no number"),
            ("sum(A)", "unexpected 'u'"),
            ("A;DROP", "unexpected ';'"),
        ];
        for (text, part) in cases {
            let problem = Formula::parse("formula", text, 2).unwrap_err();
            assert!(problem.message.contains(part), "{text}: {}", problem.message);
            assert_eq!(problem.details["valid"], serde_json::json!(["A", "B"]));
        }
        let deep = format!("{}A{}", "(".repeat(60), ")".repeat(60));
        assert!(Formula::parse("formula", &deep, 1).unwrap_err().message.contains("more than 50"));
        assert!(Formula::parse("formula", &"1+".repeat(300), 1).unwrap_err().message.contains("500 bytes"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[-+*/() .0-9A-Da-c]{0,60}|.{0,20}") {
            if let Ok(formula) = Formula::parse("formula", &text, 3) {
                prop_assert!(formula.value(&[1.0, 0.0, -2.5]).is_finite());
            }
        }
    }
}
