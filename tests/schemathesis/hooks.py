"""What JSON Schema cannot say of the API, told to schemathesis. No check is switched off."""

import itertools
import json
import math
import os

import requests
import schemathesis

# Nobody has this name, ever (RFC 2606), so nothing is sent.
TARGET = "https://hooks.invalid/ledger"

fresh = itertools.count()
webhooks = []


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
        schemas[name]["properties"]["callback_url"] = {"enum": [TARGET, None]}
    # In the mode drop, good requests are refused once there are too many.
    schemas["BackpressureBody"]["properties"]["mode"] = {"enum": ["buffer", "control", None]}
    # Directives have a grammar of their own.
    schemas["LogBody"]["properties"]["level"] = {"enum": ["warn", "info,sluicegate::worker=debug", None]}
    # What is told goes to public addresses only.
    schemas["WebhookBody"]["properties"]["url"] = {"type": "string", "enum": [TARGET]}
    schemas["WebhookChange"]["properties"]["url"] = {"enum": [TARGET, None]}
    # A cursor is made by the gateway, for one listing: tests/it/paging.rs follows them.
    # So is the id of an event: tests/it/events.rs goes on from them.
    made = {"/v1/transactions": {"cursor"}, "/v1/deliveries": {"cursor"}, "/v1/audit": {"cursor"}, "/v1/events": {"last_event_id", "Last-Event-ID"}}
    for path, names in made.items():
        operation = raw_schema["paths"][path]["get"]
        operation["parameters"] = [one for one in operation["parameters"] if one.get("name") not in names]
    # Lines are made of the same items, by the serializer below.
    batch = raw_schema["paths"]["/v1/transactions/batch"]["post"]["requestBody"]["content"]
    batch["application/x-ndjson"] = batch["application/json"]


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    items = value if isinstance(value, list) else [value]
    return "".join(json.dumps(item) + "\n" for item in items).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    # Without its key it would be refused from then on.
    if case.operation.path == "/v1/keys/{id}" and case.path_parameters.get("id") == os.environ["OWN_KEY"]:
        case.path_parameters["id"] = "nonesuch"
    # A key that comes with another request is refused, as it has to be: every good request has a fresh one.
    if case.meta is None or all(part.mode.is_positive for part in case.meta.components.values()):
        case.body = whole(case.body)
        if case.operation.path == "/v1/ledgers/{name}" and isinstance(case.body, dict):
            # A burst has to be at least a 500th of the rate.
            rate = case.body.get("rate_per_second") or 100
            burst = max(case.body.get("burst") or 1, math.ceil(rate / 500))
            case.body |= {"rate_per_second": rate, "burst": burst}
            # The longest delay is not below the shortest.
            if isinstance(retry := case.body.get("retry"), dict):
                least = retry.get("min_ms") or 1
                retry |= {"min_ms": least, "max_ms": max(retry.get("max_ms") or least, least)}
        if "Idempotency-Key" in (case.headers or {}):
            case.headers["Idempotency-Key"] = f"{next(fresh)}-{case.headers['Idempotency-Key']}"[:250]
        if isinstance(case.body, list):
            for item in case.body:
                if isinstance(item, dict) and "idempotency_key" in item:
                    item["idempotency_key"] = f"{next(fresh)}-{item['idempotency_key']}"[:255]
    # A tenant may have 50 webhooks: the oldest makes room.
    if is_new_webhook(case) and len(webhooks) > 40:
        requests.delete(webhooks.pop(0), timeout=30)
    # In any other batch, a bad item is refused by itself, and the request is good.
    if case.operation.path.endswith("/batch") and (case.query or {}).get("atomic") in (None, False, "false"):
        case.query = {**(case.query or {}), "atomic": "true"}


@schemathesis.hook
def after_call(context, case, response):
    if is_new_webhook(case) and response.status_code == 201:
        url = str(response.request.url).split("?")[0]
        webhooks.append(f"{url}/{response.json()['id']}")


def whole(value):
    """JSON Schema takes 130.0 for an integer; the gateway takes numbers as they are written."""
    if isinstance(value, dict):
        return {name: member if name == "args" else whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_new_webhook(case):
    return (case.method, case.operation.path) == ("POST", "/v1/webhooks")
