//! The input of an execution, checked against the engine's form: 422 with a pointer for each wrong field.

use domain::flow::CompiledFlow;
use serde_json::Value;
use service::{Problem, ProblemCode};

use crate::body;

/// The checked input, with defaults filled in.
///
/// # Errors
/// 422 with one entry per wrong field; pointers are into the request body.
pub(crate) fn check(flow: &CompiledFlow, input: &Value) -> Result<Value, Problem> {
    let refused = || Problem::new(ProblemCode::InvalidInput).detail("the input does not fit the engine's schema");
    let mut nul = Vec::new();
    body::find(input, '\0', "/input".to_owned(), &mut nul);
    if !nul.is_empty() {
        let add = |problem: Problem, pointer| problem.field(pointer, "nul", "must not contain the character U+0000");
        return Err(nul.into_iter().fold(refused(), add));
    }
    flow.check_input(input).map_err(|problems| {
        problems.into_iter().fold(refused(), |problem, field| {
            problem.field(format!("/input{}", field.pointer), field.code, field.detail)
        })
    })
}
