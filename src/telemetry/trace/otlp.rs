//! Spans as OTLP's JSON: an `ExportTraceServiceRequest`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::span::{Attribute, Span, SpanKind};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The body of a `POST` to a collector's `/v1/traces`.
#[must_use]
pub fn encode(spans: &[Span], instance: &str) -> String {
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let resource = [
        ("service.name", Attribute::Text("phi4d".to_owned())),
        ("service.version", Attribute::Text(VERSION.to_owned())),
        ("service.instance.id", Attribute::Text(instance.to_owned())),
    ];
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(&resource) },
        "scopeSpans": [{ "scope": { "name": "phi4d", "version": VERSION }, "spans": spans }],
    }] })
    .to_string()
}

fn span(span: &Span) -> Value {
    // As protobuf numbers them.
    let kind = match span.kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
    };
    let mut value = json!({
        "traceId": span.context.trace_hex(),
        "spanId": span.context.span_hex(),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanoseconds(span.began),
        "endTimeUnixNano": nanoseconds(span.ended),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent) = span.parent {
        value["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(error) = span.error {
        value["status"] = json!({ "code": 2, "message": error });
    }
    value
}

fn attributes(attributes: &[(&str, Attribute)]) -> Vec<Value> {
    let text = |text: &String| json!({ "stringValue": text });
    let one = |(key, value): &(&str, Attribute)| {
        let value = match value {
            Attribute::Text(value) => text(value),
            // 64-bit numbers are texts in protobuf's JSON.
            Attribute::Whole(value) => json!({ "intValue": value.to_string() }),
            Attribute::Number(value) => json!({ "doubleValue": value }),
            Attribute::Texts(values) => {
                json!({ "arrayValue": { "values": values.iter().map(text).collect::<Vec<_>>() } })
            }
        };
        json!({ "key": key, "value": value })
    };
    attributes.iter().map(one).collect()
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::span;
    use super::*;

    #[test]
    fn spans_are_spelt_as_the_protocol_says() {
        let mut ended = span("chat m");
        ended.parent = Some(3);
        ended.kind = SpanKind::Server;
        ended.error = Some("aborted");
        ended.attributes = vec![
            ("a", Attribute::Text("x".to_owned())),
            ("b", Attribute::Whole(-5)),
            ("c", Attribute::Number(0.5)),
            ("d", Attribute::Texts(vec!["y".to_owned()])),
        ];
        let body: Value = serde_json::from_str(&encode(&[ended], "here")).unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][0],
            json!({ "key": "service.name", "value": { "stringValue": "phi4d" } })
        );
        assert_eq!(
            resource["scopeSpans"][0]["spans"][0],
            json!({
                "traceId": "00000000000000000000000000000001", "spanId": "0000000000000002",
                "parentSpanId": "0000000000000003", "name": "chat m", "kind": 2,
                "startTimeUnixNano": "0", "endTimeUnixNano": "0",
                "attributes": [
                    { "key": "a", "value": { "stringValue": "x" } },
                    { "key": "b", "value": { "intValue": "-5" } },
                    { "key": "c", "value": { "doubleValue": 0.5 } },
                    { "key": "d", "value": { "arrayValue": { "values": [{ "stringValue": "y" }] } } },
                ],
                "status": { "code": 2, "message": "aborted" },
            })
        );
    }
}
