//! A private Postgres.

use crate::Folder;
use instances::{InstanceError, PostgresOptions, PrivatePostgres};
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
