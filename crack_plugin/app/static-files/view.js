// The picture: photograph, cracks, widths and uncertainty on a canvas, at whatever zoom, and what the mouse does on it.

import { CRACK, DOUBTS, MARKED, Pyramid, WIDTHS, colors, corrected, coverage, cut, paintStroke, sample } from './maps.js';

const ALPHA = 0.6;
const LARGEST = 32;
// A click whose mouse or finger moves by less, in pixels of CSS, is still one.
const CLICK = 6;
const widthColors = colors(WIDTHS);
const doubtColors = colors(DOUBTS);

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    // The photograph as it is on the screen, so that a new threshold does not scale it again.
    this.base = document.createElement('canvas');
    this.paint = document.createElement('canvas');
    this.kind = 'overlay';
    this.tool = 'move';
    this.radius = 3;
    this.threshold = 0.5;
    this.split = 0.5;
    this.points = [];
    this.keyboard = false;
    // That is being painted.
    this.stroke = null;
    this.onPoints = () => {};
    this.onStroke = () => {};
    this.clear();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  clear() {
    Object.assign(this, { picture: null, now: null, raw: null, before: null, widths: null, strokes: [], stroke: null });
    Object.assign(this, { kept: null, corrections: null, width: 0, height: 0, points: [], box: null, isFitted: true });
    this.draw(true);
  }

  show(picture, width, height) {
    this.clear();
    Object.assign(this, { picture, width, height });
    this.fit();
  }

  // The probability map, with what was corrected before.
  setMap(probability, corrections) {
    this.probability = probability;
    this.kept = corrections;
    this.strokes = [];
    this.raw = { values: probability, width: this.width, height: this.height, size: 1 };
    this.restoreCorrections();
  }

  setBefore(probability) {
    this.before = probability && new Pyramid(probability, this.width, this.height);
    this.draw();
  }

  setWidths(values) {
    this.widths = values && new Pyramid(values, this.width, this.height);
    this.draw();
  }

  set(values) {
    Object.assign(this, values);
    this.draw();
  }

  restoreCorrections() {
    this.corrections = this.kept.slice();
    for (const stroke of this.strokes) paintStroke(this.corrections, this.width, this.height, stroke);
    this.now = new Pyramid(corrected(this.probability, this.corrections), this.width, this.height);
    this.draw();
  }

  undo() {
    this.strokes.pop();
    this.restoreCorrections();
  }

  // --- where the picture is: a pixel of it is `scale` pixels of the canvas

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(width * this.ratio));
    this.canvas.height = Math.max(1, Math.round(height * this.ratio));
    if (this.isFitted) this.fit();
    this.draw(true);
  }

  get fitting() {
    return Math.min(this.canvas.width / this.width, this.canvas.height / this.height);
  }

  fit() {
    if (!this.picture) return;
    this.place(this.fitting, this.width / 2, this.height / 2);
    this.isFitted = true;
  }

  // Show the place (x, y) of the picture in the middle.
  place(scale, x, y) {
    this.scale = Math.min(Math.max(scale, this.fitting / 2), LARGEST);
    this.left = Math.round(this.canvas.width / 2 - x * this.scale);
    this.top = Math.round(this.canvas.height / 2 - y * this.scale);
    this.isFitted = false;
    this.draw(true);
  }

  get middle() {
    return this.pixel(this.canvas.width / 2, this.canvas.height / 2);
  }

  pixel(x, y) {
    return [(x - this.left) / this.scale, (y - this.top) / this.scale];
  }

  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    if (!this.picture) return;
    const [px, py] = this.pixel(x, y);
    const scale = Math.min(Math.max(this.scale * factor, this.fitting / 2), LARGEST);
    const [mx, my] = [this.canvas.width / 2, this.canvas.height / 2];
    this.place(scale, px + (mx - x) / scale, py + (my - y) / scale);
  }

  full() {
    if (this.picture) this.place(this.ratio, ...this.middle);
  }

  move(dx, dy) {
    if (!this.picture) return;
    this.left += Math.round(dx);
    this.top += Math.round(dy);
    this.isFitted = false;
    this.draw(true);
  }

  // Show a crack: its box in pixels, and its widest place.
  highlight(box, widest) {
    const [left, top, right, bottom] = box;
    const wanted = 0.6 * Math.min(this.canvas.width / (right - left), this.canvas.height / (bottom - top));
    this.box = { box, widest };
    this.place(Math.min(wanted, 4 * this.ratio), (left + right) / 2, (top + bottom) / 2);
  }

  // --- painting: at once from the pyramid, and when nothing has changed for a moment from every pixel

  draw(isMoved = false) {
    this.isMoved ||= isMoved;
    if (!this.due) this.due = requestAnimationFrame(() => this.render(false));
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.render(true), 150);
  }

  render(isExact) {
    this.due = 0;
    const { canvas, context } = this;
    if (this.isMoved) this.drawBase();
    this.isMoved = false;
    context.fillStyle = '#3a3a3a';
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.picture) return;
    context.drawImage(this.base, 0, 0);
    const area = this.area();
    if (area && this.now && this.kind !== 'photograph') this.drawMaps(area, isExact);
    this.drawMarks();
    // What a test waits for.
    Object.assign(canvas.dataset, { threshold: this.threshold, exact: isExact, kind: this.kind });
  }

  drawBase() {
    const { base, canvas } = this;
    [base.width, base.height] = [canvas.width, canvas.height];
    if (!this.picture) return;
    const context = base.getContext('2d');
    // Enlarged pixels are to be told apart.
    context.imageSmoothingEnabled = this.scale < 2;
    context.drawImage(this.picture, this.left, this.top, this.width * this.scale, this.height * this.scale);
  }

  // The part of the canvas that shows the picture.
  area() {
    const x = Math.max(0, Math.floor(this.left));
    const y = Math.max(0, Math.floor(this.top));
    const right = Math.min(this.canvas.width, Math.ceil(this.left + this.width * this.scale));
    const bottom = Math.min(this.canvas.height, Math.ceil(this.top + this.height * this.scale));
    return right > x && bottom > y ? { x, y, width: right - x, height: bottom - y } : null;
  }

  drawMaps(area, isExact) {
    const image = this.context.createImageData(area.width, area.height);
    const values = new Uint8Array(area.width * area.height);
    const seam = this.before ? Math.round(area.width * this.split) : 0;
    this.fill(values, this.now, area, isExact);
    if (seam && this.kind !== 'width') {
      const old = new Uint8Array(values.length);
      this.fill(old, this.before, area, isExact);
      for (let y = 0; y < area.height; y += 1) {
        values.set(old.subarray(y * area.width, y * area.width + seam), y * area.width);
      }
    }
    this.color(values, image.data);
    [this.paint.width, this.paint.height] = [area.width, area.height];
    this.paint.getContext('2d').putImageData(image, 0, 0);
    this.context.drawImage(this.paint, area.x, area.y);
    if (this.before && this.kind !== 'width') this.drawSeam(area, seam);
  }

  // A byte for each pixel of the screen: of the kind that is shown.
  fill(values, map, area, isExact) {
    if (this.kind === 'width') {
      if (this.widths) sample(this.widths.level(this.scale), this, area, values);
    } else if (this.kind === 'uncertainty') {
      sample(map.level(1), this, area, values);
    } else if (isExact && this.scale < 1) {
      coverage(map.levels[0], this, cut(this.threshold), area, values);
    } else {
      const lowest = cut(this.threshold);
      sample(map.level(this.scale), this, area, values);
      for (let i = 0; i < values.length; i += 1) values[i] = values[i] > lowest ? 255 : 0;
    }
  }

  color(values, data) {
    const isMask = this.kind === 'mask';
    const table = this.kind === 'width' ? widthColors : this.kind === 'uncertainty' ? doubtColors : null;
    for (let i = 0, j = 0; i < values.length; i += 1, j += 4) {
      const value = values[i];
      if (table) {
        // Doubt: surest at 0 and 1, least sure at one half. Off the cracks there is no width.
        const place = 3 * (table === doubtColors ? 255 - Math.abs(2 * value - 255) : value);
        data[j] = table[place];
        data[j + 1] = table[place + 1];
        data[j + 2] = table[place + 2];
        data[j + 3] = table === doubtColors || value ? 255 : 0;
      } else if (isMask) {
        data[j] = data[j + 1] = data[j + 2] = value;
        data[j + 3] = 255;
      } else if (value) {
        data[j] = CRACK[0];
        data[j + 1] = CRACK[1];
        data[j + 2] = CRACK[2];
        // A crack that is thinner than a pixel of the screen still has to be seen.
        data[j + 3] = ALPHA * (100 + (155 * value) / 255);
      }
    }
  }

  drawSeam(area, seam) {
    const x = area.x + seam + 0.5;
    for (const [style, width] of [['#fff', 3], ['#111', 1]]) {
      this.line([[x, area.y], [x, area.y + area.height]], style, width);
    }
    const { context, ratio } = this;
    context.font = `${13 * ratio}px system-ui, sans-serif`;
    context.textBaseline = 'top';
    for (const [text, side] of [['before', -1], ['after', 1]]) {
      const width = context.measureText(text).width + 12 * ratio;
      const left = side < 0 ? x - width - 6 * ratio : x + 6 * ratio;
      context.fillStyle = '#1d1d1d';
      context.fillRect(left, area.y + 6 * ratio, width, 22 * ratio);
      context.fillStyle = '#fff';
      context.fillText(text, left + 6 * ratio, area.y + 10 * ratio);
    }
  }

  drawMarks() {
    const { context } = this;
    if (this.box) {
      const [left, top, right, bottom] = this.box.box.map((v, i) => v * this.scale + (i % 2 ? this.top : this.left));
      for (const [style, width] of [['#fff', 4], ['#005a8f', 2]]) {
        context.strokeStyle = style;
        context.lineWidth = width * this.ratio;
        context.strokeRect(left - 6, top - 6, right - left + 12, bottom - top + 12);
        context.beginPath();
        const [x, y] = this.box.widest;
        context.arc(x * this.scale + this.left, y * this.scale + this.top, 9 * this.ratio, 0, 7);
        context.stroke();
      }
    }
    const places = this.points.map(([x, y]) => [x * this.scale + this.left, y * this.scale + this.top]);
    for (const [style, width] of [['#fff', 5], ['#005a8f', 2]]) {
      if (places.length === 2) this.line(places, style, width * this.ratio);
      for (const place of places) this.cross(place, 8 * this.ratio, style, width * this.ratio);
    }
    if (this.keyboard && this.tool !== 'move') {
      const place = [this.canvas.width / 2, this.canvas.height / 2];
      this.cross(place, 14 * this.ratio, '#fff', 4 * this.ratio);
      this.cross(place, 14 * this.ratio, '#b35900', 2 * this.ratio);
    }
  }

  line(places, style, width) {
    const { context } = this;
    context.strokeStyle = style;
    context.lineWidth = width;
    context.beginPath();
    places.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  }

  cross([x, y], size, style, width) {
    this.line([[x - size, y], [x + size, y]], style, width);
    this.line([[x, y - size], [x, y + size]], style, width);
  }

  // --- mouse, fingers and keys

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    // Where a click began that may become a drag.
    let click = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio];
    };
    canvas.addEventListener('pointerdown', (event) => {
      if (!this.picture) return;
      canvas.setPointerCapture(event.pointerId);
      this.keyboard = false;
      fingers.set(event.pointerId, place(event));
      click = null;
      if (fingers.size > 1) {
        // The first of two fingers that zoom was no brush.
        if (this.stroke) this.undo();
        this.stroke = null;
      } else if (this.tool === 'scale') {
        click = place(event);
      } else if (this.isPainting) {
        this.stroke = this.begin(this.pixel(...place(event)));
      }
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!fingers.has(event.pointerId)) return;
      const [former, now] = [fingers.get(event.pointerId), place(event)];
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      fingers.set(event.pointerId, now);
      if (other) {
        const far = (one) => Math.max(1, Math.hypot(one[0] - other[0], one[1] - other[1]));
        this.zoom(far(now) / far(former), ...other);
      } else if (this.stroke) {
        this.extend(this.stroke, this.pixel(...now));
      } else if (click && Math.hypot(now[0] - click[0], now[1] - click[1]) < CLICK * this.ratio) {
        fingers.set(event.pointerId, former);
      } else if (this.tool === 'move' || this.tool === 'scale') {
        click = null;
        this.move(now[0] - former[0], now[1] - former[1]);
      }
    });
    for (const name of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(name, (event) => {
        fingers.delete(event.pointerId);
        if (click && name === 'pointerup') this.addPoint(this.pixel(...click));
        click = null;
        const { stroke } = this;
        this.stroke = null;
        if (stroke) this.onStroke();
      });
    }
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), ...place(event));
    }, { passive: false });
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('blur', () => this.set({ keyboard: false }));
  }

  key(event) {
    if (!this.picture) return;
    const step = (event.shiftKey ? 4 : 40) * this.ratio;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    this.keyboard = true;
    if (moves[event.key]) this.move(...moves[event.key]);
    else if (event.key === '+' || event.key === '=') this.zoom(1.25);
    else if (event.key === '-') this.zoom(0.8);
    else if (event.key === '0') this.fit();
    else if (event.key === 'Enter' && this.tool === 'scale') this.addPoint(this.middle);
    else if (event.key === 'Enter' && this.isPainting) {
      this.begin(this.middle);
      this.onStroke();
    } else {
      this.draw();
      return;
    }
    event.preventDefault();
  }

  get isPainting() {
    return this.now && (this.tool === 'brush' || this.tool === 'eraser');
  }

  addPoint(point) {
    this.points = this.points.length === 1 ? [this.points[0], point] : [point];
    this.onPoints(this.points);
    this.draw();
  }

  begin(point) {
    const stroke = { radius: this.radius, value: this.tool === 'brush' ? MARKED : MARKED + 1, points: [] };
    this.strokes.push(stroke);
    this.extend(stroke, point);
    return stroke;
  }

  extend(stroke, point) {
    stroke.points.push(point);
    const part = { ...stroke, points: stroke.points.slice(-2) };
    const box = paintStroke(this.corrections, this.width, this.height, part);
    if (!box) return;
    const [x0, y0, x1, y1] = box;
    const { values } = this.now.levels[0];
    for (let y = y0; y < y1; y += 1) {
      for (let i = y * this.width + x0; i < y * this.width + x1; i += 1) {
        if (this.corrections[i]) values[i] = this.corrections[i] === MARKED ? 255 : 0;
      }
    }
    this.now.update(x0, y0, x1, y1);
    this.draw();
  }
}
