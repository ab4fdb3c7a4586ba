// Predicts samples with onnxruntime-web: prepared and decoded as run.py does where Python is. index.html shows it.
//
// Everything above "The page" touches no document: node runs it, too. Tensors are {data, shape}, data a typed array.

export const ALLOWED = 0.02; // share of the outputs' span by which another processor may move one
const SHORTEST = 2; // tokens that a model is shown at least
const EXAMPLES = 12;
const PADDING = 114; // pixels beside a letterboxed image
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

/** (C, H, W) as large as the model wants it; a letterboxed one keeps the ratio of its sides, with grey beside it. */
export function fittedImage(image, about) {
  const [channels, height, width] = about.shape;
  if (about.resize !== "letterbox") return resized(image, height, width);
  const [, rows, columns] = image.shape, ratio = Math.min(height / rows, width / columns);
  const size = [rows, columns].map((side, axis) =>
    Math.min([height, width][axis], Math.max(1, roundEven(side * ratio))));
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

/** Whether an output predicts something else than the expected one: another class, or a number beyond `allowed`. */
export function isChanged(output, expected, about, allowed) {
  const [one, other] = [output.data, expected.data];
  if (about.decoding === "softmax") return one.indexOf(Math.max(...one)) !== other.indexOf(Math.max(...other));
  if (about.decoding === "sigmoid") return one.some((logit, i) => logit > 0 !== other[i] > 0);
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

  async replay() {
    const { outputs } = this.vectors, count = outputs.shape[0], times = [];
    const allowed = ALLOWED * (outputs.data.reduce((a, b) => Math.max(a, b)) - outputs.data.reduce((a, b) => Math.min(a, b)));
    let [changed, most] = [0, 0];
    for (let number = 0; number < count; number++) {
      const began = performance.now(), [output] = Object.values(await this.run(this.inputs(number)));
      times.push(performance.now() - began);
      const expected = sample(outputs, number);
      changed += isChanged(output, expected, this.about, allowed) ? 1 : 0;
      most = Math.max(most, largestDifference(output.data, expected.data));
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
      const began = performance.now(), [output] = Object.values(await this.run(inputs));
      const ms = performance.now() - began, { label, shares } = decoded(output, this.about);
      element("prediction").textContent = label;
      element("time").textContent = `${ms.toFixed(2)} ms`;
      this.showShares(shares);
    } catch (error) {
      element("prediction").textContent = element("time").textContent = "";
      this.showShares([]);
      element("notes").textContent = error instanceof Refused ? error.message : `this cannot be predicted: ${error.message}`;
    }
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
    const count = Math.min(EXAMPLES, given?.length ?? this.vectors.outputs.shape[0]);
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
