//! One answer for one unit: calls, retries, one repair of a wrong JSON answer.

use std::time::Duration;

use domain::{
    EventBody, Failure, FailureCode, UnitKey,
    flow::{Call, NodeOutput, Prompt},
    schema::SchemaProblem,
};
use protocol::report::UnitReport;
use providers::{FinishReason, Message, ProviderError, Retry, Role, retry};
use tokio::time::sleep;

use super::{
    call::{Called, Ended},
    node::raw,
    shared::{Attempt, Broken},
};
use crate::halt::Reason;

/// A wait above this frees the slot when nothing else of the run is active.
const WAIT_IN_PLACE: Duration = Duration::from_secs(5);

/// What a unit asks.
pub(super) struct Ask<'a> {
    pub(super) key: &'a UnitKey,
    pub(super) call: &'a Call,
    pub(super) prompt: Prompt,
    /// Reads the answer.
    pub(super) parse: &'a (dyn Fn(&str) -> Result<NodeOutput, Vec<SchemaProblem>> + Send + Sync),
}

/// What a unit gets.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) output: NodeOutput,
}

impl Ask<'_> {
    /// Whether the text is shown while it comes: data is not.
    pub(super) const fn is_shown(&self) -> bool {
        !self.call.json
    }

    fn messages(&self) -> Vec<Message> {
        let system = self.prompt.system.iter().map(Message::system);
        system.chain([Message::user(&self.prompt.user)]).collect()
    }
}

impl Attempt {
    /// Asks until there is a good answer.
    ///
    /// # Errors
    /// Why there is none. What was written so far is kept when the run was stopped or has failed.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Broken> {
        self.may_begin()?;
        let _active = self.patience.active();
        if self.begins_anew(ask.key) {
            self.line.reset(ask.key, "new_attempt");
        }
        let mut messages = ask.messages();
        let (mut number, mut failures, mut repaired) = (0, 0, false);
        loop {
            self.may_call().await?;
            number += 1;
            let Called { text, ended } = Box::pin(self.call(&ask, &messages, number)).await?;
            match ended {
                Ended::Halted => {
                    if matches!(self.halt.reason(), Some(Reason::Stopped(_) | Reason::Deadline)) {
                        self.keep(&ask, &text);
                    }
                    return Err(Broken::Halted);
                }
                Ended::Failed(error) => {
                    self.after_failure(&ask, failures, &error, &text).await?;
                    failures += 1;
                }
                Ended::TooLong => {
                    self.keep(&ask, &text);
                    let failure = Failure::new(FailureCode::OutputCheckFailed, "the model's answer is too long");
                    return Err(Broken::Failed(failure));
                }
                Ended::Complete(reason) => match check(&ask, &text, reason)? {
                    Ok(output) => return Ok(Answer { text, output }),
                    Err(problems) if repaired => {
                        self.keep(&ask, &text);
                        return Err(Broken::Failed(unchecked(&problems)));
                    }
                    Err(problems) => {
                        repaired = true;
                        self.retrying(&ask, FailureCode::OutputCheckFailed, Duration::ZERO, &text);
                        messages = ask.messages();
                        repair(&mut messages, text, &problems);
                    }
                },
            }
        }
    }

    /// Waits before the next call, or says why there is none.
    async fn after_failure(
        &self,
        ask: &Ask<'_>,
        failures: u32,
        error: &ProviderError,
        text: &str,
    ) -> Result<(), Broken> {
        let decision = retry::decide(failures, error, rand::random::<f64>());
        tracing::warn!(
            node.id = ask.key.node, unit = ask.key.unit, %error, code = error.provider_code, ?decision, "a model call failed"
        );
        let wait = match decision {
            Retry::No => {
                self.keep(ask, text);
                return Err(Broken::Failed(refused(error)));
            }
            Retry::Park(wait) if !self.has_patience(wait) => {
                self.keep(ask, text);
                return Err(Broken::Failed(refused(error)));
            }
            Retry::After(wait) | Retry::Park(wait) => wait,
        };
        self.retrying(ask, error.user_code(), wait, text);
        let waiting = async {
            if wait > WAIT_IN_PLACE {
                return self.patience.wait(wait).await;
            }
            sleep(wait).await;
            Ok(())
        };
        tokio::select! {
            biased;
            () = self.halt.ordered() => Err(Broken::Halted),
            waited = waiting => waited.map_err(Broken::Parked),
        }
    }

    /// Says that the unit is tried again; what was shown of it is void.
    fn retrying(&self, ask: &Ask<'_>, code: FailureCode, after: Duration, text: &str) {
        let UnitKey { node, unit } = ask.key.clone();
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.line.event(EventBody::NodeRetrying { node, unit, code: code.as_str().to_owned(), after_ms });
        if ask.is_shown() && !text.is_empty() {
            self.line.reset(ask.key, "retry");
        }
    }

    /// Keeps the text of a unit that has no end: the bare text, of a chapter too, as status does after a loss.
    fn keep(&self, ask: &Ask<'_>, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Ok(output) = raw(text) {
            self.line.unit(UnitReport { key: ask.key.clone(), output, complete: false }, [], None);
        }
    }
}

/// Reads an answer. The outer error ends the run, the inner one can be repaired.
fn check(ask: &Ask<'_>, text: &str, reason: FinishReason) -> Result<Result<NodeOutput, Vec<SchemaProblem>>, Broken> {
    if reason == FinishReason::ContentFilter {
        let detail = "the provider's content filter stopped the answer";
        return Err(Broken::Failed(Failure::new(FailureCode::ContentBlocked, detail)));
    }
    if text.trim().is_empty() {
        let message = if reason == FinishReason::Length {
            "the answer is empty: its token limit was used up before the text began"
        } else {
            "the answer is empty"
        };
        return Ok(Err(vec![SchemaProblem { pointer: String::new(), message: message.to_owned() }]));
    }
    Ok((ask.parse)(text))
}

/// Shows the model what is wrong with its answer.
fn repair(messages: &mut Vec<Message>, text: String, problems: &[SchemaProblem]) {
    if text.trim().is_empty() {
        return;
    }
    let mut request = "This answer cannot be used:\n".to_owned();
    for problem in problems {
        request.push_str("- ");
        request.push_str(&problem.to_string());
        request.push('\n');
    }
    request.push_str("Answer again with the whole corrected JSON and nothing else.");
    messages.push(Message { role: Role::Assistant, content: text });
    messages.push(Message::user(request));
}

fn unchecked(problems: &[SchemaProblem]) -> Failure {
    let lines: Vec<String> = problems.iter().take(3).map(ToString::to_string).collect();
    let detail = format!("the model's answer does not satisfy the node's checks: {}", lines.join("; "));
    Failure::new(FailureCode::OutputCheckFailed, super::bounded(detail))
}

/// What the owner reads of a provider's failure; the provider's own words are for operators.
fn refused(error: &ProviderError) -> Failure {
    let code = error.user_code();
    let detail = match code {
        FailureCode::ProviderBusy => "the model's provider is too busy",
        FailureCode::ProviderUnavailable => "the model's provider is not available",
        FailureCode::EngineMisconfigured => "the engine's model or its credentials are not usable",
        FailureCode::InvalidNodeRequest => "the model's provider refuses the node's request",
        FailureCode::InputTooLong => "the prompt is longer than the model takes",
        FailureCode::ContentBlocked => "the provider's content filter refused the request",
        _ => "the model's provider failed",
    };
    let admin = format!("{error} {}: {}", error.provider_code.as_deref().unwrap_or_default(), error.detail);
    Failure { admin_detail: Some(super::bounded(admin)), ..Failure::new(code, detail) }
}
