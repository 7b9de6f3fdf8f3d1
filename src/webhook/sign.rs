//! Secrets and signatures of Standard Webhooks, version 1: HMAC-SHA256 over id, time and body. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use crate::event::{IdSource, Timestamp};

/// What every secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret; the standard asks for 24 to 64.
const SECRET_BYTES: usize = 32;

/// A new secret: `whsec_` and 256 random bits in base64.
pub fn new_secret(ids: &dyn IdSource) -> String {
    let mut bytes = [0u8; SECRET_BYTES];
    ids.fill(&mut bytes);
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

/// The header `webhook-signature`: a signature by each of these secrets, with a blank between them. A secret that cannot
/// be read signs nothing.
pub fn signature(secrets: &[SecretString], id: &str, at: Timestamp, body: &str) -> String {
    let signed = secrets.iter().filter_map(|secret| {
        let key = STANDARD.decode(secret.expose_secret().strip_prefix(PREFIX)?).ok()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
        mac.update(format!("{id}.{}.{body}", seconds(at)).as_bytes());
        Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    });
    signed.collect::<Vec<_>>().join(" ")
}

/// The header `webhook-timestamp`.
pub fn seconds(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RandomIds;

    /// The example that the standard's own libraries are tested with.
    #[test]
    fn the_signature_is_that_of_the_standards_example() {
        let at = Timestamp::from_millis(1_614_265_330_000);
        let (secret, id) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek");
        let signed = signature(&[secret.into()], id, at, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_good_secret_signs_and_no_other() {
        let (first, second) = (new_secret(&RandomIds), new_secret(&RandomIds));
        assert_ne!(first, second);
        let at = Timestamp::from_millis(1_000);
        let of = |secrets: &[&str]| {
            let secrets: Vec<SecretString> = secrets.iter().map(|one| (*one).into()).collect();
            signature(&secrets, "msg_1", at, "{}")
        };
        assert_eq!(of(&[&first, &second]), format!("{} {}", of(&[&first]), of(&[&second])));
        assert_eq!(of(&["nonsense", "whsec_%"]), "");
    }
}
