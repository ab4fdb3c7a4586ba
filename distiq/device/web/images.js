// Images as run.py prepares them: resized as Pillow does, letterboxed, normalized.

import { roundEven } from "./tensors.js";

const PADDING = 114; // pixels beside a letterboxed image

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

/** [rows, columns] that an image of that size takes of the model's input. */
export function fittedSize([rows, columns], { shape: [, height, width], resize }) {
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
