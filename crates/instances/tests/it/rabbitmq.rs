//! A private RabbitMQ. What clients see is tested in `broker`.

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
