// A real Chromium with an eye on it: whatever it complains of, and whatever it asks of anybody else, fails the test.

import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

export const base = process.argv[2];
/** Longer than anything here takes. */
const DEADLINE = 20_000;

let browser;
const troubles = [];

/** A page in a session of its own. */
export async function open(address, { width = 1280, height = 800, scheme = 'light' } = {}) {
  browser ??= await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // Containers have no user namespaces to spare and little shared memory.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, locale: 'en-GB', timezoneId: 'UTC' });
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE);
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) troubles.push(`${message.type()}: ${message.text()} ${message.location().url}`);
  });
  page.on('pageerror', (error) => troubles.push(`uncaught: ${error.stack}`));
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== base) troubles.push(`asked elsewhere: ${request.url()}`);
  });
  await page.goto(`${base}/${address}`);
  return page;
}

/** Runs one check, which leaves nothing to complain of but what it brings about on purpose. */
export async function check(what, run, purpose = null) {
  const start = performance.now();
  await run();
  assert.deepEqual(troubles.splice(0).filter((trouble) => !purpose?.test(trouble)), [], what);
  console.log(`${what}: ${Math.round(performance.now() - start)} ms`);
}

/** Asks again and again until `holds` answers something true. */
export async function eventually(what, holds, deadline = DEADLINE) {
  const until = performance.now() + deadline;
  for (;;) {
    const value = await holds();
    if (value) return value;
    assert.ok(performance.now() < until, `waited in vain: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
}

export async function api(method, path, body, headers = {}) {
  const response = await fetch(base + path, {
    method,
    headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
    body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body),
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

/** Submits, and answers the record; once it is settled, if `wait` says so. */
export async function submit(body, { key, wait = false } = {}) {
  const headers = {};
  if (key) headers['idempotency-key'] = key;
  if (wait) headers.prefer = 'wait=20';
  const answer = await api('POST', '/v1/transactions', body, headers);
  assert.ok([200, 202].includes(answer.status), JSON.stringify(answer.body));
  return answer.body;
}

/** A moment until which nothing here waits. */
export function tomorrow() {
  return new Date(Date.now() + 86_400_000).toISOString();
}

export async function close() {
  await browser?.close();
}
