"""What JSON Schema cannot say of the API, told to schemathesis. No check is switched off."""

import itertools
import json

import schemathesis

fresh = itertools.count()


@schemathesis.hook
def before_load_schema(context, raw_schema):
    schemas = raw_schema["components"]["schemas"]
    for name in ("Submission", "BatchItem", "Query"):
        # A request for a ledger that is not configured is refused; this gateway has one.
        schemas[name]["properties"]["ledger"] = {"type": "string", "enum": ["main"]}
    for name in ("Submission", "BatchItem"):
        # A moment more than 366 days from now is refused.
        past = {"type": ["string", "null"], "enum": ["2026-01-31T12:00:00Z", None]}
        schemas[name]["properties"]["not_before"] = past
    # A cursor is made by the gateway, for one listing: tests/it/paging.rs follows them.
    listing = raw_schema["paths"]["/v1/transactions"]["get"]
    listing["parameters"] = [one for one in listing["parameters"] if one.get("name") != "cursor"]
    # Lines are made of the same items, by the serializer below.
    batch = raw_schema["paths"]["/v1/transactions/batch"]["post"]["requestBody"]["content"]
    batch["application/x-ndjson"] = batch["application/json"]


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    items = value if isinstance(value, list) else [value]
    return "".join(json.dumps(item) + "\n" for item in items).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    # A key that comes with another request is refused, as it has to be: every good request has a fresh one.
    if case.meta is None or all(part.mode.is_positive for part in case.meta.components.values()):
        if "Idempotency-Key" in (case.headers or {}):
            case.headers["Idempotency-Key"] = f"{next(fresh)}-{case.headers['Idempotency-Key']}"[:250]
        if isinstance(case.body, list):
            for item in case.body:
                if isinstance(item, dict) and "idempotency_key" in item:
                    item["idempotency_key"] = f"{next(fresh)}-{item['idempotency_key']}"[:255]
    # In any other batch, a bad item is refused by itself, and the request is good.
    if case.operation.path.endswith("/batch") and (case.query or {}).get("atomic") in (None, False, "false"):
        case.query["atomic"] = "true"
