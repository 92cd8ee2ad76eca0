//! The address of a server, which may hold a password that nobody may see.

use std::fmt;

use url::Url;

use super::reader::{Section, quoted};

/// The address of a server with all that is needed to log in. What is shown of it has no password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

impl ServerUrl {
    /// The whole address, password included: for the one who connects, never for a log.
    pub fn expose(&self) -> &Url {
        &self.0
    }

    /// Reads an address that starts with one of `schemes`. What is wrong is told without quoting it: it may
    /// hold a password.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
        if !schemes.contains(&url.scheme()) {
            return Err(format!("starts with {}", quoted(&format!("{}:", url.scheme()))));
        }
        match url.host_str() {
            Some(host) if !host.is_empty() => Ok(Self(url)),
            _ => Err("names no host".to_owned()),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Both fail only for addresses without a host, which are not accepted.
        if shown.password().is_some() {
            let _shown = shown.set_password(Some("***"));
        }
        let hidden: Vec<_> = shown
            .query_pairs()
            .map(|(key, value)| {
                let secret = key.to_ascii_lowercase().contains("password");
                (
                    key.into_owned(),
                    if secret {
                        "***".to_owned()
                    } else {
                        value.into_owned()
                    },
                )
            })
            .collect();
        if !hidden.is_empty() {
            shown.query_pairs_mut().clear().extend_pairs(hidden);
        }
        shown.fmt(f)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

/// Reads `url`, and `username` and `password`, which win over those in it.
pub(super) fn server_url(
    section: &mut Section<'_>,
    schemes: &'static [&'static str],
    example: &str,
) -> ServerUrl {
    let remedy = format!("write an address such as {example:?}");
    let built_in = || ServerUrl::parse(example, schemes);
    let read = section.secret(
        "url",
        &remedy,
        |text| ServerUrl::parse(text, schemes),
        ToString::to_string,
    );
    let username = section.optional("username", "write a name", |text| Ok(text.to_owned()));
    let password = section.secret(
        "password",
        "write the password, or set the variable of this key",
        |text| Ok(text.to_owned()),
        |_| "***".to_owned(),
    );
    if read.is_none() {
        section.effective("url", format_args!("{example:?}"));
    }
    let mut url = match read.map_or_else(built_in, Ok) {
        Ok(url) => url,
        Err(what) => unreachable!("the example is an address: {what}"),
    };
    if let Some(username) = username {
        let _set = url.0.set_username(&username);
    }
    if let Some(password) = password {
        let _set = url.0.set_password(Some(&password));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_ever_shown() {
        let text = "postgres://me:hunter2@db.example:5432/gate?sslmode=require&sslpassword=hunter2";
        let url = ServerUrl::parse(text, &["postgres"]).expect("is an address");
        for shown in [format!("{url}"), format!("{url:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(
                shown.contains("me:***@db.example:5432/gate?sslmode=require"),
                "{shown}"
            );
        }
        assert_eq!(url.expose().password(), Some("hunter2"));
        for bad in ["hunter2", "amqp://hunter2@x", "postgres://", "postgres:hunter2"] {
            let what = ServerUrl::parse(bad, &["postgres"]).expect_err("is refused");
            assert!(!what.contains("hunter2"), "{what}");
        }
    }
}
