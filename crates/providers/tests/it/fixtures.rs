//! Byte fixtures: what servers of this dialect are known to send.

use domain::Usage;
use providers::{ErrorClass, FinishReason, openai::Dialect};

use crate::support::{Collected, FAST, ask, connect, fixture, request, stream_of};

async fn read(events: &str) -> Collected {
    ask(&connect(stream_of(events).await, Dialect::default(), FAST), request("m")).await
}

/// A stream of these data objects and `[DONE]`.
async fn read_objects(objects: &[&str]) -> Collected {
    let mut events: String = objects.iter().map(|object| format!("data: {object}\n\n")).collect();
    events.push_str("data: [DONE]\n\n");
    read(&events).await
}

const HELLO: &str = r#"{"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}],"usage":null}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

#[tokio::test]
async fn usage_is_found_wherever_it_is() {
    let numbers = r#"{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}"#;
    let separate = format!(r#"{{"choices":[],"usage":{numbers}}}"#);
    let with_finish = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"stop"}}],"usage":{numbers}}}"#);
    let groq = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"stop"}}],"x_groq":{{"usage":{numbers}}}}}"#);
    let expected = Usage { input_tokens: Some(5), output_tokens: Some(2), ..Usage::default() };
    for objects in [vec![HELLO, STOP, &separate], vec![HELLO, &with_finish], vec![HELLO, &groq]] {
        let got = read_objects(&objects).await;

        assert_eq!(got.usage, Some(expected), "{objects:?}");
        assert_eq!(got.text, "Hello");
    }
}

#[tokio::test]
async fn of_repeated_usage_the_last_counts() {
    let usage = |tokens| {
        format!(r#"{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{tokens},"total_tokens":99}}}}"#)
    };
    let model = connect(
        stream_of(&format!("data: {}\n\ndata: {}\n\ndata: {STOP}\n\ndata: [DONE]\n\n", usage(1), usage(3))).await,
        Dialect::default(),
        FAST,
    );

    let got = ask(&model, request("m")).await;

    assert_eq!(got.usage.unwrap().output_tokens, Some(3));
    assert_eq!(model.counters().usage_total_mismatches(), 2);
}

#[tokio::test]
async fn reasons_to_end_are_translated() {
    for (raw, expected) in [
        ("\"stop\"", FinishReason::Stop),
        ("\"eos\"", FinishReason::Stop),
        ("\"end_turn\"", FinishReason::Stop),
        ("\"length\"", FinishReason::Length),
        ("\"tool_calls\"", FinishReason::ToolCalls),
        ("\"content_filter\"", FinishReason::ContentFilter),
        ("\"something_new\"", FinishReason::Other),
        ("\"\"", FinishReason::Other),
        ("null", FinishReason::Stop),
    ] {
        let last = format!(r#"{{"choices":[{{"delta":{{"content":"x"}},"finish_reason":{raw}}}]}}"#);

        assert_eq!(read_objects(&[&last]).await.finish.unwrap().0, expected, "{raw}");
    }
}

#[tokio::test]
async fn a_stream_without_done_is_complete_if_its_reason_came() {
    let got = read(&format!("data: {HELLO}\n\ndata: {STOP}\n\n")).await;

    assert_eq!(got.finish.unwrap().0, FinishReason::Stop);
}

#[tokio::test]
async fn a_stream_without_its_end_is_truncated() {
    for events in [
        String::new(),
        format!("data: {HELLO}\n\n"),
        ": only a comment\n\n".to_owned(),
        format!("data: {}\n\n", r#"{"choices":[{"delta":{"content":"Hello"},"finish_reason":""}]}"#),
        format!("data: {HELLO}\n\ndata: {{\"choi"),
    ] {
        let error = read(&events).await.error.unwrap();

        assert_eq!(error.provider_code.as_deref(), Some("truncated_stream"), "{events}");
        assert!(error.retryable());
    }
}

#[tokio::test]
async fn the_last_blank_line_may_be_missing() {
    assert_eq!(read(&format!("data: {HELLO}\n\ndata: {STOP}\n\ndata: [DONE]")).await.error, None);
    assert_eq!(read(&format!("data: {HELLO}\n\ndata: {STOP}")).await.error, None);
}

#[tokio::test]
async fn azure_and_openrouter_oddities_are_ignored() {
    let filter = r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#;
    let second = r#"{"choices":[{"index":1,"delta":{"content":"other answer"}}]}"#;
    let obfuscated = r#"{"choices":[{"index":0,"delta":{"content":"!"},"obfuscation":"aaaa"}],"obfuscation":"x"}"#;
    let got = read(&format!(
        ": OPENROUTER PROCESSING\n\ndata: {filter}\n\ndata: {HELLO}\n\ndata: {second}\n\ndata: {obfuscated}\n\ndata: {STOP}\n\ndata: [DONE]\n\n"
    ))
    .await;

    assert_eq!(got.text, "Hello!");
}

#[tokio::test]
async fn reasoning_is_kept_out_of_the_answer_and_a_refusal_is_a_block() {
    let got = read_objects(&[
        r#"{"choices":[{"delta":{"reasoning_content":"Let me see. "}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"Yes."}}]}"#,
        HELLO,
        STOP,
    ])
    .await;
    assert_eq!((got.text.as_str(), got.reasoning.as_str()), ("Hello", "Let me see. Yes."));

    let refused = read_objects(&[r#"{"choices":[{"delta":{"refusal":"I cannot."}}]}"#, STOP]).await;
    assert_eq!(refused.finish.unwrap().0, FinishReason::ContentFilter);
}

#[tokio::test]
async fn an_error_inside_the_stream_follows_the_text_before_it() {
    let got = read_objects(&[HELLO, r#"{"error":{"message":"x","type":"server_error","code":null}}"#]).await;
    assert_eq!(got.text, "Hello");
    assert_eq!(got.error.unwrap().class, ErrorClass::Server);

    let got = read_objects(&[HELLO, r#"{"choices":[{"delta":{"content":""},"finish_reason":"error"}]}"#]).await;
    assert_eq!(got.error.unwrap().class, ErrorClass::Server);

    let harmless = read_objects(&[r#"{"error":null,"choices":[]}"#, HELLO, STOP]).await;
    assert_eq!(harmless.error, None);
}

#[tokio::test]
async fn a_whole_body_on_a_stream_request_is_read() {
    let body = r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi",
        "refusal":null},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let head = "HTTP/1.1 200 OK\ncontent-type: application/json; charset=utf-8\nx-request-id: req_7\nconnection: close";
    let got = ask(&connect(fixture(head, body.as_bytes()).await, Dialect::default(), FAST), request("m")).await;

    assert_eq!(got.text, "Hi");
    assert_eq!(got.finish.unwrap().0, FinishReason::Length);
    assert_eq!(got.request_id.as_deref(), Some("req_7"));
    assert_eq!(got.usage.unwrap().output_tokens, Some(1));
}

#[tokio::test]
async fn a_body_that_is_no_answer_is_an_error() {
    let head = "HTTP/1.1 200 OK\ncontent-type: application/json\nx-request-id: req_8\nconnection: close";
    for (body, class) in [
        (r#"{"error":{"code":"insufficient_quota"}}"#, ErrorClass::QuotaExhausted),
        ("{}", ErrorClass::Network),
        ("", ErrorClass::Network),
    ] {
        let got = ask(&connect(fixture(head, body.as_bytes()).await, Dialect::default(), FAST), request("m")).await;

        let error = got.error.unwrap();
        assert_eq!(error.class, class, "{body}");
        assert_eq!(error.request_id.as_deref(), Some("req_8"));
    }
}

#[tokio::test]
async fn a_connection_cut_inside_the_framing_is_truncated() {
    let head = "HTTP/1.1 200 OK\ncontent-type: text/event-stream\ntransfer-encoding: chunked";
    let event = format!("data: {HELLO}\n\n");
    let body = format!("{:x}\r\n{event}\r\n", event.len());
    let got = ask(&connect(fixture(head, body.as_bytes()).await, Dialect::default(), FAST), request("m")).await;

    assert_eq!(got.text, "Hello");
    assert_eq!(got.error.unwrap().provider_code.as_deref(), Some("truncated_stream"));
}

#[tokio::test]
async fn what_is_no_http_is_a_network_error() {
    let got = ask(&connect(fixture("SSH-2.0-OpenSSH_9", b"").await, Dialect::default(), FAST), request("m")).await;

    let error = got.error.unwrap();
    assert_eq!((error.class, error.provider_code.as_deref()), (ErrorClass::Network, Some("connection_lost")));
}

#[tokio::test]
async fn limits_are_told_with_the_answer() {
    let head = "HTTP/1.1 200 OK\ncontent-type: text/event-stream\nconnection: close\n\
                x-ratelimit-remaining-requests: 59\nx-ratelimit-reset-requests: 1s";
    let body = format!("data: {STOP}\n\ndata: [DONE]\n\n");
    let got = ask(&connect(fixture(head, body.as_bytes()).await, Dialect::default(), FAST), request("m")).await;

    assert_eq!(got.limits.unwrap().requests_remaining, Some(59));
}

#[tokio::test]
async fn a_name_of_the_call_that_no_header_takes_is_refused_before_anything_is_sent() {
    let model = connect(stream_of("").await, Dialect::default(), FAST);
    let asked = providers::ChatRequest { request_id: "exec_1\r\nx: y".into(), ..request("m") };

    let error = ask(&model, asked).await.error.unwrap();

    assert_eq!(error.class, ErrorClass::InvalidRequest);
}
