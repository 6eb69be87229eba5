//! What surrounds every request: its id, its trace, and problem documents.

use actix_web::{
    Error,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use domain::RequestId;
use tracing::Instrument as _;

/// Gives the request an id and a span, and finishes the response.
pub(crate) async fn surround(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = RequestId::generate();
    let route = request.match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let span = tracing::info_span!("admin request", otel.kind = "server", request.id = %id, http.route = %route, http.method = %request.method());
    if let Some(parent) = service::trace::from_request(request.request()) {
        service::trace::set_parent(&span, &parent);
    }
    let response = next.call(request).instrument(span).await?;
    Ok(service::edge::complete(response.map_into_boxed_body(), &id.to_string()))
}
