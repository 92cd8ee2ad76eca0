// What may be done to a transaction, each after a question. The gateway has the last word on whether it still can be.

import { call } from './api.js';
import { dialog, h, notice } from './dom.js';
import { may } from './session.js';

/** The buttons for a record as it stands. `changed` is called with the record as it stands then. */
export function actions(record, changed) {
  const acts = may('submit') || may('operate');
  const settled = record.status !== 'pending';
  const before = ['queued', 'backoff', 'preparing'].includes(record.stage);
  return [
    !settled && before && acts && button('Cancel…', 'grave', () => cancel(record, changed)),
    record.status === 'failed' && !record.retried_by && acts && button('Retry…', 'main', () => retry(record)),
    record.stage === 'parked' && may('operate') && button('Settle…', 'main', () => settle(record, changed)),
  ].filter(Boolean);
}

function button(text, kind, click) {
  return h('button', { type: 'button', class: kind, on: { click } }, text);
}

function path(record, verb) {
  return `/v1/transactions/${record.id}/${verb}`;
}

async function cancel(record, changed) {
  const words = 'It fails with the code “cancelled” and never takes effect, unless a worker is submitting it right now: then the gateway says so, and nothing changes.';
  const now = await dialog('Cancel this transaction?', h('p', { class: 'hint' }, words), {
    yes: 'Cancel the transaction', no: 'Keep it', grave: true, accept: () => call('POST', path(record, 'cancel')),
  });
  if (now) changed(now);
}

async function retry(record) {
  const words = 'The same request is accepted once more, as a new transaction that is linked to this one.';
  const now = await dialog('Run it again?', h('p', { class: 'hint' }, words), {
    yes: 'Retry', accept: () => call('POST', path(record, 'retry')),
  });
  if (!now) return;
  notice('Accepted as a new transaction.');
  location.hash = `#/tx/${now.id}`;
}

async function settle(record, changed) {
  const field = (name, label, hint, props = {}) =>
    h('label', { class: 'field' }, label, h('input', { name, autocomplete: 'off', ...props }), hint && h('span', { class: 'hint' }, hint));
  const outcome = (value, text) => h('label', {}, h('input', { type: 'radio', name: 'outcome', value, required: true }), h('span', {}, text));
  const now = await dialog('Settle by hand', [
    h('p', { class: 'hint' }, 'Your word is final: find out on the ledger what became of it first. Ledger id: ', h('code', {}, record.tx_id ?? 'none')),
    h('fieldset', {}, h('legend', {}, 'What became of it'), outcome('done', 'Done: it took effect on the ledger'), outcome('failed', 'Failed: it had no effect, and never will')),
    field('note', 'Note', 'How you know. It is kept with the transaction.', { required: true, maxlength: 1000 }),
    field('block', 'Block (if done)', null, { inputmode: 'numeric', pattern: '[0-9]*' }),
  ], {
    yes: 'Settle',
    accept: (form) => {
      const body = { outcome: form.get('outcome'), note: form.get('note') };
      if (body.outcome === 'done' && form.get('block')) body.block = Number(form.get('block'));
      return call('POST', path(record, 'settle'), { body });
    },
  });
  if (now) changed(now);
}
