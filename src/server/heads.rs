//! Refuses request heads that HTTP parsers read in different ways, before hyper reads them.
//!
//! hyper accepts lines that end in a bare LF, keeps one of two equal `Content-Length` lines, and
//! drops a `Content-Length` beside `Transfer-Encoding`. None of this shows in the request that it
//! hands on, and neither hyper nor httparse has an option for it. A proxy in front may read such a
//! head differently and see other requests on the connection (request smuggling). So a small state
//! machine checks the bytes as they pass. It copies only the first bytes of each line, and skips
//! bodies by their length. It can't disagree with hyper about where a body ends, since every
//! ambiguous head is refused.

use super::activity::Expected;

/// Bytes that are kept of a line: enough for the two headers that frame a body, and for a chunk's
/// size. If one of these is longer, it is refused.
const KEPT: usize = 64;

/// The beginning of a line, and whether its last byte was a CR.
#[derive(Debug, Clone)]
struct Line {
    kept: [u8; KEPT],
    length: usize,
    after_cr: bool,
}

impl Line {
    const EMPTY: Self = Self { kept: [0; KEPT], length: 0, after_cr: false };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.kept.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    fn start(&self) -> &[u8] {
        &self.kept[..self.length.min(KEPT)]
    }
}

/// Where in the stream of requests the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The request line, or an empty line before it.
    RequestLine,
    Header,
    /// A body of known length, with the bytes that are left.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// The line break after a chunk's data.
    ChunkEnd,
    Trailer,
}

/// How a head says that its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    NoBody,
    Length(u64),
    Chunked,
}

/// A head, chunk or trailer that parsers could read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ambiguous;

/// Follows the requests on one connection.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    part: Part,
    framing: Framing,
    line: Line,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self { part: Part::RequestLine, framing: Framing::NoBody, line: Line::EMPTY }
    }

    /// What the next byte belongs to.
    pub(super) fn expected(&self) -> Expected {
        match self.part {
            Part::RequestLine if self.line.length == 0 && !self.line.after_cr => {
                Expected::NextRequest
            }
            Part::RequestLine | Part::Header => Expected::Head,
            _ => Expected::Body,
        }
    }

    /// Checks the next bytes of the connection.
    ///
    /// # Errors
    /// The index of the first byte that must not be passed on.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match &mut self.part {
                Part::Body(left) | Part::Chunk(left) => {
                    let here = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX).min(*left);
                    *left -= here;
                    at += usize::try_from(here).unwrap_or(usize::MAX);
                    match self.part {
                        Part::Body(0) => self.part = Part::RequestLine,
                        Part::Chunk(0) => self.part = Part::ChunkEnd,
                        _ => {}
                    }
                }
                _ => {
                    self.byte(byte).map_err(|Ambiguous| at)?;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) -> Result<(), Ambiguous> {
        match (self.line.after_cr, byte) {
            (true, b'\n') => {
                let line = std::mem::replace(&mut self.line, Line::EMPTY);
                self.part = self.next_part(&line)?;
            }
            (true, _) | (false, b'\n') => return Err(Ambiguous),
            (false, b'\r') => self.line.after_cr = true,
            (false, byte) => self.line.push(byte),
        }
        Ok(())
    }

    /// What follows `line`.
    fn next_part(&mut self, line: &Line) -> Result<Part, Ambiguous> {
        Ok(match (self.part, line.length) {
            (Part::RequestLine, 0) => Part::RequestLine,
            (Part::RequestLine, _) => {
                self.framing = Framing::NoBody;
                Part::Header
            }
            (Part::Header, 0) => match self.framing {
                Framing::NoBody | Framing::Length(0) => Part::RequestLine,
                Framing::Length(length) => Part::Body(length),
                Framing::Chunked => Part::ChunkSize,
            },
            (Part::Header, _) => {
                self.framing = framing(line, self.framing)?;
                Part::Header
            }
            (Part::ChunkSize, _) => match chunk_size(line)? {
                0 => Part::Trailer,
                size => Part::Chunk(size),
            },
            (Part::ChunkEnd, 0) => Part::ChunkSize,
            (Part::ChunkEnd, _) => return Err(Ambiguous),
            (Part::Trailer, 0) => Part::RequestLine,
            (Part::Trailer, _) => Part::Trailer,
            // Bodies have no lines.
            (part @ (Part::Body(_) | Part::Chunk(_)), _) => part,
        })
    }
}

/// The framing after a header line. A head that frames its body twice is refused, even with equal
/// values, because RFC 9112 lets recipients merge or reject them.
fn framing(line: &Line, so_far: Framing) -> Result<Framing, Ambiguous> {
    let start = line.start();
    // Obsolete line folding continues the header before it; parsers differ on what that means.
    if matches!(start.first(), Some(b' ' | b'\t')) {
        return Err(Ambiguous);
    }
    let Some(colon) = start.iter().position(|byte| *byte == b':') else { return Ok(so_far) };
    let name = &start[..colon];
    let is_coding = name.eq_ignore_ascii_case(b"transfer-encoding");
    if !is_coding && !name.eq_ignore_ascii_case(b"content-length") {
        return Ok(so_far);
    }
    if so_far != Framing::NoBody || line.length > KEPT {
        return Err(Ambiguous);
    }
    let value = start[colon + 1..].trim_ascii();
    if is_coding {
        return match value.eq_ignore_ascii_case(b"chunked") {
            true => Ok(Framing::Chunked),
            false => Err(Ambiguous),
        };
    }
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits).ok_or(Ambiguous)?;
    text.parse().map(Framing::Length).map_err(|_| Ambiguous)
}

/// The size that a chunk's first line gives.
fn chunk_size(line: &Line) -> Result<u64, Ambiguous> {
    let start = line.start();
    let digits = start.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = start.split_at(digits);
    let goes_on = matches!(rest.first(), Some(b';' | b' ' | b'\t'));
    if size.is_empty() || !(goes_on || (rest.is_empty() && line.length <= KEPT)) {
        return Err(Ambiguous);
    }
    let text = std::str::from_utf8(size).map_err(|_| Ambiguous)?;
    u64::from_str_radix(text, 16).map_err(|_| Ambiguous)
}

#[cfg(test)]
#[path = "heads_tests.rs"]
mod tests;
