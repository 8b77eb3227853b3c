//! A stand-in for the endpoint that models are fetched from: the same API, and every fault on order.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde_json::{Value, json};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one answer to a request for a file in large-file storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is closed after so many bytes.
    Cut(usize),
    /// After so many bytes nothing more comes.
    Stall(usize),
    /// The last byte is another.
    Flip,
    /// The whole file is sent, whatever part was asked for.
    Whole,
    /// The server is out of order.
    Status(u16),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Contents by path in the repository.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Sizes to list instead of the true ones.
    pub(crate) sizes: BTreeMap<String, u64>,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) seen: Vec<Seen>,
    /// If set, requests to the API without it are refused.
    pub(crate) token: Option<String>,
    /// The storage's URL.
    pub(crate) cdn: String,
}

/// Two servers: the API, and the storage that it redirects to.
pub(crate) struct Hub {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) address: SocketAddr,
}

impl Hub {
    /// Serves the files of `folder` as a CPU export, and two more that are not to be taken.
    pub(crate) fn start(folder: &Path) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let content = std::fs::read(&path).unwrap();
            state.lock().unwrap().files.insert(format!("cpu/int4/{name}"), content);
        }
        for extra in ["README.md", "gpu/genai_config.json", "cpu/int4/code.py"] {
            state.lock().unwrap().files.insert(extra.to_owned(), b"extra".to_vec());
        }
        let listen = |handle: fn(&mut State, &Seen) -> Answer| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || serve(stream, &state, handle));
                }
            });
            address
        };
        let cdn = listen(storage);
        state.lock().unwrap().cdn = format!("http://{cdn}");
        let address = listen(api);
        Self { state, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn fault(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// Requests for the storage so far.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let state = self.state.lock().unwrap();
        let storage = state.seen.iter().filter(|seen| seen.path.starts_with("/blob/"));
        storage.map(|seen| seen.range.clone()).collect()
    }
}

struct Answer {
    head: String,
    body: Vec<u8>,
    fault: Option<Fault>,
}

fn answer(status: u16, headers: &str, body: Vec<u8>) -> Answer {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    Answer { head, body, fault: None }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, handle: fn(&mut State, &Seen) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let header = |name: &str| {
        let found = lines[1..].iter().filter_map(|line| line.split_once(": "));
        let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_owned())
    };
    let path = lines[0].split(' ').nth(1).unwrap().to_owned();
    let seen = Seen { path, range: header("range"), token: header("authorization") };
    let answer = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        handle(&mut state, &seen)
    };
    let most = match answer.fault {
        Some(Fault::Cut(bytes) | Fault::Stall(bytes)) => bytes.min(answer.body.len()),
        _ => answer.body.len(),
    };
    // A client that leaves is no fault of the server's.
    let _ = stream.write_all(answer.head.as_bytes());
    let _ = stream.write_all(&answer.body[..most]);
    if matches!(answer.fault, Some(Fault::Stall(_))) {
        // Until the client goes.
        let _ = reader.read_line(&mut String::new());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A web server that knows no API: files of `folder` by their paths, and 404 for all else.
pub(crate) fn web_server(folder: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    break;
                }
            }
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
            let reply = match std::fs::read(folder.join(&path[1..])) {
                Ok(content) => answer(200, "", content),
                Err(_) => answer(404, "", Vec::new()),
            };
            let mut stream = reader.into_inner();
            let _ = stream.write_all(reply.head.as_bytes());
            if method != "HEAD" {
                let _ = stream.write_all(&reply.body);
            }
        }
    });
    address
}

/// Writes the list of hashes that `sha256sum` would write for the files right in `folder`.
pub(crate) fn write_sums(folder: &Path) {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        let sha = hex(ring::digest::digest(&SHA256, &content).as_ref());
        text.push_str(&format!("{sha}  {}\n", path.file_name().unwrap().to_str().unwrap()));
    }
    std::fs::write(folder.join("SHA256SUMS"), text).unwrap();
}

fn is_large(path: &str) -> bool {
    path.ends_with(".data") || path.ends_with(".onnx")
}

fn listed(state: &State, path: &str, content: &[u8]) -> Value {
    let size = state.sizes.get(path).copied().unwrap_or(content.len() as u64);
    let mut git = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    git.update(format!("blob {}\0", content.len()).as_bytes());
    git.update(content);
    let oid = hex(git.finish().as_ref());
    if is_large(path) {
        let sha = hex(ring::digest::digest(&SHA256, content).as_ref());
        let lfs = json!({ "oid": sha, "size": size, "pointerSize": 134 });
        return json!({ "type": "file", "path": path, "size": size, "oid": oid, "lfs": lfs });
    }
    json!({ "type": "file", "path": path, "size": size, "oid": oid })
}

fn api(state: &mut State, seen: &Seen) -> Answer {
    // Behind a proxy one server is both.
    if seen.path.starts_with("/blob/") {
        return storage(state, seen);
    }
    let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some() && wanted != seen.token {
        return answer(401, "", Vec::new());
    }
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    if path == "/api/models/microsoft/phi-4-onnx/revision/main" {
        return answer(200, "", json!({ "sha": COMMIT }).to_string().into_bytes());
    }
    if path == format!("/api/models/microsoft/phi-4-onnx/tree/{COMMIT}") {
        let all: Vec<Value> =
            state.files.iter().map(|(path, content)| listed(state, path, content)).collect();
        // Two pages.
        let half = all.len() / 2;
        let (page, link) = match query {
            "recursive=true" => {
                (&all[..half], format!("Link: <{path}?recursive=true&cursor=2>; rel=\"next\"\r\n"))
            }
            _ => (&all[half..], String::new()),
        };
        return answer(200, &link, json!(page).to_string().into_bytes());
    }
    let file = path.strip_prefix(&*format!("/microsoft/phi-4-onnx/resolve/{COMMIT}/"));
    match file.and_then(|file| Some((file, state.files.get(file)?))) {
        Some((file, _)) if is_large(file) => {
            let cdn = &state.cdn;
            answer(302, &format!("Location: {cdn}/blob/{file}\r\n"), Vec::new())
        }
        Some((_, content)) => answer(200, "", content.clone()),
        None => answer(404, "", Vec::new()),
    }
}

fn storage(state: &mut State, seen: &Seen) -> Answer {
    let mut content = state.files[&seen.path["/blob/".len()..]].clone();
    let fault = state.faults.pop_front();
    let start =
        seen.range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let start = start.map(|start| start.parse::<usize>().unwrap());
    match fault {
        Some(Fault::Status(status)) => return answer(status, "", Vec::new()),
        Some(Fault::Flip) => *content.last_mut().unwrap() ^= 1,
        _ => {}
    }
    let reply = match start.filter(|_| fault != Some(Fault::Whole)) {
        Some(start) => {
            let size = content.len();
            let range = format!("Content-Range: bytes {start}-{}/{size}\r\n", size - 1);
            answer(206, &range, content.split_off(start))
        }
        None => answer(200, "", content),
    };
    Answer { fault, ..reply }
}
