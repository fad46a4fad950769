// The training on corrections: its curve, and its adapter.

import * as api from './api.js';

const $ = (id) => document.getElementById(id);
const [WIDTH, HEIGHT, EDGE] = [300, 120, 18];
const SVG = 'http://www.w3.org/2000/svg';
const ENDS = {
  running: 'Training',
  done: 'Done',
  cancelled: 'Stopped',
  failed: 'The training failed',
};

export class Training {
  constructor(attempt, use) {
    $('stop-training').onclick = attempt(() => api.send('/stop-training'));
    $('use-trained').onclick = () => use(this.key);
  }

  show(training, weights) {
    $('training').hidden = !training;
    if (!training) return;
    const { name, state, epochs, rows, error } = training;
    this.key = `trained/${name}`;
    const epoch = rows.at(-1)?.epoch ?? 0;
    const last = (key) => rows.findLast((row) => Number.isFinite(row[key]))?.[key].toFixed(3);
    const scores = [['loss', last('loss')], ['IoU', last('iou')]].filter(([, value]) => value);
    const told = scores.map(([label, value]) => `, ${label} ${value}`).join('');
    const text = `${ENDS[state]}: ${name}, epoch ${epoch} of ${epochs}${told}${error ? `. ${error}` : ''}`;
    if ($('training-text').textContent !== text) $('training-text').textContent = text;
    $('stop-training').hidden = state !== 'running';
    $('use-trained').hidden = state === 'running' || !weights.some(({ key }) => key === this.key);
    draw(rows, epochs);
  }
}

function draw(rows, epochs) {
  const known = rows.filter(({ loss }) => loss !== null && loss !== undefined);
  const highest = Math.max(1, ...known.map(({ loss }) => loss));
  const x = (epoch) => EDGE + ((WIDTH - 2 * EDGE) * (epoch - 1)) / Math.max(1, epochs - 1);
  const y = (value) => HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value / highest);
  const parts = [shape('path', { class: 'axes', d: `M${EDGE},${EDGE}V${y(0)}H${WIDTH - EDGE}` })];
  for (const [name, key] of [['loss', 'loss'], ['iou', 'iou']]) {
    const places = rows.filter((row) => Number.isFinite(row[key])).map((row) => [x(row.epoch), y(row[key])]);
    parts.push(shape('polyline', { class: name, points: places.join(' ') }));
    parts.push(...places.map(([cx, cy]) => shape('circle', { class: name, cx, cy, r: 2.5 })));
  }
  for (const [text, tx, ty] of [[highest.toFixed(1), 1, EDGE], ['0', 8, y(0)], ['1', EDGE, HEIGHT - 4], [`epoch ${epochs}`, WIDTH - 50, HEIGHT - 4]]) {
    const label = shape('text', { x: tx, y: ty });
    label.textContent = text;
    parts.push(label);
  }
  $('curve').replaceChildren(...parts);
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
