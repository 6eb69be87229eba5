//! What is sent.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Dialect, Shared};
use crate::{ChatRequest, ErrorClass, JsonMode, Message, ProviderError};

/// Carries our name of the call to the provider.
pub(super) const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Value>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    include_obfuscation: Option<bool>,
}

/// The body of a streamed call.
pub(super) fn body(request: &ChatRequest, dialect: Dialect) -> Result<Bytes, ProviderError> {
    let limit = |ours: bool| if ours { request.max_tokens } else { None };
    let body = Body {
        model: &request.model,
        messages: &request.messages,
        stream: true,
        stream_options: dialect
            .supports_stream_usage
            .then(|| StreamOptions { include_usage: true, include_obfuscation: dialect.obfuscates.then_some(false) }),
        temperature: request.temperature,
        max_tokens: limit(!dialect.max_completion_tokens),
        max_completion_tokens: limit(dialect.max_completion_tokens),
        top_p: request.top_p,
        stop: &request.stop,
        seed: request.seed,
        response_format: response_format(&request.json),
    };
    serde_json::to_vec(&body)
        .map(Bytes::from)
        .map_err(|error| ProviderError::new(ErrorClass::InvalidRequest, "bad_request", error.to_string()))
}

fn response_format(mode: &JsonMode) -> Option<Value> {
    match mode {
        JsonMode::Off => None,
        JsonMode::Object => Some(json!({"type": "json_object"})),
        JsonMode::Schema { name, schema } => {
            Some(json!({"type": "json_schema", "json_schema": {"name": name, "schema": **schema}}))
        }
    }
}

impl Shared {
    /// The HTTP request of a model call.
    pub(super) fn chat(
        &self,
        body: Bytes,
        request_id: &HeaderValue,
        traceparent: Option<&HeaderValue>,
    ) -> Request<Full<Bytes>> {
        let mut request = self.request(Method::POST, &self.chat_path, body);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        if !request_id.is_empty() {
            headers.insert(CLIENT_REQUEST_ID, request_id.clone());
        }
        if let Some(traceparent) = traceparent {
            headers.insert("traceparent", traceparent.clone());
        }
        request
    }

    /// A question that is no model call.
    pub(super) fn get(&self, path: &http::Uri) -> Request<Full<Bytes>> {
        let mut request = self.request(Method::GET, path, Bytes::new());
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        request
    }

    fn request(&self, method: Method, path: &http::Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.clone();
        let headers = request.headers_mut();
        headers.reserve(8);
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("lekhika/", env!("CARGO_PKG_VERSION"))));
        if let Some((name, value)) = &self.auth {
            headers.insert(name, value.clone());
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn sent(request: &ChatRequest, dialect: Dialect) -> Value {
        serde_json::from_slice(&body(request, dialect).unwrap()).unwrap()
    }

    #[test]
    fn only_what_was_asked_for_is_sent() {
        let request = ChatRequest { model: "m".into(), messages: vec![Message::user("Hi")], ..ChatRequest::default() };

        assert_eq!(
            sent(&request, Dialect::default()),
            json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true,
                   "stream_options": {"include_usage": true}})
        );
    }

    #[test]
    fn every_setting_has_the_dialects_name() {
        let request = ChatRequest {
            model: "m".into(),
            messages: vec![Message::system("S")],
            temperature: Some(0.2),
            max_tokens: Some(9),
            top_p: Some(0.5),
            stop: vec!["END".into()],
            seed: Some(4),
            json: JsonMode::Schema { name: "outline".into(), schema: Arc::new(json!({"type": "object"})) },
            request_id: "exec_1/a/0/1".into(),
            traceparent: None,
        };

        let body = sent(&request, Dialect::OPENAI);

        assert_eq!(body["max_completion_tokens"], 9);
        assert_eq!(body.get("max_tokens"), None);
        assert_eq!(body["stream_options"], json!({"include_usage": true, "include_obfuscation": false}));
        assert_eq!(body["stop"], json!(["END"]));
        assert_eq!(body["response_format"]["json_schema"]["schema"], json!({"type": "object"}));
        let plain = Dialect { supports_stream_usage: false, ..Dialect::default() };
        assert_eq!(sent(&request, plain)["max_tokens"], 9);
        assert_eq!(sent(&request, plain).get("stream_options"), None);
    }
}
