//! A private Postgres.

use crate::Folder;
use instances::{InstanceError, PostgresOptions, PrivatePostgres};
use nix::unistd::User;
use std::{os::unix::process::CommandExt, process::Command};
use tokio_postgres::{Client, NoTls};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn kept_in(folder: &Folder) -> PostgresOptions {
    PostgresOptions { data_dir: Some(folder.0.clone()), fast_and_loose: true, ..PostgresOptions::default() }
}

#[tokio::test]
async fn a_second_start_on_the_same_folder_keeps_the_data() {
    let folder = Folder::new();
    let mut postgres = PrivatePostgres::start(kept_in(&folder)).await.unwrap();
    connect(&postgres.url("postgres")).await.batch_execute("CREATE TABLE kept ()").await.unwrap();
    postgres.stop().await;
    drop(postgres);

    let postgres = PrivatePostgres::start(kept_in(&folder)).await.unwrap();

    connect(&postgres.url("postgres")).await.batch_execute("SELECT FROM kept").await.unwrap();
}

#[tokio::test]
async fn a_folder_in_use_is_a_clear_error_and_its_server_goes_on() {
    let folder = Folder::new();
    let postgres = PrivatePostgres::start(kept_in(&folder)).await.unwrap();

    let error = PrivatePostgres::start(kept_in(&folder)).await.unwrap_err();

    assert!(matches!(error, InstanceError::InUse(_)), "{error}");
    connect(&postgres.url("postgres")).await.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_server_that_outlived_its_killed_owner_is_stopped_and_started_again() {
    let folder = Folder::new();
    let first = PrivatePostgres::start(kept_in(&folder)).await.unwrap();
    let orphan = first.pid().unwrap();
    connect(&first.url("postgres")).await.batch_execute("CREATE TABLE kept ()").await.unwrap();
    first.abandon();

    let second = PrivatePostgres::start(kept_in(&folder)).await.unwrap();

    assert_ne!(second.pid(), Some(orphan));
    connect(&second.url("postgres")).await.batch_execute("SELECT FROM kept").await.unwrap();
}

#[tokio::test]
async fn a_killed_server_starts_again_at_the_same_address_with_what_was_committed() {
    let options = PostgresOptions { tcp: true, fast_and_loose: true, ..PostgresOptions::default() };
    let mut postgres = PrivatePostgres::start(options).await.unwrap();
    let url = postgres.tcp_url("postgres").unwrap();
    connect(&url).await.batch_execute("CREATE TABLE kept ()").await.unwrap();

    postgres.kill9();
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
    postgres.start_again().await.unwrap();

    connect(&url).await.batch_execute("SELECT FROM kept").await.unwrap();
}

/// As whom the server runs: another user's process would be out of its reach anyway.
fn bystander() -> Command {
    let mut command = Command::new("sleep");
    command.arg("600");
    if nix::unistd::geteuid().is_root() {
        let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).unwrap()).unwrap();
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

#[tokio::test]
async fn a_stale_pid_file_that_names_somebody_else_harms_nobody() {
    let folder = Folder::new();
    let mut postgres = PrivatePostgres::start(kept_in(&folder)).await.unwrap();
    connect(&postgres.url("postgres")).await.batch_execute("CREATE TABLE kept ()").await.unwrap();
    let pid_file = folder.0.join("data/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    postgres.stop().await;
    drop(postgres);
    let mut bystander = bystander().spawn().unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    std::fs::write(&pid_file, format!("{}\n{rest}", bystander.id())).unwrap();

    let postgres = PrivatePostgres::start(kept_in(&folder)).await;

    let lives = matches!(bystander.try_wait(), Ok(None));
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(lives, "somebody else's process was ended");
    connect(&postgres.unwrap().url("postgres")).await.batch_execute("SELECT FROM kept").await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_was_half_made_is_made_anew() {
    let folder = Folder::new();
    let draft = folder.0.join("data.draft");
    std::fs::create_dir_all(&draft).unwrap();
    std::fs::write(draft.join("PG_VERSION"), "15").unwrap();

    let postgres = PrivatePostgres::start(kept_in(&folder)).await.unwrap();

    connect(&postgres.url("postgres")).await.batch_execute("SELECT 1").await.unwrap();
}
