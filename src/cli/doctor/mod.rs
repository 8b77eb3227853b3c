//! `phi4d doctor`: checks the machine, the settings, the model and the installation, and suggests a fix
//! for each problem.

mod findings;
mod machine;
mod service;
mod sockets;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{DoctorArgs, SettingsArgs};
use super::embedding;
use super::exit::Fatal;
use super::output::{note, print};
use super::report::{self, FormKernel, ModelReport, bytes};
use super::service::{Unit, run as run_program};
use super::start;
use findings::{Check, Findings};
use phi4d_model::{self as model, EmbeddingFolder, LoadError};
use phi4d_os as os;
use phi4d_server::{AccessFault, certificate_fault};
use phi4d_settings::{ListenAddress, Resolved, Settings};
pub(super) use service::files_of;
use units::Units;

pub(super) fn run(arguments: &DoctorArgs) -> Result<(), Fatal> {
    let mut findings = examine(arguments)?;
    if arguments.fix && !findings.fixes().is_empty() {
        for command in findings.fixes() {
            note(&command.join(" "));
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            if let Err(error) = run_program(words[0], &words[1..]) {
                note(&error);
            }
        }
        findings = examine(arguments)?;
    }
    print(&if arguments.json { findings.json() } else { findings.text() })?;
    match findings.faults() {
        0 => Ok(()),
        faults => Err(Fatal::Unwell(faults)),
    }
}

/// The daemon that is judged: the installed service, or one that the caller would start.
struct Subject {
    units: Units,
    /// Variables that systemd sets for the service.
    environment: BTreeMap<String, String>,
}

impl Subject {
    fn find() -> Self {
        let units = Units::find();
        let environment = units.service.as_ref().map(Unit::environment).unwrap_or_default();
        Self { units, environment }
    }

    fn service(&self) -> Option<&Unit> {
        self.units.service.as_ref()
    }

    /// A variable of the daemon's environment.
    fn variable(&self, name: &str) -> Option<String> {
        self.environment.get(name).cloned().or_else(|| start::variable(name))
    }

    /// Whether the caller sees less than the daemon does, so that what it can't read is no fault.
    fn is_strangers(&self) -> bool {
        self.service().is_some() && os::effective_uid() != 0
    }

    /// Notes that a model's folder can't be used. Where only the caller may not read it, that is no fault.
    fn unusable(&self, error: &LoadError, mend: &str, check: &mut Check<'_>) {
        match error {
            LoadError::Read { path, source }
                if source.kind() == std::io::ErrorKind::PermissionDenied && self.is_strangers() =>
            {
                let text = format!("this user may not read {}", path.display());
                check.note(text, "sudo phi4d doctor");
            }
            _ => check.fault(error.to_string(), mend),
        }
    }

    /// Bytes that the daemon can have: what is free, what it has already, and at most its limit.
    fn memory(&self) -> usize {
        let spare = os::spare_memory();
        let Some(service) = self.service() else { return spare };
        let number = |key| service.number(key).and_then(|bytes| usize::try_from(bytes).ok());
        let own = number("MemoryCurrent").filter(|_| service.is_active()).unwrap_or(0);
        number("MemoryMax").map_or(spare + own, |limit| limit.min(spare + own))
    }
}

/// Runs all checks.
fn examine(arguments: &DoctorArgs) -> Result<Findings, Fatal> {
    let mut findings = Findings::default();
    let subject = Subject::find();
    machine::hardware(&mut findings);
    machine::kernel(Path::new("/proc/sys/vm"), &mut findings);
    if let Some(Resolved { settings, models, .. }) =
        settings(&arguments.settings, &subject, &mut findings)?
    {
        access(&settings, &subject, &mut findings);
        runtime(&settings, &mut findings);
        let found = model(&settings, &subject, &mut findings);
        provider(&settings, found.as_ref(), &mut findings);
        embedding_model(&settings, &subject, &mut findings);
        if let Some(model) = &found {
            service::prepared(model, &mut findings);
            machine::memory(&model.plan, &mut findings);
            if !arguments.no_speed {
                machine::speed(&settings, model, &mut findings);
            }
        }
        let further: Vec<PathBuf> = models
            .iter()
            .flat_map(|further| {
                let found = model(&further.settings, &subject, &mut findings);
                service::files_of(&further.settings, found.as_ref())
            })
            .collect();
        let lookup = |name: &str| subject.variable(name);
        service::state(&settings, subject.service(), lookup, &mut findings);
        sockets::sockets(&settings, &subject.units, lookup, &mut findings);
        if let Some(unit) = subject.service() {
            let files = settings_files(&arguments.settings);
            let read: Vec<PathBuf> = files.iter().cloned().chain(further).collect();
            service::readable(unit, &settings, found.as_ref(), &read, &mut findings);
            units::settings_in_use(unit, &files, &mut findings.of("service"));
            if os::effective_uid() != 0 {
                let hint = "sudo phi4d doctor looks at files as the service does";
                findings.of("service").note("this user sees less than the service", hint);
            }
        } else {
            machine::limits(&settings, &mut findings);
        }
        subject.units.judge(&settings, &mut findings.of("service"));
    } else if let Some(unit) = subject.service() {
        units::state(unit, &mut findings.of("service"));
    }
    if subject.service().is_some() {
        units::instances(&mut findings.of("service"));
    }
    Ok(findings)
}

/// The settings file and its drop-ins, as far as they are there.
fn settings_files(arguments: &SettingsArgs) -> Vec<PathBuf> {
    let file = arguments.file();
    let folder = phi4d_settings::drop_in_folder(&file);
    let drop_ins = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let drop_ins = drop_ins.map(|entry| entry.path());
    let drop_ins = drop_ins.filter(|path| path.extension().is_some_and(|last| last == "toml"));
    [file].into_iter().chain(drop_ins).filter(|path| path.exists()).collect()
}

/// The settings, if they can be read.
fn settings(
    arguments: &SettingsArgs,
    subject: &Subject,
    findings: &mut Findings,
) -> Result<Option<Resolved>, Fatal> {
    let mut check = findings.of("settings");
    let resolved = match arguments.resolve_in(&subject.environment, &[]) {
        Ok(resolved) => resolved,
        Err(Fatal::Settings(error)) => {
            for fault in error.faults {
                check.fault(fault.to_string(), "phi4d config render prints every key");
            }
            return Ok(None);
        }
        Err(fatal) => return Err(fatal),
    };
    for warning in &resolved.warnings {
        check.note(warning, "");
    }
    let options = start::provider_settings(&resolved.settings).check();
    match options {
        Err(faults) => {
            for fault in faults {
                check.fault(fault.to_string(), "correct provider_options");
            }
        }
        Ok(()) => {
            let set = resolved.entries.iter().filter(|entry| entry.origin != "default").count();
            check.good(format!("read, with {set} that are not the default"));
        }
    }
    Ok(Some(resolved))
}

fn access(settings: &Settings, subject: &Subject, findings: &mut Findings) {
    let mut check = findings.of("access");
    match report::access(settings, subject.units.addresses()) {
        Ok(rules) => {
            let has_tls = settings.tls_cert_file.is_some();
            judge_access(settings.listen.as_ref(), rules.need_key(), has_tls, &mut check);
        }
        Err(error) => {
            for fault in error.faults {
                let hidden = matches!(&fault, AccessFault::File { source, .. }
                    if source.kind() == std::io::ErrorKind::PermissionDenied);
                if hidden && subject.is_strangers() {
                    check.note(fault.to_string(), "sudo phi4d doctor");
                } else {
                    let mend = "man phi4d.toml describes each key";
                    check.fault(fault.to_string(), mend);
                }
            }
        }
    }
    if let Some(fault) = certificate_fault(settings) {
        check.fault(fault, "renew it, then systemctl reload phi4d");
    }
}

/// Who gets in, where the rules are complete.
fn judge_access(
    listen: Option<&ListenAddress>,
    need_key: bool,
    has_tls: bool,
    check: &mut Check<'_>,
) {
    let open = listen.filter(|address| !address.is_loopback());
    match open {
        _ if need_key => check.good("TCP needs a key"),
        None => check.good("no keys; only this machine gets in"),
        Some(address) => check.note(
            format!("everyone who reaches {address} gets in, without a key"),
            "make keys by phi4d key add, and set api_keys_file; or listen on 127.0.0.1",
        ),
    }
    if let Some(address) = open
        && !has_tls
    {
        check.note(
            format!("{address} has no TLS: keys, questions and answers can be read on their way"),
            "set tls_cert_file and tls_key_file; or listen on 127.0.0.1 behind a proxy with TLS",
        );
    }
}

fn runtime(settings: &Settings, findings: &mut Findings) {
    let mut check = findings.of("runtime");
    match model::runtime_facts(settings.runtime_library.as_deref()) {
        Ok(facts) => {
            check.good(format!("ONNX Runtime {} in {}", facts.version, facts.library.display()));
            let devices: Vec<String> = facts
                .devices
                .iter()
                .map(|device| {
                    format!("{} of {} by {}", device.kind, device.vendor, device.provider)
                })
                .collect();
            check.good(format!("it knows {}", devices.join(", ")));
            check.figure("runtime_version", json!(facts.version));
        }
        Err(error) => check.fault(
            error.to_string(),
            "install the package phi4d, which brings it, or set runtime_library",
        ),
    }
}

/// What is known of the model, if its folder can be read.
fn model(settings: &Settings, subject: &Subject, findings: &mut Findings) -> Option<ModelReport> {
    let mut check = findings.of("model");
    const REPLACE: &str = "phi4d pull NAME --replace, or copy the folder again";
    let Some(folder) = &settings.model else {
        check.fault("no model is set", "set model to a model's folder; phi4d pull phi-4");
        return None;
    };
    let lookup = |name: &str| subject.variable(name);
    let memory = start::memory_settings_of(settings, subject.memory(), lookup);
    let model = match ModelReport::gather(settings, folder, &memory) {
        Ok(model) => model,
        Err(error) => {
            let mend = "phi4d pull fetches models, with --replace over a damaged one";
            subject.unusable(&error, mend, &mut check);
            return None;
        }
    };
    let damage = model.export.damage();
    for fault in &damage {
        check.fault(fault, REPLACE);
    }
    if let Some(fault) = model.foreign_tokenizer() {
        check.fault(fault, "take the tokenizer from the model's own folder");
    }
    match &model.text {
        Ok(facts) if facts.template.is_none() => check.note(
            "the folder has no chat template, so that chats are refused",
            "take tokenizer_config.json or chat_template.jinja from the model's own folder",
        ),
        Ok(_) => {}
        Err(error) => check.fault(error.to_string(), REPLACE),
    }
    if damage.is_empty() {
        let shape = &model.export.model;
        let weights = bytes(model.export.weight_bytes());
        let (name, layers, folder) = (&shape.architecture, shape.layers, folder.display());
        check.good(format!("{name} of {layers} layers, {weights} of weights, in {folder}"));
    }
    Some(model)
}

/// What is known of the embedding model, if the settings name one.
fn embedding_model(settings: &Settings, subject: &Subject, findings: &mut Findings) {
    let mut check = findings.of("embedding");
    let Some(folder) = &settings.embedding_model else { return };
    match EmbeddingFolder::read(folder, settings.embedding_max_tokens) {
        Ok(found) => check.good(embedding::summary(&found)),
        Err(error) => {
            let mend = "set embedding_model to the folder of an ONNX export, or to nothing";
            subject.unusable(&error, mend, &mut check);
        }
    }
}

fn provider(settings: &Settings, model: Option<&ModelReport>, findings: &mut Findings) {
    let mut check = findings.of("provider");
    const FIX: &str = "correct that, or set provider to auto or cpu";
    let Some(ModelReport { runs, .. }) = model else {
        let asked = start::provider_settings(settings);
        let library = settings.runtime_library.as_deref();
        if let Err(error) = model::provider_facts(&asked, &[], library) {
            check.fault(error.to_string(), FIX);
        }
        return;
    };
    match &runs.provider {
        Ok((provider, reason)) => {
            check.good(format!("{provider}: {reason}; kernels: {}", runs.kernels));
            check.figure("provider", json!(provider.as_str()));
            kernels(settings, &runs.forms, findings);
        }
        Err(error) => check.fault(error, FIX),
    }
    for warning in &runs.warnings {
        findings.of("provider").note(warning, "phi4d pull fetches the export for this machine");
    }
}

/// Which kernel runs each form of weights, and why and at what cost it is not phi4d's.
fn kernels(settings: &Settings, forms: &[FormKernel], findings: &mut Findings) {
    let mut check = findings.of("kernels");
    let mend = match model::own_kernel() {
        None => "",
        Some(_) if !settings.own_kernels => "set own_kernels to true",
        Some(_) => {
            "take an export that phi4d's kernel runs: the manual's page on models lists them"
        }
    };
    for form in forms {
        match form.fallback {
            None => check.good(form.text()),
            Some(_) => check.note(form.with_cost(), mend),
        }
    }
}

#[cfg(test)]
mod tests;
