//! SIGHUP: reloads settings, keys and certificates, all or nothing, while requests continue.

use super::args::SettingsArgs;
use super::exit::Fatal;
use super::manager::Manager;
use phi4d_os::State;
use phi4d_server::{App, Environment, Rules, rules_of};
use phi4d_settings::{Entry, NamedModel, Resolved};

/// Settings that take effect at once. The others need a restart.
const LIVE: &[&str] = &[
    "allow_unauthenticated_lan",
    "api_keys_file",
    "metrics_access",
    "tls_cert_file",
    "tls_key_file",
    "tls_client_ca_file",
    "allowed_hosts",
    "cors_origins",
    "web_page",
    "socket_allow_users",
    "socket_allow_groups",
    "socket_require_key",
    "log_level",
];

/// Everything that a reload needs.
#[derive(Debug)]
pub(super) struct Reloader {
    arguments: SettingsArgs,
    environment: Environment,
    app: App,
    /// The name served, for the service manager's status.
    name: String,
    /// The settings at the start, still effective for those that need a restart.
    started_with: Vec<Entry>,
    /// The further models at the start.
    models: Vec<NamedModel>,
}

impl Reloader {
    pub(super) fn new(
        arguments: &SettingsArgs,
        environment: Environment,
        app: &App,
        started_with: &Resolved,
    ) -> Self {
        Self {
            arguments: arguments.clone(),
            environment,
            app: app.clone(),
            name: started_with.settings.served_model_name(),
            started_with: started_with.entries.clone(),
            models: started_with.models.clone(),
        }
    }

    /// Reads everything again and applies it; on any fault everything stays as it is. The service manager
    /// learns of the start and the end in both cases.
    pub(super) async fn reload(&self, manager: &Manager) {
        manager.send(&[State::Reloading, State::Status("reading the settings again".to_owned())]);
        let (arguments, environment) = (self.arguments.clone(), self.environment.clone());
        // Reading files and the databases of users and groups may block.
        let read = tokio::task::spawn_blocking(move || read(&arguments, &environment)).await;
        let status = match read.map_err(|error| Fatal::Internal(error.to_string())) {
            Ok(Ok((resolved, rules))) => {
                self.apply(&resolved, rules);
                format!("serving {}", self.name)
            }
            Ok(Err(fatal)) | Err(fatal) => {
                for line in fatal.lines() {
                    log::error!("reload: {line}");
                }
                log::error!("reload: refused; all settings stay as they were");
                format!("serving {} by the old settings; the new ones were refused", self.name)
            }
        };
        manager.send(&[State::Ready, State::Status(status)]);
    }

    fn apply(&self, resolved: &Resolved, rules: Rules) {
        for warning in &resolved.warnings {
            log::warn!("reload: {warning}");
        }
        self.app.enforce(rules);
        log::set_max_level(resolved.settings.log_level);
        for (old, new) in waiting_for_restart(&self.started_with, &resolved.entries) {
            log::warn!(
                "reload: {} = {:?} needs a restart; until then {:?} holds",
                new.key,
                new.value,
                old.value
            );
        }
        if let Some(names) = changed_models(&self.models, &resolved.models) {
            log::warn!("reload: changes of the models {names} need a restart");
        }
        log::info!("reload: settings, keys and certificates were read again");
    }
}

fn read(arguments: &SettingsArgs, environment: &Environment) -> Result<(Resolved, Rules), Fatal> {
    let resolved = arguments.resolve(&["model"])?;
    let rules = rules_of(&resolved.settings, environment)?;
    Ok((resolved, rules))
}

/// Settings that changed but need a restart, with the old and the new value.
fn waiting_for_restart<'a>(
    old: &'a [Entry],
    new: &'a [Entry],
) -> impl Iterator<Item = (&'a Entry, &'a Entry)> {
    let pairs = old.iter().zip(new);
    pairs.filter(|(old, new)| old.value != new.value && !LIVE.contains(&new.key))
}

/// The names of further models that were added, removed or given other settings; `None` without any.
fn changed_models(old: &[NamedModel], new: &[NamedModel]) -> Option<String> {
    // A change of the general settings is reported as that.
    let same = |a: &NamedModel, b: &NamedModel| {
        let values = |model: &NamedModel| -> Vec<_> {
            model.entries.iter().map(|entry| (entry.key, entry.value.clone())).collect()
        };
        a.name == b.name && a.at_start == b.at_start && values(a) == values(b)
    };
    let missing = |from: &[NamedModel], model: &NamedModel| !from.iter().any(|b| same(model, b));
    let changed = old.iter().filter(|model| missing(new, model));
    let changed = changed.chain(new.iter().filter(|model| missing(old, model)));
    let mut names: Vec<&str> = changed.map(|model| model.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use phi4d_settings::{DEFINITIONS, Inputs, resolve};

    #[test]
    fn what_is_live_is_a_setting() {
        for key in LIVE {
            assert!(DEFINITIONS.iter().any(|definition| definition.key == *key), "{key}");
        }
    }

    #[test]
    fn only_what_differs_and_is_not_live_waits() {
        let entries = |pairs: &[(&str, &str)]| {
            let flags = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            resolve(&Inputs { flags, ..Inputs::default() }).unwrap().entries
        };
        let old = entries(&[("slots", "3")]);
        let new = entries(&[("slots", "4"), ("queue", "128"), ("log_level", "debug")]);
        let waiting: Vec<&str> = waiting_for_restart(&old, &new).map(|(_, new)| new.key).collect();
        assert_eq!(waiting, ["slots"]);
    }
}
