// A small picture of a series, made of lines; the words are in its label.

import { svg } from './dom.js';

const [WIDTH, HEIGHT] = [240, 44];

/** `values` from oldest to newest; `kind` gives the colour. */
export function sparkline(values, kind, label) {
  const highest = Math.max(...values, 1e-9);
  const step = WIDTH / Math.max(values.length - 1, 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${(HEIGHT - 2 - (value / highest) * (HEIGHT - 6)).toFixed(1)}`);
  return svg('svg', { class: `spark ${kind}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    svg('line', { class: 'base', x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
    values.length > 1 && [
      svg('polygon', { class: 'area', points: `0,${HEIGHT - 1} ${points.join(' ')} ${WIDTH},${HEIGHT - 1}` }),
      svg('polyline', { class: 'line', points: points.join(' ') }),
    ]);
}
