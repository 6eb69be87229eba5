//! What exists on the broker: one list, declared again at every connection.
//!
//! Names carry a version: changing an argument of a queue that exists is refused, so a change is a new name. Nothing here
//! uses what RabbitMQ 4 removed: no transient shared queues, no global prefetch, no mirroring policies.

use crate::Queue;
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use std::{str::FromStr, time::Duration};

/// After so many deliveries a quorum queue moves a message to the dead letters (RabbitMQ 4 would drop it after 20).
const DELIVERY_LIMIT: i32 = 100;
/// A hint nobody took by then is stale: the leader has sent another.
const DISPATCH_TTL: Duration = Duration::from_secs(10);
/// More hints than that mean that nobody takes them.
const DISPATCH_MAX: i32 = 100_000;
/// Dead letters are for people: more than this nobody reads.
const DEAD_MAX: i32 = 100_000;

/// How RabbitMQ stores the durable queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// On one node.
    Classic,
    /// Replicated in a cluster.
    Quorum,
}

impl FromStr for QueueType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "classic" => Ok(Self::Classic),
            "quorum" => Ok(Self::Quorum),
            _ => Err("expected classic or quorum"),
        }
    }
}

impl QueueType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

/// The names and arguments of everything.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    prefix: String,
    durable: QueueType,
}

impl Topology {
    pub(super) fn new(prefix: &str, durable: QueueType) -> Self {
        Self { prefix: prefix.to_owned(), durable }
    }

    pub(super) fn queue_name(&self, queue: Queue) -> String {
        format!("{}{}.v1", self.prefix, queue.name())
    }

    /// The exchange of announcements: direct, the routing key is the topic.
    pub(super) fn announcements(&self) -> String {
        format!("{}announcements.v1", self.prefix)
    }

    fn arguments(&self, queue: Queue) -> FieldTable {
        let mut arguments = FieldTable::default();
        match queue {
            Queue::Submissions => {
                set_text(&mut arguments, "x-queue-type", self.durable.as_str());
                set_text(&mut arguments, "x-dead-letter-exchange", "");
                set_text(&mut arguments, "x-dead-letter-routing-key", &self.queue_name(Queue::Dead));
                if self.durable == QueueType::Quorum {
                    set_number(&mut arguments, "x-delivery-limit", DELIVERY_LIMIT);
                }
            }
            Queue::Dispatch => {
                set_text(&mut arguments, "x-queue-type", "classic");
                set_number(
                    &mut arguments,
                    "x-message-ttl",
                    i32::try_from(DISPATCH_TTL.as_millis()).unwrap_or(i32::MAX),
                );
                set_number(&mut arguments, "x-max-length", DISPATCH_MAX);
                set_text(&mut arguments, "x-overflow", "drop-head");
            }
            Queue::Dead => {
                set_text(&mut arguments, "x-queue-type", self.durable.as_str());
                set_number(&mut arguments, "x-max-length", DEAD_MAX);
                set_text(&mut arguments, "x-overflow", "drop-head");
            }
        }
        arguments
    }

    pub(super) async fn declare_queue(&self, channel: &Channel, queue: Queue) -> lapin::Result<()> {
        let name = self.queue_name(queue).into();
        channel.queue_declare(name, QueueDeclareOptions::durable(), self.arguments(queue)).await.map(drop)
    }

    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        // The dead letters first: a queue that names a target which is missing loses messages.
        for queue in [Queue::Dead, Queue::Submissions, Queue::Dispatch] {
            self.declare_queue(channel, queue).await?;
        }
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = self.announcements().into();
        channel.exchange_declare(name, ExchangeKind::Direct, options, FieldTable::default()).await
    }

    /// Declares a queue of this connection only, which keeps the newest `capacity` messages; returns its name.
    pub(super) async fn declare_private(&self, channel: &Channel, capacity: usize) -> lapin::Result<String> {
        let (options, arguments) = private(capacity);
        let name = format!("{}private.{}", self.prefix, uuid::Uuid::new_v4().simple());
        channel.queue_declare(name.clone().into(), options, arguments).await?;
        Ok(name)
    }
}

fn private(capacity: usize) -> (QueueDeclareOptions, FieldTable) {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    set_text(&mut arguments, "x-queue-type", "classic");
    set_number(&mut arguments, "x-max-length", i32::try_from(capacity.max(1)).unwrap_or(i32::MAX));
    set_text(&mut arguments, "x-overflow", "drop-head");
    (options, arguments)
}

fn set_text(arguments: &mut FieldTable, name: &str, value: &str) {
    arguments.insert(name.into(), AMQPValue::LongString(value.into()));
}

fn set_number(arguments: &mut FieldTable, name: &str, value: i32) {
    arguments.insert(name.into(), AMQPValue::LongInt(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(arguments: &FieldTable) -> Vec<&str> {
        arguments.inner().keys().map(lapin::types::ShortString::as_str).collect()
    }

    #[test]
    fn every_shared_queue_is_durable_versioned_and_names_its_type() {
        assert!(QueueDeclareOptions::durable().durable);
        for durable in [QueueType::Classic, QueueType::Quorum] {
            let topology = Topology::new("lekhika.", durable);
            for queue in Queue::ALL {
                let arguments = topology.arguments(queue);
                assert!(keys(&arguments).contains(&"x-queue-type"), "{queue}");
                assert!(topology.queue_name(queue).ends_with(".v1"));
            }
        }
    }

    #[test]
    fn submissions_name_their_dead_letter_target_and_a_quorum_its_limit() {
        let classic = Topology::new("lekhika.", QueueType::Classic).arguments(Queue::Submissions);
        let quorum = Topology::new("lekhika.", QueueType::Quorum).arguments(Queue::Submissions);

        for arguments in [&classic, &quorum] {
            let target = AMQPValue::LongString("lekhika.dead.v1".into());
            assert_eq!(arguments.inner()["x-dead-letter-routing-key"], target);
            assert_eq!(arguments.inner()["x-dead-letter-exchange"], AMQPValue::LongString("".into()));
        }
        assert!(!keys(&classic).contains(&"x-delivery-limit"));
        assert_eq!(quorum.inner()["x-delivery-limit"], AMQPValue::LongInt(DELIVERY_LIMIT));
    }

    #[test]
    fn nothing_is_used_that_rabbitmq_4_removed() {
        let known = [
            "x-queue-type",
            "x-dead-letter-exchange",
            "x-dead-letter-routing-key",
            "x-delivery-limit",
            "x-message-ttl",
            "x-max-length",
            "x-overflow",
        ];
        for durable in [QueueType::Classic, QueueType::Quorum] {
            for queue in Queue::ALL {
                let arguments = Topology::new("", durable).arguments(queue);
                assert!(keys(&arguments).iter().all(|k| known.contains(k)), "{arguments:?}");
                let is_quorum = arguments.inner()["x-queue-type"] == AMQPValue::LongString("quorum".into());
                assert!(
                    !is_quorum || !keys(&arguments).contains(&"x-message-ttl"),
                    "3.10 takes it only from 3.10.0 on"
                );
            }
        }
        let (options, _) = private(10);
        assert!(options.exclusive && !options.durable, "a transient queue must be exclusive");
    }
}
