// A long list of which only the rows in sight are in the page. An element serves row after row as one scrolls: row
// number n always sits in element n modulo their count, so scrolling by one row changes one element.

import { h } from './dom.js';

const BEYOND = 6;

export class Rows {
  #view;
  #holder = h('div', { class: 'rows', role: 'rowgroup' });
  #pool = [];
  #source;
  #planned = false;
  #height = 0;

  /** `source` has `length`, `at(index)`, `make()` → element, `fill(element, item, index)` and `end()`. */
  constructor(view, source) {
    this.#view = view;
    this.#source = source;
    view.append(this.#holder);
    view.addEventListener('scroll', () => this.plan(), { passive: true });
    new ResizeObserver(() => this.plan()).observe(view);
  }

  /** Draws before the next frame, however often it is asked. */
  plan() {
    if (this.#planned) return;
    this.#planned = true;
    requestAnimationFrame(() => {
      this.#planned = false;
      this.#draw();
    });
  }

  /** The number of the first row in sight. */
  get first() {
    return this.#height ? Math.floor(this.#view.scrollTop / this.#height) : 0;
  }

  get atTop() {
    return this.#view.scrollTop < 1;
  }

  /** Keeps in sight what is, although so many rows were put above it. */
  shift(rows) {
    this.#size();
    if (rows && !this.atTop) this.#view.scrollTop += rows * this.#height;
  }

  /** Scrolls as little as is needed to see a row. */
  reveal(index) {
    const [top, bottom] = [index * this.#height, (index + 1) * this.#height];
    const { scrollTop } = this.#view;
    if (top < scrollTop) this.#view.scrollTop = top;
    else if (bottom > scrollTop + this.#room) this.#view.scrollTop = bottom - this.#room;
  }

  /** How high the part is in which rows show; a heading may stay above them. */
  get #room() {
    return this.#view.clientHeight - this.#holder.offsetTop;
  }

  /** How many rows fit. */
  get page() {
    return this.#height ? Math.max(1, Math.floor(this.#room / this.#height) - 1) : 1;
  }

  #size() {
    this.#height = parseFloat(getComputedStyle(this.#view).getPropertyValue('--row'));
    const height = `${this.#source.length * this.#height}px`;
    if (this.#holder.style.height !== height) this.#holder.style.height = height;
  }

  #draw() {
    if (!this.#view.clientHeight) return;
    this.#size();
    // Asked for before anything is changed: afterwards, the browser would have to lay everything out to answer.
    const { first, page } = this;
    const inSight = page + 3;
    while (this.#pool.length < inSight + 2 * BEYOND) {
      const element = this.#source.make();
      this.#pool.push(element);
      this.#holder.append(element);
    }
    const from = Math.max(0, first - BEYOND);
    const until = Math.min(from + this.#pool.length, this.#source.length);
    for (let index = from; index < until; index += 1) {
      const element = this.#pool[index % this.#pool.length];
      element.hidden = false;
      element.style.transform = `translateY(${index * this.#height}px)`;
      this.#source.fill(element, this.#source.at(index), index);
    }
    for (let index = until; index < from + this.#pool.length; index += 1) this.#pool[index % this.#pool.length].hidden = true;
    if (first + 3 * inSight >= this.#source.length) this.#source.end();
  }
}
