//! Promises 1 and 2, and the hardest part of 3: who answers for a message, that nobody hangs, and a process that is killed.

use crate::world::{DEADLINE, SILENCE, World, next, send, text};
use broker::{Message, Queue};
use std::time::{Duration, Instant};
use tokio::time::timeout;

pub(crate) async fn an_ok_means_that_the_message_is_kept_and_an_error_says_whether_it_may_be(world: &dyn World) {
    let broker = world.connect().await;

    let published = broker.publish(Queue::Submissions, Message::persistent("kept"), SILENCE).await;

    match published {
        Ok(()) => assert_eq!(broker.depth(Queue::Submissions, DEADLINE).await.unwrap(), 1),
        Err(error) => assert!(error.is_retryable() && error.may_have_been_taken(), "{error:?}"),
    }
    let delivery = next(&mut world.connect().await.consume(Queue::Submissions, 1)).await;
    assert_eq!(text(&delivery), "kept");
    delivery.ack();
}

pub(crate) async fn what_was_confirmed_outlives_its_publisher(world: &dyn World) {
    let (publisher, other) = (world.connect().await, world.connect().await);
    let taking = tokio::spawn(async move {
        let delivery = next(&mut other.consume(Queue::Submissions, 1)).await;
        let seen = text(&delivery).to_owned();
        delivery.ack();
        // The acknowledgement is on its way while its connection lives.
        (seen, other)
    });

    send(&publisher, "confirmed").await.unwrap().unwrap();
    drop(publisher);

    assert_eq!(taking.await.unwrap().0, "confirmed");
}

pub(crate) async fn everything_with_a_deadline_ends_at_it_although_nobody_answers(world: &dyn World) {
    for broker in world.unresponsive().await {
        let began = Instant::now();

        let error = broker.publish(Queue::Submissions, Message::persistent("x"), SILENCE).await.unwrap_err();
        let (_ready, _depth) = (broker.ready(SILENCE).await, broker.depth(Queue::Submissions, SILENCE).await);

        assert!(error.is_retryable(), "{error:?}");
        assert!(began.elapsed() < SILENCE * 3 + Duration::from_secs(2), "{:?}", began.elapsed());
        // What has no deadline does not wait at all.
        broker.hint(Queue::Dispatch, Message::transient("lost"));
        broker.announce("control", "lost".into());
        let listener = broker.listen(&[], 1);
        let _bound = timeout(Duration::from_secs(10), listener.bind("control")).await.expect("binding ends by itself");
    }
}

pub(crate) async fn what_a_killed_process_held_goes_to_another(world: &dyn World) {
    let other = world.connect().await;
    let sent = send(&other, "orphan");

    world.die_with_a_submission().await;

    let delivery = next(&mut other.consume(Queue::Submissions, 1)).await;
    assert_eq!(text(&delivery), "orphan");
    assert!(delivery.redelivered);
    delivery.ack();
    sent.await.unwrap().unwrap();
}
