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
    insta::assert_snapshot!(problems("[archive]\nurl = 's3://me:hunter2@records'\n"), @"");
    insta::assert_snapshot!(problems("[archive]\nurl = 'file://archive'\n"), @"");
    insta::assert_snapshot!(problems("[archive]\nurl = 'archive'\n"), @"");
    insta::assert_snapshot!(problems("[archive]\nurl = 's3:///prefix'\n"), @"");
    insta::assert_snapshot!(problems("[archive]\nurl = 's3://b/a//c'\n"), @"");
    insta::assert_snapshot!(problems("[archive]\nurl = 'ftp://b/a'\n"), @"");
    insta::assert_snapshot!(
        problems("[archive]\nurl = 's3://b'\nendpoint = 'http://minio:9000'\nsession_token = 'x'\nsecret_access_key = 'hunter2'\ngather_minutes = 2000\n"),
        @""
    );
    insta::assert_snapshot!(problems("[archive]\nregion = 'x'\nsecret_access_key = 'a b'\naccess_key_id = 'a'\n"), @"");
    insta::assert_snapshot!(problems("[archive]\nurl = 'file:///a'\nendpoint = 'https://u:p@x'\nregion = 'x'\n"), @"");
}
