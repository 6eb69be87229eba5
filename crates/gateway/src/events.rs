//! `GET /v1/executions/{id}/events`: a stream (WHATWG server-sent events) or a page.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use bytes::{BufMut as _, Bytes, BytesMut};
use domain::{EventRecord, ExecutionId, Sequence};
use futures::{Stream, stream};
use protocol::{
    read::{EVENTS_PATH, EventPage, Found, QUEUE_PATH, ReadEvents, Subject},
    submission::QueueBlock,
};
use serde_json::{Value, json, value::RawValue};
use service::{Problem, ProblemCode};

use crate::{
    auth::Caller,
    edge::{problem_response, resource},
    executions::{self, found, subject, wrong},
    failure,
    hub::Subscription,
    service::Gateway,
    views,
};

/// A comment after this much silence keeps proxies from closing the stream.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a viewer of a queued execution learns of its place.
const QUEUE_EVERY: Duration = Duration::from_secs(2);

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config.service(resource("/v1/executions/{id}/events", "GET").route(web::get().to(events)));
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
            open(gateway.clone(), subject, query.after).await
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
            number.ok_or_else(|| wrong(name, "is the number of an event"))
        };
        let mut query = Self { after: Sequence::START, limit: 200 };
        for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()).take(16) {
            match &*name {
                "after" => query.after = Sequence(number("after", &value)?),
                "pageSize" => {
                    let size = value.parse().ok().filter(|size| (1..=1_000).contains(size));
                    query.limit = size.ok_or_else(|| wrong("pageSize", "is a number from 1 to 1000"))?;
                }
                _ => return Err(wrong(&name, "is not a parameter of this call")),
            }
        }
        if let Some(value) = request.headers().get("last-event-id") {
            query.after = Sequence(number("Last-Event-ID", value.to_str().unwrap_or_default())?);
        }
        Ok(query)
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
    Ok(HttpResponse::Ok().json(json!({ "data": data, "nextAfter": next })))
}

/// Opens the stream: 204 when nothing will ever come.
async fn open(gateway: web::Data<Gateway>, subject: Subject, after: Sequence) -> Result<HttpResponse, Problem> {
    let execution = subject.execution_id;
    let view: Found<protocol::read::ExecutionView> =
        gateway.ask(protocol::read::EXECUTION_PATH, &subject).await.map_err(|error| failure::internal(&error))?;
    let view = executions::found(view)?;
    if view.state.is_terminal() && after >= view.last_sequence {
        return Ok(HttpResponse::NoContent().finish());
    }
    let subscription = gateway.hub.subscribe(subject, after);
    tracing::debug!(execution.id = %execution, after = after.0, "a stream is opened");
    let viewer = Viewer {
        queued: view.state == domain::State::Queued,
        gateway,
        execution,
        subscription,
        block: None,
        greeted: false,
        over: false,
    };
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(body(viewer)))
}

struct Viewer {
    gateway: web::Data<Gateway>,
    execution: ExecutionId,
    subscription: Subscription,
    queued: bool,
    block: Option<QueueBlock>,
    greeted: bool,
    over: bool,
}

fn body(viewer: Viewer) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    stream::unfold(viewer, |mut viewer| async move {
        if viewer.over {
            return None;
        }
        let chunk = viewer.chunk().await;
        Some((Ok(chunk), viewer))
    })
}

impl Viewer {
    /// The next piece of the stream. One await at a time holds the viewer: a slow client takes from the ring, or from the
    /// log, when it is ready.
    async fn chunk(&mut self) -> Bytes {
        if !self.greeted {
            self.greeted = true;
            return Bytes::from_static(b"retry: 2000\n\n");
        }
        let pause = if self.queued { QUEUE_EVERY } else { HEARTBEAT };
        let drain = self.gateway.shutdown.drain.clone();
        tokio::select! {
            biased;
            events = self.subscription.next() => match events {
                Ok(events) => {
                    let mut bytes = BytesMut::new();
                    for event in &events {
                        write(&mut bytes, event, self.execution);
                        self.over |= event.is_terminal();
                        self.queued &= event.name == "execution.queued";
                    }
                    bytes.freeze()
                }
                // The client comes back with its last id.
                Err(_) => self.end("the stream has to be opened again"),
            },
            () = drain.cancelled() => self.end("this gateway is going away"),
            () = tokio::time::sleep(pause) => if self.queued { self.place().await } else { comment("") },
        }
    }

    fn end(&mut self, reason: &str) -> Bytes {
        self.over = true;
        comment(reason)
    }

    /// The place in the queue, when it changed.
    async fn place(&mut self) -> Bytes {
        let subject = self.subscription.subject();
        let answer: Result<Found<Option<QueueBlock>>, _> = self.gateway.ask(QUEUE_PATH, subject).await;
        let Ok(Found::Found(Some(block))) = answer else { return comment("") };
        let same = self.block.as_ref().is_some_and(|last| {
            (last.position, last.ahead, &last.waiting_reason) == (block.position, block.ahead, &block.waiting_reason)
        });
        if same {
            return comment("");
        }
        let data: Value = json!({
            "executionId": subject.execution_id,
            "queue": views::queue(&block),
            "afterSequence": self.subscription.position(),
        });
        self.block = Some(block);
        Bytes::from(format!("event: execution.queueUpdated\ndata: {data}\n\n"))
    }
}

fn comment(text: &str) -> Bytes {
    Bytes::from(format!(": {text}\n\n"))
}

/// One event. Its data is one line: JSON escapes line ends.
fn write(bytes: &mut BytesMut, event: &EventRecord, execution: ExecutionId) {
    bytes.put_slice(format!("id: {}\nevent: ", event.sequence.0).as_bytes());
    bytes.put_slice(event.name.as_bytes());
    bytes.put_slice(b"\ndata: ");
    bytes.put_slice(event.data(execution).as_bytes());
    bytes.put_slice(b"\n\n");
}
