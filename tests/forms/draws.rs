//! Random forms of each kind, from harmless to as bad as can be.

use serde_json::{Map, Value, json};

/// Numbers that are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn size(&mut self, end: u64) -> usize {
        usize::try_from(self.below(end)).unwrap()
    }

    /// As often small as large: from 1 to `2^bits`.
    fn scale(&mut self, bits: u64) -> usize {
        let bits = self.below(bits + 1);
        1 + self.size(1 << bits)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.size(from.len() as u64)]
    }
}

/// Definitions `d0` to `d(length)`, each made from the next one's reference.
fn definitions(length: usize, mut of: impl FnMut(usize, Value) -> Value) -> Value {
    let mut all = Map::new();
    for index in 0..length {
        let next = json!({"$ref": format!("#/$defs/d{}", index + 1)});
        all.insert(format!("d{index}"), of(index, next));
    }
    all.insert(format!("d{length}"), json!({"type": "boolean"}));
    json!({"$ref": "#/$defs/d0", "$defs": all})
}

/// References that lead to one another.
pub fn chain(length: usize) -> Value {
    definitions(length, |_, next| next)
}

/// References with a property between.
pub fn deep_chain(length: usize) -> Value {
    definitions(
        length,
        |_, next| json!({"type": "object", "properties": {"p": next}, "required": ["p"]}),
    )
}

/// Lark rules that lead to one another.
pub fn rules(length: usize) -> String {
    let mut text = String::from("start: r0\n");
    for index in 0..length {
        text.push_str(&format!("r{index}: r{}\n", index + 1));
    }
    text.push_str(&format!("r{length}: \"a\"\n"));
    text
}

/// A request with a form of the kind of `number`, and its route.
pub fn request(random: &mut Random, number: usize) -> (&'static str, Value) {
    let kinds: [fn(&mut Random) -> Value; 9] =
        [references, cycles, numbers, wide, strings, nested, lark, regex, choices];
    let mut form = kinds[number % kinds.len()](random);
    // A schema may come by every way that there is for one.
    let schema = form.get("guided_json").cloned();
    if let Some(schema) = schema {
        match random.below(6) {
            0 => form = json!({"structured_outputs": {"json": schema}}),
            1 => {
                form = json!({"response_format": {"type": "json_schema",
                    "json_schema": {"name": "x", "schema": schema}}});
            }
            2 => {
                let message = json!({"role": "user", "content": "x"});
                let body = json!({"messages": [message], "stream": false, "format": schema,
                    "options": {"num_predict": 6, "temperature": 0}, "model": "demo"});
                return ("/api/chat", body);
            }
            3 if schema.is_object() => {
                let body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 6,
                    "tool_choice": "required", "tools": [{"type": "function", "function":
                    {"name": "f", "parameters": schema}}]});
                return ("/v1/chat/completions", body);
            }
            4 => {
                let body = json!({"input": "x", "max_output_tokens": 16, "text": {"format":
                    {"type": "json_schema", "name": "x", "schema": schema}}});
                return ("/v1/responses", body);
            }
            _ => {}
        }
    }
    let mut body = json!({"prompt": "x", "max_tokens": 6, "temperature": 0});
    for (name, value) in form.as_object().unwrap() {
        body[name] = value.clone();
    }
    ("/v1/completions", body)
}

fn references(random: &mut Random) -> Value {
    let length = random.scale(11);
    json!({"guided_json": match random.below(3) {
        0 => chain(length),
        1 => deep_chain(length),
        _ => definitions(length, |index, next| match index % 3 {
            0 => json!({"anyOf": [next, {"type": "null"}]}),
            1 => json!({"type": "array", "items": next}),
            _ => json!({"allOf": [next]}),
        }),
    }})
}

fn cycles(random: &mut Random) -> Value {
    let count = random.scale(7);
    let mut all = Map::new();
    for index in 0..count {
        let other = |random: &mut Random| json!({"$ref": format!("#/$defs/d{}", random.size(count as u64))});
        let schema = match random.below(5) {
            0 => other(random),
            1 => json!({"anyOf": [other(random), other(random)]}),
            2 => json!({"allOf": [other(random), other(random)]}),
            3 => json!({"type": "object", "properties": {"a": other(random), "b": other(random)},
                "required": ["a"]}),
            _ => json!({"type": "array", "items": other(random), "maxItems": 3}),
        };
        all.insert(format!("d{index}"), schema);
    }
    json!({"guided_json": {"$ref": "#/$defs/d0", "$defs": all}})
}

fn numbers(random: &mut Random) -> Value {
    let number = |random: &mut Random| match random.below(4) {
        0 => json!(random.below(100)),
        1 => json!(random.below(1 << 30)),
        2 => json!(-(random.below(1 << 20) as f64) / 97.0),
        _ => json!(random.below(1 << 30) as f64 * 1e9),
    };
    let mut schema = json!({"type": *random.pick(&["integer", "number"])});
    for keyword in ["multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
        if random.below(2) == 0 {
            schema[keyword] = number(random);
        }
    }
    if random.below(3) == 0 {
        let other = json!({"multipleOf": number(random)});
        schema = json!({"allOf": [schema, other]});
    }
    json!({"guided_json": schema})
}

fn wide(random: &mut Random) -> Value {
    let count = random.scale(13);
    let schema = match random.below(5) {
        0 => json!({"enum": (0..count).map(|i| json!(format!("value {i}"))).collect::<Vec<_>>()}),
        1 => json!({"enum": vec![json!({}); count]}),
        2 => json!({"anyOf": (0..count).map(|i| json!({"const": i})).collect::<Vec<_>>()}),
        3 => {
            let properties: Map<String, Value> =
                (0..count).map(|i| (format!("p{i}"), json!({"type": "integer"}))).collect();
            json!({"type": "object", "properties": properties})
        }
        _ => {
            let of =
                |i: usize| json!({"type": "object", "properties": {format!("p{i}"): {"const": i}}});
            json!({"oneOf": (0..count).map(of).collect::<Vec<_>>()})
        }
    };
    json!({"guided_json": schema})
}

fn strings(random: &mut Random) -> Value {
    let mut schema = json!({"type": "string"});
    match random.below(4) {
        0 => schema["pattern"] = json!(expression(random, 3)),
        1 => schema = json!({"const": "x".repeat(random.scale(21))}),
        2 => {
            schema["minLength"] = json!(random.scale(24));
            schema["maxLength"] = json!(random.scale(30));
        }
        _ => {
            schema["pattern"] = json!(expression(random, 2));
            schema["maxLength"] = json!(random.scale(20));
            schema["format"] = json!(*random.pick(&["date-time", "email", "uri", "ipv6"]));
        }
    }
    json!({"guided_json": schema})
}

fn nested(random: &mut Random) -> Value {
    let depth = random.scale(6).min(58);
    let mut schema = json!({"type": "integer"});
    for _ in 0..depth {
        schema = match random.below(4) {
            0 => json!({"type": "array", "items": schema, "minItems": random.below(20)}),
            1 => json!({"type": "object", "properties": {"a": schema}, "required": ["a"]}),
            2 => json!({"anyOf": [schema, {"type": "string"}]}),
            _ => json!({"type": "object", "additionalProperties": schema}),
        };
    }
    json!({"guided_json": schema})
}

fn lark(random: &mut Random) -> Value {
    let count = random.scale(12);
    let text = match random.below(5) {
        0 => rules(count),
        1 => format!("start: {}\"a\"{}", "(".repeat(count), ")".repeat(count)),
        2 => {
            let rule = |random: &mut Random| format!("r{}", random.size(count as u64));
            let mut text = String::from("start: r0\n");
            for index in 0..count {
                let (first, second) = (rule(random), rule(random));
                let rest = *random.pick(&["|", " ", " \"b\" ", "* \"c\" ", "? | \"d\" "]);
                text.push_str(&format!("r{index}: {first}{rest}{second} | \"x{index}\"\n"));
            }
            text
        }
        3 => {
            let mut text = String::from("start: T0\n");
            for index in 0..count {
                text.push_str(&format!("T{index}: T{} /[a-z]/\n", index + 1));
            }
            text.push_str(&format!("T{count}: /{}/\n", expression(random, 2)));
            text
        }
        _ => format!(
            "start: A\nA: /{}/ & ~/{}/ & /(?s:.{{0,{}}})/",
            expression(random, 2),
            expression(random, 2),
            random.scale(12)
        ),
    };
    json!({"grammar": text})
}

fn regex(random: &mut Random) -> Value {
    let pattern = match random.below(4) {
        0 => "(".repeat(random.scale(14)) + "a",
        1 => {
            let count = random.scale(13);
            "(".repeat(count) + "a" + &"|b)+".repeat(count)
        }
        _ => expression(random, 5),
    };
    json!({"guided_regex": pattern})
}

fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        let last = ["a", "[a-z]", ".", "\\d", "(?s:.)", "\\p{L}", "[^x]", "ab|ba"];
        return (*random.pick(&last)).to_owned();
    }
    let inner = expression(random, depth - 1);
    match random.below(6) {
        0 => format!("({inner}){{{},{}}}", random.below(10), 10 + random.scale(10)),
        1 => format!("({inner})*{}", expression(random, depth - 1)),
        2 => {
            let count = 1 + random.size(20);
            let all: Vec<String> = (0..count).map(|_| expression(random, depth - 1)).collect();
            format!("({})", all.join("|"))
        }
        3 => format!("({inner}){{{}}}", random.scale(8)),
        4 => format!(".*{inner}.*{}", expression(random, depth - 1)),
        _ => format!("({inner})+"),
    }
}

fn choices(random: &mut Random) -> Value {
    let count = random.scale(11);
    let length = random.scale(8);
    let texts: Vec<String> = (0..count).map(|i| format!("{i}{}", "x".repeat(length))).collect();
    json!({"guided_choice": texts})
}
