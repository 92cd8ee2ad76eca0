// The lanes: what waits, how fast it goes, how much of it conflicts; and, for operators, how fast it may go.

import { Problem, call } from './api.js';
import { badge, h, notice, put, told } from './dom.js';
import { count, duration, rate } from './format.js';
import { operates, session } from './session.js';
import { sparkline } from './sparkline.js';
import { poll } from './stream.js';

const POLL_MS = 2000;
/** The slider goes from 0.1 to 10,000 a second, each step by the same factor. */
const [LOWEST, HIGHEST, STEPS] = [-1, 4, 500];

export class LanesPage {
  title = 'Lanes';
  #cards = new Map();
  #body = h('div', { class: 'lanes' });
  #trouble = h('div', { role: 'alert' });
  #stop = () => {};
  #link;
  element = h('section', { 'aria-label': 'Lanes' }, this.#body);

  constructor(link) {
    this.#link = link;
    this.#body.append(this.#trouble);
    session.addEventListener('changed', () => this.#cards.forEach((card) => card.gate()));
  }

  open() {
    this.leave();
    this.#stop = poll(POLL_MS, () => this.#load());
  }

  leave() {
    this.#stop();
  }

  async #load() {
    try {
      const { items } = await call('GET', '/v1/ledgers');
      this.#link('live', 'Every 2 s');
      put(this.#trouble);
      for (const lane of items) {
        if (!this.#cards.has(lane.name)) {
          this.#cards.set(lane.name, new LaneCard(lane.name));
          this.#body.append(this.#cards.get(lane.name).element);
        }
        this.#cards.get(lane.name).show(lane);
      }
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.#link('offline', 'Offline');
      put(this.#trouble, told(error));
    }
  }
}

class LaneCard {
  #name;
  #lane = null;
  #state = h('span');
  #outage = h('div');
  #figures = h('dl', { class: 'figures' });
  #settings = h('span', { class: 'settings' });
  #pause = h('button', { type: 'button', on: { click: () => this.#change({ paused: !this.#lane.paused }) } });
  #reset = h('button', { type: 'button', class: 'quiet', on: { click: () => this.#change({ rate_per_second: null }) } }, 'As configured');
  #number = h('input', { type: 'number', min: 0.001, max: 1_000_000, step: 'any' });
  #slider = h('input', { type: 'range', min: 0, max: STEPS });
  #does = h('div', { class: 'does' }, this.#pause);
  #rate;
  element;

  constructor(name) {
    this.#name = name;
    this.#number.setAttribute('aria-label', `Rate limit of ${name} per second`);
    this.#slider.setAttribute('aria-label', `Rate limit of ${name}`);
    this.#slider.addEventListener('input', () => { this.#number.value = rounded(10 ** (LOWEST + (this.#slider.value / STEPS) * (HIGHEST - LOWEST))); this.#aloud(); });
    this.#number.addEventListener('input', () => this.#slide(this.#number.value));
    for (const input of [this.#slider, this.#number]) input.addEventListener('change', () => this.#send());
    this.#rate = h('label', { class: 'rate' }, 'Rate limit', this.#slider, this.#number, '/s');
    this.element = h('section', { class: 'card lane', 'aria-label': `Lane ${name}` },
      h('header', {}, h('h1', {}, name), this.#state, this.#does),
      this.#outage, this.#figures, h('div', { class: 'tuning' }, this.#rate, this.#reset, this.#settings));
  }

  /** Offers only what may be done. */
  gate() {
    const lane = this.#lane;
    // A gateway that cannot be changed while it runs does not say whether it is paused.
    const can = operates() && lane?.paused !== undefined;
    this.#does.hidden = this.#rate.hidden = !can;
    this.#reset.hidden = !can || lane.overrides?.rate_per_second === undefined;
    this.#pause.textContent = lane?.paused ? 'Resume' : 'Pause';
    this.#pause.classList.toggle('main', lane?.paused === true);
  }

  show(lane) {
    this.#lane = lane;
    const { kind, state, outage, backlog, in_flight, rate_per_second, burst, batch_size, batch_timeout_ms, max_in_flight } = lane;
    put(this.#state, badge(state), ' ', h('span', { class: 'hint' }, kind));
    put(this.#outage, outage && h('div', { class: 'problem' }, outage));
    const { points, seconds } = series(lane.history);
    const last = points.at(-1);
    const span = duration(seconds * points.length * 1000);
    const drawn = (name, kind, what, unit = '') => {
      const values = points.map((point) => point[name]);
      return points.length > 1 && sparkline(values, kind, `${what} over ${span}: now ${rate(values.at(-1))}${unit}, at most ${rate(Math.max(...values))}${unit}`);
    };
    put(this.#figures,
      figure('Backlog', [count(backlog), h('small', {}, ` ${count(in_flight)} in flight`)], drawn('backlog', '', 'Backlog')),
      last && figure('Done', [rate(last.done), h('small', {}, ' /s')], drawn('done', 'done', 'Done', ' a second')),
      last && figure('Submissions', [rate(last.submissions), h('small', {}, ` of ${bound(lane)} /s`)], drawn('submissions', '', 'Submissions', ' a second')),
      !last && figure('Rate limit', [rate(rate_per_second), h('small', {}, ' /s')]),
      lane.conflict_share !== undefined && figure('Conflicts', [percent(lane.conflict_share), h('small', {}, ' of submissions')], drawn('conflicts', 'conflicts', 'Conflicts', ' a second')));
    put(this.#settings, `limit ${rate(rate_per_second)}/s, burst ${count(burst)}, batches of ${count(batch_size)} or ${duration(batch_timeout_ms)}, ${count(max_in_flight)} in flight at most`);
    if (!this.#rate.contains(document.activeElement)) {
      this.#number.value = rate_per_second;
      this.#slide(rate_per_second);
    }
    this.gate();
  }

  #slide(value) {
    this.#slider.value = value > 0 ? ((Math.log10(value) - LOWEST) / (HIGHEST - LOWEST)) * STEPS : 0;
    this.#aloud();
  }

  #aloud() {
    this.#slider.setAttribute('aria-valuetext', `${this.#number.value} a second`);
  }

  #send() {
    const value = Number(this.#number.value);
    this.#number.setAttribute('aria-invalid', String(!this.#number.checkValidity()));
    if (value > 0 && this.#number.checkValidity()) this.#change({ rate_per_second: value });
  }

  async #change(body) {
    try {
      this.show(await call('PATCH', `/v1/ledgers/${encodeURIComponent(this.#name)}`, { body }));
    } catch (error) {
      notice(error);
    }
  }
}

/** The rate that may be used now; below the limit, with the reason. */
function bound({ rate_per_second, adaptive }) {
  if (!adaptive || adaptive.reason === 'limit') return rate(rate_per_second);
  return `${rate(adaptive.rate_per_second)} (${adaptive.reason})`;
}

function figure(name, value, drawing) {
  return h('div', { class: 'figure' }, h('dt', {}, name), h('dd', {}, value), drawing && h('dd', {}, drawing));
}

/** Two digits are enough for whoever drags. */
function rounded(value) {
  return Number(value.toPrecision(2));
}

function percent(share) {
  return `${rate(share * 100)} %`;
}

/** The points of a history, its counters as rates per second. */
function series(history) {
  if (!history) return { points: [], seconds: 0 };
  const seconds = history.interval_seconds;
  const perSecond = (point) => ({
    backlog: point.backlog,
    done: point.done / seconds,
    submissions: point.submissions / seconds,
    conflicts: point.conflicts / seconds,
  });
  return { points: history.points.map(perSecond), seconds };
}
