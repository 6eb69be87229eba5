//! The helpers themselves.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "test code")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use testkit::{TestDatabase, services::Served, wait};
use tokio_postgres::NoTls;

static MIGRATED: AtomicUsize = AtomicUsize::new(0);

async fn database(key: &str) -> TestDatabase {
    TestDatabase::create(key, async |url| {
        MIGRATED.fetch_add(1, Ordering::SeqCst);
        execute(&url, "CREATE TABLE things ()").await;
        Ok(())
    })
    .await
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own_from_one_template() {
    let key = uuid::Uuid::new_v4().to_string();

    let (first, second) = tokio::join!(database(&key), database(&key));
    execute(&first.url(), "DROP TABLE things").await;
    execute(&second.url(), "SELECT FROM things").await;

    assert_eq!(MIGRATED.load(Ordering::SeqCst), 1);
    assert_ne!(first.name(), second.name());
}

/// `with-services --serve postgres` and the URL it printed.
fn serve() -> (Child, String) {
    let mut helper = Command::new(env!("CARGO_BIN_EXE_with-services"))
        .args(["--serve", "postgres"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(helper.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let served: Served = serde_json::from_str(&line).unwrap();
    (helper, served.url)
}

async fn assert_stops(url: &str) {
    wait::until(Duration::from_secs(20), "the server to stop", async || {
        match tokio_postgres::connect(url, NoTls).await {
            Ok(_) => Err("it answers"),
            Err(_) => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_stops_when_the_process_it_was_started_for_ends() {
    let (mut helper, url) = serve();
    execute(&url, "SELECT 1").await;

    drop(helper.stdin.take());

    assert!(helper.wait().unwrap().success());
    assert_stops(&url).await;
}

#[tokio::test]
async fn what_a_killed_run_left_behind_is_cleaned_up_and_living_runs_are_not_disturbed() {
    let (mut killed, orphan) = serve();
    let (mut alive, server) = serve();
    killed.kill().unwrap();
    killed.wait().unwrap();
    execute(&orphan, "SELECT 1").await;

    instances::reap().unwrap();

    assert_stops(&orphan).await;
    execute(&server, "SELECT 1").await;
    drop(alive.stdin.take());
    alive.wait().unwrap();
}

#[tokio::test]
async fn the_command_of_a_killed_run_ends_with_the_next_one() {
    let mut killed = Command::new(env!("CARGO_BIN_EXE_with-services"))
        .args(["sh", "-c", "echo $$; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(killed.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let environment = format!("/proc/{}/environ", line.trim());
    let lives = || std::fs::read(&environment).is_ok_and(|text| !text.is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(lives());

    instances::reap().unwrap();

    assert!(!lives());
}

#[tokio::test]
#[should_panic(expected = "for the moon; last seen: Some(\"dark\")")]
async fn waiting_in_vain_says_for_what_and_what_was_seen() {
    wait::until(Duration::from_millis(30), "the moon", async || Err::<(), _>("dark")).await;
}
