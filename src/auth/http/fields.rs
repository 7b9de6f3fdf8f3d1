//! What may stand in the fields of a body.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};

use crate::auth::{Permission, Permissions};
use crate::http::{Problem, strict};
use crate::meta::Role;

/// Most characters of a name.
pub(super) const NAME_CHARS_MAX: usize = 200;
/// Longest e-mail address (RFC 5321 allows 254 bytes).
const EMAIL_BYTES_MAX: usize = 254;
const PASSWORD_CHARS_MIN: usize = 10;
const PASSWORD_CHARS_MAX: usize = 200;

/// A text that no error repeats, whatever was sent in its place.
pub(super) struct Secret(pub SecretString);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        const WRONG: &str = "must be a text";
        impl<'de> de::Visitor<'de> for Text {
            type Value = Secret;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned().into()))
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom(WRONG))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(WRONG))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(WRONG))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

pub(super) fn valid_name(given: &str) -> Result<&str, Problem> {
    let name = given.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let message =
            format!("name must have 1 to {NAME_CHARS_MAX} characters, none of them a control character");
        return Err(Problem::invalid("name", message).with("max", NAME_CHARS_MAX));
    }
    Ok(name)
}

/// In lower case: people are found by it.
pub(super) fn valid_email(given: &str) -> Result<String, Problem> {
    let email = given.trim().to_lowercase();
    let parts = email.split_once('@');
    let fits = parts.is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'))
        && email.len() <= EMAIL_BYTES_MAX
        && !email.chars().any(|c| c.is_control() || c.is_whitespace());
    if fits {
        return Ok(email);
    }
    let message =
        format!("email must be an address such as ann@example.com, at most {EMAIL_BYTES_MAX} bytes");
    let given: String = given.chars().take(NAME_CHARS_MAX).collect();
    Err(Problem::invalid("email", message).with("given", given))
}

/// A password that may be set; its text is never repeated.
pub(super) fn valid_password<'a>(field: &str, given: &'a Secret) -> Result<&'a SecretString, Problem> {
    let length = given.0.expose_secret().chars().count();
    if (PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&length) {
        return Ok(&given.0);
    }
    let message =
        format!("{field} must have {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters; given: {length}");
    Err(Problem::invalid(field, message).with("min", PASSWORD_CHARS_MIN).with("max", PASSWORD_CHARS_MAX))
}

pub(super) fn valid_role(given: &str) -> Result<Role, Problem> {
    let valid: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
    Role::from_name(given).ok_or_else(|| {
        let hint = strict::nearest(given, valid.iter().copied())
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default();
        let given: String = given.chars().take(NAME_CHARS_MAX).collect();
        let message = format!("role is {given:?}, but must be one of {}{hint}", valid.join(", "));
        Problem::invalid("role", message).with("given", given).with("valid", valid.clone())
    })
}

pub(super) fn valid_scopes(given: &[String]) -> Result<Permissions, Problem> {
    let valid: Vec<&str> = Permission::ALL.iter().map(|one| one.as_str()).collect();
    let mut permissions = Vec::with_capacity(given.len().min(valid.len()));
    for (index, scope) in given.iter().enumerate() {
        permissions.push(Permission::from_name(scope).ok_or_else(|| {
            let hint = strict::nearest(scope, valid.iter().copied())
                .map(|name| format!("; did you mean {name}?"))
                .unwrap_or_default();
            let message = format!("scopes[{index}] is not a scope; valid are {}{hint}", valid.join(", "));
            Problem::invalid(&format!("scopes[{index}]"), message)
                .with("given", scope.chars().take(NAME_CHARS_MAX).collect::<String>())
                .with("valid", valid.clone())
        })?);
    }
    if permissions.is_empty() {
        let message = format!("scopes must have at least one of {}", valid.join(", "));
        return Err(Problem::invalid("scopes", message).with("valid", valid));
    }
    Ok(permissions.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Login {
        #[expect(dead_code, reason = "only its reading is tested")]
        password: Secret,
    }

    #[test]
    fn a_password_that_is_no_text_is_not_repeated() {
        for body in [
            r#"{"password":31337}"#,
            r#"{"password":-31337}"#,
            r#"{"password":31337.5}"#,
            r#"{"password":["31337"]}"#,
            r#"{"password":{"a":"31337"}}"#,
            r#"{"password":true}"#,
        ] {
            let problem = strict::json::<Login>(body.as_bytes()).err().unwrap();
            assert!(!problem.message.contains("31337"), "{body}: {}", problem.message);
        }
        let short = valid_password("password", &Secret("hunter2".to_owned().into())).unwrap_err();
        assert!(!short.message.contains("hunter2"));
    }

    #[test]
    fn addresses_are_compared_in_lower_case_and_must_look_like_one() {
        assert_eq!(valid_email(" Ann@Example.COM ").unwrap(), "ann@example.com");
        for wrong in ["", "ann", "@x", "ann@", "a b@x", "a@b@c"] {
            assert!(valid_email(wrong).is_err(), "{wrong}");
        }
    }
}
