//! One list of promises, run on every implementation.

use crate::responsibility::{
    an_ok_means_that_the_message_is_kept_and_an_error_says_whether_it_may_be,
    everything_with_a_deadline_ends_at_it_although_nobody_answers, what_a_killed_process_held_goes_to_another,
    what_was_confirmed_outlives_its_publisher,
};
use crate::world::{DEADLINE, InProcess, RabbitMq, World, assert_silent, next, send, text};
use broker::{Announcement, Broker, Consumer, DEAD_FROM, DEAD_REASON, Heard, Listener, Message, Queue};
use std::{collections::BTreeSet, sync::Arc};
use testkit::wait;
use tokio::time::timeout;

macro_rules! promises {
    ($($name:ident)*) => {
        mod in_process {
            $(#[tokio::test] async fn $name() { super::$name(&super::InProcess::new().await).await; })*
        }
        mod on_rabbitmq {
            $(#[tokio::test] async fn $name() { super::$name(&super::RabbitMq::new().await).await; })*
        }
    };
}

promises! {
    an_ok_means_that_the_message_is_kept_and_an_error_says_whether_it_may_be
    what_was_confirmed_outlives_its_publisher
    everything_with_a_deadline_ends_at_it_although_nobody_answers
    a_message_arrives_with_everything_that_was_said_about_it
    many_tasks_publish_at_once_and_each_message_arrives_once
    what_is_given_back_comes_again_and_says_so
    what_is_dropped_comes_again
    what_was_acknowledged_never_comes_again
    what_a_dead_consumer_held_goes_to_another
    what_a_killed_process_held_goes_to_another
    a_cancelled_consumer_gives_back_what_it_did_not_take_and_can_settle_the_rest
    a_consumer_holds_at_most_its_prefetch
    a_dead_letter_is_kept_with_its_reason
    hints_and_announcements_nobody_awaits_cost_nothing
    announcements_reach_every_listener_of_their_topic_in_order
    a_listener_hears_only_what_it_has_bound
    a_slow_listener_hears_a_gap_and_then_the_newest
    a_reply_reaches_the_inbox_it_was_sent_to
    a_closed_broker_ends_its_consumers_and_listeners
}

async fn a_message_arrives_with_everything_that_was_said_about_it(world: &dyn World) {
    let (sender, receiver) = (world.connect().await, world.connect().await);
    let inbox = sender.inbox(4);
    let address = wait::until(DEADLINE, "an address", async || inbox.address().borrow().clone().ok_or(())).await;
    let message = Message::persistent("content")
        .id("exec_1")
        .header("x-kind", "sample")
        .header("x-vendor", "with = signs; ünïcode")
        .reply_to(Some(address.clone()));

    let mut consumer = receiver.consume(Queue::Dispatch, 4);
    sender.publish(Queue::Dispatch, message, DEADLINE).await.unwrap();
    let delivery = next(&mut consumer).await;

    assert_eq!(text(&delivery), "content");
    assert_eq!(delivery.message_id.as_deref(), Some("exec_1"));
    assert_eq!(delivery.reply_to.as_ref(), Some(&address));
    assert_eq!(delivery.headers["x-kind"], "sample");
    assert_eq!(delivery.headers["x-vendor"], "with = signs; ünïcode");
    assert!(!delivery.redelivered);
    assert_eq!(delivery.delivery_count, 0);
    delivery.ack();
}

async fn many_tasks_publish_at_once_and_each_message_arrives_once(world: &dyn World) {
    let broker = world.connect().await;
    let mut consumer = broker.consume(Queue::Submissions, 50);
    let sending: Vec<_> = (0..500).map(|n| send(&broker, &n.to_string())).collect();

    let mut seen = BTreeSet::new();
    while seen.len() < 500 {
        let delivery = next(&mut consumer).await;
        assert!(seen.insert(text(&delivery).to_owned()), "{delivery:?} came twice");
        delivery.ack();
    }

    for sent in sending {
        sent.await.unwrap().unwrap();
    }
    assert_silent(&mut consumer).await;
}

async fn what_is_given_back_comes_again_and_says_so(world: &dyn World) {
    let broker = world.connect().await;
    let sent = send(&broker, "again");
    let mut consumer = broker.consume(Queue::Submissions, 1);

    next(&mut consumer).await.give_back();
    let again = next(&mut consumer).await;

    assert_eq!(text(&again), "again");
    assert!(again.redelivered && again.delivery_count >= 1);
    again.ack();
    sent.await.unwrap().unwrap();
}

async fn what_is_dropped_comes_again(world: &dyn World) {
    let broker = world.connect().await;
    let sent = send(&broker, "dropped");
    let mut consumer = broker.consume(Queue::Submissions, 1);

    drop(next(&mut consumer).await);

    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    again.ack();
    sent.await.unwrap().unwrap();
}

async fn what_was_acknowledged_never_comes_again(world: &dyn World) {
    let (broker, other) = (world.connect().await, world.connect().await);
    let mut consumer = broker.consume(Queue::Submissions, 10);
    let sending: Vec<_> = (0..10).map(|n| send(&broker, &n.to_string())).collect();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(next(&mut consumer).await);
    }

    // Out of order, so that some acknowledgements travel alone and some together.
    for n in [5, 3, 0, 0, 0, 0, 0, 0, 0, 0] {
        held.remove(n).ack();
    }
    for sent in sending {
        sent.await.unwrap().unwrap();
    }
    drop(consumer);

    assert_silent(&mut other.consume(Queue::Submissions, 10)).await;
    assert_eq!(other.depth(Queue::Submissions, DEADLINE).await.unwrap(), 0);
}

async fn what_a_dead_consumer_held_goes_to_another(world: &dyn World) {
    let (broker, other) = (world.connect().await, world.connect().await);
    let dying = world.connect().await;
    let sent = send(&broker, "orphan");
    let mut consumer = dying.consume(Queue::Submissions, 1);
    let held = next(&mut consumer).await;

    drop((held, consumer, dying));

    let delivery = next(&mut other.consume(Queue::Submissions, 1)).await;
    assert!(delivery.redelivered);
    delivery.ack();
    sent.await.unwrap().unwrap();
}

async fn a_cancelled_consumer_gives_back_what_it_did_not_take_and_can_settle_the_rest(world: &dyn World) {
    let (broker, other) = (world.connect().await, world.connect().await);
    let sending: Vec<_> = (0..3).map(|n| send(&broker, &n.to_string())).collect();
    let mut consumer = broker.consume(Queue::Submissions, 3);
    let held = next(&mut consumer).await;

    consumer.cancel();
    assert!(consumer.next().await.is_none());
    let mut second = other.consume(Queue::Submissions, 3);
    for _ in 0..2 {
        next(&mut second).await.ack();
    }
    held.ack();

    for sent in sending {
        sent.await.unwrap().unwrap();
    }
    drop((consumer, second));
    assert_silent(&mut other.consume(Queue::Submissions, 3)).await;
}

async fn a_consumer_holds_at_most_its_prefetch(world: &dyn World) {
    let broker = world.connect().await;
    for n in 0..3 {
        broker.publish(Queue::Dispatch, Message::transient(n.to_string()), DEADLINE).await.unwrap();
    }
    let mut consumer = broker.consume(Queue::Dispatch, 2);
    let (first, _second) = (next(&mut consumer).await, next(&mut consumer).await);
    assert_silent(&mut consumer).await;

    first.ack();

    assert_eq!(text(&next(&mut consumer).await), "2");
}

async fn a_dead_letter_is_kept_with_its_reason(world: &dyn World) {
    let broker = world.connect().await;
    let sent = send(&broker, "poison");
    let mut consumer = broker.consume(Queue::Submissions, 1);

    let poison = next(&mut consumer).await;
    broker.dead_letter(poison, "not JSON", DEADLINE).await.unwrap();

    sent.await.unwrap().unwrap();
    let dead = next(&mut broker.consume(Queue::Dead, 1)).await;
    assert_eq!(text(&dead), "poison");
    assert_eq!(dead.headers[DEAD_REASON], "not JSON");
    assert_eq!(dead.headers[DEAD_FROM], "submissions");
    assert_silent(&mut consumer).await;
}

async fn hints_and_announcements_nobody_awaits_cost_nothing(world: &dyn World) {
    let broker = world.connect().await;

    broker.announce("nobody.listens", "lost".into());
    broker.hint(Queue::Dispatch, Message::transient("kept a while"));

    let mut consumer = broker.consume(Queue::Dispatch, 1);
    assert_eq!(text(&next(&mut consumer).await), "kept a while");
}

async fn announcements_reach_every_listener_of_their_topic_in_order(world: &dyn World) {
    let (sender, receiver) = (world.connect().await, world.connect().await);
    let mut listeners = [listening(&sender, "control").await, listening(&receiver, "control").await];

    for n in 0..100 {
        sender.announce("control", n.to_string().into());
    }

    for listener in &mut listeners {
        for n in 0..100 {
            assert_eq!(heard(listener).await, ("control".to_owned(), n.to_string()));
        }
    }
}

async fn a_listener_hears_only_what_it_has_bound(world: &dyn World) {
    let broker = world.connect().await;
    let mut listener = listening(&broker, "events.1").await;
    broker.announce("events.2", "not bound".into());
    broker.announce("events.1", "one".into());
    assert_eq!(heard(&mut listener).await.1, "one");

    listener.bindings().bind("events.2").await.unwrap();
    listener.bind("events.2").await.unwrap();
    listener.unbind("events.1").await.unwrap();
    broker.announce("events.1", "no longer bound".into());
    broker.announce("events.2", "two".into());
    broker.announce("events.2", "three".into());

    assert_eq!(heard(&mut listener).await, ("events.2".to_owned(), "two".to_owned()));
    assert_eq!(heard(&mut listener).await.1, "three");
}

async fn a_slow_listener_hears_a_gap_and_then_the_newest(world: &dyn World) {
    let broker = world.connect().await;
    let mut slow = broker.listen(&["events.1".to_owned()], 3);
    assert_eq!(timeout(DEADLINE, slow.next()).await.unwrap(), Some(Heard::Gap));
    let mut fast = listening(&broker, "events.1").await;

    for n in 0..10 {
        broker.announce("events.1", n.to_string().into());
        assert_eq!(heard(&mut fast).await.1, n.to_string());
    }

    let (mut gaps, mut kept) = (0, Vec::new());
    while kept.last().is_none_or(|last| last != "9") {
        match timeout(DEADLINE, slow.next()).await.unwrap().unwrap() {
            Heard::Gap => gaps += 1,
            Heard::Announcement(newer) => kept.push(String::from_utf8(newer.body.to_vec()).unwrap()),
        }
    }
    assert!(gaps > 0, "{kept:?}");
    assert!(kept.len() < 10 && kept.is_sorted(), "{kept:?}");
}

async fn a_reply_reaches_the_inbox_it_was_sent_to(world: &dyn World) {
    let (gateway, status) = (world.connect().await, world.connect().await);
    let (mut inbox, mut other) = (gateway.inbox(4), gateway.inbox(4));
    let address = wait::until(DEADLINE, "an address", async || inbox.address().borrow().clone().ok_or(())).await;

    status.reply(&address, "accepted".into());

    assert_eq!(timeout(DEADLINE, inbox.next()).await.unwrap().unwrap(), "accepted");
    assert!(timeout(crate::world::SILENCE, other.next()).await.is_err());
}

async fn a_closed_broker_ends_its_consumers_and_listeners(world: &dyn World) {
    let broker = world.connect().await;
    let mut consumer: Consumer = broker.consume(Queue::Submissions, 1);
    let mut listener = listening(&broker, "control").await;
    let mut inbox = broker.inbox(1);

    broker.close().await;

    assert!(timeout(DEADLINE, consumer.next()).await.unwrap().is_none());
    assert!(timeout(DEADLINE, listener.next()).await.unwrap().is_none());
    assert!(timeout(DEADLINE, inbox.next()).await.unwrap().is_none());
    assert!(broker.publish(Queue::Submissions, Message::persistent("late"), DEADLINE).await.is_err());
}

/// A listener that is connected.
pub(crate) async fn listening(broker: &Arc<dyn Broker>, topic: &str) -> Listener {
    let mut listener = broker.listen(&[topic.to_owned()], 1_000);
    assert_eq!(timeout(DEADLINE, listener.next()).await.unwrap(), Some(Heard::Gap));
    listener
}

/// The next announcement: topic and text.
async fn heard(listener: &mut Listener) -> (String, String) {
    match timeout(DEADLINE, listener.next()).await.expect("an announcement") {
        Some(Heard::Announcement(Announcement { topic, body })) => (topic, String::from_utf8(body.to_vec()).unwrap()),
        other => panic!("expected an announcement, heard {other:?}"),
    }
}
