//! SQL text with typed arguments: the only place where a value becomes part of a statement.
//!
//! Text enters as `&'static str` (written by us), values through [`Arg`] (encoded here), other statements through
//! [`Sql::append`]. There is no way to put a run-time string into the text, so there is nothing to inject into.

use std::fmt::Write as _;
use std::ops::{Range, RangeInclusive};

use uuid::Uuid;

use crate::event::{Scope, Timestamp};

/// A statement, or a piece of one.
///
/// ```
/// use flexflow::store::Sql;
/// let sql = Sql::new("SELECT count() FROM events WHERE event_name = ").arg("it's");
/// assert_eq!(sql.text(), r"SELECT count() FROM events WHERE event_name = 'it\'s'");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[must_use]
pub struct Sql {
    text: String,
    reads: Vec<Read>,
}

/// Where a statement reads deduplicated rows of one scope: the store may read days that are at rest as they stand
/// instead (`store/settled.rs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub table: &'static str,
    pub scope: Scope,
    /// The days (since 1970, UTC) that the conditions let through.
    pub days: RangeInclusive<u16>,
    /// Of the text: `table FINAL`.
    pub source: Range<usize>,
    /// Of the text: ` PREWHERE ` and the conditions.
    pub keys: Range<usize>,
}

/// What stands before the conditions of a [`Read`].
pub(super) const PREWHERE: &str = " PREWHERE ";

impl Sql {
    /// Begins with this text.
    pub fn new(text: &'static str) -> Self {
        Self { text: text.to_owned(), reads: Vec::new() }
    }

    /// Appends ` FROM table FINAL`, the joins, and conditions on the sort key (all versions of a row meet them, or none),
    /// the first of which name the scope; no row outside of `days` (since 1970, UTC) meets them. The table has the
    /// columns `timestamp` and `is_deleted`, and `toDate(timestamp)` in its sort key.
    pub fn deduplicated(
        mut self,
        table: &'static str,
        (scope, days): (&Scope, RangeInclusive<u16>),
        joins: &Self,
        keys: &[Self],
    ) -> Self {
        self.text.push_str(" FROM ");
        let start = self.text.len();
        self.text.push_str(table);
        self.text.push_str(" FINAL");
        let source = start..self.text.len();
        self = self.append(joins);
        let start = self.text.len();
        self = self.push(PREWHERE).join(" AND ", keys);
        let keys = start..self.text.len();
        self.reads.push(Read { table, scope: scope.clone(), days, source, keys });
        self
    }

    /// The statement with `source` and nothing in place of each read that it is told for; `None`: of none.
    pub(super) fn replaced(&self, source: impl Fn(&Read, &str) -> Option<Self>) -> Option<Self> {
        let mut cuts = Vec::new();
        for read in &self.reads {
            let keys = self.text.get(read.keys.clone())?.strip_prefix(PREWHERE)?;
            let Some(other) = source(read, keys) else { continue };
            cuts.push((read.source.clone(), other.text));
            cuts.push((read.keys.clone(), String::new()));
        }
        if cuts.is_empty() {
            return None;
        }
        cuts.sort_by_key(|(place, _)| place.start);
        let (mut text, mut at) = (String::with_capacity(self.text.len() * 2), 0);
        for (place, other) in cuts {
            if place.start < at {
                // Of a read inside of the conditions of another.
                continue;
            }
            text.push_str(self.text.get(at..place.start)?);
            text.push_str(&other);
            at = place.end;
        }
        text.push_str(self.text.get(at..)?);
        Some(Self { text, reads: Vec::new() })
    }

    pub(super) fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Appends text that already was in a statement.
    pub(super) fn again(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// Appends text written in the source.
    pub fn push(mut self, text: &'static str) -> Self {
        self.text.push_str(text);
        self
    }

    /// Appends a value as a literal.
    pub fn arg(mut self, value: impl Arg) -> Self {
        value.encode(&mut self.text);
        self
    }

    /// Appends another statement's text.
    pub fn append(mut self, other: &Self) -> Self {
        self.take(other);
        self
    }

    fn take(&mut self, other: &Self) {
        let by = self.text.len();
        let moved = |place: &Range<usize>| place.start + by..place.end + by;
        self.text.push_str(&other.text);
        self.reads.extend(other.reads.iter().map(|read| Read {
            source: moved(&read.source),
            keys: moved(&read.keys),
            ..read.clone()
        }));
    }

    /// Appends `(a, b, …)` for the right side of `IN`; no values give a list that contains nothing.
    pub fn list<A: Arg>(mut self, values: impl IntoIterator<Item = A>) -> Self {
        self.text.push('(');
        if !separated(&mut self.text, values) {
            self.text.push_str("NULL");
        }
        self.text.push(')');
        self
    }

    /// Appends the pieces with `separator` between them.
    pub fn join<'a>(mut self, separator: &'static str, pieces: impl IntoIterator<Item = &'a Self>) -> Self {
        for (index, piece) in pieces.into_iter().enumerate() {
            if index > 0 {
                self.text.push_str(separator);
            }
            self.take(piece);
        }
        self
    }

    /// Appends a name (database, table, column) in backquotes.
    pub fn name(mut self, name: &str) -> Self {
        quote(&mut self.text, name, '`');
        self
    }

    /// Appends a comment, to be found again in the text. Of `text` only letters, digits and `_.[]` are kept.
    pub fn note(mut self, text: &str) -> Self {
        let kept = |character: &char| character.is_ascii_alphanumeric() || "_.[]".contains(*character);
        self.text.push_str("/* ");
        self.text.extend(text.chars().filter(kept));
        self.text.push_str(" */ ");
        self
    }

    /// The statement as the store gets it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Nothing in it yet?
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A value that can stand in a statement. Implemented for text, numbers, booleans, times, UUIDs, options (`NULL`) and
/// arrays of them; sealed, so that every encoding is in this file.
pub trait Arg: sealed::Sealed {
    /// Appends the literal.
    fn encode(&self, out: &mut String);

    /// The type of the literal, for an empty array.
    fn type_name() -> String;
}

macro_rules! arg {
    ($($type:ty, $name:expr, |$value:ident, $out:ident| $encode:expr;)+) => {$(
        impl sealed::Sealed for $type {}
        impl Arg for $type {
            fn encode(&self, $out: &mut String) {
                let $value = self;
                $encode;
            }
            fn type_name() -> String {
                $name.to_owned()
            }
        }
    )+};
}

arg! {
    str, "String", |value, out| quote(out, value, '\'');
    String, "String", |value, out| quote(out, value, '\'');
    bool, "Bool", |value, out| out.push_str(if *value { "true" } else { "false" });
    u8, "UInt8", |value, out| number(out, value);
    u16, "UInt16", |value, out| number(out, value);
    u32, "UInt32", |value, out| number(out, value);
    u64, "UInt64", |value, out| number(out, value);
    usize, "UInt64", |value, out| number(out, value);
    i32, "Int32", |value, out| number(out, value);
    i64, "Int64", |value, out| number(out, value);
    f64, "Float64", |value, out| float(out, *value);
    Uuid, "UUID", |value, out| wrapped(out, "toUUID('", &value.hyphenated(), "')");
    Timestamp, "DateTime64(3, 'UTC')", |value, out|
        wrapped(out, "fromUnixTimestamp64Milli(toInt64(", &value.as_millis(), "), 'UTC')");
}

impl<A: Arg + ?Sized> sealed::Sealed for &A {}
impl<A: Arg + ?Sized> Arg for &A {
    fn encode(&self, out: &mut String) {
        (**self).encode(out);
    }
    fn type_name() -> String {
        A::type_name()
    }
}

impl<A: Arg> sealed::Sealed for Option<A> {}
impl<A: Arg> Arg for Option<A> {
    fn encode(&self, out: &mut String) {
        match self {
            Some(value) => value.encode(out),
            None => out.push_str("NULL"),
        }
    }
    fn type_name() -> String {
        format!("Nullable({})", A::type_name())
    }
}

impl<A: Arg> sealed::Sealed for [A] {}
impl<A: Arg> sealed::Sealed for Vec<A> {}
impl<A: Arg> Arg for Vec<A> {
    fn encode(&self, out: &mut String) {
        self.as_slice().encode(out);
    }
    fn type_name() -> String {
        <[A]>::type_name()
    }
}
impl<A: Arg> Arg for [A] {
    fn encode(&self, out: &mut String) {
        if self.is_empty() {
            out.push_str("CAST([], ");
            quote(out, &Self::type_name(), '\'');
            out.push(')');
            return;
        }
        out.push('[');
        separated(out, self);
        out.push(']');
    }
    fn type_name() -> String {
        format!("Array({})", A::type_name())
    }
}

fn separated<A: Arg>(out: &mut String, values: impl IntoIterator<Item = A>) -> bool {
    let mut any = false;
    for value in values {
        if any {
            out.push_str(", ");
        }
        any = true;
        value.encode(out);
    }
    any
}

/// A string literal or a quoted name. A backslash and the quote are all that the server's lexer gives a meaning;
/// NUL and line ends are escaped for the reader's sake (and the logs').
fn quote(out: &mut String, text: &str, quote: char) {
    out.reserve(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            character if character == quote => {
                out.push('\\');
                out.push(quote);
            }
            character => out.push(character),
        }
    }
    out.push(quote);
}

fn number(out: &mut String, value: &impl std::fmt::Display) {
    wrapped(out, "", value, "");
}

fn wrapped(out: &mut String, before: &str, value: &impl std::fmt::Display, after: &str) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{before}{value}{after}");
}

/// The shortest text that reads back as the same number.
fn float(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("nan");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "inf" } else { "-inf" });
    } else {
        let _ = write!(out, "{value:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: impl Arg) -> String {
        Sql::new("").arg(value).text().to_owned()
    }

    /// Reads a literal the way ClickHouse's lexer does: the quote ends it, a backslash takes the next character along.
    fn read_literal(literal: &str) -> Option<String> {
        let mut characters = literal.strip_prefix('\'')?.chars();
        let mut out = String::new();
        loop {
            match characters.next()? {
                '\'' => return characters.as_str().is_empty().then_some(out),
                '\\' => out.push(match characters.next()? {
                    '0' => '\0',
                    'n' => '\n',
                    'r' => '\r',
                    other => other,
                }),
                other => out.push(other),
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_itself_and_ends_where_it_should(value in any::<String>()) {
            prop_assert_eq!(read_literal(&text(value.as_str())), Some(value));
        }

        #[test]
        fn text_made_of_what_the_lexer_minds_reads_back(value in r"[\\'\x00\n\r`$a]{0,40}") {
            prop_assert_eq!(read_literal(&text(&value)), Some(value));
        }

        #[test]
        fn any_finite_number_reads_back_as_itself(value in any::<f64>()) {
            prop_assume!(value.is_finite());
            prop_assert_eq!(text(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
        }

        #[test]
        fn any_integer_reads_back_as_itself(value in any::<i64>()) {
            prop_assert_eq!(text(value).parse::<i64>().unwrap(), value);
        }

        #[test]
        fn a_name_cannot_end_its_quotes(name in r"[\\`'a]{0,20}") {
            let quoted = Sql::new("").name(&name).text().to_owned();
            let as_literal = format!("'{}'", quoted[1..quoted.len() - 1].replace('\'', "\\'"));
            prop_assert_eq!(read_literal(&as_literal), Some(name));
        }
    }

    #[test]
    fn every_type_has_its_literal() {
        assert_eq!(text("it's \\ \0"), r"'it\'s \\ \0'");
        assert_eq!(text(true), "true");
        assert_eq!(text(-3_i64), "-3");
        assert_eq!(text(u64::MAX), "18446744073709551615");
        assert_eq!(text(1.0), "1.0");
        assert_eq!(text(f64::NEG_INFINITY), "-inf");
        assert_eq!(text(Uuid::nil()), "toUUID('00000000-0000-0000-0000-000000000000')");
        assert_eq!(text(Timestamp::from_millis(-5)), "fromUnixTimestamp64Milli(toInt64(-5), 'UTC')");
        assert_eq!(text(None::<i64>), "NULL");
        assert_eq!(text(vec!["a", "b'"]), r"['a', 'b\'']");
        assert_eq!(text(vec![vec![1_i64], vec![]]), "[[1], CAST([], 'Array(Int64)')]");
        assert_eq!(text(Vec::<Timestamp>::new()), r"CAST([], 'Array(DateTime64(3, \'UTC\'))')");
    }

    #[test]
    fn an_empty_list_contains_nothing() {
        assert_eq!(Sql::new("x IN ").list(Vec::<i64>::new()).text(), "x IN (NULL)");
        assert_eq!(Sql::new("x IN ").list([1_i64, 2]).text(), "x IN (1, 2)");
    }

    #[test]
    fn pieces_are_joined() {
        let pieces = [Sql::new("a = ").arg(1_i64), Sql::new("b = ").arg("x")];
        assert_eq!(Sql::new("WHERE ").join(" AND ", &pieces).text(), "WHERE a = 1 AND b = 'x'");
    }
}
