//! A RabbitMQ that is killed and started again, while everything of ours is connected to it.

use crate::{
    promises::listening,
    world::{DEADLINE, RabbitMq, World, next, send, text},
};
use broker::{Heard, Message, Queue};
use std::time::{Duration, Instant};
use testkit::{services, wait};
use tokio::time::timeout;

#[tokio::test]
async fn everything_goes_on_after_the_broker_was_killed_and_started_again() {
    let mut rabbit = services::private_rabbit().await;
    let world = RabbitMq::at(&rabbit.url());
    let broker = world.connect().await;
    let mut consumer = broker.consume(Queue::Submissions, 10);
    let mut listener = listening(&broker, "control").await;
    let mut inbox = broker.inbox(10);
    let address = wait::until(DEADLINE, "an address", async || inbox.address().borrow().clone().ok_or(())).await;
    send(&broker, "held through the kill").await.unwrap().unwrap();
    let held = next(&mut consumer).await;

    rabbit.kill9();

    let start = Instant::now();
    let publish = broker.publish(Queue::Submissions, Message::persistent("lost"), Duration::from_millis(300));
    let error = timeout(Duration::from_secs(5), publish).await.expect("it ends at its deadline").unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
    broker.hint(Queue::Dispatch, Message::transient("lost, and nobody minds"));
    broker.announce("control", "lost, and nobody minds".into());
    wait::until_true(DEADLINE, "no address", async || inbox.address().borrow().is_none()).await;

    rabbit.start_again().await.unwrap();

    // Settling what came over the old connection does nothing: it comes again.
    held.ack();
    let again = next(&mut consumer).await;
    assert_eq!(text(&again), "held through the kill");
    assert!(again.redelivered);
    again.ack();

    send(&broker, "new").await.unwrap().unwrap();
    let new = next(&mut consumer).await;
    assert_eq!(text(&new), "new");
    new.ack();

    assert_eq!(timeout(DEADLINE, listener.next()).await.unwrap(), Some(Heard::Gap));
    broker.announce("control", "heard".into());
    let heard = timeout(DEADLINE, listener.next()).await.unwrap();
    assert!(matches!(&heard, Some(Heard::Announcement(a)) if a.body == "heard"), "{heard:?}");

    let new_address = wait::until(DEADLINE, "a new address", async || inbox.address().borrow().clone().ok_or(())).await;
    assert_ne!(new_address, address);
    broker.reply(&new_address, "reply".into());
    assert_eq!(timeout(DEADLINE, inbox.next()).await.unwrap().unwrap(), "reply");
}

#[tokio::test]
async fn confirmed_messages_survive_a_kill_of_the_broker() {
    let mut rabbit = services::private_rabbit().await;
    let world = RabbitMq::at(&rabbit.url());
    let broker = world.connect().await;
    for n in 0..200 {
        send(&broker, &n.to_string()).await.unwrap().unwrap();
    }

    rabbit.kill9();
    rabbit.start_again().await.unwrap();

    let mut consumer = broker.consume(Queue::Submissions, 50);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 200 {
        let delivery = next(&mut consumer).await;
        seen.insert(text(&delivery).parse::<u32>().unwrap());
        delivery.ack();
    }
    assert_eq!(seen, (0..200).collect());
}

#[tokio::test]
async fn an_orderly_restart_of_the_broker_is_survived_too() {
    let mut rabbit = services::private_rabbit().await;
    let world = RabbitMq::at(&rabbit.url());
    let broker = world.connect().await;
    let mut consumer = broker.consume(Queue::Submissions, 1);
    send(&broker, "before").await.unwrap().unwrap();
    next(&mut consumer).await.give_back();

    rabbit.stop().await;
    rabbit.start_again().await.unwrap();

    next(&mut consumer).await.ack();
    wait::until(DEADLINE, "publishing to work", async || send(&broker, "after").await.unwrap()).await;
    assert_eq!(text(&next(&mut consumer).await), "after");
}
