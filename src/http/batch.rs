//! `POST /v1/transactions/batch`: many transactions in one durable commit.
//!
//! A JSON array, or NDJSON with one object to a line. Each item is read and judged by itself, so a bad one does not sink
//! the others, unless `?atomic=true` asks for all or nothing.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use super::Api;
use super::body::{self, SubmitBody};
use super::caller::Who;
use super::dto::TransactionView;
use super::error::{ApiError, Code, Problem};
use super::openapi::examples;
use super::params::{self, Pairs};
use super::transactions::json;
use crate::domain::TransactionId;
use crate::failpoint;
use crate::gateway::{Gateway, Item, Scope, Stored};
use crate::telemetry::TraceContext;

/// So many items a batch may have.
const MAX_ITEMS: usize = 1_000;
/// The key of a batch may have so many bytes: with a colon and a number it is the key of an item, which has at most 255.
const MAX_KEY: usize = 251;

/// An item of a batch: a submission, and its own idempotency key.
pub(crate) struct BatchItem;

impl PartialSchema for BatchItem {
    fn schema() -> RefOr<Schema> {
        let mut schema = SubmitBody::schema();
        if let RefOr::T(Schema::Object(item)) = &mut schema {
            let key = ObjectBuilder::new()
                .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
                .min_length(Some(1))
                .max_length(Some(255))
                .pattern(Some("^[!-~]+$"))
                .description(Some(
                    "Its idempotency key. Without one it has that of the batch, a colon and its number",
                ));
            item.properties.insert("idempotency_key".to_owned(), key.into());
            item.description = Some("A submission, and its own idempotency key".to_owned());
        }
        schema
    }
}

impl ToSchema for BatchItem {}

/// What a batch is.
#[derive(ToSchema)]
#[schema(max_items = 1_000, min_items = 1)]
#[allow(dead_code, reason = "it is described, not made")]
pub(crate) struct BatchItems(Vec<BatchItem>);

/// The answer to a batch.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchResult)]
pub(crate) struct BatchView<'a> {
    /// One for each item, in order.
    items: Vec<ItemView<'a>>,
    /// How many are stored anew.
    accepted: usize,
    /// How many were stored before, under the same idempotency keys.
    repeated: usize,
    /// How many are not stored.
    refused: usize,
}

/// What became of one item: what it would have been answered by itself.
#[derive(Serialize, ToSchema)]
#[schema(as = ItemResult)]
struct ItemView<'a> {
    /// The HTTP status that it would have had by itself.
    status: u16,
    /// Its id, if it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<TransactionId>,
    /// Its record, if it is stored. Those of repeats are left out once they are more than 8 MiB together: read them by their
    /// ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    transaction: Option<TransactionView<'a>>,
    /// Whether it was stored before, under the same idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    repeated: Option<bool>,
    /// Why it is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    problem: Option<Problem<'a>>,
}

/// What became of one item.
type Answer = Result<Stored, ApiError>;

/// Submit many transactions
///
/// All in one durable commit. Each is judged by itself, and answered in order, so a bad one does not sink the others,
/// unless `atomic` asks for all or nothing.
#[utoipa::path(
    post,
    path = "/v1/transactions/batch",
    operation_id = "submitBatch",
    tag = "transactions",
    params(
        ("atomic" = Option<bool>, Query, description = "Whether a bad item sinks them all"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 251, pattern = "^[!-~]+$",
            description = "Items without a key of their own have this one, a colon and their number. Visible ASCII", example = "import-17"),
    ),
    request_body(description = "1 to 1000 transactions: an array, or one object to a line", content(
        (inline(BatchItems) = "application/json", example = json!([examples::submission()])),
        (String = "application/x-ndjson", example = json!("{\"ledger\":\"main\",\"contract\":\"counter\",\"function\":\"Add\",\"args\":[\"visits\",1]}\n")),
    )),
    responses(
        (status = 200, description = "What became of each", body = BatchView, example = json!(examples::batch())),
        (status = 403, description = "SG-0029"),
        (status = 429, description = "SG-0020 SG-0021"),
        (status = 422, description = "SG-0003"),
        (status = 503, description = "SG-0011"),
    )
)]
pub(crate) async fn submit(
    State(api): State<Api>,
    who: Who,
    trace: Option<Extension<TraceContext>>,
    Pairs(pairs): Pairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Submit])?;
    let trace = trace.map(|Extension(context)| context.to_string());
    let atomic = params::atomic_only(pairs)?;
    let key = params::idempotency_key(&headers)?;
    if let Some(key) = &key
        && !((1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|c| c.is_ascii_graphic()))
    {
        let detail = format!(
            "must be 1 to {MAX_KEY} visible ASCII characters; each item has it with a number of its own"
        );
        return Err(ApiError::field(
            Code::InvalidFields,
            "#header/Idempotency-Key",
            detail,
        ));
    }
    body::is_plain(&headers)?;
    let lines = match body::media_type(&headers).as_deref() {
        Some("application/json") => false,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => true,
        _ => {
            let detail = "send a JSON array with `Content-Type: application/json`, or one JSON object to a line with `application/x-ndjson`";
            return Err(ApiError::new(Code::NotJson, detail));
        }
    };
    let bytes = body::read(body, api.body_limits).await;
    let bytes = bytes.map_err(|error| error.advise(Code::BodyTooLarge, "; send smaller batches"))?;
    let texts = if lines {
        lines_of(&bytes)
    } else {
        elements_of(&bytes)?
    };
    if texts.is_empty() {
        return Err(ApiError::field(Code::InvalidFields, "", "holds no transaction"));
    }
    if texts.len() > MAX_ITEMS {
        let detail = format!(
            "holds {} transactions; at most {MAX_ITEMS} are allowed, so send several batches",
            texts.len()
        );
        return Err(ApiError::field(Code::InvalidFields, "", detail));
    }
    let mut unread = Vec::new();
    let mut items = Vec::with_capacity(texts.len());
    for (number, text) in texts.into_iter().enumerate() {
        match read_item(&api.gateway, text, key.as_deref(), number) {
            Ok(item) => {
                items.push(Some(item));
                unread.push(None);
            }
            Err(error) => {
                items.push(None);
                unread.push(Some(error));
            }
        }
    }
    let answers = api.gateway.accept_many(&caller, items, trace, atomic).await?;
    failpoint::reached("accept-before-reply");
    let answers: Vec<Answer> = answers
        .into_iter()
        .zip(unread)
        .filter_map(|(answer, unread)| match (answer, unread) {
            (Some(answer), _) => Some(answer.map_err(ApiError::from)),
            (None, unread) => unread.map(Err),
        })
        .collect();
    if atomic && answers.iter().any(Result::is_err) {
        return Err(all_of(answers));
    }
    Ok(json(StatusCode::OK, &view(&answers)))
}

/// The lines that are not empty.
fn lines_of(bytes: &[u8]) -> Vec<&[u8]> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
        .collect()
}

/// The elements of a JSON array, unread.
fn elements_of(bytes: &[u8]) -> Result<Vec<&[u8]>, ApiError> {
    let elements: Vec<&RawValue> = serde_json::from_slice(bytes).map_err(|error| match error.is_data() {
        true => ApiError::field(Code::InvalidFields, "", "has to be a JSON array of transactions"),
        false => ApiError::new(Code::MalformedJson, error.to_string()),
    })?;
    Ok(elements
        .into_iter()
        .map(|element| element.get().as_bytes())
        .collect())
}

/// One item. Without an idempotency key of its own it has that of the batch, with its number.
fn read_item(gateway: &Gateway, text: &[u8], key: Option<&str>, number: usize) -> Result<Item, ApiError> {
    let mut body: SubmitBody = body::parse(text)?;
    let key = body
        .take_key()
        .or_else(|| key.map(|key| format!("{key}:{number}")));
    let request = body.into_request(gateway)?;
    Ok(Item { request, key })
}

/// One problem out of those of an atomic batch, each field with the number of its item.
fn all_of(answers: Vec<Answer>) -> ApiError {
    let mut fields = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        match answer {
            // A full backlog or a broken store is no fault of an item.
            Err(error) if error.is_withheld() => {}
            Err(error) if !error.blames_the_client() => return error,
            Err(error) => fields.extend(error.into_fields(&format!("/{number}"))),
            Ok(_) => {}
        }
    }
    ApiError::fields(Code::InvalidFields, fields)
}

fn view(answers: &[Answer]) -> BatchView<'_> {
    let count = |wanted: bool| {
        let fits = |answer: &&Answer| matches!(answer, Ok(stored) if stored.repeated == wanted);
        answers.iter().filter(fits).count()
    };
    BatchView {
        items: answers.iter().map(item_view).collect(),
        accepted: count(false),
        repeated: count(true),
        refused: answers.iter().filter(|answer| answer.is_err()).count(),
    }
}

fn item_view(answer: &Answer) -> ItemView<'_> {
    match answer {
        Ok(stored) => {
            let status = match stored.is_settled {
                true => StatusCode::OK,
                false => StatusCode::ACCEPTED,
            };
            ItemView {
                status: status.as_u16(),
                id: Some(stored.id),
                transaction: stored.transaction.as_ref().map(TransactionView::from),
                repeated: Some(stored.repeated),
                problem: None,
            }
        }
        Err(error) => {
            let problem = error.problem();
            ItemView {
                status: problem.status,
                id: None,
                transaction: None,
                repeated: None,
                problem: Some(problem),
            }
        }
    }
}
