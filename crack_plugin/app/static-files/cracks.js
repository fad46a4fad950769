// The table of the cracks that are shown, and the map of their widths: asked for when threshold and brush rest.

import * as api from './api.js';
import { WIDTHS, DOUBTS } from './maps.js';

const $ = (id) => document.getElementById(id);
const REST = 350;
const MOST_ROWS = 200;

export class Cracks {
  constructor(view, attempt) {
    this.view = view;
    this.attempt = attempt;
    this.photograph = null;
    // What the rows of the table are of.
    this.listed = '';
    $('severity').onchange = () => this.rest();
    $('cracks').onkeydown = (event) => goTo(event);
  }

  query() {
    return new URLSearchParams({ threshold: this.view.threshold, severity: $('severity').value }).toString();
  }

  clear() {
    clearTimeout(this.timer);
    this.photograph = null;
    this.listed = $('cracks').dataset.query = '';
    $('table').hidden = true;
    for (const id of ['cracks-text', 'scale-text', 'severity-source']) $(id).textContent = '';
    this.legend();
  }

  show(photograph) {
    this.photograph = photograph;
    const { mm_per_pixel: scale, is_georeferenced: isOwn } = photograph;
    // Not while it is being typed.
    if (document.activeElement !== $('mm')) $('mm').value = scale === null ? '' : Number(scale.toPrecision(6));
    const told = scale === null ? 'not known' : `${Number(scale.toPrecision(4))} mm a pixel`;
    $('scale-text').textContent = `Scale of ${photograph.name}: ${told}${isOwn ? ', from the file' : ''}.`;
    if (!photograph.predicted.now) $('cracks-text').textContent = 'Not looked at yet: press "Find cracks".';
    this.rest();
  }

  // Soon, unless something changes again.
  rest() {
    this.legend();
    this.view.setWidths(null);
    clearTimeout(this.timer);
    if (this.photograph?.predicted.now) this.timer = setTimeout(this.attempt(() => this.load()), REST);
  }

  async load() {
    const { photograph } = this;
    const [query, path] = [this.query(), `/photographs/${photograph.id}`];
    const isStill = () => this.photograph?.id === photograph.id && this.query() === query;
    // Another view of the same cracks leaves the row that is shown.
    const wanted = [photograph.id, photograph.version, photograph.mm_per_pixel, query].join();
    if (this.listed !== wanted) {
      const found = await api.read(`${path}/cracks?${query}`);
      if (!isStill()) return;
      this.rows(found);
      this.listed = wanted;
    }
    if (this.view.kind !== 'width') return;
    const { values, headers } = await api.bytes(`${path}/widths?${query}`);
    if (!isStill() || this.view.kind !== 'width') return;
    this.view.setWidths(values);
    this.legend(Number(headers.get('X-Largest')), headers.get('X-Unit'));
  }

  rows({ cracks, source }) {
    const unit = cracks[0]?.unit ?? 'px';
    const total = cracks.reduce((sum, crack) => sum + crack.length, 0);
    const more = cracks.length > MOST_ROWS ? ` The ${MOST_ROWS} widest are listed, all are in the CSV file.` : '';
    $('cracks-text').textContent = cracks.length
      ? `${cracks.length} ${cracks.length === 1 ? 'crack' : 'cracks'}, ${total.toFixed(1)} ${unit} long together. All sizes in ${unit}.${more}`
      : 'No crack at this threshold.';
    $('severity-source').textContent = source ?? '';
    const needsScale = $('severity').value && this.photograph.mm_per_pixel === null;
    if (needsScale) $('severity-source').textContent = 'The severity needs the scale: see above.';
    $('table').hidden = !cracks.length;
    $('cracks').replaceChildren(...cracks.slice(0, MOST_ROWS).map((crack) => this.row(crack)));
    for (const button of [...$('cracks').querySelectorAll('button')].slice(1)) button.tabIndex = -1;
    this.view.set({ box: null });
    // What a test waits for.
    $('cracks').dataset.query = this.query();
  }

  row(crack) {
    const row = document.createElement('tr');
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = crack.id;
    button.setAttribute('aria-label', `Show crack ${crack.id}`);
    const digits = crack.unit === 'px' ? 1 : 2;
    const [length, widest, mean] = [crack.length, crack.max_width, crack.mean_width].map((size) => size.toFixed(digits));
    const cells = [length, `${widest} ± ${crack.uncertainty.toFixed(digits)}`, mean, crack.score?.toFixed(2) ?? '-'];
    const first = document.createElement('td');
    first.append(button);
    row.append(first, ...cells.map((text) => cell(text)));
    if (crack.severity) {
      const severity = document.createElement('small');
      severity.textContent = crack.severity;
      row.children[2].append(severity);
    }
    row.onclick = () => {
      for (const other of $('cracks').children) other.classList.toggle('shown', other === row);
      this.view.highlight(crack.box, crack.widest);
      // On a narrow screen the picture is above.
      $('stage').scrollIntoView({ block: 'nearest' });
    };
    return row;
  }

  legend(largest = null, unit = 'px') {
    const { kind } = this.view;
    const isDoubt = kind === 'uncertainty';
    const isThere = Boolean(this.photograph?.predicted.now);
    $('swatch').hidden = !(isThere && (kind === 'overlay' || kind === 'mask'));
    $('swatch').className = `note ${kind}`;
    const waits = { null: 'Widths are being measured ...', 0: 'No crack at this threshold.' };
    $('legend-wait').textContent = (isThere && kind === 'width' && waits[largest]) || '';
    $('legend').hidden = !(isDoubt || (kind === 'width' && largest));
    const stops = (isDoubt ? DOUBTS : WIDTHS).map((stop) => `rgb(${stop})`);
    $('legend-bar').style.background = `linear-gradient(90deg, ${stops})`;
    $('legend-low').textContent = isDoubt ? 'sure' : `0 ${unit}`;
    $('legend-title').textContent = isDoubt ? 'uncertainty' : 'width';
    $('legend-high').textContent = isDoubt ? 'probability 0.5' : `${(largest ?? 0).toFixed(2)} ${unit}`;
  }
}

// Up and down between the rows, of which Tab stops at one: there may be hundreds.
function goTo(event) {
  const steps = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' };
  const other = event.target.closest('tr')?.[steps[event.key]]?.querySelector('button');
  if (!other) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  other.tabIndex = 0;
  other.focus();
}

function cell(text) {
  const made = document.createElement('td');
  made.textContent = text;
  return made;
}
