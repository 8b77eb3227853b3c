use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use serde_json::json;

use super::super::conversation::Conversation;
use super::*;

fn arguments(url: &str) -> ClientArgs {
    ClientArgs {
        url: Some(url.to_owned()),
        api_key: Some("sk-1".to_owned()),
        system: Some("be brief".to_owned()),
        temperature: Some(0.0),
        max_tokens: Some(9),
        seed: Some(-1),
        ..ClientArgs::default()
    }
}

fn request() -> Value {
    let mut conversation = Conversation::new(&arguments(""));
    conversation.ask("hello");
    conversation.request(false)
}

/// Answers one connection with `response` as it is, and gives what the client sent.
async fn answer_once(listener: TcpListener, response: &'static str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut sent = Vec::new();
    while !sent.ends_with(b"}") {
        stream.read_buf(&mut sent).await.unwrap();
    }
    stream.write_all(response.as_bytes()).await.unwrap();
    String::from_utf8(sent).unwrap()
}

/// The whole answer, or the error, to a daemon that answers with `response`.
async fn ask(response: &'static str) -> (Result<String, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = Client::new(&arguments(&url)).unwrap();
    let server = tokio::spawn(answer_once(listener, response));
    let answer = async {
        let mut stream = client.open(&request()).await?;
        let mut text = String::new();
        loop {
            match stream.next().await? {
                Piece::Text(more) => text.push_str(&more),
                Piece::End => return Ok(text),
                _ => {}
            }
        }
    };
    let answer: Result<String, Fatal> = answer.await;
    (answer.map_err(|fatal| fatal.to_string()), server.await.unwrap())
}

#[tokio::test]
async fn streams_an_answer_and_sends_the_conversation() {
    let (answer, sent) =
        ask("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
         data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n: still here\n\n\
         data: {\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}\n\n\
         data: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n")
        .await;
    assert_eq!(answer.as_deref(), Ok("Hello"));
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer sk-1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("host: 127.0.0.1:"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body,
        json!({
            "messages": [
                { "role": "system", "content": "be brief" }, { "role": "user", "content": "hello" },
            ],
            "stream": true, "stream_options": { "include_usage": true },
            "temperature": 0.0, "max_tokens": 9, "seed": -1,
        })
    );
}

#[tokio::test]
async fn tells_refusals_and_broken_answers_apart() {
    let refused = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n\
                   {\"error\":{\"message\":\"seed: no\",\"code\":1}}";
    assert_eq!(ask(refused).await.0, Err("the daemon refused: seed: no".to_owned()));
    let bare = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(ask(bare).await.0, Err("the daemon answered 502 Bad Gateway".to_owned()));
    let in_stream = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
                     data: {\"error\":{\"message\":\"shutting down\"}}\n\n";
    assert_eq!(ask(in_stream).await.0, Err("the daemon refused: shutting down".to_owned()));
    let cut = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
               data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    let (answer, _) = ask(cut).await;
    assert_eq!(answer, Err("the answer broke off: the daemon closed the connection".to_owned()));
}

#[tokio::test]
async fn a_missing_daemon_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = Some(folder.path().join("none"));
    let client = Client::new(&ClientArgs { socket, ..ClientArgs::default() }).unwrap();
    let fatal = client.open(&request()).await.unwrap_err();
    assert!(matches!(&fatal, Fatal::Unreachable { .. }), "{fatal}");
    assert!(fatal.to_string().contains("none"), "{fatal}");
}

#[test]
fn an_event_may_say_several_things() {
    let text = |text: &str| text.to_owned();
    let chunk = json!({
        "model": "m",
        "choices": [{ "delta": { "content": "a", "reasoning_content": "b" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1 },
    });
    assert_eq!(
        read_event(&chunk.to_string()).unwrap(),
        [
            Piece::Model(text("m")),
            Piece::Thought(text("b")),
            Piece::Text(text("a")),
            Piece::Finish(text("stop")),
            Piece::Usage(json!({ "prompt_tokens": 1 })),
        ]
    );
    assert_eq!(read_event(r#"{"choices":[{"delta":{"content":""}}],"usage":null}"#).unwrap(), []);
}

#[tokio::test]
async fn only_503_says_not_yet() {
    for (response, expected) in [
        (
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nconnection: close\r\n\r\n\
             {\"error\":{\"message\":\"loading\"}}",
            Readiness::NotYet {
                reason: "the daemon refused: loading".to_owned(),
                after: Some(Duration::from_secs(2)),
            },
        ),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Readiness::Ready),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Readiness::Ready),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::new(&arguments(&url)).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut sent = Vec::new();
            while !sent.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut sent).await.unwrap();
            }
            stream.write_all(response.as_bytes()).await.unwrap();
        });
        assert_eq!(client.readiness().await.unwrap(), expected);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn the_key_may_be_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "sk-2\n").unwrap();
    let with = |path| ClientArgs { api_key_file: Some(path), ..arguments("http://a") };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let client = Client::new(&ClientArgs { url, ..with(path) }).unwrap();
    let server = tokio::spawn(answer_once(listener, "HTTP/1.1 500 No\r\n\r\n"));
    client.open(&request()).await.unwrap_err();
    let sent = server.await.unwrap();
    assert!(sent.contains("authorization: Bearer sk-2\r\n"), "{sent}");
    let error = Client::new(&with(folder.path().join("none"))).unwrap_err().to_string();
    assert!(error.contains("none") && error.contains("API key"), "{error}");
}
