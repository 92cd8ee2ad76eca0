// A client of Sluicegate in TypeScript, for Node.js 22.18 or later, without packages:
//
//   node gateway.ts pay ORDER FROM TO AMOUNT   pays once, however often it is run for the same order
//   node gateway.ts cancel ID                  takes a transaction back that was not submitted yet
//   node gateway.ts watch [COUNT]              tells of every transaction that settles, from now on
//   node gateway.ts verify                     checks a webhook: its body on stdin, its headers in the environment
//
// SLUICEGATE_URL is the gateway, SLUICEGATE_TOKEN an API key or a JWT, if it asks for one.
//
// Everything but `verify` runs in browsers as well. Their EventSource cannot send a token, so events are read by fetch.

import { createHmac, timingSafeEqual } from 'node:crypto';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

const { SLUICEGATE_URL = 'http://127.0.0.1:8080', SLUICEGATE_TOKEN } = process.env;

/** The same request may well succeed a little later. Everything else has to be changed first. */
const AGAIN = [408, 429, 500, 502, 503, 504];
/** A webhook that is older may be one that somebody overheard and sends again. */
const TOLERANCE_SECONDS = 300;
/** A sign of life comes every 15 seconds, unless the gateway is set up otherwise. */
const SILENCE_MS = 45_000;

interface Transaction {
  id: string;
  status: 'pending' | 'done' | 'failed';
  block: number | null;
  error: { code: string; message: string; retryable: boolean } | null;
}

interface Problem {
  code?: string;
  detail?: string;
  errors?: { pointer: string; detail: string }[];
}

/** The gateway said no: a problem document (RFC 9457). Decide by `code`, not by the wording. */
class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(response: Response, problem: Problem) {
    const code = problem.code ?? String(response.status);
    const fields = (problem.errors ?? []).map(({ pointer, detail }) => `\n  ${pointer}: ${detail}`);
    super(`${code} ${problem.detail ?? response.statusText}${fields.join('')}`);
    this.status = response.status;
    this.code = code;
  }
}

/** Sends a request until it is answered for good. Only for what is safe to repeat: with an idempotency key, all is. */
async function call(method: string, path: string, headers: Record<string, string> = {}, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const all = { ...headers };
  if (SLUICEGATE_TOKEN) all['authorization'] = `Bearer ${SLUICEGATE_TOKEN}`;
  if (body !== undefined) all['content-type'] = 'application/json';
  for (let pause = 0.5; ; pause = Math.min(pause * 2, 30)) {
    let reason: Error;
    let wait = pause;
    try {
      const response = await fetch(SLUICEGATE_URL + path, {
        method,
        headers: all,
        body: body === undefined ? null : JSON.stringify(body),
        signal: signal ?? AbortSignal.timeout(60_000),
      });
      if (response.ok) return response;
      // If something on the way answered, not the gateway, it is no problem document.
      const refused = new Refused(response, (await response.json().catch(() => ({}))) as Problem);
      if (!AGAIN.includes(response.status)) throw refused;
      reason = refused;
      wait = Number(response.headers.get('retry-after') ?? pause);
    } catch (error) {
      if (error instanceof Refused || !(error instanceof Error) || signal?.aborted) throw error;
      // It may have arrived or not. Sent again with the same key, it takes effect once.
      reason = error;
    }
    console.error(`${reason.message}; again in ${wait} s`);
    await sleep(wait * 1000);
  }
}

/** Submits a transaction and answers its record once it is settled. */
async function settle(body: unknown, key: string): Promise<Transaction> {
  const answer = await call('POST', '/v1/transactions', { 'idempotency-key': key, prefer: 'wait=10' }, body);
  let record = (await answer.json()) as Transaction;
  while (record.status === 'pending') {
    record = (await (await call('GET', `/v1/transactions/${record.id}?wait=30`)).json()) as Transaction;
  }
  return record;
}

async function pay(order: string, from: string, to: string, amount: string): Promise<number> {
  const body = { ledger: 'main', contract: 'token', function: 'Transfer', args: [from, to, Number(amount)], metadata: { order } };
  const { id, status, block, error } = await settle(body, `order-${order}`);
  console.log(status === 'done' ? `done ${id} in block ${block}` : `failed ${id} ${error?.code}: ${error?.message}`);
  return status === 'done' ? 0 : 1;
}

async function cancel(id: string): Promise<number> {
  // Refused with 409 (SG-0023) if it is too late: then nothing has changed.
  const record = (await (await call('POST', `/v1/transactions/${id}/cancel`)).json()) as Transaction;
  console.log(`${record.error?.code} ${record.id}`);
  return 0;
}

/** Server-sent events. A connection that breaks is taken up again where it ended: nothing is missed or told twice. */
async function* events(path: string): AsyncGenerator<{ kind: string; data: string }> {
  let last: string | undefined;
  for (;;) {
    const connection = new AbortController();
    let silence = setTimeout(() => connection.abort(), SILENCE_MS);
    try {
      const headers: Record<string, string> = { accept: 'text/event-stream' };
      if (last !== undefined) headers['last-event-id'] = last;
      const response = await call('GET', path, headers, undefined, connection.signal);
      let rest = '';
      let [kind, data] = ['message', [] as string[]];
      for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
        clearTimeout(silence);
        silence = setTimeout(() => connection.abort(), SILENCE_MS);
        const lines = (rest + text).split('\n');
        rest = lines.pop()!;
        for (const line of lines) {
          const [, field, value = ''] = /^([^:]*):? ?(.*?)\r?$/.exec(line)!;
          if (field === 'event') kind = value;
          else if (field === 'data') data.push(value);
          else if (field === 'id') last = value;
          else if (line.trim() === '' && data.length > 0) {
            yield { kind, data: data.join('\n') };
            [kind, data] = ['message', []];
          }
        }
      }
    } catch (error) {
      if (error instanceof Refused) throw error;
      console.error(`${error}; connecting again`);
    } finally {
      clearTimeout(silence);
    }
    await sleep(500);
  }
}

async function watch(count?: string): Promise<number> {
  let left = count === undefined ? Infinity : Number(count);
  for await (const { kind, data } of events('/v1/events')) {
    if (kind === 'ready' || kind === 'reset') {
      // After `reset`, away for longer than the gateway remembers: list /v1/transactions, then go on.
      console.log(kind);
    } else if (kind === 'transaction') {
      const { id, status } = JSON.parse(data) as Transaction;
      if (status === 'pending') continue;
      console.log(`${status} ${id}`);
      left -= 1;
    }
    if (left === 0) break;
  }
  return 0;
}

/** Standard Webhooks: HMAC-SHA256 over id, timestamp and the body as it came, byte for byte. */
function isGenuine(secret: string, id: string, timestamp: string, signatures: string, body: Buffer): boolean {
  const age = Math.abs(Date.now() / 1000 - Number(timestamp));
  // Not a number is not within it, either.
  if (!(age <= TOLERANCE_SECONDS)) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const wanted = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest();
  // There are several while a secret is rotated; one that fits is enough. Compared in constant time.
  return signatures.split(' ').some((one) => {
    const given = Buffer.from(one.replace(/^v1,/, ''), 'base64');
    return one.startsWith('v1,') && given.length === wanted.length && timingSafeEqual(given, wanted);
  });
}

async function verify(): Promise<number> {
  const { WEBHOOK_SECRET = '', WEBHOOK_ID = '', WEBHOOK_TIMESTAMP = '', WEBHOOK_SIGNATURE = '' } = process.env;
  const genuine = isGenuine(WEBHOOK_SECRET, WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE, await buffer(process.stdin));
  console.log(genuine ? 'genuine' : 'forged');
  return genuine ? 0 : 1;
}

const commands: Record<string, (...words: string[]) => Promise<number>> = { pay, cancel, watch, verify } as never;
const [name = '', ...words] = process.argv.slice(2);
try {
  const command = commands[name];
  if (!command) throw new Error('commands: pay, cancel, watch, verify');
  process.exit(await command(...words));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exit(2);
}
