//! What a store knows of itself, and the digest of what was asked for.

use std::fmt;
use std::sync::LazyLock;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value};
use sha2::Sha256;

use super::SCHEMA;
use crate::id::InstanceId;
use crate::sandbox::spec::SandboxSpec;

/// What stands for a value that is not kept.
const REDACTED: &str = "[redacted]";

/// A store's identity.
#[derive(Clone)]
pub struct StoreMeta {
    instance: InstanceId,
    schema: u32,
    min_reader: u32,
    key: [u8; 32],
}

impl StoreMeta {
    /// Mints the identity of a new store.
    pub(super) fn mint() -> Self {
        let mut key = [0; 32];
        // As for ids: without randomness the key would guard nothing.
        getrandom::fill(&mut key).expect("the system has no source of randomness");
        Self::new(InstanceId::random(), SCHEMA, SCHEMA, key)
    }

    pub(super) fn new(instance: InstanceId, schema: u32, min_reader: u32, key: [u8; 32]) -> Self {
        Self {
            instance,
            schema,
            min_reader,
            key,
        }
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The random name of the store, minted once; part of the ownership of
    /// everything made under it.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The layout of the store.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// The oldest layout that a library must know to use the store.
    pub fn min_reader(&self) -> u32 {
        self.min_reader
    }

    /// Digests a request with the store's key (HMAC-SHA256, hexadecimal):
    /// where it was asked to run, and the spec with all its values. Equal
    /// requests have equal digests in one store; without the key a digest does
    /// not help to guess a value.
    ///
    /// A field at its default counts as not written, so that a later library
    /// with more fields agrees with this one.
    pub fn digest(&self, provider: &str, runtime: &str, spec: &SandboxSpec) -> String {
        static DEFAULT: LazyLock<Value> = LazyLock::new(|| to_value(&SandboxSpec::default()));
        let mut value = to_value(spec);
        if let (Value::Object(fields), Value::Object(defaults)) = (&mut value, &*DEFAULT) {
            fields.retain(|name, field| defaults.get(name) != Some(field));
            for (name, field) in fields.iter_mut() {
                // Within options a null is the provider's to understand.
                if name != "provider_options" {
                    drop_nulls(field);
                }
            }
        }
        let mut text = Vec::new();
        for part in [provider, runtime] {
            write_text(part, &mut text);
        }
        write_canonical(&value, &mut text);
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("the method takes keys of any length");
        mac.update(&text);
        hex(&mac.finalize().into_bytes())
    }
}

impl fmt::Debug for StoreMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreMeta")
            .field("instance", &self.instance)
            .field("schema", &self.schema)
            .field("min_reader", &self.min_reader)
            .finish_non_exhaustive()
    }
}

/// The spec as a record keeps it: names of variables without their values,
/// names of provider options without theirs.
pub fn stored_spec(spec: &SandboxSpec) -> Value {
    let mut value = to_value(spec);
    if let Value::Object(fields) = &mut value {
        fields.remove("env");
        let names = spec.env.keys().cloned().map(Value::String).collect();
        fields.insert("env_names".to_owned(), Value::Array(names));
        if let Some(options) = fields.get_mut("provider_options") {
            redact(options);
        }
    }
    value
}

fn to_value(spec: &SandboxSpec) -> Value {
    // A spec is maps with text keys, numbers and text, so this cannot fail; the
    // one number that JSON does not have (not finite) becomes null.
    serde_json::to_value(spec).expect("a spec is representable as JSON")
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(redact),
        Value::Null => {}
        _ => *value = Value::String(REDACTED.to_owned()),
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Keys in order, no space: the order of a map in memory depends on features
/// that another crate of the build may switch on.
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            out.push(b'{');
            for (name, value) in sorted(map) {
                write_text(name, out);
                write_canonical(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write_canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::String(text) => write_text(text, out),
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    entries
}

/// Length first, so that no text can pass for two.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\"{}:", text.len()).as_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn hex(bytes: &[u8]) -> String {
    let digit = |d: u8| char::from_digit(u32::from(d), 16).unwrap_or('?');
    bytes
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(value: Value) -> SandboxSpec {
        let mut spec = SandboxSpec::host();
        spec.provider_options.insert("docker".to_owned(), value);
        spec
    }

    #[test]
    fn every_value_counts_and_the_key_too() {
        let meta = StoreMeta::mint();
        let base = meta.digest("oci", "", &SandboxSpec::host().env("A", "1"));
        assert_eq!(
            base,
            meta.digest("oci", "", &SandboxSpec::host().env("A", "1"))
        );
        for (provider, spec) in [
            ("oci", SandboxSpec::host().env("A", "2")),
            ("oci", SandboxSpec::host().env("A", "1").env("B", "")),
            ("oci", SandboxSpec::host().env("A", "1").memory_mib(4)),
            ("oci", SandboxSpec::host().env("A", "1").label("A", "1")),
            ("docker", SandboxSpec::host().env("A", "1")),
        ] {
            assert_ne!(
                base,
                meta.digest(provider, "", &spec),
                "{provider} {spec:?}"
            );
        }
        let other = StoreMeta::mint();
        assert_ne!(
            base,
            other.digest("oci", "", &SandboxSpec::host().env("A", "1"))
        );
    }

    #[test]
    fn a_default_that_was_written_is_the_same_request() {
        let meta = StoreMeta::mint();
        let written: SandboxSpec =
            serde_json::from_value(json!({"resources": {"pids": null}, "ports": []})).unwrap();
        assert_eq!(
            meta.digest("oci", "", &SandboxSpec::host()),
            meta.digest("oci", "", &written)
        );
    }

    #[test]
    fn an_option_that_is_null_is_not_one_that_is_absent() {
        let meta = StoreMeta::mint();
        assert_ne!(
            meta.digest("oci", "", &options(json!({"a": null}))),
            meta.digest("oci", "", &options(json!({})))
        );
    }

    #[test]
    fn a_record_holds_names_and_no_values() {
        let spec = options(json!({"auth": {"password": "hunter2"}, "list": ["hunter2"]}))
            .env("TOKEN", "hunter2");
        let kept = stored_spec(&spec).to_string();
        assert!(
            kept.contains("TOKEN") && kept.contains("password"),
            "{kept}"
        );
        assert!(!kept.contains("hunter2"), "{kept}");
        assert!(!format!("{:?}", StoreMeta::mint()).contains("key"));
    }
}
