//! The API's own description: OpenAPI 3.1 and a page to read it. The document is written by hand (`openapi.json`) and held to the
//! routes by a test.

use actix_web::{HttpResponse, web};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::routes::{self, Entry};

/// The description.
pub(crate) const DOCUMENT: &str = include_str!("../openapi.json");

pub(crate) fn routes() -> Vec<Entry> {
    vec![routes::get("/v1/openapi.json", document)]
}

/// The page to read it.
pub(crate) fn configure_docs(config: &mut web::ServiceConfig) {
    config
        .route("/docs", web::get().to(to_docs))
        .service(SwaggerUi::new("/docs/{_:.*}").config(Config::from("/v1/openapi.json")));
}

async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT)
}

async fn to_docs() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header(("Location", "/docs/")).finish()
}
