//! HTTP clients that always have time-outs.

use std::time::Duration;

/// How a client connects and how long it waits.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// For a whole request with its body; `None` for streams, whose caller watches each phase.
    pub total_timeout: Option<Duration>,
    /// How long an idle connection is kept.
    pub pool_idle_timeout: Duration,
    /// How many idle connections are kept per host.
    pub pool_idle_per_host: usize,
    /// Never through a proxy that the environment names.
    pub direct: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            total_timeout: Some(Duration::from_secs(30)),
            pool_idle_timeout: Duration::from_secs(30),
            pool_idle_per_host: 64,
            direct: false,
        }
    }
}

impl ClientConfig {
    /// For requests between our own processes, which carry a deadline each: a peer that takes no connection at once is
    /// given up long before the shortest of them (a renewal's 900 ms), so that another replica can still be asked.
    #[must_use]
    pub fn internal() -> Self {
        Self { connect_timeout: Duration::from_millis(300), total_timeout: None, direct: true, ..Self::default() }
    }

    /// For requests to one platform: this machine is never reached through a proxy.
    #[must_use]
    pub fn reaching(base_url: &str) -> Self {
        let url = reqwest::Url::parse(base_url).ok();
        let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default().trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        Self { direct: local, ..Self::default() }
    }
}

/// The TLS set-up of the machine cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("build an HTTP client")]
pub struct HttpClientError(#[source] reqwest::Error);

/// Builds a client. It follows no redirects: our peers send none, and a provider's would leak credentials.
///
/// # Errors
/// When TLS cannot be set up.
pub fn build(config: &ClientConfig) -> Result<reqwest::Client, HttpClientError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(config.pool_idle_timeout)
        .pool_max_idle_per_host(config.pool_idle_per_host)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("lekhika/", env!("CARGO_PKG_VERSION")));
    if let Some(total) = config.total_timeout {
        builder = builder.timeout(total);
    }
    if config.direct {
        builder = builder.no_proxy();
    }
    builder.build().map_err(HttpClientError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_reached_without_a_proxy() {
        for local in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:9/x"] {
            assert!(ClientConfig::reaching(local).direct, "{local}");
        }
        for remote in ["https://books.example", "http://10.0.0.1", "nonsense"] {
            assert!(!ClientConfig::reaching(remote).direct, "{remote}");
        }
    }
}
