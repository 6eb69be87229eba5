//! `lekhika admin ..` against a running platform.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::wait;

use crate::{
    processes::{folder, lekhika},
    system::{System, WITHIN},
};

const FLOW: &str = "
schemaVersion: 1
name: postcard
title: A postcard
nodes:
  - id: form
    type: input
    fields:
      - { name: topic, label: Topic, type: text, required: true }
  - { id: write, type: generate, model: sim/instant, prompt: 'Write about {{ input.topic }}.' }
  - { id: out, type: output, document: { title: '{{ input.topic }}' }, sections: [{ node: write }], formats: [md] }
edges:
  - { from: form, to: write }
  - { from: write, to: out }
";

impl System {
    /// Runs a command as the operator; what it printed, or what it complained of.
    fn operate(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = lekhika()
            .arg("admin")
            .args(arguments)
            .env("LEKHIKA_ADMIN_URL", self.facts["adminUrl"].as_str().unwrap())
            .env("LEKHIKA_ADMIN_TOKEN", self.facts["adminToken"].as_str().unwrap())
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        let text = String::from_utf8(output.stdout).unwrap();
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Neither the check nor the deployment takes a model that no provider has.
    fn unknown_models_are_named(&self, files: &Path) {
        let file = files.join("unknown.yaml");
        for (model, why) in
            [("sim/nothing", "the provider has no model"), ("openai/gpt-4o", "no executor has the provider")]
        {
            std::fs::write(&file, FLOW.replace("sim/instant", model)).unwrap();
            let refused = self.operate(&["deploy", file.to_str().unwrap()]).unwrap_err();
            let checked = lekhika()
                .args(["flow", "validate"])
                .arg(&file)
                .args(["--server", self.facts["adminUrl"].as_str().unwrap()])
                .env("LEKHIKA_ADMIN_TOKEN", self.facts["adminToken"].as_str().unwrap())
                .output()
                .unwrap();

            let complaint = String::from_utf8(checked.stderr).unwrap();
            assert!(!checked.status.success() && complaint.contains(why) && complaint.contains(model), "{complaint}");
            assert!(refused.contains(why) && refused.contains("/nodes/1/model"), "{refused}");
        }
    }

    fn pages_follow_each_other(&self) {
        let page = self.operate(&["executions", "--page-size", "1"]).unwrap();
        let token = page["nextPageToken"].as_str().unwrap();
        let rest = self.operate(&["executions", "--page-size", "1", "--page-token", token]).unwrap();
        assert_ne!(rest["data"][0]["executionId"], page["data"][0]["executionId"]);
    }

    fn id_of(&self, arguments: &[&str]) -> String {
        self.operate(arguments).unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn execute_as(&self, key: &str, origin: &str) -> (StatusCode, Value) {
        let url = format!("{}/v1/engines/postcard/execute", self.url());
        let request = self.http.post(url).bearer_auth(key).header("origin", origin);
        let response = request.json(&json!({"input": {"topic": "bees"}})).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// What a gateway remembers of a key or an engine lives five seconds.
    async fn refused_with(&self, key: &str, code: &str) {
        wait::until(WITHIN, code, async || {
            let (_, body) = self.execute_as(key, "https://shop.example").await;
            if body["code"] == code { Ok(()) } else { Err(body) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sets_a_user_up_and_takes_it_all_away_again() {
    let system = System::start(&["--executors", "1"]).await;
    let files = folder("operator");
    let file = files.path().join("postcard.yaml");
    std::fs::write(&file, FLOW).unwrap();

    let level = system.id_of(&["level", "hobby", "--max-queued", "5", "--max-priority", "normal"]);
    let user = system.id_of(&["user", "ada lovelace", "--level", "hobby"]);
    let deployed = system.operate(&["deploy", file.to_str().unwrap()]).unwrap();
    let engine = deployed["engineId"].as_str().unwrap();
    let assigned = system.operate(&["assign", engine, "--user", &user]).unwrap();
    let copy = assigned["userEngines"][0].as_str().unwrap();
    let made = system.operate(&[
        "key",
        "create",
        "--user",
        &user,
        "--user-engine",
        copy,
        "--name",
        "shop",
        "--origin",
        "https://shop.example",
        "--expires",
        "2099-01-01T00:00:00Z",
    ]);
    let made = made.unwrap();
    let key = made["key"].as_str().unwrap();

    system.unknown_models_are_named(files.path());
    assert_eq!(deployed["warnings"], json!([]));
    assert!(level.starts_with("lvl_") && user.starts_with("usr_"));
    let (foreign, _) = system.execute_as(key, "https://other.example").await;
    let (accepted, execution) = system.execute_as(key, "https://shop.example").await;
    assert_eq!((foreign, accepted), (StatusCode::FORBIDDEN, StatusCode::ACCEPTED), "{execution:#}");
    wait::until(WITHIN, "the execution in the list", async || {
        let done = system.operate(&["executions", "--status", "completed"]).unwrap();
        let mut all = done["data"].as_array().unwrap().iter();
        if all.any(|one| one["executionId"] == execution["executionId"] && one["userId"] == json!(user)) {
            Ok(())
        } else {
            Err(done)
        }
    })
    .await;
    assert_eq!(system.execute_as(key, "https://shop.example").await.0, StatusCode::ACCEPTED);
    system.pages_follow_each_other();
    assert_eq!(system.operate(&["executors"]).unwrap()["data"][0]["draining"], false);
    let unknown = system.operate(&["executions", "--status", "done & dusted"]).unwrap_err();
    assert!(unknown.contains("done & dusted"), "{unknown}");
    assert!(system.operate(&["key", "create", "--user", &user, "--expires", "soon"]).is_err());

    let rotated = system.operate(&["key", "rotate", made["id"].as_str().unwrap(), "--grace-hours", "0"]).unwrap();
    let new = rotated["key"].as_str().unwrap();
    assert_eq!(system.execute_as(new, "https://shop.example").await.0, StatusCode::ACCEPTED);
    system.refused_with(key, "key_expired").await;
    system.operate(&["engine", "disable", "postcard"]).unwrap();
    system.refused_with(new, "engine_disabled").await;
    assert_eq!(system.operate(&["engine", "enable", engine]).unwrap()["enabled"], true);
    system.operate(&["key", "revoke", rotated["id"].as_str().unwrap()]).unwrap();
    system.refused_with(new, "unauthorized").await;
    assert!(system.operate(&["key", "revoke", rotated["id"].as_str().unwrap()]).is_err(), "it does not live any more");
    system.operate(&["invariants"]).unwrap();
}
