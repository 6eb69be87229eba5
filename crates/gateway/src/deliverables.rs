//! Files: listed with signed links, streamed from the object store.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use domain::ExecutionId;
use futures::StreamExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use object_store::ObjectStoreExt as _;
use protocol::read::{EXECUTION_PATH, ExecutionView, Found, Subject};
use secrecy::ExposeSecret as _;
use serde_json::json;
use service::{Problem, ProblemCode};
use sha2::Sha256;

use crate::{
    auth::Caller,
    edge::{problem_response, resource},
    executions, failure,
    service::Gateway,
    views,
};

/// How long a link is good, in seconds.
const LINK_SECONDS: i64 = 3600;

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/v1/executions/{id}/deliverables", "GET").route(web::get().to(list)))
        .service(resource("/v1/executions/{id}/deliverables/{name}", "GET").route(web::get().to(download)));
}

/// A link that anybody may use until it expires.
pub(crate) fn link(gateway: &Gateway, id: ExecutionId, name: &str) -> String {
    let expires = gateway.clock.now().timestamp() + LINK_SECONDS;
    let signature = sign(gateway, id, name, expires);
    let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20");
    format!("{}/v1/executions/{id}/deliverables/{name}?expires={expires}&signature={signature}", gateway.public_url)
}

fn sign(gateway: &Gateway, id: ExecutionId, name: &str, expires: i64) -> String {
    // HMAC takes keys of every length: the error cannot happen, and an empty signature is refused.
    Hmac::<Sha256>::new_from_slice(gateway.link_secret.expose_secret().as_bytes()).map_or_else(
        |_impossible| String::new(),
        |mut mac| {
            mac.update(format!("deliverable\n{id}\n{expires}\n{name}").as_bytes());
            hex::encode(mac.finalize().into_bytes())
        },
    )
}

async fn list(gateway: web::Data<Gateway>, caller: Caller, id: web::Path<String>) -> HttpResponse {
    let view = async {
        let subject = executions::subject(&caller, &id)?;
        executions::read(&gateway, &caller, subject.execution_id).await
    };
    match view.await {
        Ok(view) => {
            let data: Vec<_> = view.deliverables.iter().map(|file| views::deliverable(&gateway, &view, file)).collect();
            HttpResponse::Ok().json(json!({ "data": data, "nextPageToken": null }))
        }
        Err(problem) => problem_response(problem),
    }
}

async fn download(
    gateway: web::Data<Gateway>,
    path: web::Path<(String, String)>,
    request: HttpRequest,
) -> HttpResponse {
    let (id, name) = path.into_inner();
    match open(&gateway, &id, &name, &request).await {
        Ok(response) => response,
        Err(problem) => problem_response(problem),
    }
}

/// A signed link needs no key; without one the key has to own the execution.
async fn open(gateway: &Gateway, id: &str, name: &str, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let not_found = || failure::not_found("file");
    let execution_id: ExecutionId = id.parse().map_err(|_malformed| not_found())?;
    let query: Vec<(String, String)> = url::form_urlencoded::parse(request.query_string().as_bytes())
        .take(8)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let value = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let view = if let Some(signature) = value("signature") {
        let expires: i64 = value("expires").and_then(|value| value.parse().ok()).unwrap_or_default();
        let expected = sign(gateway, execution_id, name, expires);
        let equal: bool = subtle::ConstantTimeEq::ct_eq(signature.as_bytes(), expected.as_bytes()).into();
        if !equal || expected.is_empty() {
            return Err(not_found());
        }
        if expires < gateway.clock.now().timestamp() {
            return Err(Problem::new(ProblemCode::Gone).detail("this link has expired; fetch the list for a new one"));
        }
        let subject = Subject { user_id: None, user_engine_id: None, execution_id };
        let answer: Found<ExecutionView> =
            gateway.ask(EXECUTION_PATH, &subject).await.map_err(|error| failure::internal(&error))?;
        executions::found(answer)?
    } else {
        let caller = <Caller as actix_web::FromRequest>::extract(request)
            .await
            .map_err(|_refused| Problem::new(ProblemCode::Unauthorized))?;
        executions::read(gateway, &caller, execution_id).await?
    };
    let file = view.deliverables.iter().find(|file| file.name == name).ok_or_else(not_found)?;
    let key = file.object_key.as_deref().ok_or_else(not_found)?;
    let object = gateway.files.get(&object_store::path::Path::from(key)).await.map_err(|error| match error {
        object_store::Error::NotFound { .. } => Problem::new(ProblemCode::Gone).detail("the file is no longer kept"),
        error => {
            tracing::error!(%error, "a file cannot be read");
            failure::unavailable()
        }
    })?;
    let size = object.meta.size;
    let stream = object.into_stream().map(|chunk| chunk.map_err(actix_web::error::ErrorInternalServerError));
    Ok(HttpResponse::Ok()
        .content_type(file.media_type.as_str())
        .insert_header((header::CONTENT_DISPOSITION, disposition(name)))
        .insert_header((header::CACHE_CONTROL, "private, max-age=3600"))
        // Model text is hostile: a browser must not run what is in an HTML file as a page of ours.
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .no_chunking(size)
        .streaming(stream))
}

fn disposition(name: &str) -> header::ContentDisposition {
    header::ContentDisposition {
        disposition: header::DispositionType::Attachment,
        parameters: vec![header::DispositionParam::Filename(name.to_owned())],
    }
}
