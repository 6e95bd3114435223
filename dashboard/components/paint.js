/* Label maps and probabilities into pixels. Pure functions of arrays; no element is touched here. */

const NONE = 255;

/* Colour of each label as one 32-bit word (RGBA in memory, little endian); 0 is transparent. */
function colourTable(palette, hidden, focus) {
  const table = new Uint32Array(256);
  palette.forEach(([red, green, blue], label) => {
    if (hidden.has(label) || label === NONE) return;
    const alpha = focus == null || focus === label ? 255 : 40;
    table[label] = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
  return table;
}

function word([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/* Pixels [H*W] as 32-bit words. `sure` (Uint8Array or null): confidence of each pixel, `least`: 0..255. */
function paintClasses(labels, table, sure, least) {
  const out = new Uint32Array(labels.length);
  for (let i = 0; i < out.length; i++) {
    if (sure === null || sure[i] >= least) out[i] = table[labels[i]];
  }
  return out;
}

/* The same, coloured by whether the label is the truth's. Pixels without truth, hidden or unsure stay clear; those whose
   class the step does not know yet (`known`: array of labels, or null for all) are neither right nor wrong, and neither
   are those for which no class stands out (`nothing`: their label). */
function paintErrors(labels, truth, table, colours, sure, least, known, nothing) {
  const verdicts = [word(colours.wrong), word(colours.right)];
  const later = word(colours.notKnown);
  const unknown = unknownLabels(known);
  const out = new Uint32Array(labels.length);
  for (let i = 0; i < out.length; i++) {
    if (truth[i] === NONE || table[truth[i]] === 0) continue;
    if (unknown[truth[i]]) out[i] = later;
    else if (sure === null || sure[i] >= least) {
      out[i] = labels[i] === nothing ? table[nothing] : verdicts[Number(labels[i] === truth[i])];
    }
  }
  return out;
}

/* 1 for each label that is not among `known`; null knows all. */
function unknownLabels(known) {
  const unknown = new Uint8Array(256).fill(known ? 1 : 0);
  for (const label of known ?? []) unknown[label] = 0;
  return unknown;
}

/* Where pixel `position` of `size` falls in a grid of `cells` (cell centres at half integers): two cells, a weight. */
function between(position, size, cells) {
  const at = clamp(((position + 0.5) * cells) / size - 0.5, 0, cells - 1);
  const low = Math.floor(at);
  return { low, high: Math.min(low + 1, cells - 1), weight: at - low };
}

/* Value of channel `k` of grid {values, shape: [h, w, K]} between four cells. */
function blend(grid, row, column, k) {
  const [, w, K] = grid.shape;
  const { values } = grid;
  const top = row.low * w;
  const bottom = row.high * w;
  const left = values[(top + column.low) * K + k] * (1 - column.weight) + values[(top + column.high) * K + k] * column.weight;
  const under =
    values[(bottom + column.low) * K + k] * (1 - column.weight) + values[(bottom + column.high) * K + k] * column.weight;
  return left * (1 - row.weight) + under * row.weight;
}

/* Probabilities 0..1 of all K classes at pixel (x, y) of a picture of width x height. */
function probabilitiesAt(grid, x, y, width, height) {
  const [h, w, K] = grid.shape;
  const row = between(y, height, h);
  const column = between(x, width, w);
  return Array.from({ length: K }, (_, k) => blend(grid, row, column, k) / 255);
}

/* Number behind a coloured map at a pixel, from {values, shape: [h, w]}. */
function valueAt(map, x, y, width, height) {
  const [h, w] = map.shape;
  const grid = { values: map.values, shape: [h, w, 1] };
  return blend(grid, between(y, height, h), between(x, width, w), 0);
}

/* Confidence of each pixel, 0..255: the probability of the class that it was given. A pixel labelled `nothing.label` has
   no class above `nothing.least`, every other one has: the coarse grid must not say otherwise. */
function confidence(labels, grid, width, height, nothing) {
  const [h, w, K] = grid.shape;
  const doubts = labels.includes(nothing.label);
  const bound = nothing.least * 255;
  const columns = Array.from({ length: width }, (_, x) => between(x, width, w));
  const out = new Uint8Array(labels.length);
  for (let y = 0; y < height; y++) {
    const row = between(y, height, h);
    for (let x = 0; x < width; x++) {
      const label = labels[y * width + x];
      if (label < K) {
        const own = Math.round(blend(grid, row, columns[x], label));
        out[y * width + x] = doubts ? Math.max(own, Math.ceil(bound)) : own;
      } else if (label === nothing.label) {
        let most = 0;
        for (let k = 0; k < K; k++) most = Math.max(most, blend(grid, row, columns[x], k));
        out[y * width + x] = Math.min(most, Math.floor(bound));
      }
    }
  }
  return out;
}

/* Borders between painted pixels of different colour, as one path in picture coordinates (runs are joined). */
function outlinePath(pixels, width, height) {
  const path = new Path2D();
  const horizontal = (x, y) => pixels[y * width + x] !== (y ? pixels[(y - 1) * width + x] : pixels[y * width + x]);
  const vertical = (x, y) => pixels[y * width + x] !== (x ? pixels[y * width + x - 1] : pixels[y * width + x]);
  for (let y = 1; y < height; y++) {
    runs(width, (x) => horizontal(x, y), (from, to) => { path.moveTo(from, y); path.lineTo(to, y); });
  }
  for (let x = 1; x < width; x++) {
    runs(height, (y) => vertical(x, y), (from, to) => { path.moveTo(x, from); path.lineTo(x, to); });
  }
  return path;
}

function runs(length, inside, emit) {
  let start = -1;
  for (let i = 0; i <= length; i++) {
    const on = i < length && inside(i);
    if (on && start < 0) start = i;
    if (!on && start >= 0) {
      emit(start, i);
      start = -1;
    }
  }
}

/* A canvas that holds the given 32-bit words, without smoothing or colour conversion. */
function canvasOf(words, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(words.buffer), width, height), 0, 0);
  return canvas;
}

/* Classes that occur in any of the label maps. */
function present(maps) {
  const seen = new Uint8Array(256);
  for (const labels of maps) for (let i = 0; i < labels.length; i++) seen[labels[i]] = 1;
  return [...seen.keys()].filter((label) => seen[label] && label !== NONE);
}
