// Boxes and masks as run.py finds them.

import { fittedSize } from "./images.js";
import { likeliest } from "./tensors.js";

const LEAST_SCORE = 0.01, SHOWN_SCORE = 0.5; // of a box that is kept, and of one that is drawn
const CANDIDATES = 500, MOST_BOXES = 100; // likeliest boxes of an image that are compared, and that are kept
const SAME_OBJECT = 0.6; // overlap from which the less likely of two boxes of a class is dropped

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
  const surer = left.map((box) => {
    let votes = 0, others = 0, corners = [0, 0, 0, 0];
    for (const one of likeliest) {
      const shared = one === box ? 1 : one.label === box.label ? overlap(one.corners, box.corners) : 0;
      if (shared <= SAME_OBJECT) continue;
      const vote = one.score * shared ** 2;
      votes += vote;
      others += one === box ? 0 : one.score;
      corners = corners.map((side, axis) => side + vote * one.corners[axis]);
    }
    const score = 1 - (1 - box.score) ** (1 + Math.log1p(others));
    return { label: box.label, score, corners: corners.map((side) => side / votes) };
  });
  return surer.sort((one, other) => other.score - one.score).slice(0, MOST_BOXES);
}

/** What is found in an image of [height, width]: {label, score, box} in its pixels. */
export function objectsIn(output, about, size) {
  const [rows, columns] = fittedSize(size, about), scale = [size[1] / columns, size[0] / rows];
  return detected(output, [rows, columns]).filter(({ score }) => score >= SHOWN_SCORE)
    .map(({ label, score, corners }) => ({ label, score, box: corners.map((side, axis) => side * scale[axis % 2]) }));
}

/** The class of every pixel that an image of [height, width] takes of a map (1, classes, H, W): {data, shape}. */
export function classMap(map, about, size) {
  const [rows, columns] = fittedSize(size, about), whole = likeliest(map), found = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) found[row * columns + column] = whole[row * map.shape[3] + column];
  }
  return { type: "uint8", data: found, shape: [rows, columns] };
}

/** How often each of some numbers or names occurs, the most frequent first: [[number, count], ...]. */
export function counted(numbers) {
  const counts = new Map();
  for (const number of numbers) counts.set(number, (counts.get(number) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1));
}
