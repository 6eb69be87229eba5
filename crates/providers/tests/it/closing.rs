//! Stopping: whoever drops a stream closes the provider's connection at once, and completed connections are kept.

use std::time::Duration;

use futures::StreamExt as _;
use providers::{LanguageModel as _, ModelEvent, simulator::SimulatorConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{FAST, System, ask, request, soon, until};

/// What the issue allows between the drop and the provider's noticing.
const SEEN_WITHIN: Duration = Duration::from_millis(250);

async fn is_seen_closed(system: &System) {
    let took = until("the close", || async { system.stats().await["closedByClient"] == 1 }).await;
    assert!(took < SEEN_WITHIN, "seen after {took:?}");
    assert_eq!(system.stats().await["open"], 0);
}

/// Reads until some text came.
async fn read_a_little(stream: &mut providers::ModelStream) {
    while !matches!(soon(stream.next()).await.unwrap().unwrap(), ModelEvent::Text(_)) {}
}

#[tokio::test]
async fn a_stopped_stream_is_seen_by_the_provider() {
    let system = System::start().await;
    for model in ["sim/slow", "sim/fault-F18"] {
        system.post("/stats/reset", &serde_json::Value::Null).await;
        let mut stream = system.model.stream(request(model));
        read_a_little(&mut stream).await;
        assert_eq!(system.stats().await["open"], 1);

        drop(stream);

        is_seen_closed(&system).await;
    }
}

#[tokio::test]
async fn a_stop_during_silence_is_seen_as_fast() {
    let system = System::start().await;
    let mut stream = system.model.stream(request("sim/gate-never"));
    read_a_little(&mut stream).await;
    until("the call waits", || async { system.get("/gates/never").await["waiting"] == 1 }).await;

    drop(stream);

    is_seen_closed(&system).await;
    assert_eq!(system.get("/gates/never").await["waiting"], 0);
}

#[tokio::test]
async fn a_stop_before_the_headers_is_seen() {
    let config = SimulatorConfig { slow_headers: Duration::from_secs(60), ..SimulatorConfig::default() };
    let system = System::with(config, FAST).await;
    let mut stream = system.model.stream(request("sim/fault-F20"));
    tokio::select! {
        _ = stream.next() => panic!("it answered"),
        _ = until("the call arrives", || async { system.stats().await["open"] == 1 }) => {}
    }

    drop(stream);

    is_seen_closed(&system).await;
}

#[tokio::test]
async fn a_stop_under_a_flood_is_seen() {
    let system = System::start().await;
    let mut stream = system.model.stream(request("tokens-50000-rate-0"));
    read_a_little(&mut stream).await;

    drop(stream);

    until("the call is over", || async { system.stats().await["open"] == 0 }).await;
}

#[tokio::test]
async fn nothing_is_sent_before_the_stream_is_polled() {
    let system = System::start().await;

    drop(system.model.stream(request("sim/instant")));

    assert_eq!(system.stats().await["requests"], 0);
}

#[tokio::test]
async fn completed_connections_are_kept_and_stopped_ones_are_not() {
    let proxy = counting_proxy().await;
    let model = crate::support::connect(proxy.address, providers::openai::Dialect::default(), FAST);
    for model_name in ["sim/instant", "sim/fault-F01", "sim/fault-F05", "sim/instant"] {
        ask(&model, request(model_name)).await;
    }
    assert_eq!(proxy.connections(), 1);

    let mut stream = model.stream(request("sim/slow"));
    read_a_little(&mut stream).await;
    drop(stream);
    ask(&model, request("sim/instant")).await;

    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_kept_connection_that_the_provider_closed_is_replaced() {
    let address = crate::support::fixture(
        "HTTP/1.1 200 OK\ncontent-type: text/event-stream\ncontent-length: 66",
        b"data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n      ",
    )
    .await;
    let model = crate::support::connect(address, providers::openai::Dialect::default(), FAST);

    for _ in 0..5 {
        assert_eq!(ask(&model, request("m")).await.error, None);
    }
}

/// Answers each connection's first call, thinks about the second for longer than a close can cross a request, and hangs up.
async fn forgetful() -> Proxy {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                assert!(client.read(&mut request).await.unwrap() > 0);
                let body = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
                let head = format!("content-type: text/event-stream\r\ncontent-length: {}", body.len());
                client.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
                assert!(client.read(&mut request).await.unwrap() > 0);
                // Sleeps: the time is what tells a call that was lost from a close that crossed it.
                tokio::time::sleep(Duration::from_millis(1_200)).await;
            });
        }
    });
    Proxy { address, connections, _system: System::start().await }
}

#[tokio::test]
async fn a_call_that_the_provider_had_and_lost_is_not_asked_again_behind_our_back() {
    let provider = forgetful().await;
    let timeouts = providers::Timeouts { first_byte: Duration::from_secs(10), idle: Duration::from_secs(10), ..FAST };
    let model = crate::support::connect(provider.address, providers::openai::Dialect::default(), timeouts);
    assert_eq!(ask(&model, request("m")).await.error, None);

    let lost = ask(&model, request("m")).await.error.unwrap();

    assert_eq!(lost.provider_code.as_deref(), Some("connection_lost"));
    assert_eq!(provider.connections(), 1);
}

struct Proxy {
    address: std::net::SocketAddr,
    connections: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    _system: System,
}

impl Proxy {
    fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// In front of a simulator, counting connections.
async fn counting_proxy() -> Proxy {
    let system = System::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counter, target) = (connections.clone(), system.simulator.address());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    Proxy { address, connections, _system: system }
}
