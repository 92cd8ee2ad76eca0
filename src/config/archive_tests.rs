//! What an operator sees who sets an archive up.

use std::ffi::OsString;

use super::*;
use crate::config::{Effective, Settings, merge};

fn read(text: &str, variables: &[(&str, &str)]) -> Result<(Settings, Vec<Effective>), Vec<String>> {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    merge(Some(("config.toml", text.as_bytes())), variables)
        .map_err(|error| error.problems.iter().map(ToString::to_string).collect())
}

fn problems(text: &str) -> String {
    read(text, &[]).expect_err("has mistakes").join("\n")
}

#[test]
fn a_folder_or_a_bucket_and_without_an_address_nothing() {
    assert_eq!(read("", &[]).expect("valid").0.archive, None);
    let (settings, _) = read("[archive]\nurl = 'file:///var/lib/my%20archive'\n", &[]).expect("valid");
    let archive = settings.archive.expect("one");
    assert_eq!(
        archive.place,
        ArchivePlace::Folder(PathBuf::from("/var/lib/my archive"))
    );
    assert_eq!(archive.gather, Duration::from_secs(3_600));
    let text = "[archive]\nurl = 's3://records/a/b=c/'\nendpoint = 'http://127.0.0.1:9000/'\nallow_http = true\n\
                access_key_id = 'me'\ngather_minutes = 0\n";
    let secret = ("SLUICEGATE__ARCHIVE__SECRET_ACCESS_KEY", "hunter2");
    let (settings, effective) = read(text, &[secret]).expect("valid");
    let archive = settings.archive.clone().expect("one");
    assert_eq!(archive.gather, Duration::ZERO);
    let ArchivePlace::Bucket(bucket) = archive.place else {
        panic!("{archive:?}");
    };
    assert_eq!(
        (bucket.bucket.as_str(), bucket.prefix.as_str()),
        ("records", "a/b=c")
    );
    assert_eq!(bucket.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    let credentials = bucket.credentials.expect("a key");
    assert_eq!(credentials.secret.expose(), "hunter2");
    let shown: Vec<_> = effective.iter().map(ToString::to_string).collect();
    for line in [
        "archive.url = \"s3://records/a/b=c\"",
        "archive.secret_access_key = \"***\"",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line}: {shown:#?}");
    }
    assert!(!format!("{settings:?} {shown:?}").contains("hunter2"));
}

#[test]
fn what_is_wrong_is_told_with_the_remedy_and_without_secrets() {
    insta::assert_snapshot!(problems("[archive]\nurl = 's3://me:hunter2@records'\n"), @r#"config.toml:2: archive.url holds a name or a password, which belong into access_key_id and secret_access_key; write an address such as "file:///var/lib/sluicegate/archive" or "s3://bucket/sluicegate""#);
    insta::assert_snapshot!(problems("[archive]\nurl = 'file://archive'\n"), @r#"config.toml:2: archive.url names no folder of this machine by its whole path; write an address such as "file:///var/lib/sluicegate/archive" or "s3://bucket/sluicegate""#);
    insta::assert_snapshot!(problems("[archive]\nurl = 'archive'\n"), @r#"config.toml:2: archive.url is no URL: relative URL without a base; write an address such as "file:///var/lib/sluicegate/archive" or "s3://bucket/sluicegate""#);
    insta::assert_snapshot!(problems("[archive]\nurl = 's3:///prefix'\n"), @r#"config.toml:2: archive.url names no bucket; write an address such as "file:///var/lib/sluicegate/archive" or "s3://bucket/sluicegate""#);
    insta::assert_snapshot!(problems("[archive]\nurl = 's3://b/a//c'\n"), @r#"config.toml:2: archive.url has a prefix with characters other than a-z, A-Z, 0-9, -, _, . and =; write an address such as "file:///var/lib/sluicegate/archive" or "s3://bucket/sluicegate""#);
    insta::assert_snapshot!(problems("[archive]\nurl = 'ftp://b/a'\n"), @r#"config.toml:2: archive.url starts with "ftp:"; write an address such as "file:///var/lib/sluicegate/archive" or "s3://bucket/sluicegate""#);
    insta::assert_snapshot!(
        problems("[archive]\nurl = 's3://b'\nendpoint = 'http://minio:9000'\nsession_token = 'x'\nsecret_access_key = 'hunter2'\ngather_minutes = 2000\n"),
        @r"
    config.toml:3: archive.endpoint is not encrypted; write https, or set allow_http = true where the network is safe
    config.toml:4: archive.session_token does not fit: there is no access_key_id; set access_key_id as well
    config.toml:5: archive.secret_access_key does not fit: there is no access_key_id; set access_key_id as well
    config.toml:6: archive.gather_minutes is 2000; write a whole number from 0 to 1440
    "
    );
    insta::assert_snapshot!(problems("[archive]\nregion = 'x'\nsecret_access_key = 'a b'\naccess_key_id = 'a'\n"), @r"
    config.toml:2: archive.region does not fit: there is no url; set url as well
    config.toml:3: archive.secret_access_key does not fit: there is no url; set url as well
    config.toml:3: archive.secret_access_key is no key; write it, or set the variable of this key
    config.toml:4: archive.access_key_id does not fit: there is no url; set url as well
    ");
    insta::assert_snapshot!(problems("[archive]\nurl = 'file:///a'\nendpoint = 'https://u:p@x'\nregion = 'x'\n"), @r#"
    config.toml:3: archive.endpoint does not fit: the archive is a folder; leave it out, or write an s3:// address in url
    config.toml:3: archive.endpoint is not the plain address of a server; write an address such as "https://minio.example:9000"
    config.toml:4: archive.region does not fit: the archive is a folder; leave it out, or write an s3:// address in url
    "#);
}
