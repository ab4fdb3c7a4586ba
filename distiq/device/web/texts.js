// Texts as run.py makes tokens of them.

import { Refused } from "./tensors.js";

export const SHORTEST = 2; // tokens that a model is shown at least

/** A tokenizer of the package @huggingface/tokenizers from its file, with what the file says of it. */
export function tokenizerOf(Tokenizer, file) {
  const tokenizer = new Tokenizer({ ...file, truncation: null, padding: null }, {});
  return Object.assign(tokenizer, {
    truncation: file.truncation,
    isByteLevel: JSON.stringify(file.pre_tokenizer ?? "").includes("ByteLevel"),
  });
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
export function tokens(texts, about, tokenizer) {
  texts = texts.map((text) => text.normalize("NFC"));
  if (!texts.every((text) => text.trim())) throw new Refused("the text is empty; give it words");
  const [length] = about.shape, notes = [];
  const ids = tokenizer.encode(texts[0], texts.length > 1 ? { text_pair: texts[1] } : {}).ids;
  let kept = ids;
  if (ids.length > length) {
    const parts = texts.map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids);
    const special = ids.length - parts.reduce((sum, part) => sum + part.length, 0);
    const sizes = cuts(parts.map((part) => part.length), length - special);
    kept = shortened(ids, parts, sizes, tokenizer.truncation?.direction === "Left");
    notes.push(`longer than ${length} tokens (it has ${ids.length}); cut there`);
  }
  if (about.unknown !== null && kept.every((id) => id === about.unknown || about.special.includes(id))) {
    notes.push("holds no token that the tokenizer knows");
  }
  const size = Math.max(kept.length, about.fixed_length ? length : SHORTEST);
  return { inputs: padded(kept, size, about.pad), notes };
}

/** Token numbers as the model takes them, (1, size). */
export function padded(ids, size, pad) {
  const data = new BigInt64Array(size).fill(BigInt(pad));
  ids.forEach((id, place) => (data[place] = BigInt(id)));
  return { type: "int64", data, shape: [1, size] };
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
