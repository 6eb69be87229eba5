//! How servers that speak "OpenAI" differ in what they accept. What they answer is read tolerantly for all.

use http::{HeaderName, HeaderValue, header};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

/// Where the key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthHeader {
    /// `Authorization: Bearer <key>`.
    #[default]
    Bearer,
    /// `api-key: <key>`, as Azure wants it.
    ApiKey,
}

/// What a server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Where the key goes.
    pub auth: AuthHeader,
    /// `stream_options` is accepted, so that usage comes. Without, tokens are counted by us.
    pub supports_stream_usage: bool,
    /// The limit is called `max_completion_tokens`; elsewhere `max_tokens`.
    pub max_completion_tokens: bool,
    /// `include_obfuscation` is known and switched off, which saves bandwidth.
    pub obfuscates: bool,
}

impl Default for Dialect {
    /// What most compatible servers accept.
    fn default() -> Self {
        Self { auth: AuthHeader::Bearer, supports_stream_usage: true, max_completion_tokens: false, obfuscates: false }
    }
}

impl Dialect {
    /// What OpenAI itself accepts.
    pub const OPENAI: Self =
        Self { auth: AuthHeader::Bearer, supports_stream_usage: true, max_completion_tokens: true, obfuscates: true };

    /// The likely dialect of the server at `base_url`.
    #[must_use]
    pub fn of(base_url: &str) -> Self {
        let host = Url::parse(base_url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        if host == "api.openai.com" {
            Self::OPENAI
        } else if host.ends_with(".openai.azure.com") {
            Self { auth: AuthHeader::ApiKey, max_completion_tokens: true, ..Self::default() }
        } else {
            Self::default()
        }
    }

    /// This dialect, but for what `words` say: a list with commas of `bearer` or `api-key`, `stream_usage` or `no_stream_usage`,
    /// `max_tokens` or `max_completion_tokens`.
    ///
    /// # Errors
    /// The word that is none of them.
    pub fn but(mut self, words: &str) -> Result<Self, &str> {
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "bearer" => self.auth = AuthHeader::Bearer,
                "api-key" => self.auth = AuthHeader::ApiKey,
                "stream_usage" => self.supports_stream_usage = true,
                "no_stream_usage" => self.supports_stream_usage = false,
                "max_tokens" => self.max_completion_tokens = false,
                "max_completion_tokens" => self.max_completion_tokens = true,
                unknown => return Err(unknown),
            }
        }
        Ok(self)
    }

    /// The header with the key; none for an empty key.
    pub(super) fn auth_header(self, key: &SecretString) -> Result<Option<(HeaderName, HeaderValue)>, &'static str> {
        let key = key.expose_secret();
        if key.is_empty() {
            return Ok(None);
        }
        let (name, value) = match self.auth {
            AuthHeader::Bearer => (header::AUTHORIZATION, format!("Bearer {key}")),
            AuthHeader::ApiKey => (HeaderName::from_static("api-key"), key.to_owned()),
        };
        let mut value = HeaderValue::try_from(value).map_err(|_invalid| "its key holds characters no header takes")?;
        value.set_sensitive(true);
        Ok(Some((name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_the_dialect() {
        assert_eq!(Dialect::of("https://api.openai.com/v1"), Dialect::OPENAI);
        assert_eq!(Dialect::of("https://me.openai.azure.com/openai/v1").auth, AuthHeader::ApiKey);
        assert_eq!(Dialect::of("http://localhost:11434"), Dialect::default());
        assert_eq!(Dialect::of("nonsense"), Dialect::default());
    }

    #[test]
    fn words_change_what_the_host_tells() {
        let proxied = Dialect::default().but("api-key, no_stream_usage,max_completion_tokens").unwrap();

        assert_eq!(proxied.auth, AuthHeader::ApiKey);
        assert!(proxied.max_completion_tokens && !proxied.supports_stream_usage);
        assert_eq!(Dialect::OPENAI.but(""), Ok(Dialect::OPENAI));
        assert_eq!(Dialect::OPENAI.but("bearer,fast"), Err("fast"));
    }

    #[test]
    fn a_key_with_a_line_end_is_refused_and_an_empty_one_sends_nothing() {
        assert!(Dialect::default().auth_header(&SecretString::from("a\nb")).is_err());
        assert_eq!(Dialect::default().auth_header(&SecretString::from("")), Ok(None));
    }
}
