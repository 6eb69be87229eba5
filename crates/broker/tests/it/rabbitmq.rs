//! What only RabbitMQ can show, on the shared node; and how the in-process broker confirms.

use crate::world::{DEADLINE, InProcess, RabbitMq, SILENCE, World, next, send, text};
use broker::{AmqpBroker, AmqpConfig, Broker, BrokerError, Message, Queue, QueueType};
use lapin::{Connection, ConnectionProperties, options::QueueDeleteOptions};
use secrecy::ExposeSecret;
use std::time::{Duration, Instant};
use testkit::wait;

#[tokio::test]
async fn a_confirmed_message_is_on_the_queue() {
    let world = RabbitMq::new().await;
    let broker = world.start().await;

    for _ in 0..3 {
        broker.publish(Queue::Submissions, Message::persistent("x"), DEADLINE).await.unwrap();
    }

    assert_eq!(broker.depth(Queue::Submissions, DEADLINE).await.unwrap(), 3);
}

#[tokio::test]
async fn the_in_process_broker_confirms_when_the_consumer_has_acknowledged() {
    let broker = InProcess::new().await.connect().await;
    let sent = send(&broker, "x");
    let delivery = next(&mut broker.consume(Queue::Submissions, 1)).await;
    assert!(!sent.is_finished());

    delivery.ack();

    sent.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_consumer_the_in_process_broker_does_not_confirm() {
    let broker = InProcess::new().await.connect().await;

    let error = broker.publish(Queue::Submissions, Message::persistent("x"), SILENCE).await.unwrap_err();

    assert!(error.is_retryable() && error.may_have_been_taken(), "{error:?}");
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_an_error_and_then_declared_again() {
    let world = RabbitMq::new().await;
    let broker = world.start().await;
    let queue = format!("{}submissions.v1", world.config.prefix);
    let raw = Connection::connect(world.config.url.expose_secret(), ConnectionProperties::default()).await.unwrap();
    let channel = raw.create_channel().await.unwrap();
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();

    let error = broker.publish(Queue::Submissions, Message::persistent("x"), DEADLINE).await.unwrap_err();
    assert!(matches!(error, BrokerError::Unroutable(Queue::Submissions)), "{error:?}");

    wait::until(DEADLINE, "the queue to be declared again", async || {
        broker.publish(Queue::Submissions, Message::persistent("x"), DEADLINE).await
    })
    .await;
}

#[tokio::test]
async fn quorum_queues_keep_the_same_promises_and_count_deliveries() {
    let mut world = RabbitMq::new().await;
    world.config.queue_type = QueueType::Quorum;
    let broker = world.connect().await;
    broker.publish(Queue::Submissions, Message::persistent("x"), DEADLINE).await.unwrap();
    let mut consumer = broker.consume(Queue::Submissions, 1);

    for deliveries in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.delivery_count, deliveries);
        delivery.give_back();
    }

    let last = next(&mut consumer).await;
    assert_eq!(text(&last), "x");
    last.ack();
}

#[tokio::test]
async fn a_message_that_was_delivered_too_often_is_a_dead_letter() {
    let mut world = RabbitMq::new().await;
    world.config.queue_type = QueueType::Quorum;
    let broker = world.connect().await;
    broker.publish(Queue::Submissions, Message::persistent("poison"), DEADLINE).await.unwrap();
    let mut consumer = broker.consume(Queue::Submissions, 1);
    let giving_back = tokio::spawn(async move {
        while let Some(delivery) = consumer.next().await {
            delivery.give_back();
        }
    });

    let dead = next(&mut broker.consume(Queue::Dead, 1)).await;

    assert_eq!(text(&dead), "poison");
    giving_back.abort();
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error_within_the_deadline() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = AmqpConfig::new(format!("amqp://guest:guest@127.0.0.1:{port}/%2f"), "test");
    let broker = AmqpBroker::start(&config).unwrap();
    let start = Instant::now();

    let error =
        broker.publish(Queue::Submissions, Message::persistent("x"), Duration::from_millis(200)).await.unwrap_err();

    assert!(matches!(error, BrokerError::Disconnected), "{error:?}");
    assert!(error.is_retryable() && !error.may_have_been_taken());
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_wrong_url_is_named() {
    let error = AmqpBroker::start(&AmqpConfig::new("http://example", "test")).unwrap_err();

    assert!(error.to_string().contains("LEKHIKA_AMQP_URL"), "{error}");
}
