//! Makes the answer: a function of (seed, model, messages), in the format that was asked for.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{
    ask::{Ask, Format},
    instance,
    model::{Fault, Model, bare_name},
    prose::Prose,
};

/// An answer, cut into tokens.
#[derive(Debug, Clone)]
pub(super) struct Composed {
    text: Arc<str>,
    /// Where each token ends.
    ends: Arc<[usize]>,
    pub(super) prompt_tokens: usize,
    /// `stop`, or `length` when `max_tokens` cut it.
    pub(super) finish: &'static str,
    /// For ids: the same request has the same.
    pub(super) fingerprint: u64,
}

impl Composed {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn tokens(&self) -> usize {
        self.ends.len()
    }

    /// The text of tokens `from..to`.
    pub(super) fn part(&self, from: usize, to: usize) -> &str {
        let end_of = |count: usize| count.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        self.text.get(end_of(from)..end_of(to.min(self.tokens()))).unwrap_or_default()
    }
}

/// Makes the answer to `ask`.
pub(super) fn compose(seed: u64, ask: &Ask) -> Composed {
    let fingerprint = fingerprint(seed, ask);
    let model = Model::parse(&ask.model);
    let mut prose = Prose::new(fingerprint, ask.prompt());
    let mut text = match (&ask.format, &model) {
        (Format::Schema(schema), _) => instance::of_schema(schema, &mut prose).to_string(),
        (Format::Object, _) => instance::of_anything(&mut prose).to_string(),
        (Format::Text, Some(Model::Tokens { count, .. })) => prose.words(*count),
        (Format::Text, Some(Model::Fault { fault: Fault::F08, .. })) => prose.words(60),
        (Format::Text, Some(Model::Fault { fault: Fault::F11, .. })) => {
            prose.words(12) + " Un café naïf, 漢字 and a 🎈."
        }
        (Format::Text, Some(Model::Slow | Model::Fault { fault: Fault::F18, .. })) => prose.article(600),
        (Format::Text, Some(Model::Fault { .. })) => prose.words(48),
        (Format::Text, _) => prose.article(0),
    };
    let mut ends = token_ends(&text);
    if let Some(Model::Tokens { count, .. }) = model {
        ends.truncate(count);
        text.truncate(ends.last().copied().unwrap_or(0));
    }
    let mut finish = "stop";
    if let Some(limit) = ask.max_tokens.filter(|limit| *limit < ends.len()) {
        ends.truncate(limit);
        text.truncate(ends.last().copied().unwrap_or(0));
        finish = "length";
    }
    Composed { text: text.into(), ends: ends.into(), prompt_tokens: ask.prompt_tokens(), finish, fingerprint }
}

fn fingerprint(seed: u64, ask: &Ask) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(ask.seed.unwrap_or_default().to_le_bytes());
    hash.update(bare_name(&ask.model));
    for (role, text) in &ask.messages {
        // Lengths keep the boundaries: "a","b" is not "ab","".
        hash.update((role.len() as u64).to_le_bytes());
        hash.update(role);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte))
}

/// Tokens are words with the space before them; what is longer than 8 characters is cut.
fn token_ends(text: &str) -> Vec<usize> {
    let mut ends = Vec::with_capacity(text.len() / 5);
    let mut length = 0;
    let mut in_space = true;
    for (at, character) in text.char_indices() {
        let space = character.is_whitespace();
        if at > 0 && ((space && !in_space) || length >= 8) {
            ends.push(at);
            length = 0;
        }
        in_space = space;
        length += 1;
    }
    if !text.is_empty() {
        ends.push(text.len());
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChatRequest, Message};

    fn ask(model: &str, prompt: &str) -> Ask {
        Ask::from(&ChatRequest { model: model.into(), messages: vec![Message::user(prompt)], ..ChatRequest::default() })
    }

    #[test]
    fn the_text_is_a_function_of_seed_model_and_messages() {
        let text = |seed, model: &str, prompt: &str| compose(seed, &ask(model, prompt)).text().to_owned();
        let first = text(1, "writer", "Write about lighthouses.");

        assert_eq!(text(1, "sim/writer", "Write about lighthouses."), first);
        assert_ne!(text(2, "writer", "Write about lighthouses."), first);
        assert_ne!(text(1, "instant", "Write about lighthouses."), first);
        assert_ne!(text(1, "writer", "Write about lighthouses!"), first);
    }

    #[test]
    fn tokens_are_the_text_and_counted_exactly() {
        let composed = compose(1, &ask("tokens-77-rate-5", "x"));

        assert_eq!(composed.tokens(), 77);
        let joined: String = (0..77).map(|at| composed.part(at, at + 1)).collect();
        assert_eq!(joined, composed.text());
        assert_eq!(compose(1, &ask("tokens-0-rate-5", "x")).text(), "");
    }

    #[test]
    fn the_limit_of_tokens_is_honoured() {
        let mut limited = ask("writer", "Write about lighthouses.");
        limited.max_tokens = Some(10);
        let composed = compose(1, &limited);

        assert_eq!((composed.tokens(), composed.finish), (10, "length"));
        assert!(compose(1, &ask("writer", "Write about lighthouses.")).text().starts_with(composed.text()));
    }
}
