use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Where the machine refuses, whatever pieces the bytes come in; `None` if it does not.
fn refused_at(bytes: &[u8], pieces: &[usize]) -> Option<usize> {
    let (mut heads, mut from) = (Heads::new(), 0_usize);
    for piece in pieces.iter().copied().chain([bytes.len()]) {
        let to = from.saturating_add(piece).min(bytes.len());
        if let Err(at) = heads.scan(&bytes[from..to]) {
            return Some(from + at);
        }
        from = to;
    }
    None
}

fn passes(text: &str) -> bool {
    refused_at(text.as_bytes(), &[]).is_none()
}

fn post(headers: &str, rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{rest}")
}

const NEXT: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Framings that leave no choice, and what follows their head up to the next request.
fn clear() -> Vec<String> {
    vec![
        NEXT.to_owned(),
        "\r\n\r\nGET / HTTP/1.0\r\n\r\n".to_owned(),
        post("X-Long: ".to_owned().as_str(), ""),
        post(&format!("X-Long: {}", "x".repeat(5000)), ""),
        post("Content-Length: 0", ""),
        post("content-length:  12 ", "{\n\"a\": \n1}\n\n"),
        post("Content-Length: 3", "\n\n\n"),
        post("Transfer-Encoding: chunked", "0\r\n\r\n"),
        post("TRANSFER-ENCODING:\tChunked", "2\r\n\n\n\r\n00A;x=y\r\n0123456789\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "1 \r\n\n\r\n0\r\nX-Trailer: 1\r\n\r\n"),
        post("X-Transfer-Encoding: gzip\r\nTransfer-Encodings: a\r\nContent-Lengths: b", ""),
    ]
}

/// Heads and bodies that parsers read differently.
fn ambiguous() -> Vec<String> {
    let (length, chunked) = ("Content-Length: 5", "Transfer-Encoding: chunked");
    let mut rows = vec![
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
        "GET / HTTP/1.1\n\n".to_owned(),
        "GET / HTTP/1.1\rHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n".to_owned(),
    ];
    for headers in [
        format!("{length}\r\n{length}"),
        format!("{length}\r\n{chunked}"),
        format!("{chunked}\r\n{length}"),
        format!("{chunked}\r\n{chunked}"),
        "Content-Length: 5, 5".to_owned(),
        "Content-Length: +5".to_owned(),
        "Content-Length: -5".to_owned(),
        "Content-Length:".to_owned(),
        "Content-Length: 0x5".to_owned(),
        "Content-Length: 99999999999999999999".to_owned(),
        format!("Content-Length: {}5", "0".repeat(80)),
        "Transfer-Encoding: gzip".to_owned(),
        "Transfer-Encoding: gzip, chunked".to_owned(),
        "Transfer-Encoding: chunked, chunked".to_owned(),
        "Transfer-Encoding: chunked;q=1".to_owned(),
        "Transfer-Encoding: \"chunked\"".to_owned(),
        "Transfer-Encoding:".to_owned(),
        format!("Transfer-Encoding:{} chunked", " ".repeat(80)),
        format!("{chunked}\r\n , gzip"),
        "X-Folded: a\r\n\tb".to_owned(),
    ] {
        rows.push(post(&headers, ""));
    }
    for body in [
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "2\r\n{}{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\n\r\n",
        "2\r\n{}\r\n0\r\n\n",
        "2\r\n{}\r\n0\r\nX-Trailer: a\n\r\n",
        "\r\n0\r\n\r\n",
        "g\r\n",
        "-1\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        ";x\r\n",
    ] {
        rows.push(post(chunked, body));
    }
    rows
}

#[test]
fn what_leaves_no_choice_passes_and_the_next_head_is_found() {
    for text in clear() {
        assert!(passes(&text), "{text:?}");
        let mut heads = Heads::new();
        heads.scan(text.as_bytes()).unwrap();
        assert_eq!(heads.expected(), Expected::NextRequest, "{text:?}");
        // A bare LF is refused where the next head is, so that is where it was looked for.
        let bad = format!("{text}GET / HTTP/1.1\n");
        assert_eq!(refused_at(bad.as_bytes(), &[]), Some(bad.len() - 1), "{text:?}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for text in ambiguous() {
        assert!(!passes(&text), "{text:?}");
    }
}

/// In a random order of clear requests, one ambiguous one is refused and nothing before it is.
#[test]
fn pieces_make_no_difference() {
    let (clear, ambiguous) = (clear(), ambiguous());
    proptest!(ProptestConfig { cases: 3000, ..ProptestConfig::default() }, |(
        before in prop::collection::vec(0..clear.len(), 0..5),
        bad in prop::option::of(0..ambiguous.len()),
        pieces in prop::collection::vec(1_usize..40, 0..40),
    )| {
        let mut text: String = before.iter().map(|at| clear[*at].as_str()).collect();
        let begin = text.len();
        if let Some(bad) = bad {
            text.push_str(&ambiguous[bad]);
        }
        let found = refused_at(text.as_bytes(), &pieces);
        prop_assert_eq!(found, refused_at(text.as_bytes(), &[]));
        prop_assert_eq!(found.is_some(), bad.is_some());
        prop_assert!(found.is_none_or(|at| at >= begin));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let found = refused_at(&bytes, &[]);
        prop_assert!(found.is_none_or(|at| at < bytes.len()));
        // No line is longer than what was read.
        if let Some(first) = bytes.iter().position(|byte| *byte == b'\n') {
            prop_assert!(first > 0 && bytes[first - 1] == b'\r' || found.is_some());
        }
    }
}

#[tokio::test]
async fn a_refused_head_ends_in_what_no_parser_takes() {
    use tokio::io::AsyncWriteExt as _;
    for (sent, read) in [
        (format!("{NEXT}GET / HTTP/1.1\nHost: a\r\n\r\n{NEXT}"), format!("{NEXT}GET / HTTP/1.1")),
        (format!("\n{NEXT}"), String::new()),
        (NEXT.to_owned(), NEXT.to_owned()),
    ] {
        let refused = sent != read;
        for size in [1, 3, 4096] {
            let (mut far, near) = tokio::io::duplex(size);
            let bytes = sent.clone();
            let writing = tokio::spawn(async move {
                // What is refused is not read to its end.
                let _ = far.write_all(bytes.as_bytes()).await;
            });
            let mut guard = Guarded::new(near, Activity::new(), Duration::from_secs(60));
            let mut got = Vec::new();
            let mut piece = vec![0; size];
            loop {
                match guard.read(&mut piece).await.unwrap() {
                    0 => break,
                    count => got.extend_from_slice(&piece[..count]),
                }
            }
            drop(guard);
            writing.await.unwrap();
            let expected = if refused { format!("{read}\0\r\n\r\n") } else { read.clone() };
            assert_eq!(String::from_utf8(got).unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn a_reader_that_stops_fails_the_write() {
    let (near, _far) = tokio::io::duplex(8);
    let mut near = Guarded::new(near, Activity::new(), Duration::from_millis(20));
    near.write_all(b"12345678").await.unwrap();
    let error = near.write_all(b"9").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_slow_reader_is_waited_for() {
    let (near, mut far) = tokio::io::duplex(8);
    let mut near = Guarded::new(near, Activity::new(), Duration::from_secs(60));
    let writing = tokio::spawn(async move { near.write_all(&[7; 64]).await });
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    writing.await.unwrap().unwrap();
    assert_eq!(all, [7; 64]);
}
