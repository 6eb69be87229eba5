//! The embedded form: the same code in one process.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::wait;

use crate::system::{WITHIN, folder, kill, lekhika};

fn dev(data: &Path, arguments: &[&str]) -> Command {
    let mut command = lekhika();
    command.arg("dev").arg("--data-dir").arg(data).args(["--public-port", "0", "--admin-port", "0"]).args(arguments);
    command.env_remove("LEKHIKA_OPENAI_API_KEY");
    command
}

async fn facts(data: &Path, pid: u32) -> Value {
    wait::until(WITHIN, "dev.json", async || {
        let text = std::fs::read_to_string(data.join("dev.json")).map_err(|error| error.to_string())?;
        let facts: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if facts["pid"] == pid { Ok(facts) } else { Err("the one of the last start".to_owned()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_runs_and_every_later_start_keeps_its_data() {
    let data = folder("dev");

    let once = dev(&data, &["--once"]).output().unwrap();
    let text = String::from_utf8(once.stdout).unwrap();
    assert!(once.status.success(), "{text}\n{}", String::from_utf8_lossy(&once.stderr));
    assert!(text.contains("written by a simulator"), "{text}");
    let files: Vec<&str> = text.lines().filter(|line| line.contains("/out/exec_")).collect();
    assert!(files.len() >= 4 && files.iter().all(|file| Path::new(file.trim()).is_file()), "{text}");

    // A start that is killed leaves its database behind; the next one takes it over.
    let mut killed = dev(&data, &["--no-sample"]).stdout(Stdio::null()).spawn().unwrap();
    let first = facts(&data, killed.id()).await;
    let second_start = dev(&data, &["--no-sample"]).output().unwrap();
    assert!(!second_start.status.success(), "a second process on the same data is refused");
    kill(i32::try_from(killed.id()).unwrap(), Signal::SIGKILL);
    killed.wait().unwrap();
    let mut again = dev(&data, &["--no-sample"]).stdout(Stdio::null()).spawn().unwrap();
    let second = facts(&data, again.id()).await;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let list = |key: &Value| {
        let url = format!("{}/v1/executions", second["publicUrl"].as_str().unwrap());
        http.get(url).bearer_auth(key.as_str().unwrap()).send()
    };
    let kept: Value = list(&second["apiKey"]).await.unwrap().json().await.unwrap();
    assert_eq!(kept["data"][0]["status"], "completed");
    assert_eq!(list(&first["apiKey"]).await.unwrap().status(), 401, "each start ends the key of the last one");

    kill(i32::try_from(again.id()).unwrap(), Signal::SIGINT);
    assert!(again.wait().unwrap().success());
    std::fs::remove_dir_all(data).unwrap();
}
