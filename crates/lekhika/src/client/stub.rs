//! A platform for tests of the client: each connection gets one answer.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

pub(crate) struct Stub(TcpListener);

impl Stub {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Answers the next request and returns it.
    pub(crate) async fn answer(&self, status: &str, body: &str) -> String {
        let (mut stream, request) = self.request().await;
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        request
    }

    /// Reads the next request, returns it and says nothing.
    pub(crate) async fn hang_up(&self) -> String {
        self.request().await.1
    }

    async fn request(&self) -> (TcpStream, String) {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "a request has a head");
        }
        (stream, String::from_utf8(bytes).unwrap())
    }
}
