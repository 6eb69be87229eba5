//! Scripts: what each model sends, and the rows of the fault matrix.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{StatusCode, header};

use super::{
    SimulatorConfig,
    body::Step,
    chunks::{Chunks, DONE, REASONING_TOKENS, Told, error, event},
    compose::Composed,
    model::{Fault, Variant},
};

/// Between two tokens of a fault: fast, but tokens.
const QUICK: Duration = Duration::from_millis(1);
/// One event of F17.
const MEGABYTE: usize = 1024 * 1024;

/// An answer that is no stream.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

/// What a fault refuses before any token, if it is of that kind.
pub(super) fn refusal(fault: Fault, variant: Variant) -> Option<Refusal> {
    let refused = |status: StatusCode, headers: Vec<(&'static str, String)>, kind: &str, code: &str, message: &str| {
        Some(Refusal { status, headers, body: error(kind, code, message) })
    };
    let limited = |headers| {
        let message = "Rate limit reached for requests per minute. Please try again later.";
        refused(StatusCode::TOO_MANY_REQUESTS, headers, "requests", "rate_limit_exceeded", message)
    };
    match (fault, variant) {
        (Fault::F04, Variant::Milliseconds) => {
            limited(vec![("retry-after", "2".to_owned()), ("retry-after-ms", "1500".to_owned())])
        }
        (Fault::F04, Variant::Date) => {
            // A date has whole seconds: one more keeps the hint from being shorter than two.
            let at = SystemTime::now() + Duration::from_secs(3);
            limited(vec![("retry-after", httpdate::fmt_http_date(at))])
        }
        (Fault::F04, _) => limited(vec![
            ("retry-after", "2".to_owned()),
            ("x-ratelimit-limit-requests", "60".to_owned()),
            ("x-ratelimit-remaining-requests", "0".to_owned()),
            ("x-ratelimit-reset-requests", "2s".to_owned()),
        ]),
        (Fault::F05, _) => {
            let message = "You exceeded your current quota, please check your plan and billing details.";
            refused(StatusCode::TOO_MANY_REQUESTS, vec![], "insufficient_quota", "insufficient_quota", message)
        }
        (Fault::F06, variant) => {
            let status = if variant == Variant::Status529 { 529 } else { 503 };
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            refused(status, vec![], "server_error", "overloaded", "The server is overloaded or not ready yet.")
        }
        (Fault::F21, _) => {
            let message = "The model does not exist or you do not have access to it.";
            refused(StatusCode::NOT_FOUND, vec![], "invalid_request_error", "model_not_found", message)
        }
        (Fault::F24, _) => limited(vec![("retry-after", "3600".to_owned())]),
        (Fault::F25, _) => Some(Refusal {
            status: StatusCode::OK,
            headers: vec![(header::CONTENT_TYPE.as_str(), "text/html; charset=utf-8".to_owned())],
            body: Bytes::from_static(
                b"<!doctype html><html><body><h1>Please sign in to this network</h1></body></html>",
            ),
        }),
        _ => None,
    }
}

/// Which usage a fault tells to a client that asked for it.
pub(super) const fn told(fault: Fault) -> Told {
    match fault {
        Fault::F02 => Told::Nothing,
        Fault::F03 => Told::Zero,
        Fault::F22 => Told::Detailed,
        _ => Told::Counted,
    }
}

/// The whole answer at this pace.
pub(super) fn paced(composed: &Composed, chunks: &Chunks, first: Duration, every: Duration) -> Vec<Step> {
    let mut steps = vec![Step::Send(event(&chunks.role())), Step::Pause(first)];
    steps.push(Step::Tokens { until: composed.tokens(), every, with_usage: false });
    steps.extend(ending(composed, chunks));
    steps
}

/// Reason, usage and the end, in one write.
fn ending(composed: &Composed, chunks: &Chunks) -> Vec<Step> {
    let mut end = event(&chunks.finish(composed.finish)).to_vec();
    end.extend_from_slice(&event(&chunks.usage(composed.tokens())));
    end.extend_from_slice(DONE.as_bytes());
    vec![Step::Send(Bytes::from(end))]
}

/// The stream of a fault.
pub(super) fn stream(fault: Fault, config: &SimulatorConfig, composed: &Composed, chunks: &Chunks) -> Vec<Step> {
    let tokens = |until| Step::Tokens { until, every: QUICK, with_usage: false };
    let all = composed.tokens();
    let mut steps = vec![Step::Send(event(&chunks.role()))];
    match fault {
        Fault::F07 => {
            steps.push(tokens(10));
            let overloaded = error("server_error", "overloaded", "Overloaded");
            steps.push(Step::Send(event(&String::from_utf8_lossy(&overloaded))));
            return steps;
        }
        Fault::F08 => steps.extend([tokens(40), Step::Break]),
        Fault::F09 => steps.extend([tokens(20), Step::Silence]),
        Fault::F10 => {
            let broken = Step::Send(event(r#"{"choices":[{"index":0,"delta":{"content":"brok"#));
            steps.extend([tokens(10), broken, tokens(all)]);
        }
        Fault::F11 => return vec![cut_everywhere(composed, chunks)],
        Fault::F12 => return vec![Step::Send(all_line_ends(composed, chunks)), Step::Send(DONE.as_bytes().into())],
        Fault::F13 => {
            for _ in 0..36 {
                steps.extend([Step::Send(Bytes::from_static(b": PROCESSING\n\n")), Step::Pause(config.heartbeat)]);
            }
            steps.push(tokens(all));
        }
        Fault::F17 => steps.extend(hostile_text(composed, chunks)),
        Fault::F18 => return paced(composed, chunks, Duration::ZERO, every(config.slow_rate)),
        Fault::F19 => {
            steps.push(tokens(all));
            steps.extend(ending(composed, chunks));
            steps.push(Step::Complete);
            steps.push(Step::Repeat(event(&chunks.text(" more", None))));
            return steps;
        }
        Fault::F22 => {
            for _ in 0..REASONING_TOKENS {
                steps.push(Step::Send(event(&chunks.reasoning(" hm"))));
            }
            steps.push(tokens(all));
        }
        Fault::F23 => steps.push(Step::Tokens { until: all, every: QUICK, with_usage: true }),
        _ => steps.push(tokens(all)),
    }
    steps.extend(ending(composed, chunks));
    steps
}

/// The interval of a rate.
pub(super) fn every(rate: f64) -> Duration {
    if rate > 0.0 { Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::ZERO) } else { Duration::ZERO }
}

/// Every data object of a plain answer.
fn objects(composed: &Composed, chunks: &Chunks) -> Vec<String> {
    let mut objects = vec![chunks.role()];
    objects.extend((0..composed.tokens()).map(|token| chunks.text(composed.part(token, token + 1), None)));
    objects.extend([chunks.finish(composed.finish), chunks.usage(composed.tokens())]);
    objects.retain(|object| !object.is_empty());
    objects
}

/// F11: a piece per byte, with line ends of two bytes.
fn cut_everywhere(composed: &Composed, chunks: &Chunks) -> Step {
    let mut text = String::new();
    for object in objects(composed, chunks) {
        text.push_str(&format!("data: {object}\r\n\r\n"));
    }
    text.push_str("data: [DONE]\r\n\r\n");
    let bytes = Bytes::from(text);
    Step::Pieces((0..bytes.len()).map(|at| bytes.slice(at..=at)).collect())
}

/// F12: a byte order mark, comments, all line ends, data of two lines.
fn all_line_ends(composed: &Composed, chunks: &Chunks) -> Bytes {
    let mut text = String::from("\u{FEFF}: hello\n\n");
    for (at, object) in objects(composed, chunks).into_iter().enumerate() {
        let end = ["\r\n", "\r", "\n"].get(at % 3).copied().unwrap_or("\n");
        let (one, two) = object.split_once(',').unwrap_or((&object, ""));
        text.push_str(&format!(":{end}data: {one},{end}:ping{end}data:{two}{end}unknown: x{end}{end}"));
    }
    Bytes::from(text)
}

/// F17: NUL, half characters, an event of 1 MB, 10 MB in all.
fn hostile_text(composed: &Composed, chunks: &Chunks) -> Vec<Step> {
    let nul = chunks.text("nul:\0:", None);
    // The escapes of two halves that do not fit each other, which no string of ours can hold.
    let halves = chunks.text("half:HALF:", None).replace("HALF", "\\ud83d\\ud83d\\udc00x\\udc00");
    let big = event(&chunks.text(&"0123456789abcdef".repeat(MEGABYTE / 16), None));
    let mut steps = vec![Step::Send(event(&nul)), Step::Send(event(&halves))];
    steps.extend((0..10).map(|_| Step::Send(big.clone())));
    steps.push(Step::Tokens { until: composed.tokens(), every: QUICK, with_usage: false });
    steps
}
