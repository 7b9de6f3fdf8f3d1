//! Exact decimals: read from a number's own text, never through a float.
//!
//! A value counts if it has at most [`INTEGER_DIGITS_MAX`] digits before the point and [`SCALE`] behind it. One with
//! more is not rounded: it is [`Quantity::TooPrecise`], counted apart, so that no total is quietly wrong. What is
//! *computed* (an average, a quotient, a weighted sum) is rounded half to even at [`SCALE`] digits, once, at its end.

use bigdecimal::num_bigint::{BigInt, Sign};
use bigdecimal::{BigDecimal, Signed, Zero};

/// Most digits behind the point, and of what is computed.
pub const SCALE: i64 = 18;
/// Most digits before the point. With the scale that is 56 of the 76 digits of the store's decimals, so that 10^20
/// values are summed before a sum could overflow.
pub const INTEGER_DIGITS_MAX: u64 = 38;
/// Most digits before the point of numbers that the store adds up by itself.
pub const SHORT_DIGITS_MAX: u64 = 15;
/// Longest text of a number that is looked at, in bytes.
const TEXT_BYTES_MAX: usize = 400;
/// Largest exponent, either way, that is looked at.
const EXPONENT_MAX: i64 = 400;

/// What a value of an event is for a meter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quantity {
    Number(BigDecimal),
    /// The property is absent or null.
    Missing,
    /// There is a value, and it is no number.
    NotNumeric,
    /// A number with more digits than are kept.
    TooPrecise,
}

impl Quantity {
    /// Reads the JSON text of a property's value: a number, or a text that is one and nothing else. Empty is absent.
    pub fn of_json(json: &str) -> Self {
        match json.as_bytes() {
            b"" | b"null" => Self::Missing,
            [b'"', ..] => match serde_json::from_str::<String>(json) {
                Ok(text) => Self::of_text(text.trim()),
                Err(_) => Self::NotNumeric,
            },
            _ => Self::of_text(json),
        }
    }

    /// Reads a number's text, as JSON writes numbers; leading zeros and a plus are taken, too.
    pub fn of_text(text: &str) -> Self {
        let Some(exponent) = exponent_of(text) else { return Self::NotNumeric };
        if text.len() > TEXT_BYTES_MAX || exponent.abs() > EXPONENT_MAX {
            return Self::TooPrecise;
        }
        text.parse().map_or(Self::NotNumeric, |number| Self::checked(&number))
    }

    /// A number, unless it has too many digits.
    pub fn checked(number: &BigDecimal) -> Self {
        let number = number.normalized();
        let (digits, scale) = (i128::from(number.digits()), i128::from(number.fractional_digit_count()));
        let fits = number.is_zero()
            || (scale <= i128::from(SCALE) && digits - scale <= i128::from(INTEGER_DIGITS_MAX));
        if fits { Self::Number(number) } else { Self::TooPrecise }
    }
}

/// The exponent of what is a number's text; `None`: it is none.
fn exponent_of(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        None => (unsigned, None),
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let Some(exponent) = exponent else { return Some(0) };
    if !digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)) {
        return None;
    }
    Some(exponent.parse().unwrap_or(i64::MAX))
}

/// `a / b` rounded half to even at [`SCALE`] digits; `None` for a division by zero.
pub fn divide(a: &BigDecimal, b: &BigDecimal) -> Option<BigDecimal> {
    if b.is_zero() {
        return None;
    }
    let (a, a_scale) = a.as_bigint_and_exponent();
    let (b, b_scale) = b.as_bigint_and_exponent();
    // a / b = (a / b) * 10^(b_scale - a_scale); wanted is that, times 10^SCALE, as an integer.
    let shift = SCALE + b_scale - a_scale;
    let power = BigInt::from(10).pow(u32::try_from(shift.unsigned_abs()).ok()?);
    let (a, b) = if shift >= 0 { (a * power, b) } else { (a, b * power) };
    let negative = (a.sign() == Sign::Minus) != (b.sign() == Sign::Minus);
    let (a, b) = (a.abs(), b.abs());
    let (mut quotient, twice) = (&a / &b, (&a % &b) * 2);
    if twice > b || (twice == b && &quotient % 2 == BigInt::from(1)) {
        quotient += 1;
    }
    Some(BigDecimal::new(if negative { -quotient } else { quotient }, SCALE).normalized())
}

/// Rounded half to even at [`SCALE`] digits.
pub fn rounded(number: &BigDecimal) -> BigDecimal {
    if number.fractional_digit_count() <= SCALE {
        return number.normalized();
    }
    number.with_scale_round(SCALE, bigdecimal::RoundingMode::HalfEven).normalized()
}

/// The shortest text of the same number, without an exponent: `0.1`, `-20`, `0`.
pub fn plain(number: &BigDecimal) -> String {
    if number.is_zero() {
        return "0".to_owned();
    }
    // Of text, as normalizing takes a number apart digit by digit and builds it again.
    let mut text = number.to_plain_string();
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> BigDecimal {
        match Quantity::of_json(text) {
            Quantity::Number(number) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_tenth_ten_times_is_one() {
        let sum: BigDecimal = std::iter::repeat_n(number("0.1"), 10).sum();
        assert_eq!(plain(&sum), "1");
    }

    #[test]
    fn absent_null_text_and_numbers_with_too_many_digits_stay_different() {
        use Quantity::{Missing, NotNumeric, TooPrecise};
        for (json, wanted) in [
            ("", Missing),
            ("null", Missing),
            ("\"\"", NotNumeric),
            ("\"x\"", NotNumeric),
            ("true", NotNumeric),
            ("{}", NotNumeric),
            ("\"NaN\"", NotNumeric),
            ("\"inf\"", NotNumeric),
            ("\"1,5\"", NotNumeric),
            ("\"0x10\"", NotNumeric),
            ("\"1_000\"", NotNumeric),
            ("0.1234567890123456789", TooPrecise),
            ("1e38", TooPrecise),
            ("1e-19", TooPrecise),
            ("1e999999999999999999999", TooPrecise),
        ] {
            assert_eq!(Quantity::of_json(json), wanted, "{json}");
        }
        for (json, wanted) in [
            ("1.50", "1.5"),
            ("\" 007 \"", "7"),
            ("1e3", "1000"),
            ("-0.000000000000000001", "-0.000000000000000001"),
            ("0e400", "0"),
            ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
            ("0.1000000000000000000000", "0.1"),
        ] {
            assert_eq!(plain(&number(json)), wanted, "{json}");
        }
    }

    #[test]
    fn halves_go_to_the_even_neighbour() {
        let by = |a: &str, b: &str| plain(&divide(&a.parse().unwrap(), &b.parse().unwrap()).unwrap());
        assert_eq!(by("1", "3"), "0.333333333333333333");
        assert_eq!(by("-2", "3"), "-0.666666666666666667");
        assert_eq!(by("0.000000000000000001", "2"), "0");
        assert_eq!(by("0.000000000000000003", "2"), "0.000000000000000002");
        assert_eq!(by("10", "0.00000000000000000000004"), "250000000000000000000000");
        assert_eq!(divide(&1.into(), &0.into()), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".*|[-+0-9.eE]{0,40}") {
            let _ = Quantity::of_json(&text);
            let _ = Quantity::of_text(&text);
        }

        #[test]
        fn a_number_comes_back_as_it_was(whole in 0_u128..10_u128.pow(38), fraction in 0_u64..10_u64.pow(18)) {
            let text = format!("{whole}.{fraction:018}");
            let back = plain(&number(&text));
            let trimmed = text.trim_end_matches('0').trim_end_matches('.');
            prop_assert_eq!(back, if trimmed.is_empty() { "0" } else { trimmed });
        }

        #[test]
        fn a_quotient_times_its_divisor_is_the_dividend_within_half_a_digit(
            a in -1_000_000_i64..1_000_000, b in 1_i64..10_000
        ) {
            let (a, b) = (BigDecimal::from(a), BigDecimal::from(b));
            let back = divide(&a, &b).unwrap() * &b;
            let half = BigDecimal::new(5.into(), SCALE + 1) * &b;
            prop_assert!((back - a).abs() <= half);
        }
    }
}
