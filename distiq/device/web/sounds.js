// Sound as run.py prepares it.

import { roundEven } from "./tensors.js";

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
