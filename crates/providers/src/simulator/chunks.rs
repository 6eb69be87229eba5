//! The bytes of the dialect: chunks of a stream, a whole body, an error body.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use super::compose::Composed;

/// Answers are the same at all times: so is their date.
const CREATED: u64 = 1_790_000_000;

/// The end of every stream.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// Which usage numbers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// What was written.
    Counted,
    /// Explicit zeros (F03).
    Zero,
    /// With cached and reasoning tokens (F22).
    Detailed,
}

/// Tokens of reasoning in F22: part of the output.
pub(super) const REASONING_TOKENS: usize = 7;
/// Cached tokens in F22: part of the input.
pub(super) const CACHED_TOKENS: usize = 2;

/// Writes the chunks of one answer.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Everything before the delta.
    head: String,
    usage: Told,
    prompt_tokens: usize,
}

impl Chunks {
    pub(super) fn new(model: &str, composed: &Composed, usage: Told) -> Self {
        let head = format!(
            "{{\"id\":\"chatcmpl-sim{:016x}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":{},",
            composed.fingerprint,
            Value::from(model)
        );
        Self { head, usage, prompt_tokens: composed.prompt_tokens }
    }

    /// The first chunk: who speaks.
    pub(super) fn role(&self) -> String {
        self.choice(r#"{"role":"assistant","content":""}"#, "null", None)
    }

    /// Some text. With `so_far` tokens, usage is told in the chunk (F23).
    pub(super) fn text(&self, text: &str, so_far: Option<usize>) -> String {
        self.choice(&json!({"content": text}).to_string(), "null", so_far)
    }

    /// Some reasoning.
    pub(super) fn reasoning(&self, text: &str) -> String {
        self.choice(&json!({"reasoning_content": text}).to_string(), "null", None)
    }

    /// The chunk with the reason to end.
    pub(super) fn finish(&self, reason: &str) -> String {
        self.choice("{}", &Value::from(reason).to_string(), None)
    }

    /// The chunk with the usage; empty when it is not told.
    pub(super) fn usage(&self, tokens: usize) -> String {
        let usage = usage(self.usage, self.prompt_tokens, tokens);
        if usage.is_null() { String::new() } else { format!("{}\"choices\":[],\"usage\":{usage}}}", self.head) }
    }

    fn choice(&self, delta: &str, finish: &str, so_far: Option<usize>) -> String {
        let mut chunk = String::with_capacity(self.head.len() + delta.len() + 100);
        chunk.push_str(&self.head);
        // Writing to a String cannot fail.
        let _ = write!(chunk, "\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]");
        match so_far {
            Some(tokens) => {
                let _ = write!(chunk, ",\"usage\":{}", usage(Told::Counted, self.prompt_tokens, tokens));
            }
            None if self.usage != Told::Nothing => chunk.push_str(",\"usage\":null"),
            None => {}
        }
        chunk.push('}');
        chunk
    }
}

/// One event with this data; nothing for no data.
pub(super) fn event(data: &str) -> Bytes {
    if data.is_empty() { Bytes::new() } else { Bytes::from(format!("data: {data}\n\n")) }
}

fn usage(told: Told, prompt: usize, completion: usize) -> Value {
    match told {
        Told::Nothing => Value::Null,
        Told::Zero => json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        Told::Counted => json!({"prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion, "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0}}),
        Told::Detailed => json!({"prompt_tokens": prompt, "completion_tokens": completion + REASONING_TOKENS,
            "total_tokens": prompt + completion + REASONING_TOKENS,
            "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS.min(prompt)},
            "completion_tokens_details": {"reasoning_tokens": REASONING_TOKENS}}),
    }
}

/// A whole answer, as a client gets it that did not ask for a stream.
pub(super) fn whole(model: &str, composed: &Composed, told: Told) -> Bytes {
    let mut body = json!({
        "id": format!("chatcmpl-sim{:016x}", composed.fingerprint), "object": "chat.completion", "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": composed.text(), "refusal": null},
                     "finish_reason": composed.finish}],
    });
    let usage = usage(told, composed.prompt_tokens, composed.tokens());
    if let (Some(body), false) = (body.as_object_mut(), usage.is_null()) {
        body.insert("usage".to_owned(), usage);
    }
    Bytes::from(body.to_string())
}

/// A whole stream in few pieces, as fast models send it.
pub(super) fn instant(model: &str, composed: &Composed, told: Told) -> Bytes {
    let chunks = Chunks::new(model, composed, told);
    let tokens = composed.tokens();
    let mut stream = Vec::with_capacity(composed.text().len() + 1200);
    let mut push = |data: &str| stream.extend_from_slice(&event(data));
    push(&chunks.role());
    for part in 0..3 {
        let text = composed.part(tokens * part / 3, tokens * (part + 1) / 3);
        if !text.is_empty() {
            push(&chunks.text(text, None));
        }
    }
    push(&chunks.finish(composed.finish));
    push(&chunks.usage(tokens));
    stream.extend_from_slice(DONE.as_bytes());
    Bytes::from(stream)
}

/// An error body.
pub(super) fn error(kind: &str, code: &str, message: &str) -> Bytes {
    Bytes::from(json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string())
}
