//! From the configured address to what sqlx connects with, without ever showing a secret.
//!
//! sqlx logs parameters that it does not know together with their values, so they are refused here first.

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::config::ServerUrl;
use crate::store::StoreError;

/// The parameters that sqlx knows.
const KNOWN: [&str; 15] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-mode",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

pub(super) fn options(url: &ServerUrl) -> Result<PgConnectOptions, StoreError> {
    let exposed = url.expose();
    for (key, _) in exposed.query_pairs() {
        if !KNOWN.contains(&&*key) && !key.starts_with("options[") {
            return Err(StoreError::Unavailable(format!(
                "store.url has the parameter {key:?}, which is not known; known are {}",
                KNOWN.join(", ")
            )));
        }
    }
    let unusable = |error: sqlx::Error| {
        let text = format!("store.url cannot be used: {error}");
        StoreError::Unavailable(without_secrets(&text, url))
    };
    let mut options = PgConnectOptions::from_url(exposed).map_err(unusable)?;
    // An IPv6 address stands in brackets in a URL and without them everywhere else.
    if let Some(url::Host::Ipv6(address)) = exposed.host() {
        options = options.host(&address.to_string());
    } else if options.get_host().starts_with('[') {
        let host = options.get_host().trim_matches(['[', ']']).to_owned();
        options = options.host(&host);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("sluicegate");
    }
    Ok(options.disable_statement_logging())
}

fn secrets(url: &Url) -> Vec<String> {
    let named = url.query_pairs().filter(|(key, _)| key.contains("password"));
    let mut secrets: Vec<_> = named.map(|(_, value)| value.into_owned()).collect();
    secrets.extend(url.password().map(str::to_owned));
    secrets.retain(|secret| !secret.is_empty());
    secrets
}

/// `text` with the password taken out, should a server or a library have quoted it.
pub(super) fn without_secrets(text: &str, url: &ServerUrl) -> String {
    secrets(url.expose())
        .into_iter()
        .flat_map(|secret| {
            let decoded = percent_decoded(&secret);
            [secret, decoded]
        })
        .fold(text.to_owned(), |text, secret| text.replace(&secret, "***"))
}

fn percent_decoded(text: &str) -> String {
    // Reading it as a form value decodes it; a `+` would become a space, so it is protected.
    let form = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(form.as_bytes())
        .next()
        .map_or_else(|| text.to_owned(), |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ServerUrl {
        ServerUrl::parse(text, &["postgres"]).expect("is an address")
    }

    fn parsed(text: &str) -> Result<PgConnectOptions, StoreError> {
        options(&address(text))
    }

    #[test]
    fn what_is_not_known_is_refused_without_its_value() {
        let error = parsed("postgres://me@db/gate?sslpassword=hunter2").expect_err("refused");
        let text = error.to_string();
        assert!(
            text.contains("sslpassword") && !text.contains("hunter2"),
            "{text}"
        );
        let error = parsed("postgres://me:hunter2@db/gate?sslmode=hunter2").expect_err("refused");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn passwords_are_taken_out_of_texts() {
        let url = address("postgres://me:hu%2Fter+2@[::1]/gate");
        assert_eq!(options(&url).expect("can be used").get_host(), "::1");
        let text = without_secrets("no entry for me:hu/ter+2 or hu%2Fter+2", &url);
        assert!(!text.contains("ter+2"), "{text}");
    }
}
