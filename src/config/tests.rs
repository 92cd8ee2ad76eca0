//! What an operator sees.

use std::ffi::OsString;
use std::time::Duration;

use super::*;
use crate::domain::{DelayStrategy, LedgerName};
use crate::kv::EngineKind;

const SHIPPED: &str = include_str!("../../config.toml");

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let variables = variables
        .iter()
        .map(|&(name, value)| (OsString::from(name), OsString::from(value)));
    match merge(Some(("config.toml", text.as_bytes())), variables) {
        Ok((settings, _)) => Ok(settings),
        Err(error) => Err(error.problems.iter().map(ToString::to_string).collect()),
    }
}

fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    read(text, variables).expect_err("has mistakes")
}

fn only_problem(text: &str, variables: &[(&str, &str)]) -> String {
    let mut problems = problems(text, variables);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

/// A ledger that several gateways can share.
const FABRIC: &str = "[ledgers.main]\nkind = 'fabric'\npeers = ['http://peer:7051']\nchannel = 'c'\nmsp_id = 'm'\n\
                      certificate = 'c.pem'\nprivate_key = 'k.pem'\n";

#[test]
fn the_shipped_file_says_what_is_built_in() {
    let (shipped, effective) =
        merge(Some(("config.toml", SHIPPED.as_bytes())), []).expect("the shipped file is valid");
    let (empty, _) = merge(None, []).expect("no file is valid");
    assert_eq!(shipped, Settings::default());
    assert_eq!(empty, Settings::default());
    for value in effective {
        assert!(
            matches!(value.origin, Origin::Line(..)),
            "{} is missing",
            value.key
        );
    }
}

#[test]
fn every_key_of_the_shipped_file_has_a_comment_above() {
    let mut documented = false;
    for line in SHIPPED.lines() {
        documented = match line.trim() {
            "" => false,
            comment if comment.starts_with('#') => true,
            header if header.starts_with('[') => documented,
            key => {
                assert!(documented, "{key} has no comment");
                true
            }
        };
    }
}

#[test]
fn five_mistakes_give_five_messages_with_their_lines() {
    let text = "[http]\nlisten = 'here'\nmax_body_bytes = '1 MB'\nheader_timeout_ms = 1.5\nmax_wait = 60\n\
                body_timeout_ms = false\n";
    insta::assert_snapshot!(problems(text, &[]).join("\n"), @r#"
    config.toml:2: http.listen is "here"; write an IP address and a port, such as "127.0.0.1:8080" or "[::]:8080"
    config.toml:3: http.max_body_bytes is the text "1 MB"; write a whole number from 1024 to 104857600
    config.toml:4: http.header_timeout_ms is 1.5; write a whole number from 100 to 600000
    config.toml:5: http.max_wait is not a known key; remove it, or use one of: body_timeout_ms, cors_origins, header_timeout_ms, listen, max_body_bytes, max_streams, max_wait_seconds, stream_heartbeat_seconds, tls_cert, tls_client_ca, tls_key
    config.toml:6: http.body_timeout_ms is false; write a whole number from 100 to 3600000
    "#);
}

#[test]
fn mistakes_of_file_and_environment_are_told_together() {
    let variables = [
        ("SLUICEGATE__LEDGERS__MAIN__WORKER__BURST", "many"),
        ("SLUICEGATE__HTTP", "x"),
        ("SLUICEGATE____LISTEN", "x"),
        ("sluicegate__log__format", "xml"),
        ("SLUICEGATE__STORE__PATHS", "x"),
    ];
    insta::assert_snapshot!(problems("queue = 5\n[http]\nlisten = 'x'\n[strore]\n", &variables).join("\n"), @r#"
    config.toml:1: queue is a section, not a setting; write [queue] on a line of its own and its keys below
    config.toml:3: http.listen is "x"; write an IP address and a port, such as "127.0.0.1:8080" or "[::]:8080"
    config.toml:4: strore is not a known key; did you mean `store`?
    SLUICEGATE__HTTP: http is a section, not a setting; set its keys, each as SLUICEGATE__HTTP__KEY
    SLUICEGATE__LEDGERS__MAIN__WORKER__BURST: ledgers.main.worker.burst is "many"; write a whole number from 1 to 1000000
    SLUICEGATE__STORE__PATHS: store.paths is not a known key; did you mean `path`?
    SLUICEGATE____LISTEN: .listen is not the name of a setting; write SLUICEGATE__SECTION__KEY, such as SLUICEGATE__HTTP__LISTEN
    sluicegate__log__format: log.format is "xml"; write "pretty" or "json"
    "#);
}

#[test]
fn the_environment_wins_over_the_file_in_any_case() {
    let settings = read(
        "[http]\nlisten = '127.0.0.1:1'\n[ledgers.fabric-eu]\nkind = 'simulator'\n",
        &[
            ("SLUICEGATE__HTTP__LISTEN", "0.0.0.0:9"),
            ("sluicegate__ledgers__fabric_eu__worker__rate_per_second", "0.5"),
            ("SLUICEGATE__STORE__ENGINE", "sled"),
            ("SLUICEGATE__BACKPRESSURE__MAX_PENDING", "2_000"),
            ("SLUICEGATE_URL", "http://not.a.setting"),
        ],
    )
    .expect("valid");
    assert_eq!(settings.http.listen.to_string(), "0.0.0.0:9");
    assert!(matches!(&settings.store, StoreSettings::Embedded(store) if store.engine == EngineKind::Sled));
    assert_eq!(settings.backpressure.max_pending.get(), 2000);
    let names: Vec<_> = settings.ledgers.keys().map(LedgerName::as_str).collect();
    assert_eq!(names, ["fabric-eu"]);
    assert_eq!(settings.ledgers["fabric-eu"].worker.rate_per_second, 0.5);
}

#[test]
fn a_variable_set_twice_in_different_case_is_refused() {
    let variables = [
        ("SLUICEGATE__LOG__LEVEL", "info"),
        ("sluicegate__log__level", "warn"),
    ];
    assert!(
        only_problem("", &variables).contains("is set twice; remove this variable or SLUICEGATE__LOG__LEVEL")
    );
}

#[test]
fn a_slip_in_a_variable_does_not_make_a_ledger() {
    let slip = ("SLUICEGATE__LEDGERS__MIAN__WORKER__BURST", "5");
    assert!(only_problem("", &[slip]).contains("ledgers.mian is a ledger that the file does not know"));
    let kind = ("SLUICEGATE__LEDGERS__MIAN__KIND", "simulator");
    assert!(read("", &[slip, kind]).is_ok());
    assert!(read("", &[("SLUICEGATE__LEDGERS__MAIN__WORKER__BURST", "5")]).is_ok());
}

#[test]
fn zero_means_without_a_limit() {
    let settings = read(
        "[retention]\ndone_days = 0\n[ledgers.a.retry]\nmax_attempts = 0\nstrategy = 'constant'\n",
        &[],
    )
    .expect("valid");
    assert_eq!(settings.retention.done, None);
    assert_eq!(settings.retention.failed, Some(Duration::from_secs(90 * 86_400)));
    let retry = settings.ledgers["a"].retry;
    assert_eq!(retry.conflict.max_attempts, None);
    assert_eq!(retry.conflict.strategy, DelayStrategy::Constant);
    assert_eq!(retry.outage.strategy, DelayStrategy::Exponential);
}

#[test]
fn bounds_that_depend_on_each_other_are_checked() {
    let text = "[ledgers.a.worker]\nrate_per_second = 20000\n[ledgers.b.worker]\nrate_per_second = 1001\nburst = 2\n\
                [ledgers.b.retry]\nmin_ms = 600\noutage_max_ms = 10\n\
                [ledgers.b.adaptive]\nmin_rate_per_second = 1002\n";
    insta::assert_snapshot!(problems(text, &[]).join("\n"), @"
    config.toml:2: ledgers.a.worker.rate_per_second does not fit: timers tick in milliseconds, so a burst of 20 cannot reach 20000 per second; set burst to 40 or more
    config.toml:5: ledgers.b.worker.burst does not fit: timers tick in milliseconds, so a burst of 2 cannot reach 1001 per second; set burst to 3 or more
    config.toml:7: ledgers.b.retry.min_ms does not fit: max_ms = 500 is below min_ms = 600; set max_ms to at least 600, or lower min_ms
    config.toml:8: ledgers.b.retry.outage_max_ms does not fit: outage_max_ms = 10 is below outage_min_ms = 250; set outage_max_ms to at least 250, or lower outage_min_ms
    config.toml:10: ledgers.b.adaptive.min_rate_per_second does not fit: 1002 is above rate_per_second = 1001; lower it, or raise rate_per_second
    ");
}

#[test]
fn rates_must_be_positive_numbers() {
    for rate in ["0", "-1", "nan", "inf", "1e9", "'5'", "true"] {
        let text = format!("[ledgers.a.worker]\nrate_per_second = {rate}\n");
        assert!(
            only_problem(&text, &[]).contains("write a number from 0.001 to 1000000"),
            "{rate}"
        );
    }
    let far = "[shutdown]\ndrain_seconds = 99999999999999999999999999999999999999999999\n";
    assert!(only_problem(far, &[]).contains("write a whole number from 0 to 3600"));
}

#[test]
fn kinds_of_other_versions_are_refused_without_blaming_their_keys() {
    let text = "[store]\nkind = 'couchdb'\nurl = 'http://'\n[queue]\nkind = 'kafka'\nurl = 'kafka://'\n\
                [ledgers.main]\nkind = 'evm'\nchannel = 'c'\n[ledgers.main.worker]\nburst = 0\n";
    insta::assert_snapshot!(problems(text, &[]).join("\n"), @r#"
    config.toml:2: store.kind is "couchdb", which is not available; this version offers only kind = "embedded" or kind = "postgres"
    config.toml:5: queue.kind is "kafka", which is not available; this version offers only kind = "embedded" or kind = "rabbitmq"
    config.toml:8: ledgers.main.kind is "evm", which is not available; this version offers only kind = "simulator" or kind = "fabric"
    config.toml:11: ledgers.main.worker.burst is 0; write a whole number from 1 to 1000000
    "#);
}

#[test]
fn servers_are_configured_by_address_and_name_and_password_may_stand_apart() {
    let text = "[store]\nkind = 'postgres'\nurl = 'postgres://db.example/gate'\n[queue]\nkind = 'rabbitmq'\n\
                url = 'amqps://me:old@mq.example/vhost'\ntls_ca = 'ca.pem'\nqueue_type = 'classic'\n";
    let text = &[text, FABRIC].concat();
    let password = [
        ("SLUICEGATE__QUEUE__PASSWORD", "hunter2"),
        ("SLUICEGATE__STORE__MIGRATE", "false"),
    ];
    let settings = read(text, &password).expect("valid");
    let (StoreSettings::Postgres(store), QueueSettings::RabbitMq(queue)) = (&settings.store, &settings.queue)
    else {
        panic!("{settings:?}");
    };
    assert_eq!(store.url.expose().as_str(), "postgres://db.example/gate");
    assert!(!store.migrate);
    assert_eq!(queue.url.expose().as_str(), "amqps://me:hunter2@mq.example/vhost");
    assert_eq!(queue.queue_type, QueueType::Classic);
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn what_is_wrong_with_a_server_is_told_without_its_password() {
    let text = "[store]\nkind = 'postgres'\nurl = 'mysql://me:hunter2@db/x'\nmigrate = 'maybe'\n\
                [queue]\nkind = 'rabbitmq'\nurl = 'amqp://me:hunter2@'\npassword = 2\ntls_cert = 'c.pem'\nprefix = ' '\n";
    let text = &[text, FABRIC].concat();
    insta::assert_snapshot!(problems(text, &[]).join("\n"), @r#"
    config.toml:3: store.url starts with "mysql:"; write an address such as "postgres://sluicegate@127.0.0.1:5432/sluicegate"
    config.toml:4: store.migrate is "maybe"; write true or false
    config.toml:7: queue.url is no URL: empty host; write an address such as "amqp://guest:guest@127.0.0.1:5672/%2f"
    config.toml:8: queue.password is not a text; put it in quotes; write the password, or set the variable of this key
    config.toml:9: queue.tls_cert does not fit: the URL says amqp, which is not encrypted; write amqps in url
    config.toml:9: queue.tls_cert does not fit: there is no tls_key; set tls_key as well
    config.toml:10: queue.prefix is " "; write 1 to 100 of a-z, A-Z, 0-9, _, - and .
    "#);
}

#[test]
fn what_only_one_process_can_have_does_not_go_with_a_shared_store() {
    insta::assert_snapshot!(problems("[store]\nkind = 'postgres'\n", &[]).join("\n"), @r#"
    built in: ledgers does not fit: store.kind is "postgres", which several gateways may share, and main is a simulator that each of them has for itself; set ledgers.main.kind = "fabric" and name a network that all reach; `sluicegate devnet` is one to try out
    built in: queue does not fit: store.kind is "postgres", which several gateways may share, and an embedded queue cannot tell which of them is to submit; set queue.kind = "rabbitmq" and queue.url, or store.kind = "embedded"
    "#);
}

#[test]
fn ledger_names_are_checked() {
    assert!(
        only_problem("[ledgers.Main]\n", &[]).starts_with("config.toml:1: ledgers.Main is not a valid name")
    );
    assert!(only_problem("[ledgers]\nkind = 'simulator'\n", &[]).contains("ledgers.kind is a section"));
}

#[test]
fn log_levels_are_checked() {
    for good in [
        "info",
        "WARN",
        "off",
        "info,sluicegate::worker=debug",
        "warn,[request{method=GET}]=trace",
    ] {
        assert!(read(&format!("[log]\nlevel = '{good}'\n"), &[]).is_ok(), "{good}");
    }
    for bad in ["ifno", "", "info,hyper", "sluicegate=loud"] {
        assert!(
            only_problem(&format!("[log]\nlevel = '{bad}'\n"), &[]).contains("log.level"),
            "{bad}"
        );
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    let found = problems(
        "[http]\nlisten = 127.0.0.1:8080\n\n[store\npath = 'x'\n[log]\nlevel = 'info'\nlevel = 'x'\n",
        &[],
    );
    let starts: Vec<_> = found
        .iter()
        .map(|text| text.split(": is not valid TOML").next().unwrap_or(""))
        .collect();
    assert_eq!(
        starts,
        ["config.toml:2", "config.toml:4", "config.toml:8"],
        "{found:#?}"
    );
}

#[test]
fn a_file_that_is_not_utf8_is_told_with_its_line() {
    let error = merge(Some(("config.toml", b"[http]\n# caf\xe9\n")), []).expect_err("not UTF-8");
    assert_eq!(
        error.to_string(),
        "the configuration has a problem\n  config.toml:2: is not valid UTF-8; save the file as UTF-8"
    );
    let marked = merge(Some(("config.toml", b"\xef\xbb\xbf[http]\nlisten = 1\n")), []).expect_err("a number");
    assert!(
        marked
            .to_string()
            .contains("config.toml:2: http.listen is the number 1")
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let variable = (
        OsString::from("SLUICEGATE__LOG__LEVEL"),
        OsString::from_vec(vec![0xff]),
    );
    let error = merge(None, [variable]).expect_err("not UTF-8");
    assert!(
        error
            .to_string()
            .contains("SLUICEGATE__LOG__LEVEL: log.level is not valid UTF-8")
    );
}

#[test]
fn a_missing_file_is_a_mistake_only_if_it_was_named() {
    let directory = tempfile::tempdir().expect("directory");
    let missing = directory.path().join("absent.toml");
    let error = load(Some(&missing)).expect_err("missing");
    assert!(
        error.to_string().contains("check the path given with --config"),
        "{error}"
    );
    assert!(load(Some(directory.path())).is_err());
}

#[test]
fn certificate_and_key_go_together() {
    insta::assert_snapshot!(only_problem("[http]\ntls_cert = 'a.pem'\n", &[]), @"config.toml:2: http.tls_cert does not fit: there is no tls_key; set tls_key as well");
    insta::assert_snapshot!(only_problem("[http]\ntls_key = 'a.pem'\n", &[]), @"config.toml:2: http.tls_key does not fit: there is no tls_cert; set tls_cert as well");
    insta::assert_snapshot!(only_problem("[http]\ntls_client_ca = 'a.pem'\n", &[]), @"config.toml:2: http.tls_client_ca does not fit: there is no tls_cert; set tls_cert as well");
    let both = read("[http]\ntls_cert = 'a.pem'\ntls_key = 'b.pem'\n", &[]).expect("valid");
    assert_eq!(both.http.tls.expect("TLS").client_ca, None);
}

#[test]
fn tokens_need_an_issuer_an_audience_and_keys_on_a_safe_way() {
    insta::assert_snapshot!(problems("[auth]\njwks_url = 'https://a/keys'\n", &[]).join("\n"), @r"
    config.toml:2: auth.jwks_url does not fit: there is no jwt_audience; set jwt_audience as well
    config.toml:2: auth.jwks_url does not fit: there is no jwt_issuer; set jwt_issuer as well
    ");
    insta::assert_snapshot!(only_problem("[auth]\njwt_issuer = 'x'\n", &[]), @"config.toml:2: auth.jwt_issuer does not fit: there is no jwks_url; set jwks_url as well");
    let of = |keys: &str| format!("[auth]\n{keys}\njwt_issuer = 'i'\njwt_audience = 'a'\n");
    insta::assert_snapshot!(only_problem(&of("jwks_url = 'http://login.example/keys'"), &[]), @r#"config.toml:2: auth.jwks_url is not encrypted; write an address such as "https://login.example.com/.well-known/jwks.json""#);
    insta::assert_snapshot!(only_problem(&of("jwks_url = 'https://a/k'\njwks_file = 'k'"), &[]), @"config.toml:2: auth.jwks_url does not fit: there is a jwks_file; leave one of them out");
    for url in [
        "https://a/k",
        "http://127.0.0.1:8000/k",
        "http://[::1]/k",
        "http://localhost/k",
    ] {
        assert!(
            read(&of(&format!("jwks_url = '{url}'")), &[])
                .expect("valid")
                .auth
                .jwt
                .is_some(),
            "{url}"
        );
    }
}

#[test]
fn tenants_are_checked() {
    insta::assert_snapshot!(
        problems("[tenants.ACME]\n[tenants.a]\nburst = 3\nmax_pending = 0\nledgers = ['main', 'side']\n[tenants.b]\nrate = 1\n", &[]).join("\n"),
        @r#"
    config.toml:1: tenants.ACME is not a valid name of a tenant; use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit
    config.toml:3: tenants.a.burst does not fit: there is no rate_per_second; set rate_per_second as well
    config.toml:4: tenants.a.max_pending is 0; write a whole number from 1, or leave it out
    config.toml:5: tenants.a.ledgers names "side", which is not configured; write a list of configured ledgers
    config.toml:7: tenants.b.rate is not a known key; remove it, or use one of: burst, contracts, ledgers, max_pending, rate_per_second
    "#
    );
    let settings = read("[tenants.a]\nrate_per_second = 2.5\nledgers = []\n", &[]).expect("valid");
    let tenant = settings.tenants.values().next().expect("a");
    let rate = tenant.rate.expect("a rate");
    assert_eq!((rate.per_second, rate.burst.get()), (2.5, 3));
    assert_eq!(
        (tenant.ledgers.as_deref(), &tenant.contracts),
        (Some(&[][..]), &None)
    );
}

#[test]
fn a_collector_is_configured_without_showing_what_opens_it() {
    let text = "[otlp]\nendpoint = 'https://otlp.example/x/'\nheaders = 'Authorization=Bearer hunter2, X-Team=a'\nlogs = false\n";
    let settings = read(text, &[]).expect("valid").otlp.expect("a collector");
    assert_eq!(settings.endpoint, "https://otlp.example/x");
    let headers: Vec<_> = settings
        .headers
        .iter()
        .map(|(name, value)| (&**name, value.expose()))
        .collect();
    assert_eq!(headers, [("authorization", "Bearer hunter2"), ("x-team", "a")]);
    assert!(settings.metrics && settings.traces && !settings.logs);
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert!(
        read("[otlp]\ntrace_ratio = 0.5\n", &[])
            .expect("valid")
            .otlp
            .is_none()
    );
    for here in [
        "http://127.0.0.1:4318",
        "http://localhost:4318",
        "http://[::1]:4318",
    ] {
        let text = format!("[otlp]\nendpoint = '{here}'\nheaders = 'a=hunter2'\n");
        assert!(read(&text, &[]).is_ok(), "{here}");
    }

    let of = |lines: &str| only_problem(&format!("[otlp]\n{lines}\n"), &[]);
    insta::assert_snapshot!(of("endpoint = 'otlp.example:4318'"), @r#"config.toml:2: otlp.endpoint is not the plain address of a server, http or https; write an address such as "http://127.0.0.1:4318""#);
    insta::assert_snapshot!(of("endpoint = 'http://otlp.example/v1/traces'"), @r#"config.toml:2: otlp.endpoint ends with /v1/traces, which is added to it; write an address such as "http://127.0.0.1:4318""#);
    insta::assert_snapshot!(of("endpoint = 'http://otlp.example'\nheaders = 'a=hunter2'"), @r#"config.toml:2: otlp.endpoint is not encrypted, and the headers are secret; write https, or name a collector on this machine"#);
    insta::assert_snapshot!(of("headers = 'a=hunter2'"), @r#"config.toml:2: otlp.headers does not fit: there is no endpoint; set endpoint as well"#);
    insta::assert_snapshot!(of("endpoint = 'https://otlp.example'\nheaders = 'authorization: Bearer hunter2='"), @r#"config.toml:3: otlp.headers has a name that no header can have; write name=value, and more after a comma, such as "authorization=Bearer abc""#);
    insta::assert_snapshot!(of("endpoint = 'https://otlp.example'\nheaders = 'hunter2'"), @r#"config.toml:3: otlp.headers has something without a =; write name=value, and more after a comma, such as "authorization=Bearer abc""#);
    insta::assert_snapshot!(of("endpoint = 'https://otlp.example'\ntrace_ratio = 2"), @r#"config.toml:3: otlp.trace_ratio is 2; write a number from 0 to 1"#);
}

#[test]
fn webhooks_are_configured_without_showing_their_secrets() {
    let text = "[webhooks]\nallow_targets = ['10.1.0.0/16', 'fd00::1', 'ERP.lan.']\n[webhooks.endpoints.erp]\n\
                url = 'https://erp.example/'\nstatuses = ['failed']\n";
    let secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let variable = ("SLUICEGATE__WEBHOOKS__ENDPOINTS__ERP__SECRET", secret);
    let settings = read(text, &[variable]).expect("valid").webhooks;
    assert_eq!(
        settings.allow_targets[2],
        AllowedTarget::Host("erp.lan".to_owned())
    );
    let endpoint = &settings.endpoints["erp"];
    assert_eq!(endpoint.secret.as_ref().map(Secret::expose), Some(secret));
    assert!(!format!("{settings:?}").contains("AAAA"));
    let wrong = "[webhooks]\nallow_targets = ['10.1.0.0/33', 'a b']\nretry_min_ms = 9\nretry_max_ms = 8\n\
                 [webhooks.endpoints.ERP]\nstatuses = ['pending']\nsecret = 'hunter2'\n";
    insta::assert_snapshot!(problems(wrong, &[]).join("\n"), @r#"
    built in: webhooks.endpoints.ERP.url is missing; write an address such as "https://erp.example/hooks/ledger"
    config.toml:2: webhooks.allow_targets has "10.1.0.0/33"; write networks and host names, such as ["10.1.0.0/16", "erp.lan"]
    config.toml:2: webhooks.allow_targets has "a b"; write networks and host names, such as ["10.1.0.0/16", "erp.lan"]
    config.toml:4: webhooks.retry_max_ms does not fit: retry_max_ms = 8 is below retry_min_ms = 9; set retry_max_ms to at least 9, or lower retry_min_ms
    config.toml:5: webhooks.endpoints.ERP is not a valid name; use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit
    config.toml:6: webhooks.endpoints.ERP.statuses has "pending"; write ["done"], ["failed"] or both
    config.toml:7: webhooks.endpoints.ERP.secret is no secret; write whsec_ and 32 bytes in base64, or set the variable of this key
    "#);
}
