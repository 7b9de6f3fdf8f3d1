//! Logging in to a broker: SASL PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677).
//!
//! Names and passwords go as they are, without SASLprep: Apache Kafka keeps them so, and a password that SASLprep changes
//! would let nobody in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

/// Most rounds of hashing that a broker may ask for: bounds the CPU of a login.
const ITERATIONS_MAX: u32 = 1_000_000;
/// Fewer than RFC 7677 allows would make a recorded login easy to guess.
const ITERATIONS_MIN: u32 = 4096;

/// How to log in.
#[derive(Clone, Debug)]
pub struct SaslOptions {
    pub mechanism: SaslMechanism,
    pub username: String,
    pub password: SecretString,
}

/// The mechanisms that are spoken here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SaslMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl SaslMechanism {
    /// As Kafka calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// `\0user\0password`, all that PLAIN says.
pub(super) fn plain(options: &SaslOptions) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(options.username.as_bytes());
    message.push(0);
    message.extend_from_slice(options.password.expose_secret().as_bytes());
    message
}

/// The client's side of one SCRAM login: [`Scram::first`], then [`Scram::answer`] with what the server said, then
/// [`ServerProof::check`] with what it says to that.
pub(super) struct Scram {
    hash: Hash,
    password: SecretString,
    first_bare: String,
    nonce: String,
}

/// What the server must say last, which only one who knows the password can.
pub(super) struct ServerProof(Vec<u8>);

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha512,
}

impl Scram {
    /// `randomness` becomes the nonce: never used twice. None for a mechanism that is not SCRAM.
    pub(super) fn new(options: &SaslOptions, randomness: [u8; 18]) -> Option<Self> {
        let hash = match options.mechanism {
            SaslMechanism::Plain => return None,
            SaslMechanism::ScramSha256 => Hash::Sha256,
            SaslMechanism::ScramSha512 => Hash::Sha512,
        };
        Some(Self::with_nonce(options, hash, BASE64.encode(randomness)))
    }

    fn with_nonce(options: &SaslOptions, hash: Hash, nonce: String) -> Self {
        let user = options.username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        Self { hash, password: options.password.clone(), first_bare, nonce }
    }

    /// The client's first message.
    pub(super) fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first_bare).into_bytes()
    }

    /// The client's last message, and what the server has to say to it. Hashes some thousand times.
    ///
    /// # Errors
    /// The server's message is not SCRAM, or asks for too little or too much.
    pub(super) fn answer(&self, server_first: &[u8]) -> Result<(Vec<u8>, ServerProof), String> {
        let text = std::str::from_utf8(server_first).map_err(|_| "its SCRAM message is not UTF-8")?;
        let field = |name: char| {
            let mut fields = text.split(',').filter_map(|field| field.split_once('='));
            fields.find(|(key, _)| key.chars().eq([name])).map(|(_, value)| value)
        };
        let nonce = field('r').filter(|nonce| nonce.starts_with(&self.nonce) && *nonce != self.nonce);
        let nonce = nonce.ok_or("its SCRAM nonce does not go on from ours")?;
        let salt =
            field('s').and_then(|salt| BASE64.decode(salt).ok()).ok_or("its SCRAM salt is unreadable")?;
        let iterations: u32 =
            field('i').and_then(|i| i.parse().ok()).ok_or("its SCRAM count is unreadable")?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!(
                "it asks for {iterations} SCRAM iterations, not between {ITERATIONS_MIN} and {ITERATIONS_MAX}"
            ));
        }
        let hash = self.hash;
        let salted = hash.stretch(self.password.expose_secret().as_bytes(), &salt, iterations);
        let client_key = hash.hmac(&salted, b"Client Key")?;
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{text},{without_proof}", self.first_bare);
        let signature = hash.hmac(&hash.digest(&client_key), signed.as_bytes())?;
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, sign)| key ^ sign).collect();
        let server_key = hash.hmac(&salted, b"Server Key")?;
        let expected = hash.hmac(&server_key, signed.as_bytes())?;
        let last = format!("{without_proof},p={}", BASE64.encode(proof));
        Ok((last.into_bytes(), ServerProof(expected)))
    }
}

impl ServerProof {
    /// # Errors
    /// The server does not know the password, or refuses ours.
    pub(super) fn check(&self, server_last: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(server_last).map_err(|_| "its SCRAM message is not UTF-8")?;
        if let Some(error) = text.strip_prefix("e=") {
            return Err(error.to_owned());
        }
        let given = text.strip_prefix("v=").map(|proof| proof.split(',').next().unwrap_or_default());
        let given = given.and_then(|proof| BASE64.decode(proof).ok()).unwrap_or_default();
        if bool::from(given.ct_eq(&self.0)) {
            return Ok(());
        }
        Err("it could not prove that it knows the password: is this the right broker?".to_owned())
    }
}

impl Hash {
    fn stretch(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        match self {
            Self::Sha256 => {
                let mut out = [0; 32];
                pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut out);
                out.to_vec()
            }
            Self::Sha512 => {
                let mut out = [0; 64];
                pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, &mut out);
                out.to_vec()
            }
        }
    }

    fn hmac(self, key: &[u8], data: &[u8]) -> Result<Vec<u8>, String> {
        fn run<M: Mac + hmac::digest::KeyInit>(key: &[u8], data: &[u8]) -> Result<Vec<u8>, String> {
            let mut mac = <M as Mac>::new_from_slice(key).map_err(|error| error.to_string())?;
            mac.update(data);
            Ok(mac.finalize().into_bytes().to_vec())
        }
        match self {
            Self::Sha256 => run::<Hmac<Sha256>>(key, data),
            Self::Sha512 => run::<Hmac<Sha512>>(key, data),
        }
    }

    fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(username: &str, mechanism: SaslMechanism) -> SaslOptions {
        SaslOptions { mechanism, username: username.to_owned(), password: "pencil".into() }
    }

    /// The example of RFC 7677.
    #[test]
    fn speaks_scram_sha_256_as_its_rfc_does() {
        let scram = Scram::with_nonce(
            &options("user", SaslMechanism::ScramSha256),
            Hash::Sha256,
            "rOprNGfwEbeRWgbNEkqO".to_owned(),
        );
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let said = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, proof) = scram.answer(said).unwrap();
        assert_eq!(
            String::from_utf8(last).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        proof.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert!(proof.check(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err());
        assert_eq!(proof.check(b"e=unknown-user"), Err("unknown-user".to_owned()));
    }

    #[test]
    fn a_server_that_asks_for_nonsense_is_refused() {
        let scram =
            Scram::with_nonce(&options("u,=", SaslMechanism::ScramSha512), Hash::Sha512, "abc".to_owned());
        assert_eq!(scram.first(), b"n,,n=u=2C=3D,r=abc");
        for said in [
            "r=abc,s=AAAA,i=4096",
            "r=xyz1,s=AAAA,i=4096",
            "r=abc1,s=AAAA,i=1",
            "r=abc1,s=AAAA,i=2000000",
            "",
        ] {
            assert!(scram.answer(said.as_bytes()).is_err(), "{said:?}");
        }
        assert!(scram.answer(b"r=abc1,s=AAAA,i=4096").is_ok());
    }

    #[test]
    fn plain_says_all_in_one_message() {
        assert_eq!(plain(&options("ada", SaslMechanism::Plain)), b"\0ada\0pencil");
        assert!(Scram::new(&options("ada", SaslMechanism::Plain), [0; 18]).is_none());
    }
}
