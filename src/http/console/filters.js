// What the list is asked for: read from, and written to, the address, so that a filtered list can be bookmarked.

import { Problem, call } from './api.js';
import { h, put } from './dom.js';

const STATUSES = [['', 'All'], ['pending', 'Pending'], ['done', 'Done'], ['failed', 'Failed']];
const STAGES = ['queued', 'preparing', 'submitted', 'backoff', 'parked'];
const SPANS = [['', 'Any time'], ['15m', 'Last 15 minutes'], ['1h', 'Last hour'], ['24h', 'Last 24 hours'], ['7d', 'Last 7 days'], ['range', 'From … to …']];
const MINUTES = { m: 1, h: 60, d: 1440 };
/** Those that never change in the life of a record. */
const LASTING = (name) => !['status', 'stage', 'span'].includes(name);

/** The parameters of the list for what the address says. */
export function listed(filter) {
  const { span, ...params } = filter;
  const [, number, unit] = /^(\d+)([mhd])$/.exec(span ?? '') ?? [];
  if (number) params.created_from = new Date(Date.now() - number * MINUTES[unit] * 60_000).toISOString();
  return params;
}

/** The parameters of the events: a record has to be told when it leaves the list, too. */
export function followed(filter) {
  return Object.fromEntries(Object.entries(listed(filter)).filter(([name]) => LASTING(name)));
}

/** Whether a record of the events belongs to the list. */
export function wanted(filter) {
  return ({ status, stage }) => (!filter.status || filter.status === status) && (!filter.stage || filter.stage === stage);
}

/** The bar above the list. `change` is called with the new filter. */
export class FilterBar {
  #filter = {};
  #change;
  #form;
  #chips = h('div', { class: 'chips' });
  #ledgers = h('select', { name: 'ledger', 'aria-label': 'Ledger' });
  element;

  constructor(change) {
    this.#change = change;
    const statuses = STATUSES.map(([value, name]) =>
      h('label', {}, h('input', { type: 'radio', name: 'status', value }), name));
    const stages = [['', 'Any stage'], ...STAGES.map((stage) => [stage, stage])];
    const text = (name, label) => h('input', { name, placeholder: label, 'aria-label': label, autocomplete: 'off', spellcheck: 'false' });
    const at = (name, label) => h('input', { name, type: 'datetime-local', step: 1, 'aria-label': label });
    const toggle = h('button', { type: 'button', class: 'toggle', 'aria-expanded': 'false', on: { click: () => {
      toggle.setAttribute('aria-expanded', String(this.#form.classList.toggle('open')));
    } } }, 'Filters');
    this.#form = h('form', { class: 'filters', 'aria-label': 'Filters', on: {
      change: () => this.#read(),
      submit: (event) => { event.preventDefault(); this.#read(); },
    } },
    h('div', { class: 'segments', role: 'radiogroup', 'aria-label': 'Status' }, statuses), toggle,
    h('div', { class: 'more' },
      h('select', { name: 'stage', 'aria-label': 'Stage' }, options(stages)),
      this.#ledgers, text('contract', 'Contract'), text('function', 'Function'), h('input', { name: 'label', placeholder: 'label=value', 'aria-label': 'Metadata, as label=value', autocomplete: 'off', spellcheck: 'false' }),
      h('select', { name: 'span', 'aria-label': 'Accepted' }, options(SPANS)),
      h('div', { class: 'range' }, at('created_from', 'Accepted from'), at('created_before', 'Accepted before'))));
    this.element = h('div', {}, this.#form, this.#chips);
    put(this.#ledgers, options([['', 'Any ledger']]));
    this.#nameLedgers();
  }

  async #nameLedgers() {
    try {
      const { items } = await call('GET', '/v1/ledgers');
      put(this.#ledgers, options([['', 'Any ledger'], ...items.map(({ name }) => [name, name])]));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
    }
    this.show(this.#filter);
  }

  /** Shows what the address says. */
  show(filter) {
    this.#filter = filter;
    const { elements } = this.#form;
    for (const radio of elements.status) radio.checked = radio.value === (filter.status ?? '');
    for (const name of ['stage', 'ledger', 'contract', 'function']) elements[name].value = filter[name] ?? '';
    const ranged = Boolean(filter.created_from || filter.created_before);
    elements.span.value = ranged ? 'range' : filter.span ?? '';
    this.#form.querySelector('.range').hidden = !ranged;
    for (const name of ['created_from', 'created_before']) elements[name].value = filter[name] ? local(filter[name]) : '';
    const shown = Object.entries(filter).filter(([name]) => name.startsWith('metadata.') || ['tx_id', 'idempotency_key', 'tenant'].includes(name));
    put(this.#chips, shown.map(([name, value]) => {
      const text = `${name.replace(/^metadata\./, '')}=${value}`;
      return h('button', { type: 'button', class: 'chip', title: `Remove ${text}`, 'aria-label': `Remove the filter ${text}`, on: { click: () => {
        const { [name]: _, ...rest } = this.#filter;
        this.#change(rest);
      } } }, h('span', {}, text));
    }));
  }

  #read() {
    const { elements } = this.#form;
    const filter = Object.fromEntries(Object.entries(this.#filter).filter(([name]) =>
      name.startsWith('metadata.') || ['tx_id', 'idempotency_key', 'tenant'].includes(name)));
    for (const name of ['status', 'stage', 'ledger', 'contract', 'function']) {
      const value = elements[name].value.trim();
      if (value) filter[name] = value;
    }
    if (elements.span.value === 'range') {
      this.#form.querySelector('.range').hidden = false;
      for (const name of ['created_from', 'created_before']) {
        if (elements[name].value) filter[name] = new Date(elements[name].value).toISOString();
      }
      if (!filter.created_from && !filter.created_before) return;
    } else if (elements.span.value) {
      filter.span = elements.span.value;
    }
    const [, label, value] = /^([^=]+)=(.*)$/.exec(elements.label.value.trim()) ?? [];
    elements.label.setAttribute('aria-invalid', String(Boolean(elements.label.value.trim() && !label)));
    if (label) {
      filter[`metadata.${label.trim()}`] = value.trim();
      elements.label.value = '';
    }
    this.#change(filter);
  }
}

function options(pairs) {
  return pairs.map(([value, name]) => h('option', { value }, name));
}

/** A moment as the control for moments takes it. */
function local(text) {
  const at = new Date(text);
  return new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
