//! Talks to models: the OpenAI chat dialect, its stream parser, retries, and the simulator.
//!
//! Read in this order: `chat` (what is asked), `model` (the trait and what is answered), `error`, `retry`, `sse`,
//! `openai` (the one dialect so far, over `transport`), `simulator` (a server of that dialect).
//!
//! Invariants: one model call owns its connection, and dropping its stream closes that connection at once; a stream
//! ends without an error only if the provider's terminal marker was seen; nothing a provider wrote in an error reaches
//! a `Display`.

pub mod chat;
pub mod error;
pub mod model;
pub mod openai;
pub mod retry;
pub mod simulator;
pub mod sse;
mod transport;

pub use chat::{ChatRequest, JsonMode, Message, Role};
pub use error::{ErrorClass, ProviderError};
pub use model::{FinishReason, LanguageModel, LimitState, ModelEvent, ModelStream};
pub use retry::Retry;
pub use transport::Timeouts;
