//! An answer of the gateway, read to its end.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.expect("the whole body"),
        }
    }

    /// The answer itself, if it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// The id of the record.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().expect("a record").to_owned()
    }

    /// The answer as an RFC 9457 problem, which has to be complete and of this kind.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.text
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        assert_eq!(problem["type"], format!("urn:sluicegate:error:{code}"));
        for field in ["title", "detail"] {
            let text = problem[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "no {field}: {problem:#}");
        }
        problem
    }

    /// As [`problem`](Self::problem), with exactly one field at fault.
    #[track_caller]
    pub(crate) fn fault(&self, status: u16, code: &str, pointer: &str) -> String {
        let problem = self.problem(status, code);
        let errors = problem["errors"].as_array().expect("errors");
        assert_eq!(errors.len(), 1, "{problem:#}");
        assert_eq!(errors[0]["pointer"], pointer, "{problem:#}");
        errors[0]["detail"].as_str().expect("detail").to_owned()
    }
}
