//! Facts about a model folder's tokenizer and chat template, for `phi4d inspect`.

use std::path::Path;

use super::error::TextLoadError;
use super::prompt::fills_gaps;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use super::tools::Dialect;

/// Facts of the files that turn conversations into tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFacts {
    /// Tokens that the tokenizer knows, added ones included.
    pub tokens: usize,
    /// Added tokens.
    pub added: usize,
    /// Of these, control tokens.
    pub special: Vec<String>,
    /// The chat template; `None` where the folder has none.
    pub template: Option<String>,
    /// Whether the tokenizer has the tokens that fill gaps.
    pub fills_gaps: bool,
    /// Whether the template places tools, that is, the model was trained for them.
    pub places_functions: bool,
    /// What is before and after tool calls.
    pub call_marks: [&'static str; 2],
    /// Whether the template replaces system messages by its own.
    pub drops_system: bool,
    /// Whether the template asks for reasoning before the answer.
    pub thinks: bool,
}

/// Reads the tokenizer and the template of `folder`.
///
/// # Errors
/// If a file is missing or not usable.
pub fn inspect_text(folder: &Path) -> Result<TextFacts, TextLoadError> {
    let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"))?;
    let template = ChatTemplate::load(folder)?;
    let added = tokenizer.added();
    let dialect = Dialect::of(template.as_ref(), added);
    let fills_gaps = fills_gaps(added);
    Ok(TextFacts {
        tokens: tokenizer.vocabulary().len(),
        added: added.iter().count(),
        special: added
            .iter()
            .filter(|token| token.special)
            .map(|token| token.content.clone())
            .collect(),
        template: template.as_ref().map(|template| template.source().to_owned()),
        fills_gaps,
        places_functions: dialect.places_tools(),
        call_marks: dialect.marks(),
        drops_system: dialect.drops_system(),
        thinks: dialect.thinks(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_folder_is_phi_4s() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let facts = inspect_text(&folder).unwrap();
        assert!(facts.special.iter().any(|token| token == "<|im_start|>"), "{facts:?}");
        assert!(facts.added >= facts.special.len());
        assert!(facts.template.is_some_and(|template| !template.is_empty()));
        assert!(!facts.places_functions && !facts.thinks && !facts.drops_system);
        assert_eq!(facts.call_marks, ["<tool_call>", "</tool_call>"]);
    }
}
