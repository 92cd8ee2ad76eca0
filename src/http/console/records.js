// The records of a list that were fetched so far, newest first. Nothing here touches the page.
//
// Invariant: what is held is, but for records that the filter no longer wants, exactly what the gateway would list
// from the newest record down to the end of the last page; `cursor` is where the next page begins.

import { inline } from './format.js';

// Identifiers are UUIDs of version 7: their text is ordered by the moment of acceptance.
const newerFirst = (a, b) => (a.id < b.id ? 1 : a.id > b.id ? -1 : 0);

/** What the list shows of a record; of a hundred thousand, no more is kept. */
function slim(record) {
  const { id, version, status, stage, ledger, contract, function: name, attempts, created_at, finished_at, error } = record;
  return {
    id, version, status, stage, ledger, contract, name, attempts, created_at, finished_at,
    why: error?.message ?? '',
    args: inline(record.args),
    labels: Object.entries(record.metadata).map(([label, value]) => `${label}=${value}`).join(' '),
  };
}

export class Records {
  #items = [];
  #byId = new Map();
  #wanted;
  cursor = null;
  /** Whether the first page was fetched. */
  begun = false;

  /** `wanted` says of a record that changed whether it still belongs here. */
  constructor(wanted) {
    this.#wanted = wanted;
  }

  get length() {
    return this.#items.length;
  }

  /** Whether there is nothing below the last one. */
  get complete() {
    return this.begun && this.cursor === null;
  }

  at(index) {
    return this.#items[index];
  }

  /** Where a record stands, or where it would be put. */
  indexOf(id) {
    let [low, high] = [0, this.#items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#items[middle].id > id) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  has(id) {
    return this.#byId.has(id);
  }

  /** Adds a page below what is there. Records that arrived meanwhile by an event are not taken back in time. */
  append({ items, next_cursor }) {
    this.cursor = next_cursor;
    this.begun = true;
    this.#take(items, true);
  }

  /** Takes in records, each as new as it may be. Answers how many stand above `index` now that did not before. */
  merge(records, index = 0) {
    const anchor = this.#items[index]?.id;
    this.#take(records, false);
    return anchor === undefined ? 0 : this.indexOf(anchor) - index;
  }

  #take(records, isPage) {
    const fresh = [];
    let gone = false;
    for (const record of records) {
      const known = this.#byId.get(record.id);
      if (known && known.version >= record.version) continue;
      const wanted = this.#wanted(record);
      if (known && wanted) Object.assign(known, slim(record));
      else if (known) {
        this.#byId.delete(known.id);
        gone = true;
      } else if (wanted && (isPage || this.#reaches(record.id))) {
        const item = slim(record);
        this.#byId.set(item.id, item);
        fresh.push(item);
      }
    }
    if (gone) this.#items = this.#items.filter((item) => this.#byId.has(item.id));
    if (fresh.length) this.#insert(fresh.sort(newerFirst));
  }

  /** Not what a later page will bring. */
  #reaches(id) {
    return this.cursor === null || this.#items.length === 0 || id > this.#items.at(-1).id;
  }

  #insert(fresh) {
    const last = this.#items.at(-1);
    if (!last || fresh[0].id < last.id) this.#items.push(...fresh);
    else if (fresh.at(-1).id > this.#items[0].id) this.#items.unshift(...fresh);
    else this.#items = this.#items.concat(fresh).sort(newerFirst);
  }
}
