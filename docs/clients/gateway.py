#!/usr/bin/env python3
"""A client of Sluicegate in Python, with `requests`.

    gateway.py pay ORDER FROM TO AMOUNT   pays once, however often it is run for the same order
    gateway.py cancel ID                  takes a transaction back that was not submitted yet
    gateway.py watch [COUNT]              tells of every transaction that settles, from now on
    gateway.py verify                     checks a webhook: its body on stdin, its headers in the environment

SLUICEGATE_URL is the gateway, SLUICEGATE_TOKEN an API key or a JWT, if it asks for one.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time

import requests

URL = os.environ.get("SLUICEGATE_URL", "http://127.0.0.1:8080")
HTTP = requests.Session()
if "SLUICEGATE_TOKEN" in os.environ:
    HTTP.headers["Authorization"] = f"Bearer {os.environ['SLUICEGATE_TOKEN']}"

# The same request may well succeed a little later. Everything else has to be changed first.
AGAIN = {408, 429, 500, 502, 503, 504}
# A webhook that is older may be one that somebody overheard and sends again.
TOLERANCE_SECONDS = 300


class Refused(Exception):
    """The gateway said no: a problem document (RFC 9457). Decide by `code`, not by the wording."""

    def __init__(self, response):
        try:
            problem = response.json()
        except ValueError:
            # Something on the way answered, not the gateway.
            problem = {}
        self.status = response.status_code
        self.code = problem.get("code", str(response.status_code))
        fields = [f"\n  {fault['pointer']}: {fault['detail']}" for fault in problem.get("errors", [])]
        super().__init__(f"{self.code} {problem.get('detail', response.reason)}{''.join(fields)}")


def call(method, path, timeout=60, **options):
    """Sends a request until it is answered for good. Only for what is safe to repeat: with an idempotency key, all is."""
    pause = 0.5
    while True:
        try:
            response = HTTP.request(method, URL + path, timeout=timeout, **options)
        except (requests.ConnectionError, requests.Timeout) as error:
            # It may have arrived or not. Sent again with the same key, it takes effect once.
            reason, wait = error, pause
        else:
            if response.ok:
                return response
            if response.status_code not in AGAIN:
                raise Refused(response)
            reason, wait = Refused(response), float(response.headers.get("Retry-After", pause))
        print(f"{reason}; again in {wait:g} s", file=sys.stderr)
        time.sleep(wait)
        pause = min(pause * 2, 30)


def settle(body, key):
    """Submits a transaction and answers its record once it is settled."""
    headers = {"Idempotency-Key": key, "Prefer": "wait=10"}
    record = call("POST", "/v1/transactions", json=body, headers=headers).json()
    while record["status"] == "pending":
        record = call("GET", f"/v1/transactions/{record['id']}?wait=30").json()
    return record


def pay(order, payer, payee, amount):
    body = {
        "ledger": "main",
        "contract": "token",
        "function": "Transfer",
        "args": [payer, payee, int(amount)],
        "metadata": {"order": order},
    }
    record = settle(body, f"order-{order}")
    if record["status"] == "done":
        print(f"done {record['id']} in block {record['block']}")
        return 0
    error = record["error"]
    print(f"failed {record['id']} {error['code']}: {error['message']}")
    return 1


def cancel(id):
    # Refused with 409 (SG-0023) if it is too late: then nothing has changed.
    record = call("POST", f"/v1/transactions/{id}/cancel").json()
    print(f"{record['error']['code']} {record['id']}")
    return 0


def events(path):
    """Server-sent events. A connection that breaks is taken up again where it ended: nothing is missed or told twice."""
    last = None
    while True:
        headers = {"Accept": "text/event-stream"}
        if last:
            headers["Last-Event-ID"] = last
        try:
            # A sign of life comes every 15 seconds, unless the gateway is set up otherwise.
            with call("GET", path, headers=headers, stream=True, timeout=45) as response:
                kind, data = "message", []
                for line in response.iter_lines(chunk_size=None):
                    field, _, value = line.decode().partition(":")
                    value = value.removeprefix(" ")
                    if field == "event":
                        kind = value
                    elif field == "data":
                        data.append(value)
                    elif field == "id":
                        last = value
                    elif not line and data:
                        yield kind, json.loads("\n".join(data))
                        kind, data = "message", []
        except requests.RequestException as error:
            print(f"{error}; connecting again", file=sys.stderr)
        time.sleep(0.5)


def watch(count=None):
    left = float("inf") if count is None else int(count)
    for kind, data in events("/v1/events"):
        if kind == "ready":
            print("ready", flush=True)
        elif kind == "reset":
            # Away for longer than the gateway remembers: list /v1/transactions, then go on.
            print("reset", flush=True)
        elif kind == "transaction" and data["status"] != "pending":
            print(f"{data['status']} {data['id']}", flush=True)
            left -= 1
        if left == 0:
            return 0


def is_genuine(secret, id, timestamp, signatures, body):
    """Standard Webhooks: HMAC-SHA256 over id, timestamp and the body as it came, byte for byte."""
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    wanted = "v1," + base64.b64encode(digest).decode()
    # There are several while a secret is rotated; one that fits is enough. Compared in constant time.
    return any([hmac.compare_digest(wanted.encode(), one.encode()) for one in signatures.split(" ")])


def verify():
    names = ["WEBHOOK_SECRET", "WEBHOOK_ID", "WEBHOOK_TIMESTAMP", "WEBHOOK_SIGNATURE"]
    genuine = is_genuine(*(os.environ[name] for name in names), sys.stdin.buffer.read())
    print("genuine" if genuine else "forged")
    return 0 if genuine else 1


COMMANDS = {"pay": pay, "cancel": cancel, "watch": watch, "verify": verify}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    try:
        sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]))
    except Refused as refused:
        print(refused, file=sys.stderr)
        sys.exit(2)
