//! A client that shows the bytes: no pool, no retries, nothing hidden.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(super) struct Client(BufReader<Box<dyn Io>>);

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Status and error code of a failure, whose shape is checked.
    pub(super) fn failure(&self) -> (u16, String) {
        let body = self.json();
        let error = &body["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
        assert!(error.as_object().unwrap().contains_key("param"), "{body}");
        (self.status, error["code"].as_str().unwrap().to_owned())
    }

    /// The data of all events.
    pub(super) fn events(&self) -> Vec<String> {
        assert!(self.body.ends_with("\n\n"), "{}", self.body);
        self.body
            .split_terminator("\n\n")
            .filter(|event| !event.starts_with(':'))
            .map(|event| event.strip_prefix("data: ").expect(event).to_owned())
            .collect()
    }

    /// The chunks of a stream that ended well.
    pub(super) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl Client {
    pub(super) fn new(stream: impl Io + 'static) -> Self {
        Self(BufReader::new(Box::new(stream)))
    }

    /// Sends bytes as they are.
    pub(super) async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub(super) async fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &str) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        if method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.write(&text).await;
    }

    /// The next response with its body.
    pub(super) async fn response(&mut self) -> Response {
        let mut response = self.head().await;
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                response.body.push_str(&chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut body).await.unwrap();
            response.body = String::from_utf8(body).unwrap();
        }
        response
    }

    /// The next response up to its body.
    pub(super) async fn head(&mut self) -> Response {
        let status_line = self.line().await.expect("a response");
        let status = status_line.split(' ').nth(1).expect(&status_line).parse().unwrap();
        let mut headers = Vec::new();
        while let Some(line) = self.line().await.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect(&line);
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        Response { status, headers, body: String::new() }
    }

    /// The next chunk of a chunked body; `None` after the last.
    pub(super) async fn chunk(&mut self) -> Option<String> {
        let size = self.line().await.expect("a chunk");
        let mut data = vec![0; usize::from_str_radix(&size, 16).unwrap() + 2];
        self.0.read_exact(&mut data).await.unwrap();
        data.truncate(data.len() - 2);
        (!data.is_empty()).then(|| String::from_utf8(data).unwrap())
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether the server closed the connection, after waiting for it to say something.
    pub(super) async fn is_closed(&mut self) -> bool {
        match self.0.fill_buf().await {
            Ok(bytes) => bytes.is_empty(),
            Err(_) => true,
        }
    }
}
