// Maps of a photograph, a byte a pixel, and what is painted of them: no function here touches the page.

export const MARKED = 1;
export const ERASED = 2;

// The largest byte that is not above a threshold, as crack_plugin/app/maps.py has it.
export const cut = (threshold) => Math.floor(255 * threshold + 1e-9);

const COARSEST = 256;

// A map at full size and at halves of it. A coarser pixel has the largest of its four, or thin cracks would be lost.
export class Pyramid {
  constructor(values, width, height) {
    this.levels = [{ values, width, height }];
    while (Math.max(this.top.width, this.top.height) > COARSEST) {
      const below = this.top;
      const level = { width: Math.ceil(below.width / 2), height: Math.ceil(below.height / 2) };
      level.values = new Uint8Array(level.width * level.height);
      halve(below, level, 0, 0, level.width, level.height);
      this.levels.push(level);
    }
  }

  get top() {
    return this.levels[this.levels.length - 1];
  }

  // After pixels of the full size have changed, in columns x0 to x1 and rows y0 to y1, the last left out.
  update(x0, y0, x1, y1) {
    for (let i = 1; i < this.levels.length; i += 1) {
      [x0, y0, x1, y1] = [x0 >> 1, y0 >> 1, (x1 + 1) >> 1, (y1 + 1) >> 1];
      halve(this.levels[i - 1], this.levels[i], x0, y0, x1, y1);
    }
  }

  // The coarsest level that is at least as fine as a screen that shows so many of its pixels for one of the map.
  level(scale) {
    const wanted = scale >= 1 ? 0 : Math.floor(Math.log2(1 / scale));
    const index = Math.min(wanted, this.levels.length - 1);
    return { ...this.levels[index], size: 2 ** index };
  }
}

function halve(below, level, x0, y0, x1, y1) {
  const { values, width, height } = below;
  for (let y = y0; y < Math.min(y1, level.height); y += 1) {
    const upper = 2 * y * width;
    const lower = Math.min(2 * y + 1, height - 1) * width;
    for (let x = x0; x < Math.min(x1, level.width); x += 1) {
      const left = 2 * x;
      const right = Math.min(left + 1, width - 1);
      const a = Math.max(values[upper + left], values[upper + right]);
      const b = Math.max(values[lower + left], values[lower + right]);
      level.values[y * level.width + x] = a > b ? a : b;
    }
  }
}

// The share of pixels above a byte in each pixel of the screen, as 0 to 255; exact, where a pyramid is not.
// The screen's pixel (x, y) shows the map from ((x - left) / scale, (y - top) / scale) on, at less than its size.
export function coverage(map, view, lowest, area, out) {
  const { values, width, height } = map;
  const { scale, left, top } = view;
  const edge = (x, offset, length) => Math.min(Math.max(Math.floor((x - offset) / scale), 0), length);
  const columns = new Int32Array(area.width + 1);
  for (let x = 0; x <= area.width; x += 1) columns[x] = edge(area.x + x, left, width);
  for (let y = 0; y < area.height; y += 1) {
    const first = edge(area.y + y, top, height);
    const last = edge(area.y + y + 1, top, height);
    for (let x = 0; x < area.width; x += 1) {
      let count = 0;
      for (let row = first; row < last; row += 1) {
        const line = row * width;
        for (let column = columns[x]; column < columns[x + 1]; column += 1) count += values[line + column] > lowest;
      }
      const all = (last - first) * (columns[x + 1] - columns[x]);
      out[y * area.width + x] = all && count ? Math.max(1, Math.round((255 * count) / all)) : 0;
    }
  }
}

// The values of a level of a pyramid at each pixel of the screen; 0 off the map.
export function sample(level, view, area, out) {
  const { values, width, height, size } = level;
  const { scale, left, top } = view;
  const columns = new Int32Array(area.width);
  for (let x = 0; x < area.width; x += 1) {
    const column = Math.floor((area.x + x + 0.5 - left) / scale / size);
    columns[x] = column < 0 || column >= width ? -1 : column;
  }
  for (let y = 0; y < area.height; y += 1) {
    const row = Math.floor((area.y + y + 0.5 - top) / scale / size);
    const inside = row >= 0 && row < height;
    for (let x = 0; x < area.width; x += 1) {
      out[y * area.width + x] = inside && columns[x] >= 0 ? values[row * width + columns[x]] : 0;
    }
  }
}

// What counts of model and corrections: marked pixels are above any threshold, erased ones below.
export function corrected(probability, corrections) {
  const values = probability.slice();
  for (let i = 0; i < values.length; i += 1) {
    if (corrections[i] === MARKED) values[i] = 255;
    else if (corrections[i] === ERASED) values[i] = 0;
  }
  return values;
}

// Paint a stroke of the brush into a map of corrections; the box of what changed, or null.
export function paintStroke(corrections, width, height, stroke) {
  const { radius, value, points } = stroke;
  const box = [width, height, 0, 0];
  for (let i = 0; i < points.length; i += 1) {
    const [ax, ay] = points[Math.max(0, i - 1)];
    const [bx, by] = points[i];
    const steps = Math.max(1, Math.ceil(Math.hypot(bx - ax, by - ay) / Math.max(0.5, radius / 2)));
    for (let step = 0; step <= steps; step += 1) {
      const x = ax + ((bx - ax) * step) / steps;
      const y = ay + ((by - ay) * step) / steps;
      stamp(corrections, width, height, x, y, radius, value, box);
    }
  }
  return box[2] > box[0] && box[3] > box[1] ? box : null;
}

// A disc around the middle of the pixel that (x, y) is in.
function stamp(corrections, width, height, x, y, radius, value, box) {
  const [cx, cy] = [Math.floor(x), Math.floor(y)];
  const reach = Math.floor(radius);
  for (let row = Math.max(0, cy - reach); row <= Math.min(height - 1, cy + reach); row += 1) {
    const half = Math.floor(Math.sqrt(radius * radius - (row - cy) ** 2));
    const first = Math.max(0, cx - half);
    const last = Math.min(width - 1, cx + half);
    if (last < first) continue;
    corrections.fill(value, row * width + first, row * width + last + 1);
    box[0] = Math.min(box[0], first);
    box[1] = Math.min(box[1], row);
    box[2] = Math.max(box[2], last + 1);
    box[3] = Math.max(box[3], row + 1);
  }
}

// Colours of a scale from 0 to 255, from some that are evenly spaced.
export function colors(stops) {
  const table = new Uint8Array(3 * 256);
  for (let i = 0; i < 256; i += 1) {
    const place = (i / 255) * (stops.length - 1);
    const lower = Math.min(Math.floor(place), stops.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      const [a, b] = [stops[lower][channel], stops[lower + 1][channel]];
      table[3 * i + channel] = Math.round(a + (b - a) * (place - lower));
    }
  }
  return table;
}

// Viridis and a part of inferno, as matplotlib has them: for all kinds of colour vision.
export const WIDTHS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
export const DOUBTS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
export const CRACK = [230, 159, 0];
