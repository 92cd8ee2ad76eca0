#!/usr/bin/env bash
# A client of Sluicegate with curl, jq and openssl:
#
#   gateway.sh pay ORDER FROM TO AMOUNT   pays once, however often it is run for the same order
#   gateway.sh cancel ID                  takes a transaction back that was not submitted yet
#   gateway.sh watch [COUNT]              tells of every transaction that settles, from now on
#   gateway.sh verify                     checks a webhook: its body on stdin, its headers in the environment
#
# SLUICEGATE_URL is the gateway, SLUICEGATE_TOKEN an API key or a JWT, if it asks for one.
set -euo pipefail
shopt -s inherit_errexit

url="${SLUICEGATE_URL:-http://127.0.0.1:8080}"
# A webhook that is older may be one that somebody overheard and sends again.
tolerance_seconds=300
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# The token is in no list of processes that way.
authorization() {
  if [ -n "${SLUICEGATE_TOKEN:-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "$SLUICEGATE_TOKEN"; fi
}

# call METHOD PATH [curl's words]: sends a request until it is answered for good, and prints the answer. Only for what is
# safe to repeat: with an idempotency key, all is.
call() {
  local method="$1" path="$2" pause=1 status wait reason
  shift 2
  while true; do
    status="$(curl --config <(authorization) --silent --show-error --max-time 60 --request "$method" "$@" \
      --dump-header "$folder/head" --output "$folder/body" --write-out '%{http_code}' "$url$path")" || status=000
    wait="$pause"
    case "$status" in
      2??) cat "$folder/body"; return ;;
      # It may have arrived or not. Sent again with the same key, it takes effect once.
      000) reason="no answer" ;;
      # The same request may well succeed a little later. Everything else has to be changed first.
      408 | 429 | 500 | 502 | 503 | 504)
        reason="$(problem "$status")"
        wait="$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]*\).*/\1/p' "$folder/head")"
        wait="${wait:-$pause}" ;;
      *) problem "$status" >&2; exit 2 ;;
    esac
    echo "$reason; again in $wait s" >&2
    sleep "$wait"
    pause=$((pause < 16 ? pause * 2 : 30))
  done
}

# A problem document (RFC 9457). Decide by its code, not by the wording.
problem() {
  jq -r '"\(.code) \(.detail)" + ([.errors[]? | "\n  \(.pointer): \(.detail)"] | add // "")' "$folder/body" 2>/dev/null ||
    echo "$1, and no problem document: something on the way answered, not the gateway"
}

# settle KEY FILE: submits the transaction in the file, and prints its record once it is settled.
settle() {
  local record
  record="$(call POST /v1/transactions --header 'Content-Type: application/json' --header "Idempotency-Key: $1" \
    --header 'Prefer: wait=10' --data-binary "@$2")"
  while [ "$(jq -r .status <<<"$record")" = pending ]; do
    record="$(call GET "/v1/transactions/$(jq -r .id <<<"$record")?wait=30")"
  done
  printf '%s\n' "$record"
}

pay() {
  local record
  jq -n --arg order "$1" --arg from "$2" --arg to "$3" --argjson amount "$4" \
    '{ledger: "main", contract: "token", function: "Transfer", args: [$from, $to, $amount], metadata: {order: $order}}' \
    >"$folder/request"
  record="$(settle "order-$1" "$folder/request")"
  jq -r 'if .status == "done" then "done \(.id) in block \(.block)" else "failed \(.id) \(.error.code): \(.error.message)" end' \
    <<<"$record"
  [ "$(jq -r .status <<<"$record")" = done ]
}

cancel() {
  local record
  # Refused with 409 (SG-0023) if it is too late: then nothing has changed.
  record="$(call POST "/v1/transactions/$1/cancel")"
  jq -r '"\(.error.code) \(.id)"' <<<"$record"
}

# Server-sent events. A connection that breaks is taken up again where it ended: nothing is missed or told twice.
watch() {
  local left="${1:--1}" last="" line kind=message data=""
  while true; do
    # Signs of life come every 15 seconds, unless the gateway is set up otherwise: without any, curl gives up.
    while IFS= read -r line; do
      case "$line" in
        event:*) kind="${line#event: }" ;;
        data:*) data="$data${line#data: }" ;;
        id:*) last="${line#id: }" ;;
        "")
          if [ -n "$data" ]; then told "$kind" "$data"; fi
          kind=message data=""
          if [ "$left" = 0 ]; then kill "$!"; return; fi ;;
      esac
    done < <(exec curl --config <(authorization) --silent --no-buffer --fail --speed-limit 1 --speed-time 45 \
      --header 'Accept: text/event-stream' ${last:+--header "Last-Event-ID: $last"} "$url/v1/events")
    echo "connecting again" >&2
    sleep 1
  done
}

# told KIND DATA: prints what happened.
told() {
  case "$1" in
    # After `reset`, away for longer than the gateway remembers: list /v1/transactions, then go on.
    ready | reset) echo "$1" ;;
    transaction)
      if [ "$(jq -r .status <<<"$2")" != pending ]; then
        jq -r '"\(.status) \(.id)"' <<<"$2"
        left=$((left - 1))
      fi ;;
  esac
}

# Standard Webhooks: HMAC-SHA256 over id, timestamp and the body as it came, byte for byte.
verify() {
  local key wanted one again age signatures
  cat >"$folder/webhook"
  # Arithmetic would run what else stands there.
  if ! [[ $WEBHOOK_TIMESTAMP =~ ^[1-9][0-9]{0,11}$ ]]; then echo forged; return 1; fi
  age=$(($(date +%s) - WEBHOOK_TIMESTAMP))
  if [ "${age#-}" -gt "$tolerance_seconds" ]; then echo forged; return 1; fi
  key="$(base64 -d <<<"${WEBHOOK_SECRET#whsec_}" | od -An -v -tx1 | tr -d ' \n')"
  wanted="$({ printf '%s.%s.' "$WEBHOOK_ID" "$WEBHOOK_TIMESTAMP"; cat "$folder/webhook"; } | mac "$key")"
  # A shell compares in no constant time. What it compares here are digests with a key that nobody knows: how soon they
  # differ tells nothing. There are several signatures while a secret is rotated; one that fits is enough.
  again="$(openssl rand -hex 32)"
  read -ra signatures <<<"$WEBHOOK_SIGNATURE"
  for one in "${signatures[@]}"; do
    if [ "$(printf 'v1,%s' "$wanted" | mac "$again")" = "$(printf '%s' "$one" | mac "$again")" ]; then
      echo genuine
      return
    fi
  done
  echo forged
  return 1
}

# mac KEY: HMAC-SHA256 of stdin, in base64.
mac() {
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -binary | base64 -w 0
}

case "${1:-}" in
  pay | cancel | watch | verify) "$@" ;;
  *) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
