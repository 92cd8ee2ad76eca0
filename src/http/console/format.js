// Moments, durations and numbers for people. Moments are shown in the time of the browser.

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const day = new Intl.DateTimeFormat(undefined, { day: '2-digit', month: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });
const plain = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });

/** The time of day, or the date too if it is another one. */
export function moment(text) {
  const at = new Date(text);
  return at.toDateString() === new Date().toDateString() ? clock.format(at) : day.format(at);
}

/** Date and time. */
export function fullMoment(text) {
  return whole.format(new Date(text));
}

/** The milliseconds between two moments. */
export function between(from, to) {
  return Math.max(0, new Date(to) - new Date(from));
}

/** `412 ms`, `1.24 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 59.95) return `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const at = units.findIndex(([, length]) => Math.round(seconds) >= length);
  const [[big, length], next] = [units[at], units[at + 1]];
  const count = Math.floor(Math.round(seconds) / length);
  const rest = next ? Math.floor((Math.round(seconds) - count * length) / next[1]) : 0;
  return rest ? `${count} ${big} ${rest} ${next[0]}` : `${count} ${big}`;
}

/** A whole number, in groups. */
export function count(number) {
  return plain.format(number);
}

/** A rate or a share: three digits are enough. */
export function rate(number) {
  return number >= 1000 ? plain.format(number) : short.format(number);
}

/** JSON for people. Numbers that JavaScript would round keep their text (see api.js). */
export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

/** The arguments on one line. */
export function inline(args, longest = 160) {
  const text = args.map((arg) => (typeof arg === 'string' ? arg : JSON.stringify(arg))).join(', ');
  return text.length > longest ? `${text.slice(0, longest)}…` : text;
}
