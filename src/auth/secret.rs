//! The keys themselves: how they are made, what is kept of them, how they are compared.

use std::fmt;
use std::hash::{Hash, Hasher};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::event::IdSource;

/// What every API key begins with.
const KEY_PREFIX: &str = "ff_";
/// What an operator's token begins with.
const OPERATOR_PREFIX: &str = "ffop_";
/// What a refresh token, and an invitation, begins with.
const REFRESH_PREFIX: &str = "ffr_";
const INVITATION_PREFIX: &str = "ffi_";
/// Characters of a password that we make: 119 bits.
const PASSWORD_CHARS: usize = 20;
/// 256 bits in base 62.
const BODY_CHARS: usize = 43;
/// Characters of a key that are shown in lists; the other 35 hold 208 bits.
const SHOWN_CHARS: usize = KEY_PREFIX.len() + 8;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new API key: `ff_` and 43 letters and digits, 256 random bits.
pub(super) fn new_key(ids: &dyn IdSource) -> SecretString {
    format!("{KEY_PREFIX}{}", random_text(ids)).into()
}

/// A new operator's token for `server.json`: 256 random bits.
pub fn new_operator_token(ids: &dyn IdSource) -> SecretString {
    format!("{OPERATOR_PREFIX}{}", random_text(ids)).into()
}

/// A new refresh token: 256 random bits.
pub(super) fn new_refresh_token(ids: &dyn IdSource) -> SecretString {
    format!("{REFRESH_PREFIX}{}", random_text(ids)).into()
}

/// A new token of an invitation: 256 random bits.
pub(super) fn new_invitation(ids: &dyn IdSource) -> SecretString {
    format!("{INVITATION_PREFIX}{}", random_text(ids)).into()
}

/// A new password: 20 letters and digits. The first of 43 is left out: it carries less than its share of the bits.
pub(super) fn new_password(ids: &dyn IdSource) -> SecretString {
    random_text(ids)[1..=PASSWORD_CHARS].to_owned().into()
}

/// The part of a key that may be shown.
pub(super) fn shown_prefix(key: &SecretString) -> String {
    key.expose_secret().chars().take(SHOWN_CHARS).collect()
}

/// Could this be a key of ours? What could not is refused without asking the database.
pub(super) fn has_key_form(token: &[u8]) -> bool {
    token
        .strip_prefix(KEY_PREFIX.as_bytes())
        .is_some_and(|body| body.len() == BODY_CHARS && body.iter().all(u8::is_ascii_alphanumeric))
}

fn random_text(ids: &dyn IdSource) -> String {
    let mut number = [0u8; 32];
    ids.fill(&mut number);
    // Long division of the 256-bit number by 62, a digit a round, lowest first.
    let mut digits = [0u8; BODY_CHARS];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in &mut number {
            let dividend = remainder << 8 | u32::from(*byte);
            *byte = (dividend / 62) as u8;
            remainder = dividend % 62;
        }
        *digit = BASE62[remainder as usize];
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// SHA-256 of a key: all that is kept of it. Compared in constant time, wherever it is compared.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a key as it was sent.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Reads 64 hexadecimal digits of either case; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// 64 hexadecimal digits in lower case.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyDigest {}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

// A digest is enough to make a static key of: keep it out of logs.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::event::{RandomIds, Timestamp};

    struct Bytes(u8);

    impl IdSource for Bytes {
        fn uuid_v7(&self, _: Timestamp) -> uuid::Uuid {
            uuid::Uuid::nil()
        }

        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn a_key_carries_all_256_bits() {
        // 2^256 - 1 and 0 in base 62, calculated elsewhere.
        let ones = "ff_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1";
        assert_eq!(new_key(&Bytes(0xff)).expose_secret(), ones);
        assert_eq!(new_key(&Bytes(0)).expose_secret(), &format!("ff_{}", "0".repeat(43)));
    }

    #[test]
    fn keys_differ_and_have_the_form_that_is_let_through() {
        let keys: HashSet<String> =
            (0..1000).map(|_| new_key(&RandomIds).expose_secret().to_owned()).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| has_key_form(key.as_bytes())));
        let key = keys.iter().next().unwrap();
        assert_eq!(shown_prefix(&key.clone().into()), key[..11]);
        for other in ["", "ff_", "ff_short", &key[1..], &format!("{key}x"), &key.replace("ff_", "fg_")] {
            assert!(!has_key_form(other.as_bytes()), "{other}");
        }
        assert!(!has_key_form(new_operator_token(&RandomIds).expose_secret().as_bytes()));
    }

    #[test]
    fn digests_read_back_and_differ_in_every_bit() {
        let digest = KeyDigest::of(b"abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_hex(), hex);
        assert_eq!(KeyDigest::from_hex(&hex.to_uppercase()), Some(digest));
        for bit in 0..256 {
            let mut other = digest;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(other, digest, "bit {bit}");
        }
        for wrong in ["", "ba78", &hex[1..], &hex.replace('b', "g"), &"é".repeat(32)] {
            assert_eq!(KeyDigest::from_hex(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{digest:?}"), "KeyDigest");
    }
}
