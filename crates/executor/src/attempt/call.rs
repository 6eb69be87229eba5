//! One model call: its stream, its text, its row in the usage ledger. Dropping the stream closes the connection.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use domain::{CallId, EventBody, Failure, FailureCode, Usage, usage::estimate_tokens};
use futures::{FutureExt as _, StreamExt as _};
use protocol::report::{CallOutcome, UsageRow, UsageSource};
use providers::{
    ChatRequest, ErrorClass, FinishReason, JsonMode, LanguageModel, Message, ModelEvent, ModelStream, ProviderError,
};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use super::{
    shared::{Attempt, Broken},
    unit::Ask,
};

/// The longest answer of one unit, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// After its last event, a stream may take this long to become a connection for the next call.
const TAIL_WITHIN: Duration = Duration::from_secs(1);

/// A call that is over.
pub(super) struct Called {
    /// What came, also of a call that failed.
    pub(super) text: String,
    pub(super) ended: Ended,
}

/// How a call ended.
pub(super) enum Ended {
    Complete(FinishReason),
    Failed(ProviderError),
    /// We closed it.
    Halted,
    /// We closed it: nobody needs an answer of this length.
    TooLong,
}

/// What was heard of a call.
#[derive(Default)]
struct Heard {
    text: String,
    usage: Option<Usage>,
    raw: Option<Box<RawValue>>,
    request_id: Option<String>,
}

impl Attempt {
    /// Makes one call and reports its usage, however it ends.
    ///
    /// # Errors
    /// When there is no provider for the model.
    pub(super) async fn call(&self, ask: &Ask<'_>, messages: &[Message], number: u32) -> Result<Called, Broken> {
        let Some((model, id)) = self.executor.models.find(&ask.call.model) else {
            let detail = format!("no provider is set up for the model `{}`", ask.call.model);
            return Err(Broken::Failed(Failure::new(FailureCode::EngineMisconfigured, detail)));
        };
        let span = tracing::info_span!(
            "model call",
            node.id = ask.key.node,
            unit = ask.key.unit,
            model = ask.call.model,
            call = number
        );
        let traceparent = service::trace::of(&span).map(|context| context.traceparent);
        let request = ChatRequest { traceparent, ..self.request(ask, id, messages, number) };
        let prompt = messages.iter().map(|message| estimate_tokens(&message.content)).sum();
        let started_at = self.executor.clock.now();
        self.executor.metrics.open_calls.inc();
        let mut heard = Heard::default();
        let ended = self.listen(model, request, ask, &mut heard).instrument(span).await;
        let ended_at = self.executor.clock.now();
        self.executor.metrics.open_calls.dec();
        self.count(ask, &mut heard, &ended, prompt, (started_at, ended_at));
        Ok(Called { text: heard.text, ended })
    }

    fn request(&self, ask: &Ask<'_>, model: &str, messages: &[Message], number: u32) -> ChatRequest {
        let json = match (&ask.call.schema, ask.call.json) {
            (_, false) => JsonMode::Off,
            (None, true) => JsonMode::Object,
            (Some(schema), true) => JsonMode::Schema {
                name: ask.key.node.chars().take(64).collect(),
                schema: Arc::new(schema.document().clone()),
            },
        };
        ChatRequest {
            model: model.to_owned(),
            messages: messages.to_vec(),
            temperature: ask.call.temperature,
            max_tokens: ask.call.max_tokens.map(i64::from),
            json,
            request_id: format!(
                "{}/{}/{}/{}.{number}",
                self.grant.execution_id, ask.key.node, ask.key.unit, self.grant.epoch
            ),
            ..ChatRequest::default()
        }
    }

    async fn listen(
        &self,
        model: &Arc<dyn LanguageModel>,
        request: ChatRequest,
        ask: &Ask<'_>,
        heard: &mut Heard,
    ) -> Ended {
        let mut stream = model.stream(request);
        let over = sleep_until(Instant::now() + self.executor.config.call_timeout);
        tokio::pin!(over);
        loop {
            let event = tokio::select! {
                biased;
                () = self.halt.ordered() => return Ended::Halted,
                event = stream.next() => event,
                () = &mut over => {
                    return Ended::Failed(ProviderError::network("call_timeout", "the call took longer than allowed"));
                }
            };
            match event {
                Some(Ok(ModelEvent::Text(text))) => {
                    if !self.take_text(ask, text, heard).await {
                        return if self.halt.is_ordered() { Ended::Halted } else { Ended::TooLong };
                    }
                }
                Some(Ok(ModelEvent::Usage { usage, raw })) => (heard.usage, heard.raw) = (Some(usage), Some(raw)),
                Some(Ok(ModelEvent::Opened { request_id })) => heard.request_id = request_id,
                Some(Ok(ModelEvent::Limits(_) | ModelEvent::Reasoning(_))) => {}
                Some(Ok(ModelEvent::Finish { reason, .. })) => {
                    self.keep_connection(stream);
                    return Ended::Complete(reason);
                }
                Some(Err(error)) => return Ended::Failed(error),
                None => return Ended::Failed(ProviderError::network("truncated_stream", "the stream just ended")),
            }
        }
    }

    /// Takes a piece of text; `false` when nothing more is wanted.
    async fn take_text(&self, ask: &Ask<'_>, text: String, heard: &mut Heard) -> bool {
        // The ledger's text columns hold no NUL.
        let text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
        heard.text.push_str(&text);
        if heard.text.len() > MAX_ANSWER {
            return false;
        }
        if !ask.is_shown() {
            return true;
        }
        self.line.text(ask.key, &text);
        tokio::select! {
            biased;
            () = self.line.room() => true,
            () = self.halt.ordered() => false,
        }
    }

    /// Reads the stream to its proper end, so that its connection serves the next call.
    fn keep_connection(&self, mut stream: ModelStream) {
        if stream.next().now_or_never().is_none() {
            self.executor.shutdown.spawn(async move {
                // Dropped if it takes too long: then the connection is closed.
                drop(tokio::time::timeout(TAIL_WITHIN, stream.next()).await);
            });
        }
    }

    /// Writes the call's usage row and the new totals.
    fn count(
        &self,
        ask: &Ask<'_>,
        heard: &mut Heard,
        ended: &Ended,
        prompt: i64,
        (started_at, ended_at): (DateTime<Utc>, DateTime<Utc>),
    ) {
        let (outcome, label) = match ended {
            Ended::Complete(_) => (CallOutcome::Completed, "completed"),
            Ended::Failed(_) => (CallOutcome::Failed, "failed"),
            Ended::Halted | Ended::TooLong => (CallOutcome::Aborted, "aborted"),
        };
        let (usage, source) = usage(heard, ended, prompt);
        let error_id = if let Ended::Failed(error) = ended { error.request_id.clone() } else { None };
        let metrics = &self.executor.metrics;
        metrics.calls.with_label_values(&[label]).inc();
        let (input, output) = (usage.input_tokens.unwrap_or(0), usage.output_tokens.unwrap_or(0));
        metrics.input_tokens.inc_by(u64::try_from(input).unwrap_or(0));
        metrics.output_tokens.inc_by(u64::try_from(output).unwrap_or(0));
        self.line.usage(UsageRow {
            call_id: CallId::generate(),
            key: ask.key.clone(),
            model: ask.call.model.clone(),
            source,
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cache_read_tokens: usage.cache_read_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            reasoning_tokens: usage.reasoning_tokens,
            outcome,
            provider_request_id: heard.request_id.take().or(error_id),
            raw: heard.raw.take(),
            started_at,
            ended_at,
        });
        let (input, output) = self.tally.called(input, output, ended_at);
        self.line.event(EventBody::UsageUpdated { input, output, total: input.saturating_add(output) });
    }
}

/// The tokens of a call: the provider's numbers, or an estimate that is never below what came.
fn usage(heard: &Heard, ended: &Ended, prompt: i64) -> (Usage, UsageSource) {
    match (ended, heard.usage) {
        (Ended::Complete(_), Some(usage)) => (usage, UsageSource::Provider),
        // Refused with a status, or never reached: nothing was read or written.
        (Ended::Failed(error), None) if heard.text.is_empty() && (error.status.is_some() || is_unsent(error)) => {
            let nothing = Usage { input_tokens: Some(0), output_tokens: Some(0), ..Usage::default() };
            (nothing, UsageSource::Estimated)
        }
        (_, seen) => {
            let usage = Usage::of_unfinished_call(seen.as_ref(), prompt, estimate_tokens(&heard.text));
            (usage, UsageSource::Estimated)
        }
    }
}

fn is_unsent(error: &ProviderError) -> bool {
    error.class == ErrorClass::Network
        && matches!(error.provider_code.as_deref(), Some("connect_failed" | "connect_timeout"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str, usage: Option<Usage>) -> Heard {
        Heard { text: text.to_owned(), usage, ..Heard::default() }
    }

    #[test]
    fn the_providers_numbers_are_taken_as_they_are() {
        let said = Usage { input_tokens: Some(0), output_tokens: Some(0), ..Usage::default() };

        let (usage, source) = usage(&heard("words", Some(said)), &Ended::Complete(FinishReason::Stop), 99);

        assert_eq!((usage, source), (said, UsageSource::Provider));
    }

    #[test]
    fn a_stopped_call_is_estimated_from_what_came() {
        let (usage, source) = usage(&heard("12345678", None), &Ended::Halted, 10);

        assert_eq!(source, UsageSource::Estimated);
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(10), Some(2)));
    }

    #[test]
    fn a_refused_call_used_nothing_and_a_broken_one_used_its_prompt() {
        let refused = ProviderError { status: Some(429), ..ProviderError::new(ErrorClass::RateLimited, "x", "") };
        let broken = ProviderError::network("connection_lost", "");

        assert_eq!(usage(&heard("", None), &Ended::Failed(refused), 10).0.input_tokens, Some(0));
        assert_eq!(usage(&heard("", None), &Ended::Failed(broken), 10).0.input_tokens, Some(10));
    }
}
