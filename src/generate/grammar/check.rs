//! The bounds of what a client gives as a form, each with an error that names it.

use super::super::error::{GenerateError, invalid};
use super::super::request::{Constraint, Form};
use super::schema;

/// Bytes of a regular expression.
const MOST_PATTERN_BYTES: usize = 64 << 10;

/// Bytes of a grammar.
pub const MOST_GRAMMAR_BYTES: usize = 256 << 10;

/// Texts that one choice may hold, and their bytes together.
const MOST_CHOICES: usize = 1024;
const MOST_CHOICE_BYTES: usize = 256 << 10;

/// Refuses a form that is too large or uses what is not supported, naming the place. Returns the
/// bytes of its schema; 0 for other forms.
///
/// # Errors
/// [`GenerateError::InvalidField`].
pub(super) fn check(constraint: &Constraint) -> Result<usize, GenerateError> {
    let field = &constraint.field;
    match &constraint.form {
        Form::JsonObject => Ok(0),
        Form::JsonSchema(given) | Form::LiteralSchema(given) => schema::check(given, field),
        Form::Regex(pattern) => text(field, "a regular expression", pattern, MOST_PATTERN_BYTES),
        Form::Lark(grammar) => text(field, "a grammar", grammar, MOST_GRAMMAR_BYTES),
        Form::Choice(texts) => choice(field, texts),
    }
}

fn text(field: &str, what: &str, text: &str, most: usize) -> Result<usize, GenerateError> {
    if text.len() > most {
        let value = format!("{what} of {} bytes", text.len());
        return Err(invalid(field, value, format!("one of at most {most} bytes")));
    }
    Ok(0)
}

fn choice(field: &str, texts: &[String]) -> Result<usize, GenerateError> {
    if texts.is_empty() || texts.len() > MOST_CHOICES {
        let count = format!("{} texts", texts.len());
        return Err(invalid(field, count, format!("1 to {MOST_CHOICES} texts")));
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes > MOST_CHOICE_BYTES {
        let value = format!("texts of {bytes} bytes together");
        return Err(invalid(field, value, format!("at most {MOST_CHOICE_BYTES} bytes")));
    }
    match texts.iter().position(String::is_empty) {
        Some(index) => Err(invalid(format!("{field}[{index}]"), "\"\"", "a text")),
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_named_with_its_field_and_value() {
        let table = [
            (Form::Regex("a".repeat(65_537)), "f", "65537 bytes", "65536 bytes"),
            (Form::Lark("a".repeat(262_145)), "f", "262145 bytes", "262144 bytes"),
            (Form::Choice(vec!["a".into(); 1025]), "f", "1025 texts", "1 to 1024"),
            (Form::Choice(vec!["a".repeat(300); 1000]), "f", "300000 bytes", "262144 bytes"),
            (Form::Choice(Vec::new()), "f", "0 texts", "1 to 1024"),
            (Form::Choice(vec!["a".into(), String::new()]), "f[1]", "\"\"", "a text"),
        ];
        for (form, place, shown, bound) in table {
            match check(&Constraint { form, field: "f".into() }) {
                Err(GenerateError::InvalidField { field, value, accepted }) => {
                    assert_eq!(field, place);
                    assert!(value.contains(shown), "{value}");
                    assert!(accepted.contains(bound), "{accepted}");
                }
                other => panic!("{other:?}"),
            }
        }
        let largest = Form::Regex("a".repeat(65_536));
        assert_eq!(check(&Constraint { form: largest, field: "f".into() }), Ok(0));
    }
}
