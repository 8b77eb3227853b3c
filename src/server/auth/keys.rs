//! The keys: their lines in the file, and finding the one that a request gave.
//!
//! A line is a name and `field=value` words: `laptop blake3=HEX scope=use max_in_flight=4`. Keys
//! are 256 random bits, so a fast hash is safe: trying keys is hopeless at any speed. (Slow hashes
//! are for passwords, which people choose; here one would only cost time for each request.)

use std::fmt;
use std::sync::Arc;

use blake3::Hash;

use super::limits::{Limits, Usage};

/// What a caller may do. The later may do all that the former may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// May ask the model.
    Use,
    /// May also see what others do.
    Admin,
}

impl Scope {
    /// Its name in the keys file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Use => "use",
            Self::Admin => "admin",
        }
    }
}

/// One key as it stands in the file, which has no key's text, only its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLine {
    /// What the key is called in the log.
    pub name: String,
    /// What it opens.
    pub scope: Scope,
    /// What it may use.
    pub limits: Limits,
    /// The key's hash. Compared in constant time by its type.
    hash: Hash,
}

/// A new key. Its text is shown once and stored nowhere.
pub struct Key(String);

impl Key {
    /// Begins every key, so that scanners for leaked secrets recognise it.
    const PREFIX: &'static str = "sk-phi4d-";

    /// A key of `secret`, 32 random bytes.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{}{digits}", Self::PREFIX))
    }

    /// The text that its holder sends.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The longest name of a key.
const MAX_NAME_BYTES: usize = 64;

const NAME_ACCEPTED: &str = "1 to 64 letters, digits and -_.";

impl KeyLine {
    /// The line for `key`.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn new(name: &str, scope: Scope, limits: Limits, key: &Key) -> Result<Self, String> {
        let hash = blake3::hash(key.0.as_bytes());
        Ok(Self { name: checked_name(name)?, scope, limits, hash })
    }

    /// Reads a line that holds a key.
    ///
    /// # Errors
    /// What is wrong, naming the word and what is accepted.
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let name = checked_name(words.next().unwrap_or_default())?;
        let (mut hash, mut scope, mut limits) = (None, None, Limits::default());
        for word in words {
            let Some((field, value)) = word.split_once('=') else {
                return Err(format!("{word:?} is not accepted; expected FIELD=VALUE"));
            };
            let refused = |accepted: &str| {
                format!("{word:?} is not accepted; expected {accepted} after {field}=")
            };
            let number = || value.parse().map_err(|_| refused("a whole number above 0"));
            let twice = match field {
                "blake3" => {
                    let read =
                        Hash::from_hex(value).map_err(|_| refused("64 hexadecimal digits"))?;
                    hash.replace(read).is_some()
                }
                "scope" => {
                    let read = match value {
                        "use" => Scope::Use,
                        "admin" => Scope::Admin,
                        _ => return Err(refused("use or admin")),
                    };
                    scope.replace(read).is_some()
                }
                "max_in_flight" => limits.max_in_flight.replace(number()?).is_some(),
                "tokens_per_minute" => limits.tokens_per_minute.replace(number()?).is_some(),
                _ => {
                    return Err(format!(
                        "{field:?} is no field; expected blake3, scope, max_in_flight or tokens_per_minute"
                    ));
                }
            };
            if twice {
                return Err(format!("{field} is there twice"));
            }
        }
        let hash = hash.ok_or("blake3= is missing; `phi4d key add` writes whole lines")?;
        Ok(Self { name, scope: scope.unwrap_or(Scope::Use), limits, hash })
    }
}

impl fmt::Display for KeyLine {
    /// The line as it stands in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} scope={}", self.name, self.scope.as_str())?;
        if let Some(requests) = self.limits.max_in_flight {
            write!(f, " max_in_flight={requests}")?;
        }
        if let Some(tokens) = self.limits.tokens_per_minute {
            write!(f, " tokens_per_minute={tokens}")?;
        }
        write!(f, " blake3={}", self.hash.to_hex())
    }
}

fn checked_name(name: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(name.to_owned());
    }
    Err(format!("the name {name:?} is not accepted; expected {NAME_ACCEPTED}"))
}

/// A bad line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LineFault {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// Whether a line of the file holds a key, or is empty or a comment.
pub(super) fn holds_key(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

/// The keys of a file.
///
/// # Errors
/// Every line that is wrong.
pub(super) fn parse(text: &str) -> Result<Vec<KeyLine>, Vec<LineFault>> {
    let (mut keys, mut faults): (Vec<(usize, KeyLine)>, Vec<LineFault>) = (Vec::new(), Vec::new());
    let lines = text.lines().enumerate().filter(|(_, line)| holds_key(line));
    for (index, line) in lines {
        let line_number = index + 1;
        let read = KeyLine::parse(line).and_then(|key| {
            let same =
                |(_, other): &&(usize, KeyLine)| other.name == key.name || other.hash == key.hash;
            match keys.iter().find(same) {
                Some((first, _)) => Err(format!("the same name or key as in line {first}")),
                None => Ok(key),
            }
        });
        match read {
            Ok(key) => keys.push((line_number, key)),
            Err(reason) => faults.push(LineFault { line: line_number, reason }),
        }
    }
    if faults.is_empty() { Ok(keys.into_iter().map(|(_, key)| key).collect()) } else { Err(faults) }
}

/// A key in force, with what it has used.
#[derive(Debug)]
pub(super) struct LiveKey {
    pub(super) name: Arc<str>,
    pub(super) scope: Scope,
    pub(super) limits: Limits,
    pub(super) usage: Arc<Usage>,
    hash: Hash,
}

/// The keys in force.
#[derive(Debug)]
pub(super) struct Keys(Vec<LiveKey>);

impl Keys {
    pub(super) fn new(lines: Vec<KeyLine>) -> Self {
        let live = lines.into_iter().map(|line| LiveKey {
            name: line.name.into(),
            scope: line.scope,
            limits: line.limits,
            usage: Arc::default(),
            hash: line.hash,
        });
        Self(live.collect())
    }

    /// The key with this text. All hashes are compared, each in constant time, so that timing
    /// reveals neither a prefix that matches nor a key's place in the file.
    pub(super) fn find(&self, text: &[u8]) -> Option<&LiveKey> {
        let hash = blake3::hash(text);
        self.0.iter().fold(None, |found, key| if key.hash == hash { Some(key) } else { found })
    }

    /// The names of all keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|key| &key.name)
    }

    /// Whether any has a quota of tokens.
    pub(super) fn have_quotas(&self) -> bool {
        self.0.iter().any(|key| key.limits.tokens_per_minute.is_some())
    }

    /// Takes over what the same keys have used so far.
    pub(super) fn count_on_from(&mut self, old: &Self) {
        for key in &mut self.0 {
            if let Some(same) = old.0.iter().find(|other| other.hash == key.hash) {
                key.usage = Arc::clone(&same.usage);
            }
        }
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
