// Spans of texts as run.py finds them: places are counted in characters (code points), as Python counts them.

import { Refused, likeliest } from "./tensors.js";
import { SHORTEST, padded } from "./texts.js";

// As Python knows them: JavaScript's \s has U+FEFF and lacks U+001C to U+001F and U+0085.
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
const SIGN = /[\p{P}\p{S}]/u;
const DIGIT =
  /[\p{Nd}\xb2\xb3\xb9\u1369-\u1371\u19da\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468\u2474-\u247c\u2488-\u2490\u24ea\u24f5-\u24fd\u24ff\u2776-\u277e\u2780-\u2788\u278a-\u2792\u{10a40}-\u{10a43}\u{10e60}-\u{10e68}\u{11052}-\u{1105a}\u{1f100}-\u{1f10a}]/u;
const PARTING = new Set(",;()[]{}<>|\"\u201c\u201d\u2026"); // part words also where no space stands beside them
const LETTER_IS_WORD = /[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]/;

/** Where the words of a text begin and end, [[begin, end], ...]; see `words_of` of run.py. */
export function wordsOf(text) {
  const letters = [...text], words = [], count = letters.length;
  for (let place = 0; place < count; ) {
    if (SPACE.test(letters[place])) {
      place++;
      continue;
    }
    let begin = place, end = place;
    while (end < count && !SPACE.test(letters[end])) end++;
    place = end;
    for (; begin < end && SIGN.test(letters[begin]) && !isHandle(letters, begin, end); begin++) words.push([begin, begin + 1]);
    const behind = [];
    for (; end > begin && SIGN.test(letters[end - 1]); end--) behind.unshift([end - 1, end]);
    if (end - begin > 2 && "sS".includes(letters[end - 1]) && "'\u2019".includes(letters[end - 2])) {
      behind.unshift([end - 2, end]);
      end -= 2;
    }
    words.push(...within(letters, begin, end), ...behind);
  }
  return words;
}

/** Whether an @ or # begins a word. */
function isHandle(letters, begin, end) {
  return "@#".includes(letters[begin]) && begin + 1 < end && !SIGN.test(letters[begin + 1]);
}

/** The words between two places without spaces: parted at brackets and commas, and around letters that are words. */
function within(letters, begin, end) {
  const words = [], isDigit = (place) => place >= 0 && place < letters.length && DIGIT.test(letters[place]);
  for (let place = begin; place < end; place++) {
    const isNumber = letters[place] === "," && isDigit(place - 1) && isDigit(place + 1);
    if ((PARTING.has(letters[place]) && !isNumber) || LETTER_IS_WORD.test(letters[place])) {
      words.push([begin, place], [place, place + 1]);
      begin = place + 1;
    }
  }
  return [...words, [begin, end]].filter(([first, last]) => first < last);
}

/** The token numbers of each word, at least one: of a word that the tokenizer drops, its unknown token's. */
export function piecesOf(tokenizer, words) {
  const before = tokenizer.isByteLevel ? " " : ""; // such tokenizers tell the beginning of a word by it
  const unknown = ["[UNK]", "<unk>"].map((token) => tokenizer.token_to_id(token)).find((id) => id !== undefined) ?? 0;
  return words.map((word, number) => {
    const ids = tokenizer.encode((number ? before : "") + word, { add_special_tokens: false }).ids;
    return ids.length ? ids : [unknown];
  });
}

/** The special tokens in front of a text and behind it. */
export function specialAround(tokenizer) {
  for (const text of ["a", "1", "."]) {
    const [whole, inside] = [true, false].map((add) => tokenizer.encode(text, { add_special_tokens: add }).ids);
    const front = whole.findIndex((_, place) => inside.every((id, i) => whole[place + i] === id));
    if (inside.length) return [whole.slice(0, front), whole.slice(front + inside.length)];
  }
  throw new Refused("the tokenizer makes no token of a letter, a digit or a full stop; take another");
}

/** Overlapping parts {begin, end, ownBegin, ownEnd} of a text of words with so many tokens each, at most `most` a part;
 * a quarter is shared with the next one. Every word counts in one part, that in which more stands around it. */
export function windowsOf(sizes, most) {
  const windows = [];
  for (let [begin, own] = [0, 0]; ; ) {
    let end = begin;
    for (let used = 0; end < sizes.length && (end === begin || used + sizes[end] <= most); end++) used += sizes[end];
    if (end === sizes.length) return [...windows, { begin, end, ownBegin: own, ownEnd: end }];
    let back = end;
    for (let shared = 0; back - 1 > begin && shared + sizes[back - 1] <= Math.min(Math.floor(most / 4), most - sizes[end]); ) {
      shared += sizes[--back];
    }
    const middle = Math.floor((back + end) / 2), first = Math.max(back, own + 1);
    const meet = first <= end ? Math.max(first, middle) : Math.max(middle, own + 1);
    windows.push({ begin, end, ownBegin: own, ownEnd: meet });
    [begin, own] = [back, meet];
  }
}

/** The spans that tags of words write down, {label, first, last}: first word, behind the last; see run.py. */
export function spansIn(tags) {
  const spans = [];
  let [before, label, begin] = ["O", "", 0];
  [...tags, "O"].forEach((tag, place) => {
    const [prefix, own] = [tag.slice(0, 1), tag.slice(2)];
    if (!("BI".includes(before) && "IE".includes(prefix) && own === label)) {
      if (before !== "O") spans.push({ label, first: begin, last: place });
      begin = place;
    }
    [before, label] = [prefix, own];
  });
  return spans;
}

/** A text of any length as the model reads it: its words, and windows {inputs, places} with the places of the first
 * tokens of those words that count there. */
export function windowed(text, about, tokenizer) {
  const words = wordsOf(text), letters = [...text], [length] = about.shape;
  if (!words.length) throw new Refused("the text is empty; give it words");
  const [front, behind] = specialAround(tokenizer), most = length - front.length - behind.length;
  const own = words.map(([begin, end]) => letters.slice(begin, end).join("").normalize("NFC"));
  const pieces = piecesOf(tokenizer, own).map((ids) => ids.slice(0, most));
  const windows = windowsOf(pieces.map((ids) => ids.length), most).map(({ begin, end, ownBegin, ownEnd }) => {
    const ids = [...front], places = [];
    for (let word = begin; word < end; word++) {
      if (word >= ownBegin && word < ownEnd) places.push(ids.length);
      ids.push(...pieces[word]);
    }
    ids.push(...behind);
    return { inputs: padded(ids, Math.max(ids.length, about.fixed_length ? length : SHORTEST), about.pad), places };
  });
  return { words, windows };
}

/** The spans {label, begin, end, text, probability} of a text; `predict` gives logits (1, labels, tokens) of inputs. */
export async function spansOf(text, predict, about, tokenizer) {
  const { words, windows } = windowed(text, about, tokenizer), tags = [], shares = [], letters = [...text];
  for (const { inputs, places } of windows) {
    const output = await predict(inputs), likely = likeliest(output), [, rows, count] = output.shape;
    for (const place of places) {
      const most = output.data[likely[place] * count + place];
      let sum = 0;
      for (let row = 0; row < rows; row++) sum += Math.exp(output.data[row * count + place] - most);
      tags.push(about.labels[likely[place]]);
      shares.push(1 / sum);
    }
  }
  return spansIn(tags).map(({ label, first, last }) => {
    const [begin, end] = [words[first][0], words[last - 1][1]];
    const probability = shares.slice(first, last).reduce((one, other) => one + other) / (last - first);
    return { label, begin, end, text: letters.slice(begin, end).join(""), probability };
  });
}
