//! Time zones by name.

use chrono_tz::Tz;

use super::{Problem, strict};

/// Finds a time zone by its IANA name; `field` is where it was named.
///
/// # Errors
/// 400 with the nearest known name.
pub fn zone(field: &str, name: &str) -> Result<Tz, Problem> {
    name.parse().map_err(|_| {
        let known = || chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
        let wanted = last(name);
        let near = known()
            .find(|zone| zone.eq_ignore_ascii_case(name) || last(zone) == wanted)
            .or_else(|| strict::nearest(name, known()));
        let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        let message = format!(
            "{field} is {name:?}, which is not an IANA time zone such as UTC, Asia/Kathmandu or America/New_York{hint}"
        );
        let problem = Problem::invalid(field, message).with("given", name);
        if let Some(near) = near { problem.with("valid", vec![near]) } else { problem }
    })
}
