//! What chunks mean: they become events, and the answer is complete only with its terminal marker.

use std::{collections::VecDeque, sync::atomic::Ordering};

use serde_json::value::RawValue;

use super::{
    StreamCounters,
    chunk::{Chunk, Delta, mend_lone_surrogates, usage},
    failure,
};
use crate::{ErrorClass, FinishReason, ModelEvent, ProviderError};

/// An answer as far as it came.
#[derive(Default)]
pub(super) struct Answer {
    events: VecDeque<ModelEvent>,
    /// The provider's reason, once it gave one.
    finish: Option<String>,
    /// Only an empty reason was given: the answer may be complete, the stream is not.
    nameless_finish: bool,
    refused: bool,
    saw_choice: bool,
    last_usage: Option<Box<RawValue>>,
    malformed: u64,
    failed: Option<ProviderError>,
    /// `[DONE]` was seen, or a whole body read.
    done: bool,
}

impl Answer {
    pub(super) fn pop(&mut self) -> Option<ModelEvent> {
        self.events.pop_front()
    }

    pub(super) fn push(&mut self, event: ModelEvent) {
        self.events.push_back(event);
    }

    /// The failure the provider told inside its answer.
    pub(super) const fn take_failure(&mut self) -> Option<ProviderError> {
        self.failed.take()
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub(super) const fn is_over(&self) -> bool {
        self.done || self.failed.is_some()
    }

    /// Takes the data of one event.
    pub(super) fn take(&mut self, data: &str, counters: &StreamCounters) {
        if self.is_over() {
            return;
        }
        if data.trim() == "[DONE]" {
            self.done = true;
        } else if !self.take_json(data, counters) {
            self.malformed += 1;
            counters.malformed_events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a whole body, as servers send that do not stream.
    pub(super) fn take_body(&mut self, body: &str, counters: &StreamCounters) {
        let is_json = self.take_json(body, counters);
        self.malformed += u64::from(!is_json);
        self.done = is_json && self.saw_choice;
    }

    /// The body is over: the last events, or what is missing.
    pub(super) fn end(&mut self) -> Result<(), ProviderError> {
        if !self.done && self.finish.is_none() {
            let detail = format!("the stream ended without its end; {} malformed events", self.malformed);
            return Err(ProviderError::network("truncated_stream", detail));
        }
        if self.malformed > 0 {
            tracing::warn!(malformed.events = self.malformed, "a provider sent events that are no JSON; skipped");
        }
        let raw = self.finish.take().unwrap_or_default();
        let reason = match raw.as_str() {
            _ if self.refused => FinishReason::ContentFilter,
            "" if self.nameless_finish => FinishReason::Other,
            raw => canonical(raw),
        };
        self.done = true;
        self.events.push_back(ModelEvent::Finish { reason, raw });
        Ok(())
    }

    fn take_json(&mut self, json: &str, counters: &StreamCounters) -> bool {
        match serde_json::from_str::<Chunk<'_>>(json) {
            Ok(chunk) => self.take_chunk(chunk, counters),
            Err(_) => {
                let Some(mended) = mend_lone_surrogates(json) else { return false };
                let Ok(chunk) = serde_json::from_str::<Chunk<'_>>(&mended) else { return false };
                self.take_chunk(chunk, counters);
            }
        }
        true
    }

    fn take_chunk(&mut self, chunk: Chunk<'_>, counters: &StreamCounters) {
        if let Some(error) = chunk.error.filter(|error| failure::is_truthy(error)) {
            self.failed = Some(failure::of_event(error));
            return;
        }
        for choice in chunk.choices.unwrap_or_default() {
            if choice.index.unwrap_or(0) != 0 {
                continue;
            }
            self.saw_choice = true;
            if let Some(delta) = choice.delta.or(choice.message) {
                self.take_delta(&delta);
            }
            if let Some(reason) = choice.finish_reason {
                self.take_finish(&reason.0);
            }
        }
        let raw = chunk.usage.or_else(|| chunk.x_groq.and_then(|groq| groq.usage));
        if let Some(raw) = raw {
            self.take_usage(raw, counters);
        }
    }

    fn take_delta(&mut self, delta: &Delta<'_>) {
        let reasoning = delta.reasoning_content.as_ref().or(delta.reasoning.as_ref());
        if let Some(reasoning) = reasoning.filter(|text| !text.0.is_empty()) {
            match self.events.back_mut() {
                Some(ModelEvent::Reasoning(text)) => push_clean(text, &reasoning.0),
                _ => self.events.push_back(ModelEvent::Reasoning(clean(&reasoning.0))),
            }
        }
        let refusal = delta.refusal.as_ref().filter(|text| !text.0.is_empty());
        self.refused |= refusal.is_some();
        for more in [delta.content.as_ref(), refusal].into_iter().flatten().filter(|text| !text.0.is_empty()) {
            match self.events.back_mut() {
                // What came in one packet is one event: consumers pay per event.
                Some(ModelEvent::Text(text)) => push_clean(text, &more.0),
                _ => self.events.push_back(ModelEvent::Text(clean(&more.0))),
            }
        }
    }

    fn take_finish(&mut self, reason: &str) {
        match reason {
            "" => self.nameless_finish = true,
            "error" => {
                self.failed =
                    Some(ProviderError::new(ErrorClass::Server, "finish_reason_error", "finish_reason: error"));
            }
            reason => self.finish = Some(reason.chars().take(64).collect()),
        }
    }

    fn take_usage(&mut self, raw: &RawValue, counters: &StreamCounters) {
        if self.last_usage.as_deref().is_some_and(|last| last.get() == raw.get()) {
            return;
        }
        let Some((usage, total_agrees)) = usage(raw) else { return };
        if !total_agrees {
            counters.usage_total_mismatches.fetch_add(1, Ordering::Relaxed);
        }
        self.last_usage = Some(raw.to_owned());
        let event = ModelEvent::Usage { usage, raw: raw.to_owned() };
        match self.events.back_mut() {
            Some(last @ ModelEvent::Usage { .. }) => *last = event,
            _ => self.events.push_back(event),
        }
    }
}

/// NUL is text for JSON and poison for databases.
fn clean(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text.to_owned() }
}

fn push_clean(all: &mut String, text: &str) {
    if text.contains('\0') { all.push_str(&clean(text)) } else { all.push_str(text) }
}

/// The provider's reason in our words.
fn canonical(raw: &str) -> FinishReason {
    match raw {
        // `[DONE]` without a reason: the provider thinks that it is complete.
        "" | "stop" | "eos" | "end_turn" | "stop_sequence" | "STOP" => FinishReason::Stop,
        "length" | "max_tokens" | "MAX_TOKENS" | "model_length" => FinishReason::Length,
        "tool_calls" | "function_call" | "tool_use" => FinishReason::ToolCalls,
        "content_filter" | "refusal" | "SAFETY" => FinishReason::ContentFilter,
        "pause_turn" => FinishReason::Paused,
        _ => FinishReason::Other,
    }
}
