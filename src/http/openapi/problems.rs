//! Refusals in the document: a route says `(status = 404, description = "SG-0004")`, and this fills in the rest.
//!
//! The example of a code is the one on its page, `docs/errors/<code>.md`: there is one place to keep it right.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::http::error::Code;

macro_rules! pages {
    ($($code:literal)*) => {
        [$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md")))),*]
    };
}
/// The pages by code.
const PAGES: &[(&str, &str)] = &pages![
    "SG-0001" "SG-0002" "SG-0003" "SG-0004" "SG-0005" "SG-0006" "SG-0007" "SG-0008" "SG-0009" "SG-0010" "SG-0011"
    "SG-0012" "SG-0013" "SG-0014" "SG-0015" "SG-0016" "SG-0017" "SG-0018" "SG-0019" "SG-0020" "SG-0021" "SG-0022"
    "SG-0023" "SG-0024" "SG-0025" "SG-0026" "SG-0029" "SG-0030"
];

/// What every route with a body may answer.
const OF_BODIES: [Code; 5] = [
    Code::MalformedJson,
    Code::InvalidFields,
    Code::BodyTooLarge,
    Code::NotJson,
    Code::BodyTooSlow,
];

/// What every route of the API may answer.
const OF_THE_API: [Code; 4] = [
    Code::InvalidParameter,
    Code::StoreUnavailable,
    Code::StoreDamaged,
    Code::Internal,
];

/// What every route may answer that asks who calls.
const OF_CALLERS: [Code; 3] = [Code::Unauthorized, Code::Forbidden, Code::TooManyTries];

/// The example of each code.
pub(super) fn examples() -> Map<String, Value> {
    let example = |(code, page): &(&str, &str)| {
        let (_, after) = page.split_once("## Example")?;
        let (_, json) = after.split_once("```json")?;
        let value: Value = serde_json::from_str(json.split("```").next()?).ok()?;
        let example = json!({"summary": value.get("title")?, "value": value});
        Some(((*code).to_owned(), example))
    };
    PAGES.iter().filter_map(example).collect()
}

/// Replaces the refusals of an operation by what they look like, and adds those that go without saying.
pub(super) fn describe(path: &str, operation: &mut Value) {
    let has_body = operation.get("requestBody").is_some();
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
        return;
    };
    let mut codes: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    let said = responses.iter().filter_map(|(status, response)| {
        let codes = of_description(response.get("description")?.as_str()?)?;
        Some((status.clone(), codes))
    });
    codes.extend(said);
    let of_bodies = OF_BODIES.iter().filter(|_| has_body);
    let of_the_api = OF_THE_API.iter().filter(|_| path.starts_with("/v1/"));
    let of_callers = OF_CALLERS.iter().filter(|_| super::asks_who(path));
    for code in of_bodies.chain(of_the_api).chain(of_callers) {
        let status = code.parts().1.as_str().to_owned();
        let known = codes.entry(status).or_default();
        if !known.contains(code) {
            known.push(*code);
        }
    }
    for (status, codes) in codes {
        responses.insert(status, response(codes));
    }
}

/// The codes that a description consists of. `None` if it is an ordinary one.
fn of_description(description: &str) -> Option<Vec<Code>> {
    let code = |name| Code::ALL.into_iter().find(|code| code.parts().0 == name);
    let codes: Option<Vec<_>> = description.split_whitespace().map(code).collect();
    codes.filter(|codes| !codes.is_empty())
}

fn response(mut codes: Vec<Code>) -> Value {
    codes.sort_by_key(|code| code.parts().0);
    let titles = codes.iter().map(|code| {
        let (name, _, title) = code.parts();
        format!("{name}: {title}.")
    });
    let examples = codes.iter().map(|code| {
        let name = code.parts().0;
        let reference = json!({"$ref": format!("#/components/examples/{name}")});
        (name.to_owned(), reference)
    });
    let (titles, examples): (Vec<_>, Map<_, _>) = (titles.collect(), examples.collect());
    json!({
        "description": titles.join(" "),
        "content": {"application/problem+json": {
            "schema": {"$ref": "#/components/schemas/Problem"},
            "examples": examples,
        }},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_example_that_is_one_of_it() {
        let examples = examples();
        for code in Code::ALL {
            let (name, status, title) = code.parts();
            let example = examples.get(name).map(|example| &example["value"]);
            let example = example
                .unwrap_or_else(|| panic!("docs/errors/{name}.md has no example, or is missing in PAGES"));
            assert_eq!(example["code"], name);
            assert_eq!(example["status"], status.as_u16(), "{name}");
            assert_eq!(example["title"], title, "{name}");
            assert_eq!(example["type"], format!("urn:sluicegate:error:{name}"));
        }
        assert_eq!(examples.len(), Code::ALL.len());
    }

    #[test]
    fn a_description_is_codes_or_words() {
        assert_eq!(of_description("SG-0004"), Some(vec![Code::NoTransaction]));
        assert_eq!(
            of_description("SG-0002 SG-0003"),
            Some(vec![Code::InvalidFields, Code::KeyReused])
        );
        for words in ["", "The record", "SG-9999", "see SG-0004"] {
            assert_eq!(of_description(words), None, "{words}");
        }
    }
}
