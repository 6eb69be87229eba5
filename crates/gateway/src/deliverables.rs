//! Files: listed with signed links, streamed from the object store.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use domain::ExecutionId;
use futures::StreamExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use object_store::ObjectStoreExt as _;
use protocol::read::Subject;
use secrecy::ExposeSecret as _;
use serde_json::json;
use service::{Problem, ProblemCode};
use sha2::Sha256;

use crate::{
    auth::{self, Caller},
    edge::problem_response,
    executions, failure, query,
    routes::{self, Entry},
    service::Gateway,
    views,
};

/// A link is good for one to two of these, in seconds.
const LINK_SECONDS: i64 = 3600;

pub(crate) fn routes() -> Vec<Entry> {
    vec![
        routes::get("/v1/executions/{id}/deliverables", list),
        routes::get("/v1/executions/{id}/deliverables/{name}", download),
    ]
}

/// A link that anybody may use until it expires. All links of one hour are equal, so that an answer with links can have a tag.
pub(crate) fn link(gateway: &Gateway, id: ExecutionId, name: &str) -> String {
    let expires = expiry(gateway.clock.now().timestamp());
    let signature = sign(gateway, id, name, expires);
    let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20");
    format!("{}/v1/executions/{id}/deliverables/{name}?expires={expires}&signature={signature}", gateway.public_url)
}

const fn expiry(now: i64) -> i64 {
    (now.div_euclid(LINK_SECONDS) + 2) * LINK_SECONDS
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
    match Box::pin(open(&gateway, &id, &name, &request)).await {
        Ok(response) => response,
        Err(problem) => problem_response(problem),
    }
}

/// A signed link needs no key; without one the key has to own the execution.
async fn open(gateway: &Gateway, id: &str, name: &str, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let not_found = || failure::not_found("file");
    let execution_id: ExecutionId = id.parse().map_err(|_malformed| not_found())?;
    let query = query::read(request)?;
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
        executions::of(gateway, subject).await?
    } else {
        let caller = auth::check(request).await?;
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

/// RFC 6266: a name that old clients can read, and the whole one when that is another.
fn disposition(name: &str) -> header::ContentDisposition {
    let plain: String = name.chars().map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '_' }).collect();
    let whole = (plain != name).then(|| {
        header::DispositionParam::FilenameExt(header::ExtendedValue {
            charset: header::Charset::Ext("UTF-8".to_owned()),
            language_tag: None,
            value: name.as_bytes().to_vec(),
        })
    });
    header::ContentDisposition {
        disposition: header::DispositionType::Attachment,
        parameters: std::iter::once(header::DispositionParam::Filename(plain)).chain(whole).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_good_for_an_hour_at_least_and_the_same_all_through_the_hour() {
        assert_eq!(expiry(7_200), expiry(7_200 + 3_599));
        assert!(expiry(7_200 + 3_599) - (7_200 + 3_599) > 3_600);
        assert_ne!(expiry(7_199), expiry(7_200));
    }

    #[test]
    fn a_name_of_any_script_is_given_twice() {
        assert_eq!(disposition("moss.md").to_string(), "attachment; filename=\"moss.md\"");
        assert_eq!(
            disposition("苔 \"1\".md").to_string(),
            "attachment; filename=\"_ \\\"1\\\".md\"; filename*=UTF-8''%E8%8B%94%20%221%22.md"
        );
    }
}
