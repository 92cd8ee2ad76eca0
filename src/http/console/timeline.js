// What happened to a transaction, in order: accepted, waits, attempts with their conflicts, what operators did, the end.

import { badge, h, svg } from './dom.js';
import { between, duration, fullMoment } from './format.js';

/** Shorter pauses between two steps are not worth a line. */
const WORTH_TELLING_MS = 20;
const WIDTH = 1000;
const ACTED = { cancel: 'Cancelled', retry: 'Retried', settle: 'Settled' };

/** The steps, each with a moment, a kind and what to say. */
function steps(record, { attempts, items }) {
  const all = [{ at: record.created_at, kind: 'accepted', text: ['Accepted', named(record.submitted_by)] }];
  const forgotten = attempts - items.length;
  if (forgotten > 0) {
    all.push({ at: items[0]?.started_at ?? record.updated_at, kind: 'wait', text: [`${forgotten} earlier ${forgotten === 1 ? 'attempt is' : 'attempts are'} no longer remembered`] });
  }
  let free = record.created_at;
  for (const attempt of items) {
    const waited = between(free, attempt.started_at);
    if (waited >= WORTH_TELLING_MS && !(forgotten > 0 && attempt === items[0])) {
      const why = attempt.number === 1 ? 'Waited' : 'Backed off';
      all.push({ at: free, kind: 'wait', text: [`${why} ${duration(waited)}`] });
    }
    all.push({ at: attempt.started_at, kind: attempt.outcome ?? 'open', text: attemptText(attempt) });
    free = attempt.settled_at ?? attempt.started_at;
  }
  for (const action of record.actions) {
    all.push({ at: action.at, kind: action.action, text: [h('b', {}, ACTED[action.action] ?? action.action), ` by ${action.by}`, action.note && h('span', { class: 'hint' }, action.note)] });
  }
  all.push(end(record, free));
  return all;
}

/** Who, unless nobody has to say who they are. */
function named({ by }) {
  return by && by !== 'anonymous' && ` from ${by}`;
}

function attemptText({ number, outcome, code, message, started_at, sent_at, settled_at, tx_id, touched }) {
  const told = [
    sent_at && `prepared in ${duration(between(started_at, sent_at))}`,
    sent_at && settled_at && `outcome after ${duration(between(sent_at, settled_at))}`,
  ].filter(Boolean).join(', ');
  const keys = touched ? touched.reads.length + touched.writes.length : 0;
  return [
    h('b', {}, `Attempt ${number} `), badge(outcome ?? 'under way'), code && [' ', h('code', {}, code)],
    message && h('div', {}, message),
    told && h('span', { class: 'hint' }, told),
    (tx_id || keys > 0) && h('details', {}, h('summary', {}, keys ? `Ledger id and ${keys} ${keys === 1 ? 'key' : 'keys'}` : 'Ledger id'),
      tx_id && h('div', {}, h('code', {}, tx_id)),
      keys > 0 && [keyList('reads', touched.reads), keyList('writes', touched.writes), touched.truncated && h('div', {}, 'and more')]),
  ];
}

function keyList(what, keys) {
  return keys.length > 0 && h('div', {}, `${what} `, keys.map((key) => h('code', {}, key)));
}

function end(record, free) {
  const took = duration(between(record.created_at, record.updated_at));
  if (record.status === 'done') return { at: record.finished_at, kind: 'done', text: [h('b', {}, 'Done'), record.block !== null && ` in block ${record.block}`, ` after ${took}`] };
  if (record.status === 'failed') return { at: record.finished_at, kind: 'failed', text: [h('b', {}, 'Failed'), ` after ${took}`] };
  if (record.stage === 'parked') return { at: record.updated_at, kind: 'parked', text: [h('b', {}, 'Parked'), ': the ledger cannot tell what became of it; somebody has to settle it'] };
  const words = { queued: 'Waits for its first attempt', backoff: 'Backs off before the next attempt', preparing: 'Is being prepared', submitted: 'Is with the ledger' };
  return { at: free, kind: 'open', text: [words[record.stage] ?? record.stage], now: true };
}

/** The list of all steps. */
export function timeline(record, attempts) {
  return h('ol', { class: 'steps' }, steps(record, attempts).map(({ at, kind, text, now }) =>
    h('li', { class: kind },
      h('time', { class: 'when', datetime: at, title: fullMoment(at) }, now ? 'now' : `+${duration(between(record.created_at, at))}`),
      h('span', { class: 'dot' }), h('div', { class: 'what' }, text))));
}

/** One bar: where the time went. */
export function bars(record, { items }) {
  const until = record.finished_at ?? new Date().toISOString();
  const total = Math.max(1, between(record.created_at, until));
  const seen = new Set(['wait']);
  const spans = [];
  for (const { started_at, sent_at, settled_at, outcome } of items) {
    const parts = [['prepare', started_at, sent_at ?? settled_at ?? until]];
    if (sent_at) parts.push([outcome ?? 'ledger', sent_at, settled_at ?? until]);
    else if (settled_at) parts[0][0] = outcome;
    for (const [kind, from, to] of parts) {
      seen.add(kind);
      const x = (between(record.created_at, from) / total) * WIDTH;
      const width = Math.max(3, (between(from, to) / total) * WIDTH);
      spans.push(svg('rect', { class: kind, x: Math.min(x, WIDTH - 3), y: 0, width, height: 26 }));
    }
  }
  const names = { wait: 'waiting', prepare: 'preparing', ledger: 'with the ledger' };
  return [
    svg('svg', { class: 'bars', viewBox: `0 0 ${WIDTH} 26`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `Where ${duration(total)} went; the steps below say it in words` },
      svg('rect', { class: 'wait', x: 0, y: 0, width: WIDTH, height: 26 }), spans),
    h('div', { class: 'key' }, [...seen].map((kind) =>
      h('span', {}, svg('svg', { class: 'bars', viewBox: '0 0 1 1', 'aria-hidden': 'true' }, svg('rect', { class: kind, width: 1, height: 1 })), names[kind] ?? kind)),
    h('time', {}, `${duration(total)} in all`)),
  ];
}
