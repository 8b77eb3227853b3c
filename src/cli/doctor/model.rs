//! Is the model's folder whole?

use super::Case;
use super::findings::Findings;
use crate::plan::bytes;
use phi4d_generate::inspect_text;
use phi4d_model::{self as model, Export};

const CHECK: &str = "model";

/// The export, if its folder can be read.
pub(super) fn check(case: &Case, findings: &mut Findings) -> Option<Export> {
    let Some(folder) = &case.settings.model else {
        findings.fault(CHECK, "no model is set", "set model to a model's folder; phi4d pull phi-4");
        return None;
    };
    let export = match model::inspect(folder) {
        Ok(export) => export,
        Err(error) => {
            let mend = "phi4d pull fetches models, with --replace over a damaged one";
            findings.fault(CHECK, error.to_string(), mend);
            return None;
        }
    };
    let damage = export.damage();
    for fault in &damage {
        findings.fault(CHECK, fault, "phi4d pull NAME --replace, or copy the folder anew");
    }
    match inspect_text(folder) {
        Ok(facts) if facts.tokens > export.model.vocabulary => findings.fault(
            CHECK,
            format!(
                "the tokenizer knows {} tokens and the model {}",
                facts.tokens, export.model.vocabulary
            ),
            "take the tokenizer from the model's own folder",
        ),
        Ok(facts) if facts.template_bytes.is_none() => findings.note(
            CHECK,
            "the folder has no chat template, so that chats are refused",
            "take tokenizer_config.json or chat_template.jinja from the model's own folder",
        ),
        Ok(_) => {}
        Err(error) => findings.fault(
            CHECK,
            error.to_string(),
            "phi4d pull NAME --replace, or copy the folder anew",
        ),
    }
    if damage.is_empty() {
        let shape = &export.model;
        findings.good(
            CHECK,
            format!(
                "{} of {} layers, {} of weights, in {}",
                shape.architecture,
                shape.layers,
                bytes(export.weight_bytes()),
                folder.display()
            ),
        );
    }
    Some(export)
}
