//! Gates let a test hold a call where it wants it.

use futures::StreamExt as _;
use providers::{ChatRequest, LanguageModel as _, ModelEvent};
use serde_json::{Value, json};

use crate::support::{System, ask, request, soon, until};

#[tokio::test]
async fn a_call_waits_at_its_gate_and_finishes_when_it_opens() {
    let system = System::start().await;
    let model = system.model.clone();
    let call = tokio::spawn(async move { ask(&model, request("sim/gate-a")).await });
    until("the call waits", || async { system.get("/gates/a").await["waiting"] == 1 }).await;

    let (status, gate) = system.post("/gates/a/open", &Value::Null).await;

    assert_eq!((status, &gate["open"]), (200, &json!(true)));
    let got = soon(call).await.unwrap();
    assert_eq!(got.text, providers::simulator::answer(1, &request("sim/gate-a")));
    assert_eq!(system.stats().await["closedByClient"], 0);
}

#[tokio::test]
async fn five_tokens_come_before_the_gate() {
    let system = System::start().await;
    let mut stream = system.model.stream(request("gate-b"));
    let mut text = String::new();
    while text.split_whitespace().count() < 3 {
        if let ModelEvent::Text(more) = soon(stream.next()).await.unwrap().unwrap() {
            text.push_str(&more);
        }
    }

    until("the call waits", || async { system.get("/gates/b").await["waiting"] == 1 }).await;
    assert!(providers::simulator::answer(1, &request("gate-b")).starts_with(&text));
}

#[tokio::test]
async fn the_first_calls_of_each_execution_pass() {
    let system = System::start().await;
    let call = |id: &str| ask(&system.model, ChatRequest { request_id: id.into(), ..request("gate-c-after-2") });
    assert_eq!(call("exec_1/a/0/1").await.error, None);
    assert_eq!(call("exec_1/b/0/1").await.error, None);
    assert_eq!(call("exec_2/a/0/1").await.error, None);

    let third = call("exec_1/c/0/1");
    let opened = async {
        until("the third waits", || async { system.get("/gates/c").await["waiting"] == 1 }).await;
        system.post("/gates/c/open", &Value::Null).await;
    };

    assert_eq!(soon(async { tokio::join!(third, opened) }).await.0.error, None);
    assert_eq!(system.stats().await["byExecution"]["exec_1"], json!({"a/0": 1, "b/0": 1, "c/0": 1}));
}
