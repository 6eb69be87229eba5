//! What response headers say: the call's name, limits, and when to ask again.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

use crate::LimitState;

/// No provider means more than a month; such a value is broken.
const LONGEST_HINT: Duration = Duration::from_secs(31 * 24 * 3600);

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The provider's name for the call.
pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    text(headers, "x-request-id").map(|id| id.chars().take(128).collect())
}

/// Whether the provider wants the request again, if it says so.
pub(super) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match text(headers, "x-should-retry")? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// How long the provider asks us to wait: `retry-after-ms`, else `retry-after` in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name, unit: f64| {
        let value: f64 = text(headers, name)?.parse().ok()?;
        Duration::try_from_secs_f64(value * unit).ok()
    };
    number("retry-after-ms", 0.001)
        .or_else(|| number("retry-after", 1.0))
        .or_else(|| {
            let at = httpdate::parse_http_date(text(headers, "retry-after")?).ok()?;
            // The provider's own clock, where it tells it: ours may differ.
            let now = text(headers, header::DATE.as_str())
                .and_then(|date| httpdate::parse_http_date(date).ok())
                .unwrap_or_else(SystemTime::now);
            at.duration_since(now).ok()
        })
        .filter(|hint| !hint.is_zero() && *hint <= LONGEST_HINT)
}

/// The rate limits.
pub(super) fn limits(headers: &HeaderMap) -> LimitState {
    let number = |name| text(headers, name)?.parse().ok();
    let duration = |name| duration(text(headers, name)?);
    LimitState {
        requests_remaining: number("x-ratelimit-remaining-requests"),
        tokens_remaining: number("x-ratelimit-remaining-tokens"),
        requests_reset: duration("x-ratelimit-reset-requests"),
        tokens_reset: duration("x-ratelimit-reset-tokens"),
    }
}

/// A duration like `1h2m3.5s` or `120ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hints_are_read_in_all_three_forms() {
        let hint = |pairs| retry_after(&headers(pairs));

        assert_eq!(hint(&[("retry-after", "2")]), Some(Duration::from_secs(2)));
        assert_eq!(hint(&[("retry-after", "0.5")]), Some(Duration::from_millis(500)));
        assert_eq!(hint(&[("retry-after", "2"), ("retry-after-ms", "1500")]), Some(Duration::from_millis(1500)));
        assert_eq!(
            hint(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")]),
            Some(Duration::from_secs(10))
        );
    }

    #[test]
    fn nonsense_is_no_hint() {
        for value in ["0", "-1", "NaN", "inf", "1e300", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(&headers(&[("retry-after", value)])), None, "{value}");
        }
    }

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        assert_eq!(duration("6m0s"), Some(Duration::from_secs(360)));
        assert_eq!(duration("120ms"), Some(Duration::from_millis(120)));
        assert_eq!(duration("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        for nonsense in ["", "5", "s", "5x", "1..2s"] {
            assert_eq!(duration(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn used_up_limits_tell_how_long() {
        let limits = limits(&headers(&[
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "2s"),
            ("x-ratelimit-remaining-tokens", "10"),
            ("x-ratelimit-reset-tokens", "60s"),
        ]));

        assert_eq!(limits.exhausted_for(), Some(Duration::from_secs(2)));
    }
}
