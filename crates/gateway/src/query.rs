//! The query of a request: a bounded number of parameters, each known.

use actix_web::HttpRequest;
use service::{Problem, ProblemCode};

use crate::pointer::{self, Step};

/// Parameters of a request at most.
const PARAMETERS: usize = 64;

/// The parameters, in their order.
///
/// # Errors
/// 400 when there are more than anybody needs: none is ignored.
pub(crate) fn read(request: &HttpRequest) -> Result<Vec<(String, String)>, Problem> {
    let parameters = url::form_urlencoded::parse(request.query_string().as_bytes());
    let read: Vec<(String, String)> = parameters.take(PARAMETERS + 1).map(|(n, v)| (n.into(), v.into())).collect();
    if read.len() > PARAMETERS {
        let detail = format!("the query has more than {PARAMETERS} parameters");
        return Err(Problem::new(ProblemCode::InvalidRequest).detail(detail));
    }
    Ok(read)
}

/// A parameter that is true or false; absent is false. Others are unknown.
///
/// # Errors
/// 400 that names what cannot be read.
pub(crate) fn flag(request: &HttpRequest, wanted: &str) -> Result<bool, Problem> {
    let mut flag = false;
    for (name, value) in read(request)? {
        if name != wanted {
            return Err(unknown(&name));
        }
        flag = match &*value {
            "true" => true,
            "false" => false,
            _ => return Err(wrong(wanted, "is true or false")),
        };
    }
    Ok(flag)
}

/// A parameter that cannot be read.
pub(crate) fn wrong(name: &str, detail: &str) -> Problem {
    let name: String = name.chars().take(100).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect();
    let place = pointer::render(&[Step::Name("query"), Step::Name(&name)]);
    Problem::new(ProblemCode::InvalidRequest).detail(format!("`{name}` {detail}")).field(place, "invalid", detail)
}

/// A parameter that is not known here.
pub(crate) fn unknown(name: &str) -> Problem {
    wrong(name, "is not a parameter of this call")
}
