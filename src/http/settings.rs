//! `/v1/settings`: what is not one lane's and may change while the gateway runs.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::auth::Detail;
use super::body::read_json;
use super::caller::Who;
use super::error::ApiError;
use super::lanes::{SettingView, settings_of};
use super::ledgers::or_null;
use super::openapi::examples;
use super::openapi::schemas::ModeName;
use super::transactions::json;
use crate::gateway::{Scope, SetCommon};

/// What can be set.
#[derive(Serialize, ToSchema)]
#[schema(as = Settings)]
pub(crate) struct SettingsView {
    /// By the key that it has in the configuration, such as `backpressure.mode`.
    settings: BTreeMap<&'static str, SettingView>,
}

/// What to change. What is left out stays; `null` goes back to the configuration.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct SettingsBody {
    /// What happens when producers are faster than the ledgers.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<BackpressureBody>)]
    backpressure: Option<Option<BackpressureBody>>,
    /// What is logged.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<LogBody>)]
    log: Option<Option<LogBody>>,
}

/// What to change of `[backpressure]`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct BackpressureBody {
    /// Accept always, refuse above `max_pending`, or accept and tell producers.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<ModeName>)]
    mode: Option<Option<String>>,
    /// How many unsettled transactions there may be; enforced in mode `drop`.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 1_000_000_000)]
    max_pending: Option<Option<u64>>,
}

/// What to change of `[log]`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct LogBody {
    /// `error`, `warn`, `info`, `debug` or `trace`, or one level per module: `info,sluicegate::worker=debug`.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<String>, max_length = 500)]
    level: Option<Option<String>>,
}

/// Read settings
///
/// What is not one ledger's and can be set while the gateway runs: what holds, what the configuration of this process says,
/// and who set what is different. Takes the scope `read` or `operate`, and credentials of no tenant.
#[utoipa::path(
    get,
    path = "/v1/settings",
    operation_id = "getSettings",
    tag = "operations",
    responses((status = 200, description = "All of them", body = SettingsView, example = json!(examples::settings())))
)]
pub(crate) async fn get(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
    let caller = who.of_all_tenants(&[Scope::Read, Scope::Operate])?;
    let settings = settings_of(api.gateway.settings(), &caller);
    Ok(json(StatusCode::OK, &SettingsView { settings }))
}

/// Change settings
///
/// What is set here lies over the configuration, holds on every node within seconds and over restarts, until it is set to
/// `null`. Takes the scope `operate`, and credentials of no tenant.
#[utoipa::path(
    patch,
    path = "/v1/settings",
    operation_id = "changeSettings",
    tag = "operations",
    request_body(content = SettingsBody, description = "What to change", example = json!({"backpressure": {"mode": "drop", "max_pending": 50_000}, "log": {"level": null}})),
    responses((status = 200, description = "All of them, as they are now", body = SettingsView, example = json!(examples::settings())))
)]
pub(crate) async fn change(
    State(api): State<Api>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.of_all_tenants(&[Scope::Operate])?;
    let body: SettingsBody = read_json(&headers, body, api.body_limits).await?;
    let (mode, max_pending) = match body.backpressure {
        None => (None, None),
        Some(None) => (Some(None), Some(None)),
        Some(Some(wanted)) => (wanted.mode, wanted.max_pending),
    };
    let set = SetCommon {
        mode,
        max_pending,
        log_level: match body.log {
            None => None,
            Some(None) => Some(None),
            Some(Some(wanted)) => wanted.level,
        },
    };
    let settings = api.gateway.set(&caller, set).await?;
    let overridden = settings.iter().filter(|setting| setting.overridden);
    let detail = overridden
        .map(|setting| (setting.name.to_owned(), setting.value.clone()))
        .collect();
    let settings = settings_of(settings, &caller);
    let mut response = json(StatusCode::OK, &SettingsView { settings });
    response.extensions_mut().insert(Detail(Value::Object(detail)));
    Ok(response)
}
