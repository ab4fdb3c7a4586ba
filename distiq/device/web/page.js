// Predicts samples with onnxruntime-web: prepared and decoded as run.py does where Python is. index.html shows it.
//
// Everything above "The page" touches no document: node runs it, too. Tensors are {data, shape}, data a typed array.

export const ALLOWED = 0.02; // share of the outputs' span by which another processor may move one
const SHORTEST = 2; // tokens that a model is shown at least
const EXAMPLES = 12;
const PADDING = 114; // pixels beside a letterboxed image
const LEAST_SCORE = 0.01, SHOWN_SCORE = 0.3; // of a box that is kept, and of one that is drawn
const CANDIDATES = 300, MOST_BOXES = 100; // likeliest boxes of an image that are compared, and that are kept
const SAME_OBJECT = 0.6; // overlap from which the less likely of two boxes of a class is dropped
const REPAINTED = 0.01; // share of the pixels of an image that may get another class
const COLOURS = [
  [230, 25, 75], [60, 180, 75], [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240], [240, 50, 230],
  [210, 245, 60], [250, 190, 212], [0, 128, 128], [170, 110, 40], [128, 0, 0], [128, 128, 0], [0, 0, 128],
];
const MISSING = new Set(["", "?", "NA", "N/A", "NaN", "nan", "null", "None"]);
const UNKNOWN = "?";
const NUMBER = /^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$/;
const TYPES = {
  F32: ["float32", Float32Array], I64: ["int64", BigInt64Array], I32: ["int32", Int32Array], I16: ["int16", Int16Array],
  U8: ["uint8", Uint8Array], I8: ["int8", Int8Array], BOOL: ["bool", Uint8Array],
};

export class Refused extends Error {}

// Tensors: safetensors ------------------------------------------------------------------------------------------------

export function readTensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, facts] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [type, Values] = TYPES[facts.dtype];
    const [begin, end] = facts.data_offsets.map((offset) => 8 + length + offset);
    tensors[name] = { type, data: new Values(buffer.slice(begin, end)), shape: facts.shape };
  }
  return tensors;
}

export function writeTensors(tensors) {
  const header = {}, parts = [];
  let end = 0;
  for (const [name, { type, data, shape }] of Object.entries(tensors)) {
    const dtype = Object.keys(TYPES).find((key) => TYPES[key][0] === type);
    header[name] = { dtype, shape: [...shape], data_offsets: [end, end + data.byteLength] };
    parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    end += data.byteLength;
  }
  let text = JSON.stringify(header);
  text += " ".repeat((8 - (text.length % 8)) % 8);
  const head = new Uint8Array(8 + text.length);
  new DataView(head.buffer).setBigUint64(0, BigInt(text.length), true);
  head.set(new TextEncoder().encode(text), 8);
  return new Blob([head, ...parts]);
}

/** Sample `number` of a tensor (N, ...), as a batch of one. */
export function sample(tensor, number) {
  const size = tensor.data.length / tensor.shape[0];
  const data = tensor.data.slice(number * size, (number + 1) * size);
  return { ...tensor, data, shape: [1, ...tensor.shape.slice(1)] };
}

// Images --------------------------------------------------------------------------------------------------------------

/** RGBA bytes as a browser decodes them -> planes (C, H, W) of uint8; grey as Pillow weighs colours (ITU-R 601). */
export function planes(rgba, height, width, channels) {
  const count = height * width, data = new Uint8Array(channels * count);
  for (let i = 0; i < count; i++) {
    const [red, green, blue] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) data[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    else [data[i], data[count + i], data[2 * count + i]] = [red, green, blue];
  }
  return { type: "uint8", data, shape: [channels, height, width] };
}

/** Of each output the first input that it reads and its weights, in 22 bits: Pillow's bilinear filter, which averages
 * all that it reads when it shrinks. */
function weights(before, after) {
  const scale = before / after, stretch = Math.max(scale, 1);
  return Array.from({ length: after }, (_, number) => {
    const centre = (number + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - stretch + 0.5));
    const last = Math.min(before, Math.trunc(centre + stretch + 0.5));
    const shares = [];
    for (let i = first; i < last; i++) shares.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) / stretch)));
    const sum = shares.reduce((one, other) => one + other, 0);
    return { first, shares: shares.map((share) => Math.trunc(0.5 + (share / sum) * 2 ** 22)) };
  });
}

/** Lines of `before` values, `step` apart from one value to the next, to lines of `after`. */
function resizedLines(data, after, lines, before, at, step, put, putStep) {
  const result = new Uint8Array(lines * after), taps = weights(before, after);
  for (let line = 0; line < lines; line++) {
    const from = at(line), to = put(line);
    taps.forEach(({ first, shares }, number) => {
      let sum = 2 ** 21;
      for (let i = 0; i < shares.length; i++) sum += data[from + (first + i) * step] * shares[i];
      result[to + number * putStep] = Math.min(255, Math.floor(sum / 2 ** 22));
    });
  }
  return result;
}

/** (C, H, W) uint8 resized as Pillow does with BILINEAR: along rows, then along columns, rounded in between. Pillow 13
 * takes columns first for some sizes, which moves a value by one of 255. */
export function resized(image, height, width) {
  let [channels, rows, columns] = image.shape, data = image.data;
  if (columns !== width) {
    data = resizedLines(data, width, channels * rows, columns, (n) => n * columns, 1, (n) => n * width, 1);
  }
  if (rows !== height) {
    const at = (size) => (n) => Math.floor(n / width) * size * width + (n % width);
    data = resizedLines(data, height, channels * width, rows, at(rows), width, at(height), width);
  }
  return { type: "uint8", data, shape: [channels, height, width] };
}

/** Half to even, as Python rounds. */
function roundEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

/** [rows, columns] that an image of that size takes of the model's input. */
function fittedSize([rows, columns], { shape: [, height, width], resize }) {
  if (resize !== "letterbox") return [height, width];
  const ratio = Math.min(height / rows, width / columns);
  return [rows, columns].map((side, axis) => Math.min([height, width][axis], Math.max(1, roundEven(side * ratio))));
}

/** (C, H, W) as large as the model wants it; a letterboxed one keeps the ratio of its sides, with grey beside it. */
export function fittedImage(image, about) {
  const [channels, height, width] = about.shape;
  if (about.resize !== "letterbox") return resized(image, height, width);
  const size = fittedSize(image.shape.slice(1), about);
  const inner = resized(image, ...size), data = new Uint8Array(channels * height * width).fill(PADDING);
  for (let plane = 0; plane < channels; plane++) {
    for (let row = 0; row < size[0]; row++) {
      const begin = (plane * size[0] + row) * size[1];
      data.set(inner.data.subarray(begin, begin + size[1]), (plane * height + row) * width);
    }
  }
  return { type: "uint8", data, shape: [channels, height, width] };
}

// Sound ---------------------------------------------------------------------------------------------------------------

/** The integers of a WAV file, 8 to 32 bits, its channels averaged: {rate, samples: Int16Array}; null of all others. */
export function readWav(buffer) {
  const view = new DataView(buffer), name = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  if (buffer.byteLength < 12 || name(0) !== "RIFF" || name(8) !== "WAVE") return null;
  let form = null;
  for (let at = 12; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at + 4, true), begin = at + 8;
    if (name(at) === "fmt ") {
      const tag = view.getUint16(begin, true);
      form = {
        tag: tag === 0xfffe && size >= 26 ? view.getUint16(begin + 24, true) : tag,
        channels: view.getUint16(begin + 2, true),
        rate: view.getUint32(begin + 4, true),
        bytes: view.getUint16(begin + 14, true) / 8,
      };
    } else if (name(at) === "data" && form) {
      if (form.tag !== 1 || ![1, 2, 3, 4].includes(form.bytes)) return null;
      const length = Math.min(size, buffer.byteLength - begin);
      return { rate: form.rate, samples: mono(new Uint8Array(buffer, begin, length), form.channels, form.bytes) };
    }
    at = begin + size + (size % 2);
  }
  return null;
}

function mono(bytes, channels, width) {
  const count = Math.floor(bytes.length / (channels * width)), samples = new Int16Array(count);
  for (let frame = 0; frame < count; frame++) {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++) {
      const at = (frame * channels + channel) * width;
      let value = 0; // every width as the upper part of 32 bits
      for (let i = 0; i < width; i++) value |= (width === 1 ? bytes[at] ^ 128 : bytes[at + i]) << (8 * (4 - width + i));
      sum = Math.fround(sum + Math.fround(Math.fround(value) / 2 ** 31));
    }
    samples[frame] = toInt16(Math.fround(sum / channels));
  }
  return samples;
}

const toInt16 = (value) => Math.max(-32768, Math.min(32767, roundEven(Math.fround(value * 32768))));

/** Samples of -1 to 1, as a browser gives them, as int16. */
export const quantized = (floats) => Int16Array.from(floats, toInt16);

/** As long as the model hears: a short clip in the middle of silence, the middle of a long one. */
export function fittedSound(samples, length) {
  if (samples.length >= length) {
    const begin = Math.floor((samples.length - length) / 2);
    return samples.slice(begin, begin + length);
  }
  const result = new Int16Array(length);
  result.set(samples, Math.floor((length - samples.length) / 2));
  return result;
}

/** Raw pixels (B, C, H, W) or sound (B, T) as the model's inputs. */
export function normalized(raw, about) {
  if (about.type === "uint8") return raw;
  const data = new Float32Array(raw.data.length), by = Math.fround(about.divide_by);
  const [mean, std] = [about.mean, about.std].map((values) => values && Float32Array.from(values));
  const plane = mean && about.modality === "image" ? raw.shape[2] * raw.shape[3] : 0;
  for (let i = 0; i < data.length; i++) {
    const scaled = Math.fround(raw.data[i] / by), channel = plane && Math.floor(i / plane) % mean.length;
    data[i] = plane ? Math.fround(Math.fround(scaled - mean[channel]) / std[channel]) : scaled;
  }
  return { type: "float32", data, shape: raw.shape };
}

// Rows and texts ------------------------------------------------------------------------------------------------------

/** A row {column: text} as the vector (1, features) that the model takes, and what is to be said of it. */
export function encoded(row, about) {
  const values = [], notes = [];
  for (const [name, facts] of Object.entries(about.numeric)) {
    const text = String(row[name] ?? "");
    let value = Number(text);
    if (MISSING.has(text)) {
      value = facts.median;
      notes.push(`"${name}" is missing; taken as its median, ${facts.median}`);
    } else if (!NUMBER.test(text) || !Number.isFinite(value)) {
      throw new Refused(`"${name}": "${text}" is no number; write it as 1234.5, or leave it empty`);
    }
    for (let i = 0; i + 1 < facts.edges.length; i++) {
      const [low, high] = [facts.edges[i], facts.edges[i + 1]];
      values.push(Math.max(0, Math.min(1, (value - low) / (high - low))));
    }
  }
  for (const [name, seen] of Object.entries(about.categorical)) {
    const text = String(row[name] ?? ""), value = MISSING.has(text) ? UNKNOWN : text;
    if (!seen.includes(value)) notes.push(`"${name}": "${text}" was not seen in training; taken as none of its values`);
    for (const one of seen) values.push(one === value ? 1 : 0);
  }
  return { inputs: { type: "float32", data: Float32Array.from(values), shape: [1, values.length] }, notes };
}

/** How many tokens of each of the texts stay, as the package tokenizers cuts the longer one first. */
function cuts(sizes, most) {
  if (sizes.length === 1) return [Math.min(sizes[0], most)];
  const [short, long] = [Math.min(...sizes), Math.max(...sizes)];
  let [first, second] = [short, short > most ? short : Math.min(long, Math.max(short, most - short))];
  if (first + second > most) [first, second] = [Math.floor(most / 2), Math.floor(most / 2) + (most % 2)];
  return sizes[0] > sizes[1] ? [second, first] : [first, second];
}

/** One text, or two that are compared, as token numbers (1, L), and what is to be said of them. */
export function tokens(texts, about, tokenizer, truncation) {
  texts = texts.map((text) => text.normalize("NFC"));
  if (!texts.every((text) => text.trim())) throw new Refused("the text is empty; give it words");
  const [length] = about.shape, notes = [];
  const ids = tokenizer.encode(texts[0], texts.length > 1 ? { text_pair: texts[1] } : {}).ids;
  let kept = ids;
  if (ids.length > length) {
    const parts = texts.map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids);
    const special = ids.length - parts.reduce((sum, part) => sum + part.length, 0);
    const sizes = cuts(parts.map((part) => part.length), length - special);
    kept = shortened(ids, parts, sizes, truncation?.direction === "Left");
    notes.push(`longer than ${length} tokens (it has ${ids.length}); cut there`);
  }
  if (about.unknown !== null && kept.every((id) => id === about.unknown || about.special.includes(id))) {
    notes.push("holds no token that the tokenizer knows");
  }
  const size = Math.max(kept.length, about.fixed_length ? length : SHORTEST);
  const data = new BigInt64Array(size).fill(BigInt(about.pad));
  kept.forEach((id, place) => (data[place] = BigInt(id)));
  return { inputs: { type: "int64", data, shape: [1, size] }, notes };
}

/** Token numbers with each text's part cut to its size; what stands between and around them stays. */
function shortened(ids, parts, sizes, fromLeft) {
  const result = [];
  let place = 0;
  parts.forEach((part, number) => {
    while (part.some((id, i) => ids[place + i] !== id)) result.push(ids[place++]);
    const size = sizes[number];
    result.push(...(fromLeft ? part.slice(part.length - size) : part.slice(0, size)));
    place += part.length;
  });
  return [...result, ...ids.slice(place)];
}

// What outputs mean ---------------------------------------------------------------------------------------------------

/** The prediction of one output: {label, and by label a share of 1}, or {label, value} of a number. */
export function decoded(output, about) {
  const logits = [...output.data];
  if (about.decoding === "number") {
    const value = about.target.mean + about.target.std * logits[0];
    return { label: `${about.labels[0]} ${Number(value.toPrecision(4))}`, shares: [] };
  }
  const largest = Math.max(...logits), powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((one, other) => one + other, 0);
  const isSoftmax = about.decoding === "softmax";
  const shares = logits.map((logit, i) => [about.labels[i], isSoftmax ? powers[i] / sum : 1 / (1 + Math.exp(-logit))]);
  const above = about.labels.filter((_, i) => logits[i] > 0).join(", ") || "none";
  return { label: isSoftmax ? about.labels[logits.indexOf(largest)] : above, shares };
}

/** A detector's outputs by name as one, (1, 4 + classes, positions): corners in pixels, then logits; see run.py. */
export function joinedHeads(outputs) {
  const strides = Object.keys(outputs).filter((name) => /^classes_\d+$/.test(name)).map((name) => Number(name.slice(8)));
  if (!strides.length) return Object.values(outputs)[0];
  const maps = strides.sort((one, other) => one - other).map((stride) => {
    const [classes, raw] = [outputs[`classes_${stride}`], outputs[`boxes_${stride}`]];
    return { stride, classes, raw, places: raw.shape[2] * raw.shape[3] };
  });
  const count = maps.reduce((sum, { places }) => sum + places, 0), rows = 4 + maps[0].classes.shape[1];
  const data = new Float32Array(rows * count);
  let begin = 0;
  for (const { stride, classes, raw, places } of maps) {
    for (let place = 0; place < places; place++) {
      const middle = [(place % raw.shape[3]) + 0.5, Math.floor(place / raw.shape[3]) + 0.5].map((one) => one * stride);
      for (let side = 0; side < 4; side++) {
        const value = raw.data[side * places + place];
        const distance = (Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)))) * stride; // softplus
        data[side * count + begin + place] = middle[side % 2] + (side < 2 ? -distance : distance);
      }
      for (let row = 4; row < rows; row++) data[row * count + begin + place] = classes.data[(row - 4) * places + place];
    }
    begin += places;
  }
  return { type: "float32", data, shape: [1, rows, count] };
}

function overlap(one, other) {
  const sides = [0, 1].map((axis) => Math.max(0, Math.min(one[axis + 2], other[axis + 2]) - Math.max(one[axis], other[axis])));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]), shared = sides[0] * sides[1];
  const union = area(one) + area(other) - shared;
  return union > 0 ? shared / union : 0;
}

/** The boxes {label, score, corners} of one image of [height, width], likeliest first, as run.py's `detected`. */
export function detected({ data, shape: [, rows, count] }, [height, width]) {
  const found = [];
  for (let row = 4; row < rows; row++) {
    for (let place = 0; place < count; place++) {
      const score = 1 / (1 + Math.exp(-data[row * count + place]));
      if (score > LEAST_SCORE) found.push({ label: row - 4, score, place });
    }
  }
  const likeliest = found.sort((one, other) => other.score - one.score).slice(0, CANDIDATES);
  for (const box of likeliest) {
    box.corners = [0, 1, 2, 3].map((side) => Math.max(0, Math.min([width, height][side % 2], data[side * count + box.place])));
  }
  const left = [];
  for (const box of likeliest) {
    const isSame = (one) => one.label === box.label && overlap(one.corners, box.corners) > SAME_OBJECT;
    if (!left.some(isSame)) left.push(box);
  }
  return left.slice(0, MOST_BOXES).map((box) => {
    let votes = 0, corners = [0, 0, 0, 0];
    for (const one of likeliest) {
      const shared = one === box ? 1 : one.label === box.label ? overlap(one.corners, box.corners) : 0;
      if (shared <= SAME_OBJECT) continue;
      const vote = one.score * shared ** 2;
      votes += vote;
      corners = corners.map((side, axis) => side + vote * one.corners[axis]);
    }
    return { label: box.label, score: box.score, corners: corners.map((side) => side / votes) };
  });
}

/** What is found in an image of [height, width]: {label, score, box} in its pixels. */
export function objectsIn(output, about, size) {
  const [rows, columns] = fittedSize(size, about), scale = [size[1] / columns, size[0] / rows];
  return detected(output, [rows, columns]).filter(({ score }) => score >= SHOWN_SCORE)
    .map(({ label, score, corners }) => ({ label, score, box: corners.map((side, axis) => side * scale[axis % 2]) }));
}

/** The class of every pixel that an image of [height, width] takes of a map (1, classes, H, W): {data, shape}. */
export function classMap({ data, shape: [, classes, height, width] }, about, size) {
  const [rows, columns] = fittedSize(size, about), found = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let best = 0;
      for (let one = 1; one < classes; one++) {
        const at = (number) => data[(number * height + row) * width + column];
        if (at(one) > at(best)) best = one;
      }
      found[row * columns + column] = best;
    }
  }
  return { type: "uint8", data: found, shape: [rows, columns] };
}

/** How often each number occurs, the most frequent first: [[number, count], ...]. */
function counted(numbers) {
  const counts = new Map();
  for (const number of numbers) counts.set(number, (counts.get(number) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1] || one[0] - other[0]);
}

/** Whether an output predicts something else than the expected one: another class, or a number beyond `allowed`. */
export function isChanged(output, expected, about, allowed) {
  const [one, other] = [output.data, expected.data];
  if (about.decoding === "softmax") return one.indexOf(Math.max(...one)) !== other.indexOf(Math.max(...other));
  if (about.decoding === "sigmoid") return one.some((logit, i) => logit > 0 !== other[i] > 0);
  if (about.decoding === "mask") {
    const [own, before] = [output, expected].map((map) => classMap(map, { shape: about.shape }, [1, 1]).data);
    return own.reduce((sum, label, pixel) => sum + (label !== before[pixel]), 0) > REPAINTED * own.length;
  }
  return largestDifference(one, other) > allowed;
}

export function largestDifference(one, other) {
  if (one.length !== other.length) return Infinity;
  let most = 0;
  for (let i = 0; i < one.length; i++) {
    const apart = Math.abs(Number(one[i]) - Number(other[i]));
    if (!(apart <= most)) most = apart; // NaN stays
  }
  return most;
}

// The model -----------------------------------------------------------------------------------------------------------

/** A function from inputs to outputs, both {name: tensor}, of an ONNX file; `ort` is onnxruntime-web. */
export async function open(ort, file) {
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return async (inputs) => {
    const feeds = {};
    for (const [name, { type, data, shape }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(type, data, shape);
    const results = await session.run(feeds);
    return Object.fromEntries(Object.entries(results).map(([name, { type, data, dims }]) =>
      [name, { type, data, shape: [...dims] }]));
  };
}

export async function runtime() {
  const ort = await import("./ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
  ort.env.wasm.numThreads = 1; // more need headers that a plain static server does not send
  return ort;
}

// The page ------------------------------------------------------------------------------------------------------------

const element = (id) => document.getElementById(id);

function make(kind, text = "", className = "") {
  const made = document.createElement(kind);
  [made.textContent, made.className] = [text, className];
  return made;
}

export class Page {
  static async start() {
    const began = performance.now();
    const [facts, vectors, ort] = await Promise.all([
      fetch("page.json").then((answer) => answer.json()),
      fetch("vectors.safetensors").then((answer) => answer.arrayBuffer()).then(readTensors),
      runtime(),
    ]);
    const page = new Page(facts, vectors, await open(ort, new URL(facts.model, document.baseURI).href));
    if (page.about.tokenizer) await page.readTokenizer();
    page.show();
    await page.replay();
    element("examples").firstChild?.click();
    element("opened").textContent = `opened and replayed in ${((performance.now() - began) / 1000).toFixed(2)} s`;
    return page;
  }

  constructor(facts, vectors, run) {
    [this.facts, this.about, this.vectors, this.run] = [facts, facts.preprocessing, vectors, run];
  }

  async readTokenizer() {
    const [{ Tokenizer }, file] = await Promise.all([
      import("./tokenizers.min.mjs"),
      fetch(this.about.tokenizer).then((answer) => answer.json()),
    ]);
    [this.tokenizer, this.truncation] = [new Tokenizer({ ...file, truncation: null, padding: null }, {}), file.truncation];
  }

  show() {
    if (["boxes", "mask"].includes(this.about.decoding)) element("result").className = "scene";
    document.title = element("name").textContent = this.facts.name;
    element("facts").textContent = this.facts.sentence;
    for (const row of this.facts.measured) {
      const line = make("tr", "", row.delivered ? "delivered" : "");
      for (const cell of row.cells) line.append(make("td", cell));
      element("measured").append(line);
    }
    const asks = { image: "askImage", audio: "askSound", text: "askText", table: "askRow" };
    this[asks[this.about.modality]]();
    this.showExamples();
  }

  // Replaying .........................................................................................................

  inputs(number) {
    const names = Object.keys(this.vectors).filter((name) => name === "inputs" || name.startsWith("inputs."));
    return Object.fromEntries(names.map((name) =>
      [name.split(".").slice(1).join(".") || this.facts.input, sample(this.vectors[name], number)]));
  }

  /** The outputs of the test vectors, by name; "" is the only one. */
  expected() {
    const names = Object.keys(this.vectors).filter((name) => name === "outputs" || name.startsWith("outputs."));
    return Object.fromEntries(names.map((name) => [name.split(".").slice(1).join("."), this.vectors[name]]));
  }

  async replay() {
    const expected = this.expected(), [count] = Object.values(expected)[0].shape, times = [];
    const limits = Object.fromEntries(Object.entries(expected).map(([name, { data }]) =>
      [name, ALLOWED * (data.reduce((a, b) => Math.max(a, b)) - data.reduce((a, b) => Math.min(a, b)))]));
    let [changed, most, allowed] = [0, 0, Object.values(limits)[0]];
    for (let number = 0; number < count; number++) {
      const began = performance.now(), outputs = await this.run(this.inputs(number));
      times.push(performance.now() - began);
      const others = Object.entries(expected).filter(([name, whole]) => {
        const [output, own] = [name ? outputs[name] : Object.values(outputs)[0], sample(whole, number)];
        const apart = largestDifference(output.data, own.data);
        if (!(apart * allowed <= most * limits[name])) [most, allowed] = [apart, limits[name]];
        return isChanged(output, own, this.about, limits[name]);
      });
      changed += others.length ? 1 : 0;
    }
    const unlike = this.unlikePreparations(), prepared = Object.keys(this.vectors).filter((n) => n.startsWith("prepared."));
    const passed = changed === 0 && most <= allowed && unlike.length === 0;
    this.replayed = { passed, count, changed, most, prepared: prepared.length, unlike };
    const median = times.sort((a, b) => a - b)[Math.floor(count / 2)];
    element("replay").className = passed ? "pass" : "fail";
    element("replay").textContent =
      `${passed ? "pass" : "FAIL"}: ${count - changed} of ${count} test vectors predict the same as where this file was` +
      ` made (largest difference ${most.toPrecision(2)}, allowed ${allowed.toPrecision(2)});` +
      (prepared.length ? ` ${prepared.length - unlike.length} of ${prepared.length} samples are prepared the same;` : "") +
      ` ${median.toFixed(2)} ms each`;
  }

  /** The samples that come out otherwise prepared here than in Python; see `resized` for what images may differ by. */
  unlikePreparations() {
    const { modality, type, divide_by, std } = this.about, level = type === "uint8" ? 1 : 1 / (divide_by * Math.min(...(std ?? [1])));
    const allowed = modality === "image" ? 1.001 * level : 0;
    return Object.keys(this.vectors).filter((name) => name.startsWith("prepared.")).filter((name) => {
      const number = Number(name.slice(9)), expected = this.vectors[name];
      const found = this.prepared(this.vectors[`given.${number}`] ?? this.facts.given[number]);
      return !(largestDifference(found.data, expected.data) <= allowed);
    });
  }

  /** Given as files are: an image (C, H, W), the bytes of a WAV file, a text or two, a row. */
  prepared(given) {
    switch (this.about.modality) {
      case "image": return this.ofImage(given);
      case "audio": return this.ofSound(readWav(given.data.buffer).samples);
      case "text": return this.ofTexts(given);
      default: return this.ofRow(given);
    }
  }

  // What is asked .....................................................................................................

  ofImage(image) {
    const fitted = fittedImage(image, this.about);
    return normalized({ ...fitted, shape: [1, ...fitted.shape] }, this.about);
  }

  ofSound(samples) {
    const data = fittedSound(samples, this.about.shape[0]);
    return normalized({ type: "int16", data, shape: [1, data.length] }, this.about);
  }

  ofTexts(texts) {
    return this.noted(tokens(texts, this.about, this.tokenizer, this.truncation));
  }

  ofRow(row) {
    return this.noted(encoded(row, this.about));
  }

  noted({ inputs, notes }) {
    element("notes").textContent = notes.join("; ");
    return inputs;
  }

  async predict(prepare) {
    try {
      element("notes").textContent = "";
      const inputs = { [this.facts.input]: await prepare() };
      const began = performance.now(), outputs = await this.run(inputs);
      const ms = performance.now() - began, { label, shares } = this.said(outputs);
      element("prediction").textContent = label;
      element("time").textContent = `${ms.toFixed(2)} ms`;
      this.showShares(shares);
    } catch (error) {
      element("prediction").textContent = element("time").textContent = "";
      this.showShares([]);
      element("notes").textContent = error instanceof Refused ? error.message : `this cannot be predicted: ${error.message}`;
    }
  }

  said(outputs) {
    switch (this.about.decoding) {
      case "boxes": return this.saidBoxes(joinedHeads(outputs));
      case "mask": return this.saidMask(Object.values(outputs)[0]);
      default: return decoded(Object.values(outputs)[0], this.about);
    }
  }

  /** The image that is shown, to draw on, and its size. */
  picture() {
    const canvas = element("shown").querySelector("canvas"), [, height, width] = this.about.shape;
    return { context: canvas?.getContext("2d"), size: canvas ? [canvas.height, canvas.width] : [height, width] };
  }

  saidBoxes(output) {
    const { labels } = this.about, { context, size } = this.picture(), things = objectsIn(output, this.about, size);
    if (context) things.forEach((thing) => this.drawBox(context, thing));
    const counts = counted(things.map(({ label }) => label)).map(([label, count]) => `${count} ${labels[label]}`);
    return { label: counts.join(", ") || "nothing", shares: things.map(({ label, score }) => [labels[label], score]) };
  }

  drawBox(context, { label, box: [x0, y0, x1, y1] }) {
    const colour = `rgb(${COLOURS[label % COLOURS.length]})`, width = Math.max(1, Math.round(context.canvas.width / 300));
    [context.strokeStyle, context.fillStyle, context.lineWidth] = [colour, colour, width];
    context.font = `${Math.max(10, 5 * width)}px sans-serif`;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.fillText(this.about.labels[label], x0 + width + 1, y0 + width + Math.max(10, 5 * width));
  }

  saidMask(output) {
    const { labels } = this.about, { context, size } = this.picture(), map = classMap(output, this.about, size);
    if (context) this.paint(context, map);
    const shares = counted(map.data).map(([label, count]) => [labels[label], count / map.data.length]);
    return { label: shares[0][0], shares };
  }

  /** Half of the image's colours become those of its classes. */
  paint(context, { data, shape: [rows, columns] }) {
    const layer = make("canvas"), pixels = new ImageData(columns, rows);
    [layer.width, layer.height] = [columns, rows];
    data.forEach((label, pixel) => pixels.data.set([...COLOURS[label % COLOURS.length], 255], 4 * pixel));
    layer.getContext("2d").putImageData(pixels, 0, 0);
    [context.globalAlpha, context.imageSmoothingEnabled] = [0.5, false];
    context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
    context.globalAlpha = 1;
  }

  showShares(shares) {
    const best = [...shares].sort((one, other) => other[1] - one[1]).slice(0, 5);
    element("shares").replaceChildren(...best.map(([label, share]) => {
      const line = make("div", "", "share"), bar = make("span", "", "bar");
      bar.style.width = `${100 * share}%`;
      line.append(make("span", label, "label"), make("span", "", "track"), make("span", `${(100 * share).toFixed(1)} %`, "number"));
      line.children[1].append(bar);
      return line;
    }));
  }

  drop(types, what, read) {
    const zone = make("label", "", "zone"), chosen = make("input");
    [chosen.type, chosen.accept] = ["file", types];
    zone.append(make("strong", `Drop ${what} here`), make("span", "or click to choose a file"), chosen);
    const take = (file) => file && this.predict(() => read(file));
    chosen.addEventListener("change", () => take(chosen.files[0]));
    for (const kind of ["dragover", "dragleave", "drop"]) {
      zone.addEventListener(kind, (event) => {
        event.preventDefault();
        zone.classList.toggle("over", kind === "dragover");
        if (kind === "drop") take(event.dataTransfer.files[0]);
      });
    }
    element("ask").append(zone);
  }

  askImage() {
    this.drop("image/*", "an image", async (file) => {
      const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" })
        .catch(() => { throw new Refused(`${file.name}: no image that this browser decodes`); });
      const canvas = make("canvas");
      [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
      const context = canvas.getContext("2d");
      context.drawImage(bitmap, 0, 0);
      element("shown").replaceChildren(canvas);
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      return this.ofImage(planes(data, canvas.height, canvas.width, this.about.shape[0]));
    });
  }

  askSound() {
    const hear = async (content, name) => {
      const wav = readWav(content), rate = this.about.rate;
      if (wav && wav.rate === rate) return this.ofSound(wav.samples);
      const context = new OfflineAudioContext(1, rate, rate); // decodes, and resamples to its own rate
      const sound = await context.decodeAudioData(content)
        .catch(() => { throw new Refused(`${name}: no sound that this browser decodes`); });
      const parts = Array.from({ length: sound.numberOfChannels }, (_, number) => sound.getChannelData(number));
      const inputs = this.ofSound(quantized(parts[0].map((_, i) => parts.reduce((sum, part) => sum + part[i], 0) / parts.length)));
      element("notes").textContent = `resampled to ${rate} Hz by this browser, which Python does a little otherwise`;
      return inputs;
    };
    this.drop("audio/*", "a sound", async (file) => hear(await file.arrayBuffer(), file.name));
    const button = make("button", "Record");
    button.addEventListener("click", () => this.record(button, hear));
    element("ask").append(button);
  }

  async record(button, hear) {
    const seconds = this.about.shape[0] / this.about.rate;
    await this.predict(async () => {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true })
        .catch(() => { throw new Refused("this page may not use the microphone; allow it, over https or on localhost"); });
      button.textContent = `recording ${seconds.toFixed(1)} s`;
      const recorder = new MediaRecorder(stream), parts = [];
      recorder.ondataavailable = ({ data }) => parts.push(data);
      recorder.start();
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      await new Promise((resolve) => ((recorder.onstop = resolve), recorder.stop()));
      stream.getTracks().forEach((track) => track.stop());
      return hear(await new Blob(parts).arrayBuffer(), "the recording");
    });
    button.textContent = "Record";
  }

  askText() {
    const form = make("form"), boxes = Array.from({ length: this.about.pair ? 2 : 1 }, () => make("textarea"));
    boxes.forEach((box, i) => (box.placeholder = this.about.pair ? `${["first", "second"][i]} text` : "a text"));
    form.append(...boxes, make("button", "Predict"));
    this.ask(form, () => this.ofTexts(boxes.map((box) => box.value)));
    this.fill = (texts) => texts.forEach((text, i) => (boxes[i].value = text));
  }

  askRow() {
    if (!this.about.numeric) {
      element("ask").append(make("p", "This model takes vectors without named columns: it predicts its test vectors alone."));
      return;
    }
    const form = make("form", "", "row"), fields = {};
    for (const name of Object.keys(this.about.numeric)) {
      fields[name] = make("input");
      fields[name].value = String(this.about.numeric[name].median);
    }
    for (const [name, seen] of Object.entries(this.about.categorical)) {
      fields[name] = make("select");
      fields[name].append(...seen.map((value) => make("option", value)));
    }
    for (const [name, field] of Object.entries(fields)) {
      const label = make("label", name);
      label.append(field);
      form.append(label);
    }
    form.append(make("button", "Predict"));
    this.fill = (row) => Object.entries(fields).forEach(([name, field]) => (field.value = row[name]));
    const row = () => Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
    this.ask(form, () => this.ofRow(row()));
  }

  ask(form, prepare) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.predict(prepare);
    });
    element("ask").append(form);
  }

  /** Samples to click on: texts and rows fill in what is asked, others are those of the test vectors. */
  showExamples() {
    const raw = this.vectors.pixels, given = this.fill ? this.facts.given : null;
    const count = Math.min(EXAMPLES, given?.length ?? Object.values(this.expected())[0].shape[0]);
    for (let number = 0; number < count; number++) {
      const button = make("button", raw ? "" : `sample ${number + 1}`, "example");
      if (raw) button.append(this.drawn(sample(raw, number)));
      if (Array.isArray(given?.[number])) button.textContent = given[number].join(" / ");
      button.addEventListener("click", () => {
        if (raw) element("shown").replaceChildren(this.drawn(sample(raw, number)));
        if (given) this.fill(given[number]);
        this.predict(() => (given ? this.prepared(given[number]) : Object.values(this.inputs(number))[0]));
      });
      element("examples").append(button);
    }
  }

  drawn({ data, shape: [, channels, height, width] }) {
    const canvas = make("canvas"), count = height * width, pixels = new ImageData(width, height);
    [canvas.width, canvas.height] = [width, height];
    for (let i = 0; i < count; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = data[(channels === 1 ? 0 : c * count) + i];
      pixels.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas;
  }
}
