//! Metrics, traces and logs, pushed by OTLP over HTTP (protobuf) to a collector.
//!
//! What is pushed waits in bounded memory and is dropped where that is full: a collector that is slow or away costs
//! telemetry, never a transaction. The SDK has threads of its own; requests run on the gateway's runtime. A crash loses
//! what was not pushed yet.
//!
//! Traces and metrics are a gateway's own, logs the process's.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::root_cause;
use super::tracer::Tracer;
use crate::config::OtlpSettings;

/// The name of what instruments.
const SCOPE: &str = "sluicegate";

/// Names this process: the same for what a gateway pushes and for the lines of its log.
static INSTANCE: LazyLock<String> = LazyLock::new(|| Uuid::now_v7().to_string());

/// At the end, the collector gets so long to take the last of it: once for metrics and traces, once for logs.
const FAREWELL: Duration = Duration::from_secs(2);

/// Turns log lines into records of OTLP.
pub type LogLayer = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// What a gateway pushes of its own.
#[derive(Default)]
pub struct Push {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// The log lines of the process.
#[derive(Default)]
pub struct LogPush(Option<SdkLoggerProvider>);

impl Push {
    /// Begins to push what the settings want of metrics and traces. To be called on the runtime that is to send it.
    ///
    /// # Errors
    /// If there is no way to make connections.
    pub fn start(settings: Option<&OtlpSettings>) -> anyhow::Result<Self> {
        let Some(settings) = settings else {
            return Ok(Self::default());
        };
        let route = Route::new(settings)?;
        let mut push = Self::default();
        if settings.traces {
            let exporter = route
                .of(SpanExporter::builder().with_http(), "v1/traces")
                .build()?;
            let sampler = Sampler::TraceIdRatioBased(settings.trace_ratio);
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_sampler(Sampler::ParentBased(Box::new(sampler)))
                .with_resource(route.resource.clone());
            push.traces = Some(provider.build());
        }
        if settings.metrics {
            let exporter = route
                .of(MetricExporter::builder().with_http(), "v1/metrics")
                .build()?;
            let reader = PeriodicReader::builder(exporter)
                .with_interval(settings.metrics_interval)
                .build();
            let provider = SdkMeterProvider::builder().with_reader(reader);
            push.metrics = Some(provider.with_resource(route.resource).build());
        }
        Ok(push)
    }

    /// What begins spans.
    pub fn tracer(&self) -> Tracer {
        let provider = self.traces.as_ref();
        provider.map_or_else(Tracer::default, |provider| Tracer::new(provider.tracer(SCOPE)))
    }

    /// What counts, if metrics are pushed.
    pub fn meter(&self) -> Option<Meter> {
        self.metrics.as_ref().map(|provider| provider.meter(SCOPE))
    }

    /// Pushes what there is left. Whatever the collector does, it takes no longer than two seconds.
    pub async fn end(self) {
        let Self { traces, metrics } = self;
        farewell(move || {
            let traces = traces.map(|provider| provider.shutdown_with_timeout(FAREWELL));
            let metrics = metrics.map(|provider| provider.shutdown_with_timeout(FAREWELL));
            traces.into_iter().chain(metrics).all(|ended| ended.is_ok())
        })
        .await;
    }
}

impl LogPush {
    /// Begins to push log lines, if the settings want them.
    ///
    /// # Errors
    /// As [`Push::start`].
    pub fn start(settings: Option<&OtlpSettings>) -> anyhow::Result<Self> {
        let Some(settings) = settings.filter(|settings| settings.logs) else {
            return Ok(Self::default());
        };
        let route = Route::new(settings)?;
        let exporter = route.of(LogExporter::builder().with_http(), "v1/logs").build()?;
        let provider = SdkLoggerProvider::builder().with_batch_exporter(exporter);
        Ok(Self(Some(provider.with_resource(route.resource).build())))
    }

    /// What gives it log lines.
    pub fn layer(&self) -> Option<LogLayer> {
        self.0.as_ref().map(OpenTelemetryTracingBridge::new)
    }

    /// As [`Push::end`].
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        farewell(move || provider.shutdown_with_timeout(FAREWELL).is_ok()).await;
    }
}

/// The SDK blocks its caller.
async fn farewell(end: impl FnOnce() -> bool + Send + 'static) {
    let ended = tokio::task::spawn_blocking(end);
    let in_time = tokio::time::timeout(FAREWELL, ended).await;
    if !matches!(in_time, Ok(Ok(true))) {
        tracing::debug!("the collector did not take the last of the telemetry");
    }
}

/// The way to the collector.
struct Route<'s> {
    settings: &'s OtlpSettings,
    client: Arc<Sender>,
    resource: Resource,
}

impl<'s> Route<'s> {
    fn new(settings: &'s OtlpSettings) -> anyhow::Result<Self> {
        // The headers hold a secret, which is for nobody else.
        let builder = || {
            Client::builder()
                .redirect(Policy::none())
                .timeout(settings.timeout)
        };
        let client = builder().build().or_else(|error| {
            // A machine without certificate authorities still reaches the collector beside it.
            match settings.endpoint.starts_with("https:") {
                true => Err(error),
                false => builder().tls_certs_only([]).build(),
            }
        })?;
        let resource = Resource::builder()
            .with_service_name(settings.service_name.clone())
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", INSTANCE.as_str()),
            ]);
        Ok(Self {
            settings,
            client: Arc::new(Sender {
                client,
                runtime: Handle::current(),
                is_away: AtomicBool::new(false),
            }),
            resource: resource.build(),
        })
    }

    fn of<B: WithExportConfig + WithHttpConfig>(&self, exporter: B, path: &str) -> B {
        let headers = self.settings.headers.iter();
        exporter
            .with_shared_http_client(self.client.clone())
            .with_endpoint(format!("{}/{path}", self.settings.endpoint))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(self.settings.timeout)
            .with_headers(
                headers
                    .map(|(name, value)| (name.clone(), value.expose().to_owned()))
                    .collect(),
            )
    }
}

/// Sends what the SDK's threads hand over, on the gateway's runtime, and says once when the collector is away.
struct Sender {
    client: Client,
    runtime: Handle,
    is_away: AtomicBool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let answer = client.execute(request.try_into()?).await?;
            let status = answer.status();
            let headers = answer.headers().clone();
            let mut response = Response::new(answer.bytes().await?);
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            Ok::<_, reqwest::Error>(response)
        };
        let answer = self.runtime.spawn(exchange).await?;
        let trouble = match &answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(error) => Some(root_cause(error)),
        };
        let was_away = self.is_away.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(trouble) if !was_away => {
                tracing::warn!(
                    trouble,
                    "the collector of telemetry (otlp.endpoint) takes nothing; what does not fit into memory is dropped"
                );
            }
            None if was_away => tracing::info!("the collector of telemetry takes it again"),
            _ => {}
        }
        Ok(answer?)
    }
}
