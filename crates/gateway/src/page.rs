//! Page tokens: opaque, and bound to the filter they were made for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use domain::ExecutionId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// The token of the page after an entry.
pub(crate) fn token(secret: &SecretString, filter: &str, at: DateTime<Utc>, id: ExecutionId) -> String {
    let place = format!("{}.{id}", at.timestamp_micros());
    let mut bytes = mac(secret, filter, &place);
    bytes.extend_from_slice(place.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The entry a token stands for; `None` when it was made for another filter, or by nobody.
pub(crate) fn read(secret: &SecretString, filter: &str, token: &str) -> Option<(DateTime<Utc>, ExecutionId)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (given, place) = bytes.split_at_checked(16)?;
    let place = std::str::from_utf8(place).ok()?;
    let equal: bool = subtle::ConstantTimeEq::ct_eq(given, mac(secret, filter, place).as_slice()).into();
    let (at, id) = place.split_once('.').filter(|_| equal)?;
    Some((DateTime::from_timestamp_micros(at.parse().ok()?)?, id.parse().ok()?))
}

fn mac(secret: &SecretString, filter: &str, place: &str) -> Vec<u8> {
    // HMAC takes keys of every length: the error cannot happen, and an empty code matches nothing.
    Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).map_or_else(
        |_impossible| Vec::new(),
        |mut mac| {
            mac.update(filter.as_bytes());
            mac.update(b"\n");
            mac.update(place.as_bytes());
            mac.finalize().into_bytes().iter().copied().take(16).collect()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_for_its_own_filter_only() {
        let secret = SecretString::from("link-secret");
        let at = DateTime::from_timestamp_micros(1_790_000_000_123_456).unwrap();
        let id = ExecutionId::generate();

        let token = token(&secret, "status=failed", at, id);

        assert_eq!(read(&secret, "status=failed", &token), Some((at, id)));
        assert_eq!(read(&secret, "status=queued", &token), None);
        assert_eq!(read(&secret, "status=failed", "nonsense"), None);
    }
}
