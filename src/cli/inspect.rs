//! `phi4d inspect`: what the export in a folder is, and what would run it, for people and for
//! programs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::args::InspectArgs;
use super::embedding;
use super::exit::Fatal;
use super::fleet::Fleet;
use super::output::print;
use super::report::{FormKernel, ModelReport, bytes, memory_lines};
use super::start;
use phi4d_generate::{NoForms, TextFacts};
use phi4d_model::{
    self as model, Export, MemorySettings, Placement, Provider, RotaryChoice, TensorInfo,
};
use phi4d_os as os;
use phi4d_settings::{Resolved, Settings};

pub(super) fn run(arguments: &InspectArgs) -> Result<(), Fatal> {
    let required: &[_] = if arguments.folder.is_some() { &[] } else { &["model"] };
    let resolved = arguments.settings.resolve(required)?;
    if arguments.folder.is_none() && !resolved.models.is_empty() {
        return all(arguments, &resolved);
    }
    let mut settings = resolved.settings;
    if let Some(folder) = &arguments.folder {
        settings.model = Some(folder.clone());
    }
    let folder = start::model_folder(&settings)?;
    if model::EmbeddingFolder::is_one(folder) {
        return print(&embedding::inspected(folder, &settings, arguments.json)?);
    }
    let memory = start::memory_settings(&settings, os::spare_memory());
    let (found, placement) = gathered(arguments, &settings, &memory)?;
    let placement = placement.as_ref();
    print(&if arguments.json {
        format!("{:#}\n", json(&found, placement))
    } else {
        shown_lines(&lines(&found, placement))
    })
}

/// Every model of the settings, with its part of the memory. One that can't be read does not hide the others.
fn all(arguments: &InspectArgs, resolved: &Resolved) -> Result<(), Fatal> {
    // Nothing is loaded that could compile a form.
    let forms = || Arc::new(NoForms) as _;
    let fleet = Fleet::of(resolved, (0..=resolved.models.len()).map(|_| forms()).collect());
    let (mut text, mut list, mut fault) = (String::new(), Vec::new(), None);
    for (index, settings) in fleet.settings().iter().enumerate() {
        let table = index.checked_sub(1).map(|further| &resolved.models[further]);
        let name = settings.served_model_name();
        let own = table.iter().flat_map(|table| &table.entries);
        let own: Vec<String> = own.map(|own| format!("{} = {}", own.key, own.value)).collect();
        let (load, when) = match table {
            Some(table) if !table.at_start => ("request", "at the first request for it"),
            _ => ("start", "at the start"),
        };
        let mut head = vec![("name", name.clone()), ("loaded", when.to_owned())];
        head.extend((!own.is_empty()).then(|| ("settings", own.join(", "))));
        let mut value = json!({ "name": name, "load": load, "settings": own });
        match gathered(arguments, settings, &fleet.memory_settings(index)) {
            Ok((found, placement)) => {
                head.extend(lines(&found, placement.as_ref()));
                value["found"] = json(&found, placement.as_ref());
            }
            Err(error) => {
                head.push(("fault", error.to_string()));
                value["fault"] = error.to_string().into();
                fault.get_or_insert(error);
            }
        }
        text.push_str(if text.is_empty() { "" } else { "\n" });
        text.push_str(&shown_lines(&head));
        list.push(value);
    }
    print(&if arguments.json { format!("{:#}\n", json!({ "models": list })) } else { text })?;
    fault.map_or(Ok(()), Err)
}

/// What is known of a model, and where its nodes run if that is wanted.
fn gathered(
    arguments: &InspectArgs,
    settings: &Settings,
    memory: &MemorySettings,
) -> Result<(ModelReport, Option<Placement>), Fatal> {
    let folder = start::model_folder(settings)?;
    let found = ModelReport::gather(settings, folder, memory)?;
    let options = model::LoadOptions { slots: 1, ..start::load_options(settings, folder) };
    let loaded = arguments.nodes.then(|| model::load(&options)).transpose()?;
    Ok((found, loaded.map(|loaded| loaded.placement)))
}

/// A line for each name and its value.
fn shown_lines(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(name, value)| format!("{name:<11}{value}\n")).collect()
}

/// The report as lines of a name and its value.
fn lines(found: &ModelReport, placement: Option<&Placement>) -> Vec<(&'static str, String)> {
    let export = &found.export;
    let mut lines = vec![("folder", found.folder.display().to_string())];
    lines.extend(model_lines(export));
    match &found.text {
        Ok(facts) => lines.extend(text_lines(facts)),
        Err(error) => lines.push(("tokenizer", format!("not usable: {error}"))),
    }
    match &found.runs.provider {
        Ok((provider, reason)) => lines.push(("runs on", format!("{provider}: {reason}"))),
        Err(error) => lines.push(("runs on", format!("nothing here: {error}"))),
    }
    lines.push(("kernels", found.runs.kernels.clone()));
    lines.extend(found.runs.forms.iter().map(|form| ("matmuls", form.with_cost())));
    // The files of the weights are listed above.
    lines.extend(memory_lines(&found.plan).into_iter().filter(|(name, _)| *name != "weights"));
    for (provider, nodes) in placement.iter().flat_map(|placement| &placement.nodes) {
        let nodes = nodes.iter().map(|(operator, count)| (operator.as_str(), *count));
        lines.push(("nodes", format!("{provider}: {}", counted(nodes))));
    }
    let warnings = warnings(found, placement).into_iter().map(|warning| ("warning", warning));
    lines.extend(warnings);
    lines
}

fn model_lines(export: &Export) -> Vec<(&'static str, String)> {
    let model = &export.model;
    let mut lines = vec![
        (
            "model",
            format!(
                "{}: {} layers, {} KV heads of {}, vocabulary of {}, context of {} tokens",
                model.architecture,
                model.layers,
                model.kv_heads,
                model.head_size,
                model.vocabulary,
                model.context
            ),
        ),
        ("made by", export.producer.clone()),
        (
            "made for",
            match export.made_for.as_slice() {
                [] => "cpu".to_owned(),
                names => names.join(", "),
            },
        ),
    ];
    lines.extend(export.inputs.iter().map(|input| ("input", tensor(input))));
    lines.extend(export.outputs.iter().map(|output| ("output", tensor(output))));
    lines.extend(export.cache.iter().map(|cache| ("cache", tensor(cache))));
    if let Some(blocks) = export.blocks {
        let text = format!(
            "paged: {} tokens and {} a block, {} blocks for a whole context",
            blocks.tokens,
            bytes(blocks.bytes),
            blocks.of_a_context
        );
        lines.push(("cache", text));
    }
    lines.extend(export.rotary.iter().map(|choice| ("rotary", rotary(choice))));
    if let Some(attention) = &export.attention {
        let attributes: Vec<String> =
            attention.attributes.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let text = format!("{} {}: {}", attention.nodes, attention.operator, attributes.join(", "));
        lines.push(("attention", text));
    }
    lines.push(("graph", format!("{}, {}", export.graph.display(), bytes(export.graph_bytes))));
    for file in &export.weights {
        lines.push(("weights", format!("{}, {}", file.path.display(), bytes(file.needed))));
    }
    lines
}

fn rotary(choice: &RotaryChoice) -> String {
    let most = choice.short_tokens;
    let Some(tables) = &choice.tables else {
        return format!("two tables: the short one up to {most} tokens, the long one past them");
    };
    let least = tables.factors.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = tables.factors.iter().copied().fold(0.0, f64::max);
    let (short, long) = (&tables.short, &tables.long);
    format!(
        "longrope: up to {most} tokens by the short table (scale {:.3}), past them by the long one, for \
         {} (scale {:.3}), which turns {least:.2} to {greatest:.2} times slower",
        short.scale, long.positions, long.scale
    )
}

fn tensor(info: &TensorInfo) -> String {
    format!("{} {} [{}]", info.name, info.element, info.shape.join(", "))
}

fn text_lines(facts: &TextFacts) -> Vec<(&'static str, String)> {
    let template = match &facts.template {
        None => "none: chats are refused".to_owned(),
        Some(template) => {
            let mut parts = vec![format!("{} bytes", template.len())];
            let tools = if facts.places_functions { "placed by it" } else { "described in words" };
            parts.push(format!(
                "tools {tools}, tool calls between {} and {}",
                facts.call_marks[0], facts.call_marks[1]
            ));
            if facts.drops_system {
                parts.push("has a system message of its own".into());
            }
            if facts.thinks {
                parts.push("asks for reasoning".into());
            }
            parts.join("; ")
        }
    };
    let tokenizer = format!(
        "{} tokens, {} of them added: {}",
        facts.tokens,
        facts.added,
        shown(&facts.special)
    );
    vec![("tokenizer", tokenizer), ("template", template)]
}

/// The first few names of a list.
fn shown(names: &[String]) -> String {
    const FEW: usize = 6;
    let text = names.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(" ");
    if names.len() > FEW { format!("{text} …") } else { text }
}

/// Operators with how many there are of each.
fn counted<'a>(nodes: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let nodes = nodes.into_iter().map(|(operator, count)| format!("{count} {operator}"));
    nodes.collect::<Vec<_>>().join(", ")
}

/// Everything that speaks against the folder.
fn warnings(found: &ModelReport, placement: Option<&Placement>) -> Vec<String> {
    let mut warnings = found.export.damage();
    warnings.extend(found.runs.warnings.iter().cloned());
    let on_device = matches!(found.runs.provider, Ok((provider, _)) if provider != Provider::Cpu);
    let heavy = placement.filter(|_| on_device).map(Placement::heavy_on_cpu).unwrap_or_default();
    if !heavy.is_empty() {
        warnings.push(format!("heavy nodes run on the CPU: {}", counted(heavy)));
    }
    let foreign = found.foreign_tokenizer();
    warnings.extend(foreign.map(|fault| format!("{fault}: it is another model's")));
    warnings
}

fn form(form: &FormKernel) -> Value {
    json!({ "form": form.form, "kernel": form.kernel, "fallback": form.fallback })
}

fn json(found: &ModelReport, placement: Option<&Placement>) -> Value {
    let text = match &found.text {
        Ok(facts) => json!({
            "tokens": facts.tokens,
            "added_tokens": facts.added,
            "special_tokens": facts.special,
            "template_bytes": facts.template.as_ref().map(String::len),
            "template_places_functions": facts.places_functions,
            "template_drops_system": facts.drops_system,
            "template_thinks": facts.thinks,
            "call_marks": facts.call_marks,
        }),
        Err(error) => json!({ "fault": error.to_string() }),
    };
    let provider = match &found.runs.provider {
        Ok((provider, reason)) => json!({ "provider": provider.as_str(), "reason": reason }),
        Err(fault) => json!({ "fault": fault }),
    };
    let nodes = placement.map_or(Value::Null, |placement| json!(placement.nodes));
    json!({
        "folder": found.folder,
        "export": found.export,
        "weight_bytes": found.export.weight_bytes(),
        "text": text,
        "runs": provider,
        "kernels": found.runs.kernels,
        "forms": found.runs.forms.iter().map(form).collect::<Vec<_>>(),
        "memory": found.plan,
        "nodes": nodes,
        "warnings": warnings(found, placement),
    })
}
