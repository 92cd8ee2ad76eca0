//! What the domain's own types look like in JSON.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::config::BackpressureMode;
use crate::domain::{
    Argument, AttemptOutcome, DelayStrategy, LedgerName, ReadWriteSet, Stage, Status, TenantName, Timestamp,
    TransactionId,
};

/// Declares the schema of a type.
macro_rules! schema {
    ($($(#[doc = $what:literal])+ $type:ident => $schema:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let what = concat!($($what),+).trim();
                $schema.description(Some(what)).into()
            }
        }

        impl ToSchema for $type {}
    )*};
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn format(name: &str) -> ObjectBuilder {
    text().format(Some(SchemaFormat::Custom(name.to_owned())))
}

fn name() -> ObjectBuilder {
    text().pattern(Some("^[a-z0-9][a-z0-9_-]{0,63}$"))
}

fn keys() -> ArrayBuilder {
    ArrayBuilder::new().items(text())
}

fn one_of(values: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    text().enum_values(Some(values))
}

/// Bytes, not characters: JSON Schema cannot say that.
fn short(least: usize, most: usize) -> ObjectBuilder {
    text().min_length(Some(least)).max_length(Some(most))
}

schema! {
    /// Names a transaction. Those made later are greater.
    TransactionId => format("uuid").examples(["01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f"]);
    /// A moment (RFC 3339), in UTC and to the millisecond in answers.
    Timestamp => format("date-time").examples(["2026-01-31T12:00:00.000Z"]);
    /// The name of a configured ledger.
    LedgerName => name().examples(["main"]);
    /// The name of a tenant.
    TenantName => name().examples(["default"]);
    /// An argument. A string goes to the ledger as it is, anything else as its compact JSON text: no digit is lost.
    Argument => ObjectBuilder::new().schema_type(SchemaType::AnyValue).examples(["visits"]);
    /// `pending` until it is `done`, which took effect on the ledger, or `failed`, which had none and never will.
    Status => one_of(Status::ALL.map(Status::as_str));
    /// How far a pending one is. `parked`: the ledger cannot tell whether it took effect; a person has to say.
    Stage => one_of(Stage::ALL.map(Stage::as_str));
    /// The keys that a submission read and wrote, sorted; `truncated` if there are more than are kept.
    ReadWriteSet => ObjectBuilder::new()
        .property("reads", keys())
        .property("writes", keys())
        .property("truncated", ObjectBuilder::new().schema_type(Type::Boolean))
        .required("reads")
        .required("writes")
        .required("truncated");
    /// How an attempt ended.
    AttemptOutcome => one_of(["committed", "conflict", "rejected", "unavailable", "abandoned", "unknown"]);
}

/// The name of a contract or of a function.
pub(crate) struct CallName;
/// Private inputs.
pub(crate) struct Transient;
/// A key that the call is expected to write.
pub(crate) struct ConflictKey;
/// The caller's own labels.
pub(crate) struct Labels;
/// What a key may do.
pub(crate) struct ScopeName;
/// How the delay before another try is chosen.
pub(crate) struct StrategyName;
/// What happens when producers are faster than the ledgers.
pub(crate) struct ModeName;
/// One event of a stream.
pub(crate) struct StreamEvent;
/// What else there is no type for.
pub(crate) struct AnyJson;

schema! {
    /// The name of a contract or of a function, 1 to 128 bytes.
    CallName => short(1, 128).pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]+$"));
    /// Up to 64 private inputs by name, each base64 (RFC 4648, section 4) with padding.
    Transient => ObjectBuilder::new().max_properties(Some(64)).additional_properties(Some(text().pattern(Some(
        "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
    ))));
    /// A key that the call is expected to write, 1 to 256 bytes.
    ConflictKey => short(1, 256);
    /// Up to 32 labels: names of 1 to 64 characters, values of at most 512.
    Labels => ObjectBuilder::new()
        .max_properties(Some(32))
        .property_names(Some(short(1, 64)))
        .additional_properties(Some(short(0, 512)));
    /// What a key may do.
    ScopeName => one_of(["submit", "read", "operate"]);
    /// How the delay before another try is chosen: anywhere between the shortest and the longest, always the shortest, or
    /// with a ceiling that doubles.
    StrategyName => one_of(DelayStrategy::ALL.map(DelayStrategy::as_str));
    /// What happens when producers are faster than the ledgers: accept always; refuse above a limit; accept and tell them.
    ModeName => one_of(BackpressureMode::ALL.map(BackpressureMode::as_str));
    /// One event of the stream.
    StreamEvent => ObjectBuilder::new()
        .property("event", one_of(["ready", "transaction", "position", "reset"]))
        .property("id", text().description(Some("What `Last-Event-ID` goes on from")))
        .property("data", text().description(Some("JSON: of a `transaction`, the record as in `GET`; else `{}`")))
        .required("event")
        .required("data");
    /// Any JSON value.
    AnyJson => ObjectBuilder::new().schema_type(SchemaType::AnyValue);
}
