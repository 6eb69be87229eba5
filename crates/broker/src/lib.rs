//! Moves bytes between services: one trait, RabbitMQ and an in-process implementation.
//!
//! What the bytes mean is said in `protocol`. In reading order:

mod broker;
mod error;
mod message;

mod consumer;
mod listener;

pub mod amqp;
mod in_process;

pub use amqp::{AmqpBroker, AmqpConfig, QueueType};
pub use broker::Broker;
pub use consumer::{Consumer, Delivery};
pub use error::BrokerError;
pub use in_process::InProcessBroker;
pub use listener::{Announcement, Bindings, Heard, Inbox, Listener};
pub use message::{DEAD_FROM, DEAD_REASON, Headers, Message, Queue, ReplyTo};
