//! The table of routes: what is served is what is described (`openapi.json`), held by a test.

use std::collections::BTreeSet;

use actix_web::{FromRequest, Handler, Resource, Responder, Route, middleware::from_fn, web};

use crate::{deliverables, edge, engines, events, execute, executions, legacy, me, openapi, restart, stop};

/// One operation.
pub(crate) struct Entry {
    method: &'static str,
    path: &'static str,
    route: Route,
}

/// An operation without effects; HEAD is served with it.
pub(crate) fn get<F, Args>(path: &'static str, handler: F) -> Entry
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Entry { method: "GET", path, route: web::get().to(handler) }
}

/// An operation with effects.
pub(crate) fn post<F, Args>(path: &'static str, handler: F) -> Entry
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Entry { method: "POST", path, route: web::post().to(handler) }
}

/// Every operation. Where two paths fit, the first counts.
fn table() -> Vec<Entry> {
    let mut table = Vec::new();
    for part in [
        openapi::routes(),
        me::routes(),
        engines::routes(),
        execute::routes(),
        executions::routes(),
        events::routes(),
        stop::routes(),
        restart::routes(),
        deliverables::routes(),
        legacy::routes(),
    ] {
        table.extend(part);
    }
    table
}

/// Everything of the public listener.
pub(crate) fn configure(config: &mut web::ServiceConfig) {
    let (old, new): (Vec<Entry>, Vec<Entry>) =
        table().into_iter().partition(|entry| entry.path.starts_with(legacy::PREFIX));
    for resource in resources(new, "") {
        config.service(resource);
    }
    let mut scope = web::scope(legacy::PREFIX).wrap(from_fn(legacy::deprecated));
    for resource in resources(old, legacy::PREFIX) {
        scope = scope.service(resource);
    }
    config
        .service(scope.default_service(web::to(edge::not_found)))
        .configure(openapi::configure_docs)
        .default_service(web::to(edge::not_found));
}

/// One resource per path; it answers 405 to every other method.
fn resources(entries: Vec<Entry>, prefix: &str) -> Vec<Resource> {
    let mut paths: Vec<(&str, Vec<Entry>)> = Vec::new();
    for entry in entries {
        match paths.iter_mut().find(|(path, _)| *path == entry.path) {
            Some((_, entries)) => entries.push(entry),
            None => paths.push((entry.path, vec![entry])),
        }
    }
    paths.into_iter().map(|(path, entries)| resource(path.strip_prefix(prefix).unwrap_or(path), entries)).collect()
}

fn resource(path: &str, entries: Vec<Entry>) -> Resource {
    let mut allow: BTreeSet<&str> = entries.iter().map(|entry| entry.method).collect();
    if allow.contains("GET") {
        allow.insert("HEAD");
    }
    let allow = allow.into_iter().collect::<Vec<_>>().join(", ");
    let refuse = web::to(move || {
        let response = edge::wrong_method(&allow);
        async move { response }
    });
    entries.into_iter().fold(web::resource(path), |resource, entry| resource.route(entry.route)).default_service(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, operations)| {
                operations.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
            })
            .collect();

        let served: BTreeSet<(String, String)> =
            table().iter().map(|entry| (entry.method.to_owned(), entry.path.to_owned())).collect();

        assert_eq!(served, described);
    }
}
