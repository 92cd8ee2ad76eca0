// The page of all transactions: filters, the rows in sight, and what changes while one looks.
//
// The first page is fetched at once, and again when the stream of events says where it begins, so nothing falls
// between the two. Older pages come as one scrolls. Without a stream, the newest page is fetched every two seconds.

import { Problem, callExact, query, readExact } from './api.js';
import { badge, h, put, told } from './dom.js';
import { FilterBar, followed, listed, wanted } from './filters.js';
import { between, count, duration, fullMoment, moment } from './format.js';
import { Records } from './records.js';
import { Rows } from './rows.js';
import { follow, poll } from './stream.js';

const FIRST_PAGE = 100;
const PAGE = 500;
const POLL_MS = 2000;
/** More than so many changes between two frames are not worth following one by one. */
const MOST_QUEUED = 5000;
const HEADS = [['state', 'Status'], ['call', 'Call'], ['ledger', 'Ledger'], ['args', 'Arguments'], ['labels', 'Metadata'], ['at num', 'Accepted'], ['took num', 'Took'], ['id', 'Id']];

export class ListPage {
  title = 'Transactions';
  element;
  #bar;
  #view;
  #rows;
  #foot = h('span', { role: 'status' });
  #empty = h('div', { class: 'empty', hidden: true });
  #above = h('button', { type: 'button', class: 'above main', hidden: true, on: { click: () => this.top() } });
  #hash = null;
  #params = {};
  #records = new Records(() => true);
  #queue = new Map();
  #loading = null;
  #stop = () => {};
  #selected = null;
  #unseen = 0;
  #link;

  /** `link` shows how the connection is. */
  constructor(link) {
    this.#link = link;
    this.#bar = new FilterBar((filter) => { location.hash = `#/${query(filter)}`; });
    this.#view = h('div', { class: 'view', tabindex: 0, role: 'grid', 'aria-label': 'Transactions, newest first', 'aria-readonly': 'true', 'aria-colcount': HEADS.length, on: {
      click: (event) => this.#clicked(event),
    } });
    const columns = HEADS.map(([name, title]) => h('span', { class: name, role: 'columnheader' }, title));
    this.#view.append(h('div', { class: 'head', role: 'row', 'aria-rowindex': 1 }, columns));
    const grid = h('div', { class: 'grid' }, this.#view, this.#empty);
    const foot = h('div', { class: 'foot' }, this.#foot);
    this.element = h('section', { class: 'list', 'aria-label': 'Transactions' }, this.#bar.element, this.#above, grid, foot);
    const page = this;
    this.#rows = new Rows(this.#view, {
      get length() { return page.#records.length; },
      at: (index) => page.#records.at(index),
      make: makeRow,
      fill: (element, item, index) => fillRow(element, item, index, item.id === page.#selected),
      end: () => page.#more(),
    });
    this.#view.addEventListener('scroll', () => this.#tellUnseen(), { passive: true });
  }

  /** Shows what the address says. Coming back from a record, everything is where it was. */
  open(params) {
    if (params.toString() === this.#hash) {
      this.#rows.plan();
      // Whoever types in the search box already goes on typing.
      if (!document.activeElement.closest('.top')) this.#view.focus({ preventScroll: true });
      return;
    }
    this.#hash = params.toString();
    const filter = Object.fromEntries(params);
    this.#bar.show(filter);
    this.#begin(filter);
  }

  #begin(filter) {
    this.#stop();
    this.#params = listed(filter);
    this.#queue.clear();
    this.#unseen = 0;
    const load = () => this.#begin(filter);
    let joined = false;
    this.#stop = follow(`/v1/events${query(followed(filter))}`, {
      state: this.#link,
      event: (type, data) => {
        // Later connections go on where the one before ended.
        if (type === 'ready' && !joined) {
          joined = true;
          this.#refresh();
        } else if (type === 'reset') {
          load();
        } else if (type === 'transaction') {
          this.#arrived(readExact(data), load);
        }
      },
      absent: () => {
        this.#link('polling', 'Every 2 s');
        this.#stop = poll(POLL_MS, () => this.#refresh());
      },
    });
    this.#records = new Records(wanted(filter));
    this.#view.scrollTop = 0;
    this.#loading = null;
    this.#more();
  }

  /** Fetches the page below what is there. */
  #more() {
    const records = this.#records;
    if (this.#loading || records.complete) return;
    const params = { ...this.#params, limit: records.begun ? PAGE : FIRST_PAGE, cursor: records.cursor };
    this.#loading = this.#fetch(params, (page) => {
      if (records !== this.#records) return;
      records.append(page);
      this.#loading = null;
      this.#drawn();
      this.#flush();
    });
  }

  /** Fetches the newest page, for what may have been missed. */
  #refresh() {
    const records = this.#records;
    if (!records.begun) return this.#more();
    return this.#fetch({ ...this.#params, limit: FIRST_PAGE }, ({ items, next_cursor }) => {
      if (records !== this.#records) return;
      const joins = next_cursor === null || records.length === 0 || items.some(({ id }) => records.has(id));
      if (joins) return this.#merge(items);
      this.#records = new Records(wanted(this.#params));
      this.#records.append({ items, next_cursor });
      this.#drawn();
    });
  }

  async #fetch(params, done) {
    const records = this.#records;
    try {
      done(await callExact('GET', `/v1/transactions${query(params)}`));
      this.#tell(null);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (records !== this.#records) return;
      this.#loading = null;
      this.#tell(error);
    }
  }

  #arrived(record, load) {
    const first = this.#queue.size === 0;
    this.#queue.set(record.id, record);
    if (this.#queue.size > MOST_QUEUED) load();
    else if (first) requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    if (!this.#records.begun || this.#queue.size === 0) return;
    const queued = [...this.#queue.values()];
    this.#queue.clear();
    this.#merge(queued);
  }

  #merge(items) {
    const above = this.#records.merge(items, this.#rows.first);
    this.#rows.shift(above);
    if (!this.#rows.atTop) this.#unseen = Math.max(0, this.#unseen + above);
    this.#drawn();
  }

  #drawn() {
    const { length, complete } = this.#records;
    this.#foot.textContent = complete ? `${count(length)} ${length === 1 ? 'transaction' : 'transactions'}` : `${count(length)} loaded, more below`;
    this.#view.setAttribute('aria-rowcount', complete ? length + 1 : -1);
    this.#tellUnseen();
    this.#rows.plan();
  }

  #tellUnseen() {
    if (this.#rows.atTop) this.#unseen = 0;
    this.#above.hidden = this.#unseen === 0;
    this.#above.textContent = `${count(this.#unseen)} new ↑`;
  }

  #tell(error) {
    const { length, begun, complete } = this.#records;
    this.#empty.hidden = length > 0 || !(begun || error);
    if (error) put(this.#empty, told(error));
    else if (!complete) put(this.#empty, h('p', {}, 'Looking through older transactions…'));
    else if (Object.keys(this.#params).length) put(this.#empty, h('p', {}, 'No transaction matches these filters.'));
    else put(this.#empty, h('p', {}, 'No transactions yet. They appear here as they are accepted.'));
    if (error && length) this.#foot.textContent = error.message;
  }

  /** Back to the newest. */
  top() {
    this.#view.scrollTop = 0;
    this.#view.focus({ preventScroll: true });
  }

  #clicked(event) {
    const row = event.target.closest('.row');
    if (!row || event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    this.#select(Number(row.getAttribute('aria-rowindex')) - 2);
    this.#enter();
  }

  #enter() {
    if (this.#selected) location.hash = `#/tx/${this.#selected}`;
  }

  #select(index) {
    const { length } = this.#records;
    if (length === 0) return;
    const at = Math.min(Math.max(index, 0), length - 1);
    this.#selected = this.#records.at(at).id;
    this.#view.setAttribute('aria-activedescendant', `r-${this.#selected}`);
    this.#rows.reveal(at);
    this.#rows.plan();
  }

  /** A key that was pressed, not in a field. Answers whether it meant something here. */
  key(event) {
    const at = this.#selected === null ? -1 : this.#records.indexOf(this.#selected);
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: this.#rows.page, PageUp: -this.#rows.page, Home: -Infinity, End: Infinity }[event.key];
    if (step !== undefined) {
      this.#view.focus({ preventScroll: true });
      this.#select(at + step);
      return true;
    }
    if (event.key === 'Enter' && document.activeElement === this.#view) {
      this.#enter();
      return true;
    }
    return false;
  }
}

function makeRow() {
  const cell = (name, ...children) => h('span', { class: name, role: 'gridcell' }, ...children);
  return h('div', { class: 'row', role: 'row' },
    cell('state', badge('pending')), cell('call', h('span'), ''), cell('ledger'), cell('args'), cell('labels'),
    cell('at num'), cell('took num'), cell('id', h('a', { tabindex: -1 })));
}

function fillRow(row, item, index, selected) {
  row.setAttribute('aria-selected', String(selected));
  row.setAttribute('aria-rowindex', index + 2);
  const key = `${item.id} ${item.version}`;
  if (row.dataset.key === key) return;
  const [state, call, ledger, args, labels, at, took, id] = row.children;
  // It changed under the eyes of whoever looks: say so, once.
  row.classList.toggle('fresh', row.dataset.key?.startsWith(item.id) === true);
  row.dataset.key = key;
  row.id = `r-${item.id}`;
  const word = item.stage ?? item.status;
  state.firstChild.className = `status ${word}`;
  state.firstChild.textContent = word;
  call.firstChild.textContent = `${item.contract}.`;
  call.lastChild.textContent = item.name;
  call.title = `${item.contract}.${item.name} on ${item.ledger}`;
  ledger.textContent = item.ledger;
  args.textContent = item.why || item.args;
  args.classList.toggle('why', item.why !== '');
  args.title = item.why;
  labels.textContent = item.labels;
  labels.title = item.labels;
  at.textContent = moment(item.created_at);
  at.title = fullMoment(item.created_at);
  const tries = item.attempts > 1 ? ` ×${item.attempts}` : '';
  took.textContent = `${item.finished_at ? duration(between(item.created_at, item.finished_at)) : ''}${tries}`;
  took.title = item.attempts === 1 ? '1 attempt' : `${item.attempts} attempts`;
  took.classList.toggle('tries', item.attempts > 1);
  id.firstChild.textContent = `…${item.id.slice(-12)}`;
  id.firstChild.title = item.id;
  id.firstChild.href = `#/tx/${item.id}`;
}
