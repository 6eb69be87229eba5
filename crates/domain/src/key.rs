//! API keys: `LEKH-2-<id 8>-<secret 32><crc32 6>` in base62, test mode `LEKH-2-test-..`.
//!
//! The CRC-32 (IEEE) over everything before it tells a typo without a look-up. Only an HMAC of the whole key is stored.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_LENGTH: usize = 8;
const SECRET_LENGTH: usize = 32;
const CHECK_LENGTH: usize = 6;

/// Whether runs of a key are real or simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMode {
    /// Runs against real providers.
    Live,
    /// Runs against the simulator.
    Test,
}

/// A well-formed API key. `Debug` shows only the public id.
#[derive(Clone)]
pub struct ApiKey {
    text: SecretString,
    id: String,
    mode: KeyMode,
}

/// A text that is no key: wrong shape, wrong characters or a wrong check sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct MalformedKey;

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

impl ApiKey {
    /// A key from 40 random numbers below 62 (the caller's random source decides their quality).
    #[must_use]
    pub fn from_random(mode: KeyMode, mut below_62: impl FnMut() -> u8) -> Self {
        let mut digits = |count: usize| -> String { (0..count).map(|_| digit(u32::from(below_62()) % 62)).collect() };
        let id = digits(ID_LENGTH);
        let secret = digits(SECRET_LENGTH);
        let mut text = format!("{}{id}-{secret}", prefix(mode));
        text.push_str(&check(&text));
        Self { text: text.into(), id, mode }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`MalformedKey`] for anything that was never a key; says nothing about which part is wrong.
    pub fn parse(text: &str) -> Result<Self, MalformedKey> {
        let (mode, rest) = if let Some(rest) = text.strip_prefix(prefix(KeyMode::Test)) {
            (KeyMode::Test, rest)
        } else {
            (KeyMode::Live, text.strip_prefix(prefix(KeyMode::Live)).ok_or(MalformedKey)?)
        };
        let (id, secret) = rest.split_once('-').ok_or(MalformedKey)?;
        let shaped = id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH + CHECK_LENGTH;
        if !shaped || !id.bytes().chain(secret.bytes()).all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(MalformedKey);
        }
        let (body, given) = text.split_at_checked(text.len() - CHECK_LENGTH).ok_or(MalformedKey)?;
        if check(body) != given {
            return Err(MalformedKey);
        }
        Ok(Self { text: text.to_owned().into(), id: id.to_owned(), mode })
    }

    /// The public part by which the stored row is found.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Real or simulated.
    #[must_use]
    pub const fn mode(&self) -> KeyMode {
        self.mode
    }

    /// The whole key: shown once, at its making.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.text.expose_secret()
    }

    /// The last four characters of the secret part, for lists.
    #[must_use]
    pub fn last_four(&self) -> &str {
        let text = self.text.expose_secret();
        text.get(text.len().saturating_sub(4)..).unwrap_or_default()
    }

    /// HMAC-SHA256 of the whole key under `pepper`: what is stored and compared.
    #[must_use]
    pub fn hash(&self, pepper: &SecretString) -> [u8; 32] {
        // HMAC takes keys of every length, so the error cannot happen; an empty hash matches no stored row.
        Hmac::<Sha256>::new_from_slice(pepper.expose_secret().as_bytes()).map_or([0; 32], |mut mac| {
            mac.update(self.text.expose_secret().as_bytes());
            mac.finalize().into_bytes().into()
        })
    }
}

const fn prefix(mode: KeyMode) -> &'static str {
    match mode {
        KeyMode::Live => "LEKH-2-",
        KeyMode::Test => "LEKH-2-test-",
    }
}

fn digit(value: u32) -> char {
    ALPHABET.get(value as usize).map_or('0', |byte| char::from(*byte))
}

fn check(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = ['0'; CHECK_LENGTH];
    for place in digits.iter_mut().rev() {
        *place = digit(rest % 62);
        rest /= 62;
    }
    digits.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: &str = "LEKH-2-k7Qm2Zp9-A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p64QAqQL";

    #[test]
    fn the_documented_vector_holds() {
        let key = ApiKey::parse(VECTOR).unwrap();

        assert_eq!(key.id(), "k7Qm2Zp9");
        assert_eq!(key.mode(), KeyMode::Live);
        assert_eq!(
            hex::encode(key.hash(&"test-pepper".to_owned().into())),
            "a9edfa20ae45f880e8c558d3e57fde55491ed0fd1e5ef77efb5a33d9c0b6680f"
        );
    }

    #[test]
    fn a_made_key_reads_back_and_a_typo_does_not() {
        let mut seed = 7_u8;
        for mode in [KeyMode::Live, KeyMode::Test] {
            let key = ApiKey::from_random(mode, || {
                seed = seed.wrapping_mul(31).wrapping_add(17);
                seed % 62
            });
            let text = key.reveal().to_owned();

            assert_eq!(ApiKey::parse(&text).unwrap().mode(), mode);
            for place in 0..text.len() {
                let mut typo = text.clone().into_bytes();
                typo[place] = if typo[place] == b'x' { b'y' } else { b'x' };
                assert!(ApiKey::parse(&String::from_utf8(typo).unwrap()).is_err(), "place {place}");
            }
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", ApiKey::parse(VECTOR).unwrap()), "ApiKey(k7Qm2Zp9)");
    }
}
