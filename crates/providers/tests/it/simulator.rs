//! The simulator as a server: deterministic, honest about tokens, and kind to clients that ask wrongly.

use std::{sync::Arc, time::Duration};

use providers::{ChatRequest, FinishReason, JsonMode, LanguageModel as _, Message, simulator::SimulatorConfig};
use serde_json::{Value, json};

use crate::support::{FAST, System, ask, request};

#[tokio::test]
async fn the_same_question_gets_the_same_answer_from_every_simulator_of_a_seed() {
    let (first, second) = (System::start().await, System::start().await);
    let other = System::with(SimulatorConfig { seed: 2, ..SimulatorConfig::default() }, FAST).await;

    let text = ask(&first.model, request("sim/instant")).await.text;

    assert_eq!(ask(&second.model, request("instant")).await.text, text);
    assert_eq!(ask(&first.model, request("instant")).await.text, text);
    assert_ne!(ask(&other.model, request("instant")).await.text, text);
    assert_eq!(providers::simulator::answer(1, &request("instant")), text);
}

#[tokio::test]
async fn tokens_are_told_as_they_were_sent() {
    let system = System::start().await;

    let got = ask(&system.model, request("tokens-37-rate-0")).await;

    assert_eq!(got.usage.unwrap().output_tokens, Some(37));
    assert_eq!(got.finish.unwrap().0, FinishReason::Stop);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let system = System::start().await;
    let began = std::time::Instant::now();

    ask(&system.model, request("tokens-40-rate-200")).await;

    let took = began.elapsed();
    assert!(took >= Duration::from_millis(195) && took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn the_writer_takes_about_a_second() {
    let system = System::start().await;
    let began = std::time::Instant::now();

    let got = ask(&system.model, request("sim/writer")).await;

    let took = began.elapsed();
    assert!(took >= Duration::from_millis(850) && took < Duration::from_secs(4), "{took:?}");
    assert!(got.text.split_whitespace().count() >= 60);
}

#[tokio::test]
async fn an_answer_stops_at_the_limit_of_tokens() {
    let system = System::start().await;

    let got = ask(&system.model, ChatRequest { max_tokens: Some(5), ..request("instant") }).await;

    assert_eq!(got.finish, Some((FinishReason::Length, "length".into())));
    assert_eq!(got.usage.unwrap().output_tokens, Some(5));
}

#[tokio::test]
async fn a_schema_is_obeyed() {
    let system = System::start().await;
    let schema = json!({"type": "object", "properties": {
        "title": {"type": "string"}, "chapters": {"type": "array", "items": {"type": "object", "properties": {
            "title": {"type": "string"}, "brief": {"type": "string"}}}}}});
    let asked = ChatRequest {
        messages: vec![Message::user("Plan 4 chapters about garden ponds.")],
        json: JsonMode::Schema { name: "outline".into(), schema: Arc::new(schema) },
        ..request("instant")
    };

    let got = ask(&system.model, asked).await;

    let value: Value = serde_json::from_str(&got.text).unwrap();
    assert_eq!(value["chapters"].as_array().unwrap().len(), 4);
    let object = ask(&system.model, ChatRequest { json: JsonMode::Object, ..request("instant") }).await;
    assert!(serde_json::from_str::<Value>(&object.text).unwrap().is_object());
}

#[tokio::test]
async fn a_client_that_does_not_stream_gets_the_same_text() {
    let system = System::start().await;
    let body = json!({"model": "sim/instant",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Write about 60 words on tidal mills."}]}]});

    let (status, answer) = system.post("/v1/chat/completions", &body).await;

    assert_eq!(status, 200);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], ask(&system.model, request("instant")).await.text);
    assert_eq!(answer["usage"]["prompt_tokens"], 9);
}

#[tokio::test]
async fn usage_comes_only_to_those_who_ask() {
    let system = System::start().await;
    let plain = providers::openai::Dialect { supports_stream_usage: false, ..Default::default() };
    let model = crate::support::connect(system.simulator.address(), plain, FAST);

    assert_eq!(ask(&model, request("instant")).await.usage, None);
    assert_eq!(ask(&model, request("fault-F01")).await.usage, None);
}

#[tokio::test]
async fn wrong_questions_are_refused_kindly() {
    let system = System::start().await;

    let (status, _) = system.post("/v1/chat/completions", &json!({"messages": []})).await;
    assert_eq!(status, 400);
    let (status, body) = system.post("/v1/chat/completions", &json!({"model": "gpt-9", "messages": []})).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(system.get("/nowhere").await["error"]["code"], "not_found");
}

#[tokio::test]
async fn models_are_listed_and_known() {
    let system = System::start().await;

    assert_eq!(system.model.list_models().await.unwrap(), ["writer", "instant", "slow"]);
    assert_eq!(system.get("/v1/models/sim/fault-F08").await["id"], "sim/fault-F08");
    assert!(providers::simulator::knows_model("sim/gate-x-after-3"));
    assert!(!providers::simulator::knows_model("sim/other"));
    let named = ["instant", "sim/fault-F08", "gate-any/thing", "nothing", "a b/ö?x=1#y"].map(ToOwned::to_owned);
    assert_eq!(system.model.missing(named.to_vec()).await.unwrap(), ["nothing", "a b/ö?x=1#y"]);
}

#[tokio::test]
async fn calls_are_counted_by_execution_and_unit() {
    let system = System::start().await;
    for id in ["exec_1/write/0/1", "exec_1/write/0/2", "exec_2/plan/0/1"] {
        ask(&system.model, ChatRequest { request_id: id.into(), ..request("instant") }).await;
    }

    let stats = system.stats().await;

    assert_eq!(stats["requests"], 3);
    assert_eq!(stats["byExecution"], json!({"exec_1": {"write/0": 2}, "exec_2": {"plan/0": 1}}));
    assert_eq!(system.get("/stats?execution=exec_2").await["byExecution"], json!({"exec_2": {"plan/0": 1}}));
    system.post("/stats/reset", &Value::Null).await;
    assert_eq!(system.stats().await["requests"], 0);
}

#[tokio::test]
async fn a_simulator_stops_with_its_token() {
    let stop = tokio_util::sync::CancellationToken::new();
    let running = providers::simulator::run(SimulatorConfig::default(), stop.clone()).await.unwrap();

    stop.cancel();

    crate::support::soon(running.stopped()).await;
}
