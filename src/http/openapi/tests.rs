use super::*;

const COMMITTED: &str = include_str!("../../../docs/openapi.json");

fn document() -> Value {
    serde_json::from_str(&crate::http::openapi()).expect("JSON")
}

/// Every operation, with a name to fail under.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let mut all = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("an item") {
            all.push((format!("{method} {path}"), operation));
        }
    }
    all
}

fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("within the document");
            let found = document.pointer(pointer);
            resolve(
                document,
                found.unwrap_or_else(|| panic!("{reference} leads nowhere")),
            )
        }
        None => value,
    }
}

/// Everything below `value`, itself included.
fn walk<'d>(value: &'d Value, visit: &mut impl FnMut(&'d Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(members) => members.values().for_each(|member| walk(member, visit)),
        _ => {}
    }
}

/// What keeps `value` from being what `schema` says; as much of JSON Schema as the document uses for answers.
fn mismatch(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let schema = resolve(document, schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &&Value| mismatch(document, choice, value, at).is_none();
        return (choices.iter().filter(fits).count() != 1)
            .then(|| format!("{at}: not one of oneOf: {value}"));
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) if kinds.contains(&"number") => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.contains(&kind) {
        return Some(format!("{at}: {value} is none of {kinds:?}"));
    }
    if schema["enum"]
        .as_array()
        .is_some_and(|values| !values.contains(value))
    {
        return Some(format!("{at}: {value} is not in the enum"));
    }
    let items = value.as_array().into_iter().flatten().enumerate();
    let wrong =
        items.filter_map(|(n, item)| mismatch(document, &schema["items"], item, &format!("{at}/{n}")));
    if let Some(wrong) = wrong.into_iter().next() {
        return Some(wrong);
    }
    let members = value.as_object()?;
    let required = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
        return Some(format!("{at}: no {missing}"));
    }
    members.iter().find_map(|(name, member)| {
        let at = format!("{at}/{name}");
        match schema["properties"].get(name) {
            Some(schema) => mismatch(document, schema, member, &at),
            None if schema["properties"].is_object() => Some(format!("{at}: is not in the schema")),
            None => mismatch(document, &schema["additionalProperties"], member, &at),
        }
    })
}

/// The examples of a body, by media type.
fn examples<'d>(document: &'d Value, content: &'d Value) -> Vec<(&'d Value, &'d Value)> {
    let mut all = Vec::new();
    for media in content.as_object().into_iter().flat_map(Map::values) {
        all.extend(media.get("example").map(|example| (&media["schema"], example)));
        for example in media["examples"].as_object().into_iter().flat_map(Map::values) {
            all.push((&media["schema"], &resolve(document, example)["value"]));
        }
    }
    all
}

#[test]
fn the_committed_document_is_what_the_code_makes() {
    let made = crate::http::openapi();
    assert!(
        COMMITTED.trim_end() == made,
        "docs/openapi.json is not up to date: run `just openapi` and look at what changed"
    );
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut references = 0;
    walk(&document, &mut |value| {
        if value.get("$ref").is_some() {
            resolve(&document, value);
            references += 1;
        }
    });
    assert!(references > 50, "only {references} references");
}

#[test]
fn every_operation_is_described() {
    let document = document();
    let known: Vec<_> = document["tags"]
        .as_array()
        .expect("tags")
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().expect("an id");
        assert!(
            ids.insert(id.to_owned()),
            "{name}: {id} is another operation's id"
        );
        for text in ["summary", "description"] {
            assert!(operation[text].is_string(), "{name} has no {text}");
        }
        assert!(
            known.contains(&&operation["tags"][0]),
            "{name} has no tag that is known"
        );
        for parameter in operation["parameters"].as_array().expect("parameters") {
            let parameter = resolve(&document, parameter);
            assert!(parameter["description"].is_string(), "{name}: {parameter}");
            assert!(
                !parameter["schema"].to_string().contains("null"),
                "{name}: {parameter}"
            );
        }
    }
}

#[test]
fn every_body_and_answer_has_an_example_that_fits_its_schema() {
    let document = document();
    for (name, operation) in operations(&document) {
        let body = operation.get("requestBody").map(|body| ("body".to_owned(), body));
        let answers = operation["responses"].as_object().expect("responses").iter();
        for (what, described) in body
            .into_iter()
            .chain(answers.map(|(status, answer)| (status.clone(), answer)))
        {
            assert!(described["description"].is_string(), "{name} {what}");
            let Some(content) = described.get("content") else {
                continue;
            };
            let examples = examples(&document, content);
            assert!(!examples.is_empty(), "{name} {what} has no example");
            for (schema, example) in examples {
                assert_eq!(mismatch(&document, schema, example, ""), None, "{name} {what}");
            }
        }
    }
}

#[test]
fn every_refusal_is_a_problem_with_codes_of_its_status() {
    let document = document();
    for (name, operation) in operations(&document) {
        let answers = operation["responses"].as_object().expect("responses").iter();
        for (status, answer) in answers.filter(|(status, _)| status.as_str() >= "400") {
            let content = answer["content"].as_object().expect("content");
            assert_eq!(
                content.keys().collect::<Vec<_>>(),
                ["application/problem+json"],
                "{name} {status}"
            );
            for (_, example) in examples(&document, &answer["content"]) {
                assert_eq!(example["status"].to_string(), *status, "{name}");
            }
        }
    }
}

#[test]
fn bounds_are_those_of_the_configuration() {
    let settings = HttpSettings {
        max_wait: std::time::Duration::from_secs(7),
        ..HttpSettings::default()
    };
    let (_, document) = crate::http::api().split(&settings);
    let operation = &document["paths"]["/v1/transactions/{id}"]["get"];
    let mut parameters = operation["parameters"].as_array().expect("parameters").iter();
    let wait = parameters
        .find(|parameter| parameter["name"] == "wait")
        .expect("wait");
    assert_eq!(wait["schema"]["maximum"], 7);
}
