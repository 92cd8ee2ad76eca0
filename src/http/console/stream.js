// Server-sent events by fetch, because EventSource cannot send a key. A connection that ends is taken up again after
// the last event that was seen, so nothing is missed; a tab that nobody looks at holds none.

import { Problem, send } from './api.js';

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;
// Heartbeats come every 15 seconds unless the operator chose otherwise; a line that is silent for longer is dead.
const SILENCE = 60_000;

/** The events of a body, as the HTML standard reads them. `beat` is called for whatever arrives. */
export async function* events(body, beat = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let event = { type: 'message', data: [], id: undefined };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    beat();
    rest += value;
    // A carriage return at the very end may be half of a line's end.
    const held = rest.endsWith('\r') ? '\r' : '';
    const lines = (held ? rest.slice(0, -1) : rest).split(/\r\n|\n|\r/);
    rest = lines.pop() + held;
    for (const line of lines) {
      if (line === '') {
        if (event.data.length) yield { ...event, data: event.data.join('\n') };
        event = { type: 'message', data: [], id: event.id };
        continue;
      }
      const colon = line.indexOf(':');
      const [name, text] = colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')];
      if (name === 'event') event.type = text;
      else if (name === 'data') event.data.push(text);
      else if (name === 'id') event.id = text;
    }
  }
}

/**
 * Follows a route of events until the function that it answers is called.
 *
 * `on.event(type, data)` gets each event, `on.state(word, text)` how the connection is: `live`, `offline` or nothing;
 * `on.absent()` is called, and nothing more, if the gateway has no such route.
 */
export function follow(path, on) {
  const ended = new AbortController();
  run(path, on, ended.signal);
  return () => ended.abort();
}

async function run(path, on, ended) {
  let last;
  let pause = FIRST_PAUSE;
  while (!ended.aborted) {
    await seen(ended);
    if (ended.aborted) return;
    const connection = new AbortController();
    const close = () => connection.abort();
    const hidden = () => document.hidden && close();
    ended.addEventListener('abort', close);
    document.addEventListener('visibilitychange', hidden);
    let silence;
    const beat = () => {
      clearTimeout(silence);
      silence = setTimeout(close, SILENCE);
    };
    let after = FIRST_PAUSE;
    try {
      const headers = { accept: 'text/event-stream' };
      if (last !== undefined) headers['last-event-id'] = last;
      const response = await send('GET', path, { headers, signal: connection.signal });
      on.state('live', 'Live');
      pause = FIRST_PAUSE;
      beat();
      for await (const event of events(response.body, beat)) {
        last = event.id ?? last;
        on.event(event.type, event.data);
      }
    } catch (error) {
      if (ended.aborted) return;
      if (error instanceof Problem && error.status === 404) return on.absent();
      if (!document.hidden) {
        after = Math.max(pause * (0.5 + Math.random()), (error.retryAfter || 0) * 1000);
        pause = Math.min(pause * 2, LONGEST_PAUSE);
        on.state('offline', error.status === 401 ? 'Signed out' : 'Offline');
      }
    } finally {
      clearTimeout(silence);
      ended.removeEventListener('abort', close);
      document.removeEventListener('visibilitychange', hidden);
    }
    await sleep(after, ended);
  }
}

/** Does something every so often while somebody looks, until the function that it answers is called. */
export function poll(every, step) {
  const ended = new AbortController();
  (async () => {
    while (!ended.signal.aborted) {
      await seen(ended.signal);
      if (ended.signal.aborted) return;
      await step();
      await sleep(every, ended.signal);
    }
  })();
  return () => ended.abort();
}

/** Until the tab is looked at, or the signal. */
function seen(signal) {
  return new Promise((resolve) => {
    const check = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener('visibilitychange', check);
      signal.removeEventListener('abort', check);
      resolve();
    };
    document.addEventListener('visibilitychange', check);
    signal.addEventListener('abort', check);
    check();
  });
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}
