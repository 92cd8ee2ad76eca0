// The page of one transaction. Each part is drawn anew only when what it shows has changed, so that a change elsewhere
// takes nobody's place on the page away.

import { Problem, callExact, readExact } from './api.js';
import { actions } from './actions.js';
import { badge, h, notice, put, told } from './dom.js';
import { count, fullMoment, moment, pretty } from './format.js';
import { session } from './session.js';
import { follow, poll } from './stream.js';
import { bars, timeline } from './timeline.js';

const POLL_MS = 1000;

export class RecordPage {
  title = 'Transaction';
  element = h('section', { class: 'record', 'aria-label': 'Transaction' });
  #id = null;
  #record = null;
  #attempts = null;
  #parts = new Map();
  #page;
  #stop = () => {};
  #link;

  constructor(link) {
    this.#link = link;
    session.addEventListener('changed', () => this.#record && this.#draw());
  }

  async open(id) {
    this.leave();
    this.#id = id;
    this.#record = null;
    this.#parts.clear();
    this.#page = h('div', { class: 'page' });
    put(this.element, this.#page);
    this.element.scrollTop = 0;
    this.title = `Transaction ${id.slice(-12)}`;
    const base = `/v1/transactions/${encodeURIComponent(id)}`;
    try {
      await this.#take(await callExact('GET', base));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (this.#id === id) put(this.#page, h('a', { class: 'back', href: '#/' }, '← Transactions'), told(error));
      return;
    }
    if (this.#id !== id) return;
    if (this.#settled) return this.#link('', '');
    this.#stop = follow(`${base}/events`, {
      state: this.#link,
      event: (type, data) => type === 'transaction' && this.#take(readExact(data)),
      absent: () => {
        this.#link('polling', 'Every second');
        this.#stop = poll(POLL_MS, async () => this.#take(await callExact('GET', base)));
      },
    });
  }

  leave() {
    this.#stop();
    this.#stop = () => {};
    this.#id = null;
  }

  get #settled() {
    return this.#record !== null && this.#record.status !== 'pending';
  }

  /** A record as it stands now, or stood a moment ago: the same change may be told by a button and by an event. */
  async #take(record) {
    const known = this.#record;
    if (record.id !== this.#id || known?.version >= record.version) return;
    this.#record = record;
    if (this.#settled) {
      this.#stop();
      this.#link('', '');
    }
    try {
      const attempts = await callExact('GET', `/v1/transactions/${record.id}/attempts`);
      if (this.#record !== record) return;
      this.#attempts = attempts;
    } catch (error) {
      if (this.#record === record) this.#record = known;
      throw error;
    }
    this.#draw();
    this.#deliveries(record);
  }

  #draw() {
    const record = this.#record;
    const { id, status, stage, version, contract, function: name, ledger } = record;
    const buttons = actions(record, (now) => this.#take(now));
    this.#part('head', [status, stage, buttons.map((button) => button.textContent)], () => h('header', {},
      h('a', { class: 'back', href: '#/' }, '← Transactions'),
      h('h1', {}, h('span', {}, `${contract}.`), name, h('span', {}, ` on ${ledger}`)), badge(stage ?? status),
      h('div', { class: 'does' }, buttons),
      h('div', { class: 'uid' }, id, copy(id))));
    this.#part('error', record.error, () => record.error && h('div', { class: 'problem', role: 'alert' },
      h('strong', {}, record.error.message), ' ', h('code', {}, record.error.code),
      record.error.ledger_code && [' ', h('code', {}, record.error.ledger_code)],
      h('div', { class: 'hint' }, record.error.retryable ? 'The same request may well succeed if it is retried.' : 'Sent again as it is, it would most likely fail again.')));
    this.#part('facts', version, () => h('section', { class: 'card', 'aria-label': 'Facts' }, facts(record)));
    this.#part('timeline', [version, this.#attempts], () => h('section', { class: 'card' },
      h('h2', {}, 'Timeline'), bars(record, this.#attempts), timeline(record, this.#attempts)));
    this.#part('request', 0, () => h('div', { class: 'pair' },
      card('Arguments', record.args.length ? h('pre', { tabindex: 0 }, pretty(record.args)) : none('None')),
      card('Metadata', Object.keys(record.metadata).length ? names(record.metadata) : none('None'))));
    this.#part('result', version, () => record.status === 'done' && card('Result',
      record.result === null ? none('The contract returned nothing') : h('pre', { tabindex: 0 }, pretty(record.result))));
  }

  /** Draws a part if what it is made of is not what it was. */
  #part(name, made, draw) {
    const key = JSON.stringify(made) ?? '';
    const known = this.#parts.get(name);
    if (known?.key === key) return;
    const element = draw() || h('div', { hidden: true });
    if (known) known.element.replaceWith(element);
    else this.#page.append(element);
    this.#parts.set(name, { key, element });
  }

  async #deliveries(record) {
    let items = [];
    try {
      ({ items } = await callExact('GET', `/v1/transactions/${record.id}/deliveries`));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // Without them the page is still right; a gateway that has no webhooks says 404.
      if (error.status !== 404 && error.status !== 403) notice(error);
    }
    if (this.#record !== record) return;
    this.#part('deliveries', items, () => items.length > 0 && card('Webhook deliveries', h('div', { class: 'table' }, h('table', {},
      h('thead', {}, h('tr', {}, ['State', 'To', 'Tries', 'Last answer', 'Next try'].map((title) => h('th', { scope: 'col' }, title)))),
      h('tbody', {}, items.map(delivery))))));
  }
}

function delivery({ state, url, attempts, next_attempt_at }) {
  const last = attempts.at(-1);
  const answer = last ? [last.status ?? '', last.error ?? '', `${last.duration_ms} ms`].filter((part) => part !== '').join(' · ') : '';
  const kind = { delivered: 'done', failed: 'failed' }[state] ?? 'pending';
  return h('tr', {},
    h('td', {}, h('span', { class: `status ${kind}` }, state)), h('td', {}, url), h('td', {}, attempts.length),
    h('td', {}, answer), h('td', {}, state === 'pending' && next_attempt_at ? moment(next_attempt_at) : ''));
}

function facts(record) {
  const at = (text) => text && h('time', { datetime: text }, fullMoment(text));
  const other = (id) => id && h('a', { class: 'mono', href: `#/tx/${id}` }, `…${id.slice(-12)}`);
  const { by, from } = record.submitted_by;
  const submitted = by && by !== 'anonymous' && [by, from && ` (${from})`];
  const all = [
    ['Accepted', at(record.created_at)], [record.finished_at ? 'Finished' : 'Changed', at(record.updated_at)],
    ['Attempts', count(record.attempts)], ['Block', record.block !== null && count(record.block)],
    ['Ledger code', record.ledger_code], ['Not before', at(record.not_before)], ['Expires', !record.finished_at && at(record.expires_at)],
    ['Tenant', record.tenant !== 'default' && record.tenant], ['Submitted by', submitted],
    ['Retry of', other(record.retry_of)], ['Retried as', other(record.retried_by)], ['Callback', record.callback_url],
  ].filter(([, value]) => value);
  const ledger = record.tx_id && h('div', { class: 'wide' }, h('dt', {}, 'Ledger transaction id'), h('dd', {}, h('span', { class: 'mono' }, record.tx_id), copy(record.tx_id)));
  return h('dl', { class: 'facts' }, all.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))), ledger);
}

function names(map) {
  return h('dl', { class: 'names' }, Object.entries(map).map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
}

function card(title, ...content) {
  return h('section', { class: 'card' }, h('h2', {}, title), ...content);
}

function none(text) {
  return h('p', { class: 'none' }, text);
}

function copy(text) {
  const click = async () => {
    await navigator.clipboard.writeText(text);
    notice('Copied.');
  };
  // Only pages from a trustworthy address may write there.
  return navigator.clipboard && h('button', { type: 'button', class: 'quiet', 'aria-label': `Copy ${text}`, on: { click } }, 'Copy');
}
