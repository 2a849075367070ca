//! From text to [`written`]: syntax, unknown keys and wrong types, each with its place.

use schemars::Schema;
use serde::Deserialize;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems, Source};
use super::written;

/// Sections that every repository has to have.
const SECTIONS: [&str; 2] = ["cluster", "network"];

/// Reads `bramble.toml`.
///
/// # Errors
/// All unknown keys at once, or the first error of syntax or type.
pub(super) fn read(source: &Source) -> Result<written::Repository, Problems> {
    let document = DeTable::parse(&source.text).map_err(|error| Problems(vec![from_toml(source, &error)]))?;
    let schema = schemars::schema_for!(written::Repository);
    let mut problems = Vec::new();
    unknown_keys(source, document.get_ref(), schema.as_value(), &schema, &mut Vec::new(), &mut problems);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let deserializer =
        toml::Deserializer::parse(&source.text).map_err(|error| Problems(vec![from_toml(source, &error)]))?;
    written::Repository::deserialize(deserializer).map_err(|error| Problems(vec![from_toml(source, &error)]))
}

/// Says what the TOML reader found, with the key that it was reading.
fn from_toml(source: &Source, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(0..0);
    let key = key_at(&source.text, span.start);
    let message = error.message().replace('\n', ", ");
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        if SECTIONS.contains(&field) && span.start == 0 {
            return source
                .problem_at(0..0, field.to_owned(), "the section is missing")
                .help(format!("add `[{field}]`"));
        }
        let key = if key.is_empty() { field.to_owned() } else { format!("{key}.{field}") };
        return source.problem_at(span, key, "is missing").help(format!("add `{field} = …`"));
    }
    if message.contains("untagged enum OneOrMany") {
        return source.problem_at(span, key, "expected a string or a list of strings");
    }
    if message == "duplicate key" {
        let written = source.text.get(span.clone()).unwrap_or_default().to_owned();
        return source
            .problem_at(span, key, format!("`{written}` is written twice"))
            .help("give one of the two another name, or remove it");
    }
    source.problem_at(span, key, message)
}

/// The dotted key whose table or value begins at or encloses byte `at`.
fn key_at(text: &str, at: usize) -> String {
    fn search(table: &DeTable<'_>, at: usize, way: &mut Vec<String>) -> bool {
        for (name, value) in table {
            way.push(name.get_ref().to_string());
            if let DeValue::Table(inner) = value.get_ref()
                && search(inner, at, way)
            {
                return true;
            }
            if name.span().contains(&at) || value.span().contains(&at) {
                return true;
            }
            way.pop();
        }
        false
    }
    let Ok(document) = DeTable::parse(text) else { return String::new() };
    let mut way = Vec::new();
    search(document.get_ref(), at, &mut way);
    way.join(".")
}

/// Walks the document beside the schema and reports every key that the schema does not have.
fn unknown_keys(
    source: &Source,
    table: &DeTable<'_>,
    schema: &Value,
    root: &Schema,
    way: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    let schema = resolve(schema, root);
    let known = schema.get("properties").and_then(Value::as_object);
    let any = schema.get("additionalProperties").filter(|value| value.is_object());
    for (name, value) in table {
        way.push(name.get_ref().to_string());
        let inner = known.and_then(|known| known.get(name.get_ref().as_ref())).or(any);
        match (inner, value.get_ref()) {
            (Some(inner), DeValue::Table(inner_table)) => {
                unknown_keys(source, inner_table, inner, root, way, problems);
            }
            (Some(_), _) => {}
            (None, _) => {
                let known: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                problems.push(
                    source
                        .problem_at(name.span(), way.join("."), format!("unknown key `{}`", name.get_ref()))
                        .near(name.get_ref(), &known),
                );
            }
        }
        way.pop();
    }
}

/// Follows `$ref` and the `anyOf [$ref, null]` of an optional section.
fn resolve<'a>(schema: &'a Value, root: &'a Schema) -> &'a Value {
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array)
        && let Some(option) = options.iter().find(|option| option.get("$ref").is_some())
    {
        return resolve(option, root);
    }
    let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { return schema };
    let pointer = reference.trim_start_matches('#');
    root.pointer(pointer).map_or(schema, |target| resolve(target, root))
}
