//! Selectors of elements, in the words of CSS that say what an element is and what is around it: `a`, `*`, `.class`, `#id`,
//! `[name]`, `[name="value"]`, `:nth-child(2)`, `:nth-of-type(2)`, put together (`a.big[href="/"]`), within (` `) and
//! directly within (`>`).

use super::{Filter, Operator};
use crate::http::Problem;
use crate::store::Sql;

/// Longest selector, in bytes.
const BYTES_MAX: usize = 1000;
/// Most steps of one selector, and most conditions on one element.
const STEPS_MAX: usize = 20;

/// What one element must be: regular expressions that all match it.
type Compound = Vec<String>;

/// A selector, from the innermost element outwards.
#[derive(Debug, PartialEq, Eq)]
struct Selector {
    innermost: Compound,
    /// What is around the step before; directly?
    around: Vec<(Compound, bool)>,
}

/// The condition that an event's elements, `Array(String)` from the innermost on, are found by any of the selectors.
///
/// # Errors
/// 400: no selector, or an operator that cannot be meant.
pub(super) fn condition(filter: &Filter, path: &str, elements: &Sql) -> Result<Option<Sql>, Problem> {
    let negated = match filter.operator {
        Operator::Exact | Operator::In => false,
        Operator::IsNot | Operator::NotIn => true,
        Operator::IsSet => return Ok(Some(Sql::new("notEmpty(").append(elements).push(")"))),
        Operator::IsNotSet => return Ok(Some(Sql::new("empty(").append(elements).push(")"))),
        _ => {
            let valid = vec!["exact", "is_not", "in", "not_in", "is_set", "is_not_set"];
            let field = format!("{path}.operator");
            let message = format!("{field}: a selector takes {}", valid.join(", "));
            return Err(Problem::invalid(&field, message).with("valid", valid));
        }
    };
    let given = match &filter.value {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    if given.is_empty() {
        return Ok(None);
    }
    let each = given.iter().map(|value| {
        let text = value.as_str().unwrap_or_default();
        Selector::parse(text).map(|selector| selector.found()).ok_or_else(|| {
            let field = format!("{path}.value");
            let shown: String = value.to_string().chars().take(200).collect();
            let message =
                format!("{field} is {shown}; a selector is such as div > a.button[href=\"/\"]:nth-child(2)");
            Problem::invalid(&field, message).with("given", shown)
        })
    });
    let any = each.collect::<Result<Vec<_>, Problem>>()?;
    // The elements are named once: they are a long expression.
    let sql = Sql::new(if negated { "NOT arrayExists(elements -> " } else { "arrayExists(elements -> " });
    Ok(Some(sql.join(" OR ", &any).push(", [").append(elements).push("])")))
}

impl Selector {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let mut steps: Vec<(Compound, bool)> = Vec::new();
        let mut rest = text.trim();
        // Is the next step directly within the one before?
        let mut directly = false;
        while !rest.is_empty() {
            let (compound, after) = compound(rest)?;
            steps.push((compound, directly));
            let inner = after.trim_start();
            (directly, rest) = match inner.strip_prefix('>') {
                Some(inner) => (true, inner.trim_start()),
                None if inner.is_empty() || inner.len() < after.len() => (false, inner),
                None => return None,
            };
        }
        if directly || steps.len() > STEPS_MAX {
            return None;
        }
        let (innermost, mut directly) = steps.pop()?;
        let around = steps.into_iter().rev().map(|(compound, next)| {
            let step = (compound, directly);
            directly = next;
            step
        });
        Some(Self { innermost, around: around.collect() })
    }

    /// Is it found in `elements`?
    fn found(&self) -> Sql {
        let mut reached = flags(&self.innermost);
        for (compound, directly) in &self.around {
            // One element further out, or any.
            let before = if *directly {
                reached
            } else {
                Sql::new("arrayMap(count -> count > 0, arrayCumSum(").append(&reached).push("))")
            };
            reached = Sql::new("arrayMap((own, before) -> own AND before, ")
                .append(&flags(compound))
                .push(", arrayResize(arrayPushFront(")
                .append(&before)
                .push(", 0), length(elements)))");
        }
        Sql::new("has(").append(&reached).push(", 1)")
    }
}

/// For each of `elements`: is it so?
fn flags(compound: &Compound) -> Sql {
    let each: Vec<Sql> =
        compound.iter().map(|pattern| Sql::new("match(element, ").arg(pattern).push(")")).collect();
    Sql::new("arrayMap(element -> ").join(" AND ", &each).push(", elements)")
}

/// What stands at the beginning of the text, and what stands behind it.
fn compound(text: &str) -> Option<(Compound, &str)> {
    let (tag, mut rest) = name(text);
    let mut patterns = Vec::new();
    if let Some(after) = rest.strip_prefix('*').filter(|_| tag.is_empty()) {
        patterns.push(String::new());
        rest = after;
    } else if !tag.is_empty() {
        patterns.push(format!("^{}(?:[.:]|$)", quoted(tag)));
    }
    while let Some(first) = rest.chars().next().filter(|first| !first.is_whitespace() && *first != '>') {
        let after = rest.get(first.len_utf8()..)?;
        let (pattern, after) = match first {
            '.' => {
                let (class, after) = some_name(after)?;
                (format!(r#"^[^"]*\.{}(?:[.:]|$)"#, quoted(class)), after)
            }
            '#' => {
                let (id, after) = some_name(after)?;
                (format!(r#"[:"]attr_{{1,2}}id="{}""#, quoted(id)), after)
            }
            '[' => attribute(after)?,
            ':' => place(after)?,
            _ => return None,
        };
        patterns.push(pattern);
        rest = after;
    }
    (!patterns.is_empty() && patterns.len() <= STEPS_MAX).then_some((patterns, rest))
}

/// Behind `[`: a name, or a name and a value.
fn attribute(text: &str) -> Option<(String, &str)> {
    let (attribute, after) = some_name(text)?;
    let attribute = quoted(attribute);
    if let Some(after) = after.strip_prefix(']') {
        return Some((format!(r#"[:"](?:attr__)?{attribute}=""#), after));
    }
    let after = after.strip_prefix('=')?;
    let (value, after) = match after.chars().next()? {
        quote @ ('"' | '\'') => after.get(1..)?.split_once(quote)?,
        _ => {
            let end = after.find(']')?;
            after.split_at_checked(end)?
        }
    };
    let value = quoted(&value.replace('"', "\\\""));
    Some((format!(r#"[:"](?:attr__)?{attribute}="{value}""#), after.strip_prefix(']')?))
}

/// Behind `:`: `nth-child(2)`, `nth-of-type(2)`.
fn place(text: &str) -> Option<(String, &str)> {
    let (kind, after) = ["nth-child", "nth-of-type"]
        .into_iter()
        .find_map(|kind| Some((kind, text.strip_prefix(kind)?.strip_prefix('(')?)))?;
    let (number, after) = after.split_once(')')?;
    let number: u32 = number.trim().parse().ok()?;
    Some((format!(r#"[:"]{kind}="{number}""#), after))
}

fn some_name(text: &str) -> Option<(&str, &str)> {
    Some(name(text)).filter(|(name, _)| !name.is_empty())
}

/// The name at the beginning of the text, and what stands behind it.
fn name(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_' || c == '$'));
    text.split_at(end.unwrap_or(text.len()))
}

/// The text as a regular expression that matches it alone.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '_' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(text: &str) -> Option<Vec<String>> {
        let selector = Selector::parse(text)?;
        let around = selector.around.iter().map(|(compound, directly)| {
            format!("{}{}", if *directly { "> " } else { "" }, compound.join(" & "))
        });
        Some(std::iter::once(selector.innermost.join(" & ")).chain(around).collect())
    }

    #[test]
    fn a_selector_is_read_from_its_end() {
        let cases = [
            ("a", vec!["^a(?:[.:]|$)"]),
            ("*", vec![""]),
            (" nav > ul li ", vec!["^li(?:[.:]|$)", "^ul(?:[.:]|$)", "> ^nav(?:[.:]|$)"]),
            ("div>a", vec!["^a(?:[.:]|$)", "> ^div(?:[.:]|$)"]),
            (".big.red", vec![r#"^[^"]*\.big(?:[.:]|$) & ^[^"]*\.red(?:[.:]|$)"#]),
            ("a#to-top", vec![r#"^a(?:[.:]|$) & [:"]attr_{1,2}id="to\-top""#]),
            ("[data-x]", vec![r#"[:"](?:attr__)?data\-x=""#]),
            (r#"[href="/a b"]:nth-child(2)"#, vec![r#"[:"](?:attr__)?href="\/a b" & [:"]nth-child="2""#]),
            ("[href=/x]", vec![r#"[:"](?:attr__)?href="\/x""#]),
        ];
        for (text, expected) in cases {
            assert_eq!(patterns(text).as_deref(), Some(&expected.map_to_strings()[..]), "{text}");
        }
    }

    trait ToStrings {
        fn map_to_strings(&self) -> Vec<String>;
    }

    impl ToStrings for Vec<&str> {
        fn map_to_strings(&self) -> Vec<String> {
            self.iter().map(|text| (*text).to_owned()).collect()
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        let long = format!("a{}", ".b".repeat(600));
        let steps = "a ".repeat(21);
        for text in [
            "",
            "a >",
            "> a",
            "a,b",
            "a..b",
            "a[",
            "a[b",
            "a[=c]",
            "a:hover",
            "a:nth-child(x)",
            "a + b",
            &long,
            &steps,
        ] {
            assert_eq!(patterns(text), None, "{text}");
        }
    }
}
