// The one search box: an id, the ledger's id, an idempotency key, or `label=value`.

import { Problem, call, query } from './api.js';

const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The address of what was found, or nothing. */
export async function find(text) {
  if (ID.test(text) && (await exists(text.toLowerCase()))) return `#/tx/${text.toLowerCase()}`;
  for (const name of ['tx_id', 'idempotency_key']) {
    const { items } = await call('GET', `/v1/transactions${query({ [name]: text, limit: 2 })}`);
    if (items.length === 1) return `#/tx/${items[0].id}`;
    if (items.length > 1) return `#/${query({ [name]: text })}`;
  }
  const [, label, value] = /^([^=]+)=(.*)$/.exec(text) ?? [];
  return label && value ? `#/${query({ [`metadata.${label.trim()}`]: value.trim() })}` : null;
}

async function exists(id) {
  try {
    await call('GET', `/v1/transactions/${id}`);
    return true;
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return false;
    throw error;
  }
}
