//! `GET /v1/executions/{id}/events`: a stream (WHATWG server-sent events) or a page.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use domain::Sequence;
use protocol::read::{EVENTS_PATH, EventPage, Found, ReadEvents, Subject};
use serde_json::{json, value::RawValue};
use service::{Problem, ProblemCode};

use crate::{
    auth::Caller,
    edge::problem_response,
    executions::{found, subject},
    failure, query,
    routes::{self, Entry},
    service::Gateway,
    subscription,
    viewer::Viewer,
};

pub(crate) fn routes() -> Vec<Entry> {
    vec![routes::get("/v1/executions/{id}/events", events)]
}

async fn events(
    gateway: web::Data<Gateway>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    let result = async {
        let subject = subject(&caller, &id)?;
        let query = Query::read(&request)?;
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("text/event-stream") {
            open(gateway.clone(), caller, subject, query.after).await
        } else {
            page(&gateway, subject, &query).await
        }
    };
    result.await.unwrap_or_else(problem_response)
}

struct Query {
    after: Sequence,
    limit: u32,
}

impl Query {
    /// `Last-Event-ID` wins over `?after=`: it is what a reconnecting EventSource sends.
    fn read(request: &HttpRequest) -> Result<Self, Problem> {
        let number = |name: &str, text: &str| {
            let number = text.trim().parse::<i64>().ok().filter(|number| *number >= 0);
            number.ok_or_else(|| query::wrong(name, "is the number of an event"))
        };
        let mut read = Self { after: Sequence::START, limit: 200 };
        for (name, value) in query::read(request)? {
            match &*name {
                "after" => read.after = Sequence(number("after", &value)?),
                "pageSize" => {
                    let size = value.parse().ok().filter(|size| (1..=1_000).contains(size));
                    read.limit = size.ok_or_else(|| query::wrong("pageSize", "is a number from 1 to 1000"))?;
                }
                _ => return Err(query::unknown(&name)),
            }
        }
        if let Some(value) = request.headers().get("last-event-id") {
            read.after = Sequence(number("Last-Event-ID", value.to_str().unwrap_or_default())?);
        }
        Ok(read)
    }
}

async fn page(gateway: &Gateway, subject: Subject, query: &Query) -> Result<HttpResponse, Problem> {
    let execution = subject.execution_id;
    let question = ReadEvents { subject, after: query.after, limit: query.limit };
    let answer: Found<EventPage> =
        gateway.ask(EVENTS_PATH, &question).await.map_err(|error| failure::internal(&error))?;
    let page = found(answer)?;
    let data = page.events.iter().map(|event| RawValue::from_string(event.data(execution)));
    let data: Vec<Box<RawValue>> =
        data.collect::<Result<_, _>>().map_err(|_unreadable| Problem::new(ProblemCode::Internal))?;
    let next = page.events.last().filter(|_| page.more).map(|last| last.sequence);
    Ok(HttpResponse::Ok().json(json!({ "data": data, "nextAfter": next, "terminal": page.terminal })))
}

/// Opens the stream: 204 when nothing will ever come. The first page says whose it is and whether it is over.
async fn open(
    gateway: web::Data<Gateway>,
    caller: Caller,
    subject: Subject,
    after: Sequence,
) -> Result<HttpResponse, Problem> {
    let page = subscription::read(&gateway.hub, &subject, after).await?;
    if page.terminal && page.events.is_empty() {
        return Ok(HttpResponse::NoContent().finish());
    }
    tracing::debug!(execution.id = %subject.execution_id, after = after.0, "a stream is opened");
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(Viewer::new(gateway, caller.key, subject, after, page).into_body()))
}
