// Tensors, {type, data, shape} with data a typed array, and safetensors files. None of these modules but page.js, asks.js
// and draws.js touches a document: node runs them, too.

const TYPES = {
  F32: ["float32", Float32Array], I64: ["int64", BigInt64Array], I32: ["int32", Int32Array], I16: ["int16", Int16Array],
  U8: ["uint8", Uint8Array], I8: ["int8", Int8Array], BOOL: ["bool", Uint8Array],
};

export class Refused extends Error {}

/** Inputs as the model takes them, in place of a sample as it comes. */
export class Prepared {
  constructor(inputs) {
    this.inputs = inputs;
  }
}

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

export function largestDifference(one, other) {
  if (one.length !== other.length) return Infinity;
  let most = 0;
  for (let i = 0; i < one.length; i++) {
    const apart = Math.abs(Number(one[i]) - Number(other[i]));
    if (!(apart <= most)) most = apart; // NaN stays
  }
  return most;
}

/** Half to even, as Python rounds. */
export function roundEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
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

/** Of each place the row with the largest value, of (1, rows, places...): places numbers. */
export function likeliest({ data, shape: [, rows] }) {
  const places = data.length / rows, found = new Uint16Array(places);
  for (let place = 0; place < places; place++) {
    for (let row = 1; row < rows; row++) {
      if (data[row * places + place] > data[found[place] * places + place]) found[place] = row;
    }
  }
  return found;
}

/** Tensors of one type as a vector of all their values. */
export function inOne(tensors) {
  const count = tensors.reduce((sum, { data }) => sum + data.length, 0), data = new tensors[0].data.constructor(count);
  let begin = 0;
  for (const one of tensors) {
    data.set(one.data, begin);
    begin += one.data.length;
  }
  return { type: tensors[0].type, data, shape: [count] };
}
