//! A private RabbitMQ. What clients see is tested in `broker`.

use crate::Folder;
use instances::{PrivateRabbit, RabbitOptions};
use tokio::net::TcpStream;

fn address(rabbit: &PrivateRabbit) -> String {
    rabbit.url().trim_start_matches("amqp://guest:guest@").trim_end_matches("/%2f").to_owned()
}

#[tokio::test]
async fn a_node_can_be_killed_started_again_and_stopped() {
    let mut rabbit = PrivateRabbit::start(RabbitOptions::default()).await.unwrap();
    let address = address(&rabbit);
    assert!(TcpStream::connect(&address).await.is_ok());

    rabbit.kill9();
    assert!(TcpStream::connect(&address).await.is_err());

    rabbit.start_again().await.unwrap();
    assert!(TcpStream::connect(&address).await.is_ok());

    rabbit.stop().await;
    assert!(TcpStream::connect(&address).await.is_err());
}

#[tokio::test]
async fn a_second_start_on_the_same_folder_takes_its_data_whatever_the_ports() {
    let folder = Folder::new();
    let options = || RabbitOptions { data_dir: Some(folder.0.clone()), ..RabbitOptions::default() };
    let mut first = PrivateRabbit::start(options()).await.unwrap();
    let address = address(&first);
    first.stop().await;
    drop(first);
    // So that the ports differ.
    let _held = std::net::TcpListener::bind(address).unwrap();

    let second = PrivateRabbit::start(options()).await.unwrap();

    assert!(TcpStream::connect(self::address(&second)).await.is_ok());
}
