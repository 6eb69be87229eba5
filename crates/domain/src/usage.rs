//! Tokens of model calls in one form for all providers: totals are inclusive, a missing number is not a zero.

use serde::{Deserialize, Serialize};

/// Tokens of one provider call. `None` means that nobody said; `Some(0)` means that somebody said zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens read, cached ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<i64>,
    /// Tokens written, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<i64>,
    /// Part of the input: read from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<i64>,
    /// Part of the input: written to the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<i64>,
    /// Part of the output: reasoning that is not in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<i64>,
}

impl Usage {
    /// Input and output together, computed by us; `None` when neither is known.
    #[must_use]
    pub const fn total_tokens(&self) -> Option<i64> {
        match (self.input_tokens, self.output_tokens) {
            (Some(input), Some(output)) => Some(input.saturating_add(output)),
            (Some(known), None) | (None, Some(known)) => Some(known),
            (None, None) => None,
        }
    }

    /// The usage of a call that ended without its final numbers: what the provider said so far in `seen`, but never
    /// less output than the `received` tokens of text that came, and `prompt` tokens of input when it said nothing.
    #[must_use]
    pub fn of_unfinished_call(seen: Option<&Self>, prompt: i64, received: i64) -> Self {
        let seen = seen.copied().unwrap_or_default();
        Self {
            input_tokens: seen.input_tokens.or(Some(prompt)),
            output_tokens: Some(seen.output_tokens.unwrap_or(0).max(received)),
            ..seen
        }
    }
}

/// Provenance of token numbers. The values are those of the usage ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i16)]
pub enum UsageSource {
    /// The provider said so.
    Provider = 0,
    /// Our tokenizer.
    Counted = 1,
    /// Characters divided by four.
    Estimated = 2,
    /// The executor died during the call; from the stored text.
    Lost = 3,
}

/// Tokens of a text when nobody counted them: characters divided by four, rounded up.
#[must_use]
pub fn estimate_tokens(text: &str) -> i64 {
    i64::try_from(text.chars().count().div_ceil(4)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_number_is_not_a_zero() {
        let usage: Usage = serde_json::from_str(r#"{"inputTokens":0,"reasoningTokens":null}"#).unwrap();

        assert_eq!(usage.input_tokens, Some(0));
        assert_eq!(usage.output_tokens, None);
        assert_eq!(usage.reasoning_tokens, None);
        assert_eq!(serde_json::to_string(&usage).unwrap(), r#"{"inputTokens":0}"#);
    }

    #[test]
    fn the_total_is_ours_and_known_when_any_part_is() {
        let total =
            |input_tokens, output_tokens| Usage { input_tokens, output_tokens, ..Usage::default() }.total_tokens();

        assert_eq!(total(Some(12), Some(3)), Some(15));
        assert_eq!(total(Some(12), None), Some(12));
        assert_eq!(total(None, None), None);
        assert_eq!(total(Some(i64::MAX), Some(1)), Some(i64::MAX));
    }

    #[test]
    fn cached_and_reasoning_tokens_are_parts_of_the_total() {
        let usage = Usage {
            input_tokens: Some(100),
            output_tokens: Some(50),
            cache_read_tokens: Some(80),
            cache_write_tokens: Some(10),
            reasoning_tokens: Some(40),
        };

        assert_eq!(usage.total_tokens(), Some(150));
    }

    #[test]
    fn an_estimate_rounds_up_and_counts_characters() {
        assert_eq!(estimate_tokens(""), 0);
        assert_eq!(estimate_tokens("a"), 1);
        assert_eq!(estimate_tokens("abcd"), 1);
        assert_eq!(estimate_tokens("äöüßé"), 2);
    }

    #[test]
    fn a_stopped_call_is_never_billed_below_the_text_that_came() {
        let placeholder = Usage { input_tokens: Some(9), output_tokens: Some(1), ..Usage::default() };

        assert_eq!(Usage::of_unfinished_call(Some(&placeholder), 7, 30).output_tokens, Some(30));
        assert_eq!(Usage::of_unfinished_call(Some(&placeholder), 7, 30).input_tokens, Some(9));
        assert_eq!(Usage::of_unfinished_call(None, 7, 30).input_tokens, Some(7));
    }

    #[test]
    fn sources_have_the_ledgers_names_and_values() {
        assert_eq!(serde_json::to_string(&UsageSource::Estimated).unwrap(), r#""estimated""#);
        assert_eq!(UsageSource::Lost as i16, 3);
    }
}
