//! What `lekhika dev` says to a newcomer: where everything is, and lines to paste.

use serde_json::{Value, json};

use crate::bootstrap::SAMPLE_INPUT;

/// Without `jq`: the first id in a JSON answer.
const READ_ID: &str = r#"sed 's/.*"executionId": *"\([^"]*\)".*/\1/'"#;

/// The lines. The key is in one of them only; the others use what it and the submission set.
pub(super) fn lines(base: &str, key: &str, simulated: bool) -> Vec<String> {
    let mut lines = vec![String::new()];
    if simulated {
        lines.extend([SIMULATED.to_owned(), String::new()]);
    }
    lines.extend([
        format!("API   {base}"),
        format!("docs  {base}/docs/"),
        "key   below, shown once; each start makes a new one and ends the last".to_owned(),
        String::new(),
        "Paste to submit, stream, stop:".to_owned(),
        format!("  KEY={key}"),
    ]);
    lines.extend(curls(base).map(|line| format!("  {line}")));
    lines.extend([String::new(), "Ctrl-C stops everything.".to_owned()]);
    lines
}

/// Who wrote the text, when it was nobody.
pub(super) const SIMULATED: &str =
    "The text is written by a simulator, not by a model: it means nothing. Set LEKHIKA_OPENAI_API_KEY for a model.";

/// Submit, stream, stop. The first sets `ID`.
fn curls(base: &str) -> [String; 3] {
    let input = serde_json::from_str::<Value>(SAMPLE_INPUT).unwrap_or_default();
    let body = json!({ "input": input }).to_string().replace('\'', "'\\''");
    let auth = "-H \"Authorization: Bearer $KEY\"";
    let execution = format!("{base}/v1/executions/$ID");
    [
        format!(
            "ID=$(curl -sX POST {base}/v1/engines/field-guide/execute {auth} -H 'Content-Type: application/json' -d '{body}' | {READ_ID}); echo $ID"
        ),
        format!("curl -N {execution}/events {auth} -H 'Accept: text/event-stream'"),
        format!("curl -sX POST {execution}/stop {auth}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_shown_once() {
        let text = lines("http://127.0.0.1:8080", "lkh_secret", true).join("\n");

        assert_eq!(text.matches("lkh_secret").count(), 1);
    }

    #[test]
    fn pasted_into_a_shell_the_lines_carry_the_key_the_sample_and_the_new_id() {
        let pasted: Vec<String> = curls("http://base").into();
        // `curl` prints what it was given on standard error and answers as the platform would.
        let fake = r#"curl() { for word in "$@"; do printf '%s\n' "$word" >&2; done; printf '%s\n' '{"executionId":"exec_0190","status":"queued"}'; }"#;
        let script = format!("{fake}\nKEY=lkh_secret\n{}", pasted.join("\n"));

        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();

        let words = String::from_utf8(output.stderr).unwrap();
        let body = words.lines().find(|word| word.starts_with('{')).unwrap();
        let sample: Value = serde_json::from_str(SAMPLE_INPUT).unwrap();
        assert_eq!(serde_json::from_str::<Value>(body).unwrap(), json!({ "input": sample }));
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("exec_0190\n"));
        assert!(words.contains("http://base/v1/executions/exec_0190/events"), "{words}");
        assert_eq!(words.matches("Authorization: Bearer lkh_secret").count(), 3, "{words}");
    }
}
