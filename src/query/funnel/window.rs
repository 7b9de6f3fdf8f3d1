//! How long a conversion may take, as it is written: `14 day`, `5 minute`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds with the text they were given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    count: u32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
}

impl Unit {
    const ALL: [(&'static str, Self, i64); 6] = [
        ("second", Self::Second, 1),
        ("minute", Self::Minute, 60),
        ("hour", Self::Hour, 3600),
        ("day", Self::Day, 86_400),
        ("week", Self::Week, 7 * 86_400),
        // The longest month, so that "a month" never ends too early.
        ("month", Self::Month, 31 * 86_400),
    ];
}

impl Default for Window {
    fn default() -> Self {
        Self { count: 14, unit: Unit::Day }
    }
}

/// Longest window, in days.
const DAYS_MAX: i64 = 3660;

impl Window {
    pub(in crate::query) fn millis(self) -> i64 {
        let (_, _, seconds) = Unit::ALL[self.unit as usize];
        i64::from(self.count).saturating_mul(seconds * 1000)
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            let shown: String = text.chars().take(40).collect();
            format!(
                "{shown:?} is not a window such as \"14 day\": a number from 1 on and one of second, minute, hour, day, \
                 week, month; at most {DAYS_MAX} days"
            )
        };
        let (count, unit) = text.trim().split_once(' ').ok_or_else(wrong)?;
        let unit = unit.trim();
        let unit = unit.strip_suffix('s').unwrap_or(unit);
        let unit = Unit::ALL.iter().find(|(name, _, _)| *name == unit).ok_or_else(wrong)?.1;
        let window = Self { count: count.parse().map_err(|_| wrong())?, unit };
        if window.count == 0 || window.millis() > DAYS_MAX * 86_400_000 {
            return Err(wrong());
        }
        Ok(window)
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, Unit::ALL[self.unit as usize].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_in_every_unit_and_refused_with_the_form() {
        for (text, seconds) in [
            ("10 second", 10),
            ("5 minute", 300),
            ("2 hours", 7200),
            ("14 day", 14 * 86_400),
            ("1 week", 604_800),
            ("1 month", 31 * 86_400),
        ] {
            assert_eq!(Window::try_from(text.to_owned()).unwrap().millis(), seconds * 1000, "{text}");
        }
        for text in ["", "day", "0 day", "-1 day", "1 year", "1.5 day", "4000 day", "4294967295 month"] {
            assert!(Window::try_from(text.to_owned()).unwrap_err().contains("14 day"), "{text}");
        }
    }
}
