// Texts of sound as run.py writes them: the likeliest symbol of every frame; long clips chunk by chunk.

import { Refused, likeliest, roundEven } from "./tensors.js";

const AHEAD_S = 0.5; // seconds of sound behind a frame that a stream waits for before it reads it
const CHUNK_S = 0.5;

/** The likeliest symbol of each frame of (1, symbols, frames), repeats merged, then without blanks, which are 0. */
export function greedy(output) {
  return [...likeliest(output)].filter((number, place, all) => number && number !== all[place - 1]);
}

/** What stands between symbols: nothing between characters, a space between words. */
const jointOf = (symbols) => (symbols.slice(1).every((symbol) => [...symbol].length === 1) ? "" : " ");

/** Symbols as a text; "|" is a space. */
export function spelt(numbers, symbols) {
  return numbers.map((number) => symbols[number]).join(jointOf(symbols)).replaceAll("|", " ");
}

/** The state before anything is heard: silence in the window, which begins at a whole number of frames. */
function unheard({ shape: [length], frame }) {
  if (!frame) throw new Refused(`the clip is longer than the model's window, and this bundle gives no length of a frame`);
  const begin = Math.ceil(length / frame) * -frame;
  return { window: new Float32Array(length), begin, rest: new Float32Array(-begin - length), read: 0, last: 0 };
}

function joined(...parts) {
  const result = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((begin, part) => (result.set(part, begin), begin + part.length), 0);
  return result;
}

/** The symbols that a chunk of samples adds; changes the state. As `written_on` of run.py, `predict` gives logits
 * (1, symbols, frames) of a window. */
async function writtenOn(predict, about, state, chunk, isLast) {
  const { frame, rate } = about, ahead = Math.ceil((AHEAD_S * rate) / frame), numbers = [];
  const most = Math.floor(state.window.length / frame) - 2 * ahead - 1;
  if (most < 1) throw new Refused(`the model's window of ${state.window.length / rate} s is too short for longer clips`);
  let rest = joined(state.rest, chunk, new Float32Array(isLast ? (ahead + 1) * frame : 0));
  while (rest.length >= frame) {
    const size = Math.min(Math.floor(rest.length / frame), most) * frame;
    state.window = joined(state.window.subarray(size), rest.subarray(0, size));
    rest = rest.slice(size);
    state.begin += size;
    const begun = Math.floor(state.begin / frame), inputs = { type: "float32", data: state.window, shape: [1, state.window.length] };
    const likely = likeliest(await predict(inputs)), stop = likely.length - ahead;
    for (let place = state.read - begun; place < stop; place++) {
      if (likely[place] && likely[place] !== state.last) numbers.push(likely[place]);
      state.last = likely[place];
    }
    state.read = Math.max(state.read, begun + stop);
  }
  state.rest = rest;
  return numbers;
}

/** The text of a clip that is longer than the model's window, inputs (1, T); `told` hears what is written so far. */
export async function writtenDown(clip, predict, about, told = () => {}) {
  const state = unheard(about), size = Math.max(1, roundEven(CHUNK_S * about.rate)), parts = [];
  for (let begin = 0; begin <= clip.data.length; begin += size) {
    const chunk = clip.data.subarray(begin, begin + size), isLast = begin + size > clip.data.length;
    if (chunk.length) parts.push(spelt(await writtenOn(predict, about, state, chunk, false), about.labels));
    if (isLast) parts.push(spelt(await writtenOn(predict, about, state, new Float32Array(0), true), about.labels));
    told(parts.filter(Boolean).join(jointOf(about.labels)));
  }
  return parts.filter(Boolean).join(jointOf(about.labels));
}
