//! Spans, and the W3C trace context: which trace a span belongs to.

use std::hash::{BuildHasher as _, RandomState};
use std::time::SystemTime;

/// A span's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent` header; `None` for an invalid one, which the recommendation says to ignore.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let mut part = |digits: usize| {
            let part = parts.next()?;
            let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            (part.len() == digits && part.bytes().all(hexadecimal)).then_some(part)
        };
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // Later versions may have more; version 00 has not, and ff is none.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, span_id, sampled })
    }

    /// Starts a child of this span.
    #[must_use]
    pub fn child(&self) -> OpenSpan {
        OpenSpan { context: Self { span_id: random(), ..*self }, parent: Some(self.span_id) }
    }

    /// The trace's name in logs and exports.
    #[must_use]
    pub fn trace_hex(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The span's name in exports.
    #[must_use]
    pub fn span_hex(&self) -> String {
        format!("{:016x}", self.span_id)
    }
}

/// A span's kind, of those that OpenTelemetry knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work inside the program.
    Internal,
    /// An answer to a request from outside.
    Server,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A whole number.
    Whole(i64),
    /// A number.
    Number(f64),
    /// A list of texts.
    Texts(Vec<String>),
}

/// A finished piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its trace and its id.
    pub context: TraceContext,
    /// Its parent's id.
    pub parent: Option<u64>,
    /// Whether it is a request from outside.
    pub kind: SpanKind,
    /// What was done, in few words of a fixed set.
    pub name: String,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// Attributes by OpenTelemetry's names.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// What went wrong.
    pub error: Option<&'static str>,
}

/// A span in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSpan {
    /// Its trace and its id.
    pub context: TraceContext,
    /// Its parent's id.
    pub parent: Option<u64>,
}

/// Not 0. Names, not secrets: the standard library's hasher keys are random enough for that.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0_u8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn headers_are_read_as_the_recommendation_says() {
        for (header, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("cc-{TRACE}-{SPAN}-03-what-the-future-has"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-01-x"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("0-{TRACE}-{SPAN}-01"), None),
            (String::new(), None),
        ] {
            let context = TraceContext::parse(&header);
            assert_eq!(context.map(|context| context.sampled), sampled, "{header}");
            if let Some(context) = context {
                assert_eq!((context.trace_hex(), context.span_hex()), (TRACE.into(), SPAN.into()));
            }
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(header in "[0-9a-f-]{0,60}") {
            if let Some(context) = TraceContext::parse(&header) {
                let again = format!(
                    "00-{}-{}-{:02x}",
                    context.trace_hex(),
                    context.span_hex(),
                    u8::from(context.sampled)
                );
                prop_assert_eq!(TraceContext::parse(&again), Some(context));
            }
        }
    }
}
