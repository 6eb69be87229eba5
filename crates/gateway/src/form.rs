//! The input of an execution, checked against the engine's form: 422 with a pointer for each wrong field.

use domain::flow::CompiledFlow;
use serde_json::Value;
use service::{Problem, ProblemCode};

use crate::pointer::{self, SHOWN, Step};

/// The checked input, with defaults filled in. `name` is what the request calls it.
///
/// # Errors
/// 422 with one entry per wrong field; pointers are into the request body.
pub(crate) fn check(flow: &CompiledFlow, input: &Value, name: &str) -> Result<Value, Problem> {
    let refused = || Problem::new(ProblemCode::InvalidInput).detail("the input does not fit the engine's schema");
    let nul = pointer::find(input, '\0', &[Step::Name(name)]);
    if !nul.is_empty() {
        let add = |problem: Problem, pointer| problem.field(pointer, "nul", "must not contain the character U+0000");
        return Err(nul.into_iter().fold(refused(), add));
    }
    flow.check_input(input).map_err(|problems| {
        problems.into_iter().take(SHOWN).fold(refused(), |problem, field| {
            problem.field(format!("/{name}{}", field.pointer), field.code, field.detail)
        })
    })
}
