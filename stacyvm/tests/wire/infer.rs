//! JSON schemas of types, found by trying.
//!
//! An example says what is written. What is read says the rest: a field that may be
//! left out, a field that nobody knows, another word, a smaller number are tried one by
//! one at their place in the example, and serde says whether the type takes them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The key of a map in an example: any key.
pub(crate) const ANY: &str = "*";

/// A value that no enumeration has.
const NO_WORD: &str = "no such word";

/// Reads a document as the type, or says why not.
type Reads<'a> = dyn Fn(&Value) -> Result<(), String> + 'a;

/// The schema of a type from examples of it. Alternatives are in an example each, and
/// every field is in all of them.
pub(crate) fn schema<T: Serialize + DeserializeOwned>(examples: &[T]) -> Value {
    let reads = |value: &Value| {
        let read = serde_json::from_value::<T>(value.clone());
        read.map(drop).map_err(|error| error.to_string())
    };
    let all = examples.iter().map(|example| {
        let value = serde_json::to_value(example).unwrap();
        reads(&value).unwrap_or_else(|e| panic!("an example that cannot be read: {value}: {e}"));
        infer(&value, "", &reads)
    });
    any_of(all.collect())
}

/// The schema of what is at a place (a JSON pointer) of a document.
fn infer(root: &Value, place: &str, reads: &Reads<'_>) -> Value {
    let value = root.pointer(place).unwrap();
    let with = |new: Value| {
        let mut other = root.clone();
        *other.pointer_mut(place).unwrap() = new;
        reads(&other)
    };
    let inside = |key: &str| infer(root, &format!("{place}/{key}"), reads);
    let schema = match value {
        Value::Null => return json!({}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(n) if n.is_f64() => json!({"type": "number"}),
        Value::Number(_) => integer(&|n| with(json!(n)).is_ok()),
        // Bytes are a text where they are one.
        Value::String(_) if !place.is_empty() && with(json!({"base64": "AA=="})).is_ok() => {
            reference("Raw")
        }
        Value::String(_) => {
            let text = text(&|word| with(json!(word)));
            let number = with(json!(5))
                .is_ok()
                .then(|| integer(&|n| with(json!(n)).is_ok()));
            any_of([Some(text), number].into_iter().flatten().collect())
        }
        Value::Array(items) => {
            let all = (0..items.len()).map(|index| inside(&index.to_string()));
            let mut schema = json!({"type": "array", "items": any_of(all.collect())});
            if with(json!([])).is_err() {
                schema["minItems"] = json!(items.len());
                schema["maxItems"] = json!(items.len());
            }
            schema
        }
        Value::Object(fields) if fields.contains_key(ANY) => {
            json!({"type": "object", "additionalProperties": inside(ANY)})
        }
        Value::Object(fields) => {
            let properties = fields.keys().map(|key| (key.clone(), inside(key)));
            let properties: Map<_, _> = properties.collect();
            let mut schema = json!({"type": "object", "properties": properties});
            let needed = fields.keys().filter(|name| {
                let mut less = fields.clone();
                less.remove(*name);
                with(Value::Object(less)).is_err()
            });
            let needed: Vec<&String> = needed.collect();
            if !needed.is_empty() {
                schema["required"] = json!(needed);
            }
            let mut more = fields.clone();
            more.insert("no_such_field".to_owned(), json!(1));
            if with(Value::Object(more)).is_err() {
                schema["additionalProperties"] = json!(false);
            }
            schema
        }
    };
    if with(Value::Null).is_ok() {
        return json!({"anyOf": [schema, {"type": "null"}]});
    }
    schema
}

fn integer(reads: &dyn Fn(i64) -> bool) -> Value {
    let mut schema = json!({"type": "integer"});
    let least = [i64::from(i32::MIN), 0, 1];
    let most = [u16::MAX.into(), i32::MAX.into(), u32::MAX.into()];
    if let Some(least) = least.into_iter().find(|n| !reads(n - 1) && reads(*n)) {
        schema["minimum"] = json!(least);
    }
    if let Some(most) = most.into_iter().find(|n: &i64| !reads(n + 1) && reads(*n)) {
        schema["maximum"] = json!(most);
    }
    schema
}

/// One of some words where serde says so.
fn text(reads: &dyn Fn(&str) -> Result<(), String>) -> Value {
    let Err(refusal) = reads(NO_WORD) else {
        return json!({"type": "string"});
    };
    let words = refusal.split_once("unknown variant").map(|(_, named)| {
        // Every second piece is between marks; the first of them is what was tried.
        let named = named.split('`').skip(1).step_by(2).skip(1);
        named.filter(|word| reads(word).is_ok()).collect::<Vec<_>>()
    });
    match words {
        Some(words) => json!({"type": "string", "enum": words}),
        None => json!({"type": "string", "description": expected(&refusal)}),
    }
}

/// What a refusal says that it expected.
fn expected(refusal: &str) -> &str {
    let from = refusal.find("expected ").unwrap_or(0);
    refusal[from..].split(" at line").next().unwrap_or(refusal)
}

/// One of these schemas; objects with the same fields become one.
fn any_of(all: Vec<Value>) -> Value {
    let mut distinct: Vec<Value> = Vec::new();
    for one in all {
        let nested = one.get("anyOf").and_then(Value::as_array).cloned();
        for one in nested.unwrap_or_else(|| vec![one]) {
            if let Some(other) = distinct
                .iter_mut()
                .find(|other| is_same_object(other, &one))
            {
                merge(other, &one);
            } else if !distinct.contains(&one) {
                distinct.push(one);
            }
        }
    }
    match distinct.len() {
        0 => json!({}),
        1 => distinct.remove(0),
        _ => json!({"anyOf": distinct}),
    }
}

fn is_same_object(a: &Value, b: &Value) -> bool {
    let fields = |of: &Value| {
        let fields = of["properties"].as_object()?;
        Some(fields.keys().cloned().collect::<Vec<_>>())
    };
    fields(a).is_some() && fields(a) == fields(b)
}

fn merge(into: &mut Value, other: &Value) {
    let properties = into["properties"].as_object_mut().unwrap();
    for (name, schema) in properties {
        let both = vec![schema.take(), other["properties"][name].clone()];
        *schema = any_of(both);
    }
}

/// Puts a reference wherever one of the named schemas is within another one.
pub(crate) fn with_references(named: Map<String, Value>) -> Map<String, Value> {
    let all = named.clone();
    let whole = named.into_iter().map(|(name, schema)| {
        let schema = match schema {
            Value::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| (key, refer(value, &all)))
                    .collect(),
            ),
            other => other,
        };
        (name, schema)
    });
    whole.collect()
}

fn refer(schema: Value, named: &Map<String, Value>) -> Value {
    let is_worth = |schema: &Value| {
        ["properties", "enum", "anyOf"]
            .iter()
            .any(|key| schema.get(key).is_some())
    };
    if let Some((name, _)) = named.iter().find(|(_, of)| is_worth(of) && **of == schema) {
        return reference(name);
    }
    match schema {
        Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(key, value)| (key, refer(value, named)));
            Value::Object(fields.collect())
        }
        Value::Array(all) => all.into_iter().map(|one| refer(one, named)).collect(),
        other => other,
    }
}

pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
