//! What comes: one chunk of a stream or one whole body, borrowed from its bytes and read tolerantly.

use std::{borrow::Cow, fmt};

use domain::Usage;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// A `chat.completion.chunk` or a `chat.completion`: the fields of both.
#[derive(Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow, default)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) x_groq: Option<XGroq<'a>>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
}

/// Groq's own part of a chunk.
#[derive(Deserialize)]
pub(super) struct XGroq<'a> {
    #[serde(borrow, default)]
    pub(super) usage: Option<&'a RawValue>,
}

/// One of the answers; we ask for one.
#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default)]
    pub(super) index: Option<u32>,
    /// Of a stream.
    #[serde(borrow, default)]
    pub(super) delta: Option<Delta<'a>>,
    /// Of a whole body. Some servers repeat the text so far here in every chunk: the delta goes first.
    #[serde(borrow, default)]
    pub(super) message: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Option<Text<'a>>,
}

/// More of an answer, or all of it.
#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, default)]
    pub(super) content: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) reasoning_content: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) reasoning: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) refusal: Option<Text<'a>>,
}

/// A text: a string, borrowed where it holds no escapes, or a list of parts with texts.
#[derive(Default)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
                let mut all = String::new();
                while let Some(part) = parts.next_element::<Part<'_>>()? {
                    all.push_str(&part.text.unwrap_or_default().0);
                }
                Ok(Text(Cow::Owned(all)))
            }
        }

        #[derive(Deserialize)]
        struct Part<'a> {
            #[serde(borrow, default)]
            text: Option<Text<'a>>,
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// The provider's usage, in all its spellings.
#[derive(Deserialize, Default)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    total_tokens: Option<i64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    prompt_cache_hit_tokens: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<i64>,
    cache_write_tokens: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<i64>,
}

/// The usage in our form, and whether the provider's total is the sum; `None` when it says nothing.
pub(super) fn usage(raw: &RawValue) -> Option<(Usage, bool)> {
    let wire: WireUsage = serde_json::from_str(raw.get()).ok()?;
    let prompt = wire.prompt_tokens_details.unwrap_or_default();
    let usage = Usage {
        input_tokens: wire.prompt_tokens,
        output_tokens: wire.completion_tokens,
        cache_read_tokens: prompt.cached_tokens.or(wire.prompt_cache_hit_tokens),
        cache_write_tokens: prompt.cache_write_tokens,
        reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens),
    };
    let total_agrees = wire.total_tokens.is_none_or(|total| usage.total_tokens() == Some(total));
    (usage != Usage::default()).then_some((usage, total_agrees))
}

/// Replaces escapes of half characters (`\ud800` without its other half), which are legal in JSON and no text, by the
/// replacement character. `None` when there are none.
pub(super) fn mend_lone_surrogates(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut mended = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte != b'\\' {
            at += 1;
            continue;
        }
        match (surrogate(bytes, at), surrogate(bytes, at + 6)) {
            (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => at += 12,
            (Some(_), _) => {
                mended.push_str(json.get(copied..at)?);
                mended.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            (None, _) => at += 2,
        }
    }
    mended.push_str(json.get(copied..)?);
    (copied > 0).then_some(mended)
}

/// The code of the surrogate escape at this place, if there is one.
fn surrogate(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let code = u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    (0xD800..0xE000).contains(&code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage_of(json: &str) -> Option<(Usage, bool)> {
        usage(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn the_table_of_usage_holds_for_this_dialect() {
        let (usage, agrees) = usage_of(
            r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
                "prompt_tokens_details":{"cached_tokens":80,"cache_write_tokens":10},
                "completion_tokens_details":{"reasoning_tokens":40}}"#,
        )
        .unwrap();

        assert!(agrees);
        assert_eq!(
            usage,
            Usage {
                input_tokens: Some(100),
                output_tokens: Some(50),
                cache_read_tokens: Some(80),
                cache_write_tokens: Some(10),
                reasoning_tokens: Some(40),
            }
        );
    }

    #[test]
    fn zero_is_zero_and_missing_is_missing() {
        let (usage, _) = usage_of(r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#).unwrap();

        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(0), Some(0)));
        assert_eq!(usage.cache_read_tokens, None);
        assert_eq!(usage_of("{}"), None);
        assert_eq!(usage_of(r#"{"prompt_tokens":null}"#), None);
        assert_eq!(usage_of(r#""none""#), None);
    }

    #[test]
    fn deepseeks_cache_hits_are_read_and_another_total_is_noticed() {
        let (usage, agrees) =
            usage_of(r#"{"prompt_tokens":9,"completion_tokens":1,"total_tokens":11,"prompt_cache_hit_tokens":4}"#)
                .unwrap();

        assert_eq!(usage.cache_read_tokens, Some(4));
        assert!(!agrees);
    }

    #[test]
    fn content_may_be_parts() {
        let chunk: Chunk<'_> = serde_json::from_str(
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"a\n"},{"type":"image"},{"text":"b"}]}}]}"#,
        )
        .unwrap();

        assert_eq!(chunk.choices.unwrap()[0].delta.as_ref().unwrap().content.as_ref().unwrap().0, "a\nb");
    }

    #[test]
    fn half_characters_are_mended_and_whole_ones_left_alone() {
        assert_eq!(mend_lone_surrogates(r#""a\ud800b""#).unwrap(), r#""a\ufffdb""#);
        assert_eq!(mend_lone_surrogates(r#""\udc00\ud83d\ude00\ud83d""#).unwrap(), r#""\ufffd\ud83d\ude00\ufffd""#);
        assert_eq!(mend_lone_surrogates(r#""\\ud800 \ud83d\ude00""#), None);
        assert_eq!(mend_lone_surrogates(r#""\"#), None);
    }
}
