//! Versions by the rules of Semantic Versioning 2: what is before what, and ranges of them.
//!
//! In the store a version is an array that sorts as the version does: major, minor and patch, whether it is a release,
//! then the identifiers of a pre-release, numbers before words. Build metadata does not count; a missing minor or
//! patch is 0, a leading `v` is passed over.

use super::Operator;
use crate::store::Sql;

/// Longest version that is compared, in bytes.
const VERSION_BYTES_MAX: usize = 200;

/// A version as it is written, perhaps in part: `1`, `1.2`, `1.2.3-rc.1`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    /// One to three.
    numbers: Vec<u64>,
    pre: Vec<String>,
}

/// The condition that the version `text` is so to `given`; false for what is no version. `None`: `given` is none.
pub(super) fn condition(operator: Operator, text: &Sql, given: &str) -> Option<Sql> {
    let given = given.trim();
    if operator == Operator::SemverWildcard {
        let prefix = wildcard(given)?;
        let Some(last) = prefix.len().checked_sub(1) else {
            return Some(Sql::new("").append(&is_version(text)));
        };
        return Some(between(text, &lowest(&prefix), &lowest(&raised(&prefix, last)?)));
    }
    let version = Version::parse(given)?;
    let key = version.key();
    Some(match operator {
        Operator::SemverGt => compared(text, " > ", &key),
        Operator::SemverGte => compared(text, " >= ", &key),
        Operator::SemverLt => compared(text, " < ", &key),
        Operator::SemverLte => compared(text, " <= ", &key),
        Operator::SemverTilde => {
            let end = raised(&version.numbers, (version.numbers.len() - 1).min(1))?;
            between(text, &key, &lowest(&end))
        }
        Operator::SemverCaret => {
            let last = version.numbers.len() - 1;
            let first = version.numbers.iter().position(|number| *number > 0).unwrap_or(last);
            between(text, &key, &lowest(&raised(&version.numbers, first)?))
        }
        _ => compared(text, " = ", &key),
    })
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > VERSION_BYTES_MAX {
            return None;
        }
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split('+').next()?;
        let (numbers, pre) = match text.split_once('-') {
            Some((numbers, pre)) => (numbers, pre.split('.').map(str::to_owned).collect()),
            None => (text, Vec::new()),
        };
        let numbers: Vec<u64> = numbers.split('.').map(number).collect::<Option<_>>()?;
        let word = |word: &String| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        (numbers.len() <= 3 && pre.iter().all(word)).then_some(Self { numbers, pre })
    }

    /// The array that it is compared as.
    fn key(&self) -> Sql {
        let release = u64::from(self.pre.is_empty());
        let pre = self.pre.iter().map(|word| match number(word) {
            Some(value) => piece(0, value, ""),
            None => piece(1, 0, word),
        });
        let pieces: Vec<Sql> = (0..3)
            .map(|place| piece(0, self.numbers.get(place).copied().unwrap_or(0), ""))
            .chain([piece(0, release, "")])
            .chain(pre)
            .collect();
        of_pieces(&pieces)
    }
}

/// Digits alone, few enough for the store's numbers.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// `1.2.*` gives 1 and 2; `*` nothing.
fn wildcard(text: &str) -> Option<Vec<u64>> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let numbers: Vec<&str> = text.split('.').take_while(|part| !matches!(*part, "*" | "x" | "X")).collect();
    let stars = text.split('.').skip(numbers.len()).all(|part| matches!(part, "*" | "x" | "X"));
    let numbers: Vec<u64> = numbers.into_iter().map(number).collect::<Option<_>>()?;
    (stars && numbers.len() <= 3 && !text.is_empty()).then_some(numbers)
}

/// The numbers up to `place`, the one there greater by one.
fn raised(numbers: &[u64], place: usize) -> Option<Vec<u64>> {
    let mut raised = numbers.get(..=place)?.to_vec();
    *raised.last_mut()? += 1;
    Some(raised)
}

/// The array of the first of all versions that begin so: before every pre-release of it.
fn lowest(numbers: &[u64]) -> Sql {
    let pieces: Vec<Sql> = (0..3)
        .map(|place| piece(0, numbers.get(place).copied().unwrap_or(0), ""))
        .chain([piece(0, 0, "")])
        .collect();
    of_pieces(&pieces)
}

fn piece(kind: u8, value: u64, word: &str) -> Sql {
    Sql::new("(").arg(kind).push(", ").arg(value).push(", ").arg(word).push(")")
}

const PIECES: &str = ", 'Array(Tuple(UInt8, UInt64, String))')";

fn of_pieces(pieces: &[Sql]) -> Sql {
    Sql::new("CAST([").join(", ", pieces).push("]").push(PIECES)
}

/// Major, minor, patch and pre-release of the text; empty for what is no version.
fn groups(text: &Sql) -> Sql {
    Sql::new("extractGroups(ifNull(").append(text).push(
        r", ''), '^\\s*v?([0-9]{1,18})(?:[.]([0-9]{1,18}))?(?:[.]([0-9]{1,18}))?(?:-([0-9A-Za-z.-]+))?(?:[+][0-9A-Za-z.-]*)?\\s*$')",
    )
}

fn is_version(text: &Sql) -> Sql {
    Sql::new("notEmpty(").append(&groups(text)).push(")")
}

/// The array that the text is compared as.
fn key_of(text: &Sql) -> Sql {
    let groups = groups(text);
    let number = |place: u64| {
        let group = Sql::new("toUInt64OrZero(").append(&groups).push("[").arg(place).push("])");
        Sql::new("(0, ").append(&group).push(", '')")
    };
    let pre = Sql::new("").append(&groups).push("[4]");
    Sql::new("CAST(arrayConcat([")
        .join(", ", &[number(1), number(2), number(3)])
        .push(", (0, toUInt64(empty(")
        .append(&pre)
        .push(")), '')], if(empty(")
        .append(&pre)
        .push("), [], arrayMap(word -> if(match(word, '^[0-9]{1,18}$'), (0, toUInt64OrZero(word), ''), (1, 0, word)), splitByChar('.', ")
        .append(&pre)
        .push("))))")
        .push(PIECES)
}

fn compared(text: &Sql, operator: &'static str, key: &Sql) -> Sql {
    Sql::new("(")
        .append(&is_version(text))
        .push(" AND ")
        .append(&key_of(text))
        .push(operator)
        .append(key)
        .push(")")
}

fn between(text: &Sql, first: &Sql, end: &Sql) -> Sql {
    Sql::new("(")
        .append(&compared(text, " >= ", first))
        .push(" AND ")
        .append(&compared(text, " < ", end))
        .push(")")
}
