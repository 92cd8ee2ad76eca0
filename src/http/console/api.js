// Calls to the gateway, with the key of this tab. A refusal is thrown as the problem that the gateway answered.

const KEY = 'sluicegate.key';

/** The gateway refused, or could not be reached (status 0). */
export class Problem extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.title ?? `The gateway answered ${status}`);
    this.status = status;
    this.code = problem.code;
    this.title = problem.title;
    this.detail = problem.detail;
    this.errors = problem.errors ?? [];
    this.retryAfter = retryAfter;
  }

  /** The gateway does not have this route: it is older, or offers less. */
  get noRoute() {
    return this.code === 'SG-0005' || this.code === 'SG-0006';
  }
}

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

let unauthorized = async () => false;

/** What to do when credentials are needed; answers whether to try again. */
export function onUnauthorized(ask) {
  unauthorized = ask;
}

/** Sends a request with the key, and throws a Problem unless it is answered with success. */
export async function send(method, path, { headers = {}, body, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const all = { ...headers };
    if (key) all.authorization = `Bearer ${key}`;
    if (body !== undefined) all['content-type'] = 'application/json';
    let response;
    try {
      // Relative: the gateway may be behind a proxy, below a path of its own.
      response = await fetch(`.${path}`, {
        method, headers: all, signal, cache: 'no-store', body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, { title: 'The gateway cannot be reached', detail: error.message });
    }
    if (response.ok) return response;
    const refusal = new Problem(response.status, await problem(response), Number(response.headers.get('retry-after')));
    if (refusal.status !== 401) throw refusal;
    // Another request may have got a new key meanwhile.
    if (key === sessionStorage.getItem(KEY) && !(await unauthorized(refusal))) throw refusal;
  }
}

async function problem(response) {
  try {
    return await response.json();
  } catch {
    return {};
  }
}

/** Sends a request and answers the JSON that comes back. */
export async function call(method, path, options) {
  return JSON.parse(await (await send(method, path, options)).text());
}

/** The same for records, whose numbers keep every digit. */
export async function callExact(method, path, options) {
  return readExact(await (await send(method, path, options)).text());
}

// There may be a number that JavaScript would round or spell in its own way. (Moments do not look like one.)
const FRAGILE = /[[,:]\s*-?(?:\d{16}|\d+(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)\s*[,\]}])/;

/** Parses a record. Where the browser can, a number that would change keeps its text and is written out as it was. */
export function readExact(text) {
  if (typeof JSON.rawJSON !== 'function' || !FRAGILE.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_name, value, { source }) =>
    typeof value === 'number' && String(value) !== source ? JSON.rawJSON(source) : value);
}

/** `?a=b` of all that has a value. */
export function query(params) {
  const pairs = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return pairs.length ? `?${new URLSearchParams(pairs)}` : '';
}
