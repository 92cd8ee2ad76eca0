// The one search box: an id, an idempotency key, `label=value`, or the ledger's id.

import { Problem, call, query } from './api.js';

const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The address of what was found, or nothing. The ledger's ids may take a while: they are looked for page by page. */
export async function find(text, signal) {
  if (ID.test(text) && (await exists(text.toLowerCase(), signal))) return `#/tx/${text.toLowerCase()}`;
  const keyed = await first({ idempotency_key: text }, signal);
  if (keyed) return `#/tx/${keyed.id}`;
  const [, label, value] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (label) return `#/${query({ [`metadata.${label.trim()}`]: value.trim() })}`;
  const sent = await first({ tx_id: text }, signal);
  return sent ? `#/tx/${sent.id}` : null;
}

/** The newest record that matches. A page may hold nothing although there are more. */
async function first(params, signal) {
  for (let cursor = ''; cursor !== null;) {
    const page = await call('GET', `/v1/transactions${query({ ...params, limit: 1, cursor })}`, { signal });
    if (page.items.length) return page.items[0];
    cursor = page.next_cursor;
  }
  return null;
}

async function exists(id, signal) {
  try {
    await call('GET', `/v1/transactions/${id}`, { signal });
    return true;
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return false;
    throw error;
  }
}
