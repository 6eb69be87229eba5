//! The fault matrix of this dialect: what the adapter makes of every row.

use std::time::Duration;

use domain::FailureCode;
use futures::StreamExt as _;
use providers::{ErrorClass, FinishReason, LanguageModel as _, Retry, Timeouts, retry, simulator::SimulatorConfig};

use crate::support::{Collected, FAST, System, ask, request, soon};

/// What a row must come to.
enum Outcome {
    /// The whole text and a reason to stop.
    Complete,
    /// This much text, then this class and code.
    Failed { tokens: usize, class: ErrorClass, code: &'static str },
}

use Outcome::{Complete, Failed};

fn config() -> SimulatorConfig {
    SimulatorConfig {
        slow_headers: Duration::from_millis(300),
        heartbeat: Duration::from_millis(20),
        ..SimulatorConfig::default()
    }
}

const fn refused(class: ErrorClass, code: &'static str) -> Outcome {
    Failed { tokens: 0, class, code }
}

const fn broken(tokens: usize, code: &'static str) -> Outcome {
    Failed { tokens, class: ErrorClass::Network, code }
}

const MATRIX: &[(&str, Outcome)] = &[
    ("fault-F01", Complete),
    ("fault-F02", Complete),
    ("fault-F03", Complete),
    ("fault-F04", refused(ErrorClass::RateLimited, "rate_limit_exceeded")),
    ("fault-F04-ms", refused(ErrorClass::RateLimited, "rate_limit_exceeded")),
    ("fault-F04-date", refused(ErrorClass::RateLimited, "rate_limit_exceeded")),
    ("fault-F05", refused(ErrorClass::QuotaExhausted, "insufficient_quota")),
    ("fault-F06", refused(ErrorClass::Overloaded, "overloaded")),
    ("fault-F06-529", refused(ErrorClass::Overloaded, "overloaded")),
    ("fault-F07", Failed { tokens: 10, class: ErrorClass::Overloaded, code: "overloaded" }),
    ("fault-F08", broken(40, "truncated_stream")),
    ("fault-F09", broken(20, "idle_timeout")),
    ("fault-F10", Complete),
    ("fault-F11", Complete),
    ("fault-F12", Complete),
    ("fault-F13", Complete),
    ("fault-F19", Complete),
    ("fault-F20", Complete),
    ("fault-F21", refused(ErrorClass::NotFound, "model_not_found")),
    ("fault-F22", Complete),
    ("fault-F23", Complete),
    ("fault-F24", refused(ErrorClass::RateLimited, "rate_limit_exceeded")),
    ("fault-F25", broken(0, "unexpected_content_type")),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_matrix_comes_to_its_outcome() {
    let system = System::with(config(), FAST).await;
    for (model, outcome) in MATRIX {
        let expected = providers::simulator::answer(1, &request(model));

        let got = ask(&system.model, request(model)).await;

        match outcome {
            Complete => {
                assert_eq!(got.finish, Some((FinishReason::Stop, "stop".into())), "{model}: {:?}", got.error);
                assert_eq!(got.text, expected, "{model}");
            }
            Failed { tokens, class, code } => {
                let error = got.error.unwrap_or_else(|| panic!("{model} did not fail"));
                assert_eq!((error.class, error.provider_code.as_deref()), (*class, Some(*code)), "{model}: {error:?}");
                assert!(expected.starts_with(&got.text), "{model}");
                assert_eq!(got.text.is_empty(), *tokens == 0, "{model}");
                assert!(error.detail.len() <= 2048);
            }
        }
    }
}

async fn one(model: &str) -> Collected {
    ask(&System::with(config(), FAST).await.model, request(model)).await
}

#[tokio::test]
async fn f01_usage_is_exact_and_the_call_has_a_name() {
    let got = one("fault-F01").await;

    let usage = got.usage.unwrap();
    assert_eq!(usage.input_tokens, Some(9));
    assert!(usage.output_tokens.unwrap() > 40);
    assert_eq!(usage.cache_read_tokens, Some(0));
    assert_eq!(got.usage_events, 1);
    assert!(got.request_id.unwrap().starts_with("req_sim_"));
}

#[tokio::test]
async fn f02_absent_usage_is_no_usage_event() {
    assert_eq!(one("fault-F02").await.usage, None);
}

#[tokio::test]
async fn f03_zero_usage_is_zero() {
    let usage = one("fault-F03").await.usage.unwrap();

    assert_eq!((usage.input_tokens, usage.output_tokens), (Some(0), Some(0)));
}

#[tokio::test]
async fn f04_hints_are_obeyed_and_the_second_call_succeeds() {
    let system = System::with(config(), FAST).await;
    for (model, least, most) in
        [("fault-F04", 2000, 2000), ("fault-F04-ms", 1500, 1500), ("fault-F04-date", 2000, 3000)]
    {
        let error = ask(&system.model, request(model)).await.error.unwrap();

        let Retry::After(wait) = retry::decide(0, &error, 0.5) else { panic!("{model}: no retry") };
        assert!((least..=most).contains(&wait.as_millis()), "{model}: {wait:?}");
        assert_eq!(error.status, Some(429));
        assert_eq!(ask(&system.model, request(model)).await.error, None, "{model}");
    }
}

#[tokio::test]
async fn f05_an_empty_account_is_not_asked_again() {
    let error = one("fault-F05").await.error.unwrap();

    assert_eq!(retry::decide(0, &error, 0.5), Retry::No);
    assert_eq!(error.user_code(), FailureCode::ProviderUnavailable);
    assert!(error.class.fallback_helps());
    assert!(!error.to_string().contains("billing"), "{error}");
    assert!(error.detail.contains("billing"));
}

#[tokio::test]
async fn f08_exactly_what_was_sent_before_the_break_is_delivered() {
    let got = one("fault-F08-once").await;

    assert!(got.text.split_whitespace().count() > 30, "{}", got.text);
    assert!(got.error.unwrap().retryable());
    assert_eq!(got.usage, None);
}

#[tokio::test]
async fn f09_silence_ends_at_the_configured_time() {
    let system = System::with(config(), Timeouts { idle: Duration::from_millis(150), ..FAST }).await;
    let mut stream = system.model.stream(request("fault-F09"));
    let mut last_text = tokio::time::Instant::now();

    let error = loop {
        match soon(stream.next()).await.unwrap() {
            Ok(_) => last_text = tokio::time::Instant::now(),
            Err(error) => break error,
        }
    };

    assert_eq!(error.provider_code.as_deref(), Some("idle_timeout"));
    let silence = last_text.elapsed();
    assert!(silence >= Duration::from_millis(140) && silence < Duration::from_secs(2), "{silence:?}");
}

#[tokio::test]
async fn f10_a_malformed_event_is_counted() {
    let system = System::start().await;

    ask(&system.model, request("fault-F10")).await;

    assert_eq!(system.model.counters().malformed_events(), 1);
}

#[tokio::test]
async fn f13_comments_keep_a_silent_model_alive() {
    let config = SimulatorConfig { heartbeat: Duration::from_millis(15), ..config() };
    let system = System::with(config, Timeouts { idle: Duration::from_millis(400), ..FAST }).await;

    // 36 comments, 540 ms: longer than the idle limit.
    assert_eq!(ask(&system.model, request("fault-F13")).await.error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_hostile_text_is_made_harmless() {
    let got = one("fault-F17").await;

    assert_eq!(got.error, None);
    assert!(
        got.text.starts_with("nul:\u{FFFD}:half:\u{FFFD}\u{1F400}x\u{FFFD}:0123456789abcdef"),
        "{}",
        &got.text[..80]
    );
    assert!(got.text.len() > 10 * 1024 * 1024);
    assert!(!got.text.contains('\0'));
}

#[tokio::test]
async fn f19_a_provider_that_goes_on_after_the_end_is_left() {
    let system = System::start().await;

    let got = ask(&system.model, request("fault-F19")).await;

    assert!(!got.text.contains(" more more"));
    crate::support::until("the simulator sees the close", || async { system.stats().await["open"] == 0 }).await;
    // What follows a complete answer is no answer that was stopped.
    assert_eq!(system.stats().await["closedByClient"], 0);
}

#[tokio::test]
async fn f20_the_first_byte_has_its_own_limit() {
    let impatient = Timeouts { first_byte: Duration::from_millis(100), ..FAST };
    let system = System::with(config(), impatient).await;

    let error = ask(&system.model, request("fault-F20")).await.error.unwrap();

    assert_eq!(error.provider_code.as_deref(), Some("first_byte_timeout"));
    assert_eq!(error.class, ErrorClass::Network);
}

#[tokio::test]
async fn f21_a_missing_model_is_the_engines_fault() {
    let error = one("fault-F21").await.error.unwrap();

    assert_eq!(error.user_code(), FailureCode::EngineMisconfigured);
    assert!(!error.to_string().contains("exist"), "{error}");
}

#[tokio::test]
async fn f22_cached_and_reasoning_tokens_are_parts_of_the_totals() {
    let got = one("fault-F22").await;

    let usage = got.usage.unwrap();
    assert_eq!((usage.cache_read_tokens, usage.reasoning_tokens), (Some(2), Some(7)));
    assert_eq!(usage.input_tokens, Some(9));
    assert_eq!(got.reasoning, " hm".repeat(7));
    assert!(!got.text.contains(" hm"));
}

#[tokio::test]
async fn f23_of_cumulative_usage_the_last_counts() {
    let whole = one("fault-F01").await.usage.unwrap();
    let got = one("fault-F23").await;

    assert!(got.usage_events > 1);
    assert!(got.usage.unwrap().output_tokens.unwrap().abs_diff(whole.output_tokens.unwrap()) < 20);
}

#[tokio::test]
async fn f24_an_hour_of_patience_parks() {
    let error = one("fault-F24").await.error.unwrap();

    assert_eq!(retry::decide(0, &error, 0.5), Retry::Park(Duration::from_secs(3600)));
    assert_eq!(error.user_code(), FailureCode::ProviderBusy);
}

#[tokio::test]
async fn a_fault_that_happens_once_is_over_with_the_second_call_of_the_unit() {
    let system = System::start().await;
    let model = "sim/fault-F08-once";

    assert!(ask(&system.model, request(model)).await.error.is_some());
    let again = ask(&system.model, providers::ChatRequest { request_id: "exec_1/write/0/2".into(), ..request(model) });
    assert_eq!(again.await.error, None);
    let other = ask(&system.model, providers::ChatRequest { request_id: "exec_1/write/1/1".into(), ..request(model) });
    assert!(other.await.error.is_some());
}

#[tokio::test]
async fn nothing_listening_is_a_network_error_that_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let model = crate::support::connect(address, providers::openai::Dialect::default(), FAST);

    let error = ask(&model, request("m")).await.error.unwrap();

    assert_eq!((error.class, error.provider_code.as_deref()), (ErrorClass::Network, Some("connect_failed")));
}
