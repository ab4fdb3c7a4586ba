// Predicts samples with onnxruntime-web: prepared and decoded as run.py does where Python is. index.html shows it.

import { askImage, askRow, askSound, askText, showExamples } from "./asks.js";
import { bars, drawBox, element, make, marked, paint } from "./draws.js";
import { fittedImage } from "./images.js";
import { open, runtime } from "./model.js";
import { ALLOWED, decoded, isChanged } from "./outputs.js";
import { encoded } from "./rows.js";
import { classMap, counted, joinedHeads, objectsIn } from "./scenes.js";
import { fittedSound, readWav } from "./sounds.js";
import { Prepared, Refused, inOne, largestDifference, normalized, readTensors, sample } from "./tensors.js";
import { tokenizerOf, tokens } from "./texts.js";
import { greedy, spelt, writtenDown } from "./transcripts.js";
import { cosine, npy } from "./vectors.js";
import { spansOf, windowed } from "./words.js";

const EXAMPLES = 12, ASKS = { image: askImage, audio: askSound, text: askText, table: askRow };
const SHOWN_VALUES = 5; // of a vector
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

export class Page {
  static async start() {
    const [facts, vectors, ort] = await Promise.all([
      fetch("page.json").then((answer) => answer.json()),
      fetch("vectors.safetensors").then((answer) => answer.arrayBuffer()).then(readTensors),
      runtime(),
    ]);
    const page = new Page(facts, vectors, await open(ort, new URL(facts.model, document.baseURI).href));
    if (page.about.tokenizer) await page.readTokenizer();
    page.show();
    element("examples").firstChild?.click();
    await page.predicting;
    const first = performance.now(); // since the browser went to this page
    await page.replay();
    element("opened").textContent =
      `first prediction ${seconds(first)} after this page was opened, all of this after ${seconds(performance.now())}`;
    return page;
  }

  constructor(facts, vectors, model) {
    [this.facts, this.about, this.vectors, this.model] = [facts, facts.preprocessing, vectors, model];
    [this.notes, this.spent, this.before] = [[], 0, null];
  }

  async readTokenizer() {
    const [{ Tokenizer }, file] = await Promise.all([
      import("./tokenizers.min.mjs"),
      fetch(this.about.tokenizer).then((answer) => answer.json()),
    ]);
    this.tokenizer = tokenizerOf(Tokenizer, file);
  }

  show() {
    const kinds = { boxes: "scene", mask: "scene", spans: "scene", transcript: "text" };
    element("result").className = kinds[this.about.decoding] ?? "";
    document.title = element("name").textContent = this.facts.name;
    element("facts").textContent = this.facts.sentence;
    for (const row of this.facts.measured) {
      const line = make("tr", "", row.delivered ? "delivered" : "");
      for (const cell of row.cells) line.append(make("td", cell));
      element("measured").append(line);
    }
    ASKS[this.about.modality](this);
    showExamples(this, EXAMPLES);
  }

  /** The model's outputs by name; its time is added up. */
  async run(inputs) {
    const began = performance.now(), outputs = await this.model(inputs);
    this.spent += performance.now() - began;
    return outputs;
  }

  /** The model's only output for its only input. */
  async output(inputs) {
    return Object.values(await this.run({ [this.facts.input]: inputs }))[0];
  }

  // Replaying .........................................................................................................

  /** Row `number` of a tensor of the test vectors. */
  vector(name, number) {
    return sample(this.vectors[name], number);
  }

  /** Names of the test vectors of one side: "" is the only one. */
  names(side) {
    return Object.keys(this.vectors).filter((name) => name === side || name.startsWith(`${side}.`))
      .map((name) => [name, name.slice(side.length + 1)]);
  }

  inputs(number) {
    return Object.fromEntries(this.names("inputs").map(([key, name]) => [name || this.facts.input, this.vector(key, number)]));
  }

  /** The outputs of the test vectors, by name. */
  expected() {
    return Object.fromEntries(this.names("outputs").map(([key, name]) => [name, this.vectors[key]]));
  }

  async replay() {
    const expected = this.expected(), [count] = Object.values(expected)[0].shape, times = [];
    const limits = Object.fromEntries(Object.entries(expected).map(([name, { data }]) =>
      [name, ALLOWED * (data.reduce((a, b) => Math.max(a, b)) - data.reduce((a, b) => Math.min(a, b)))]));
    let [changed, most, allowed] = [0, 0, Object.values(limits)[0]];
    for (let number = 0; number < count; number++) {
      this.spent = 0;
      const outputs = await this.run(this.inputs(number));
      times.push(this.spent);
      const others = Object.entries(expected).filter(([name, whole]) => {
        const [output, own] = [name ? outputs[name] : Object.values(outputs)[0], sample(whole, number)];
        const apart = largestDifference(output.data, own.data);
        if (!(apart * allowed <= most * limits[name])) [most, allowed] = [apart, limits[name]];
        return isChanged(output, own, this.about, limits[name]);
      });
      changed += others.length ? 1 : 0;
    }
    const prepared = this.names("prepared"), unlike = this.unlikePreparations();
    const said = this.facts.said ?? [], otherwise = await this.saysOtherwise(said);
    const passed = changed === 0 && most <= allowed && !unlike.length && !otherwise.length;
    this.replayed = { passed, count, changed, most, unlike, otherwise };
    const median = times.sort((a, b) => a - b)[Math.floor(count / 2)];
    element("replay").className = passed ? "pass" : "fail";
    element("replay").textContent =
      `${passed ? "pass" : "FAIL"}: ${count - changed} of ${count} test vectors predict the same as where this file was` +
      ` made (largest difference ${most.toPrecision(2)}, allowed ${allowed.toPrecision(2)});` +
      (prepared.length ? ` ${prepared.length - unlike.length} of ${prepared.length} samples are prepared the same;` : "") +
      (said.length ? ` ${said.length - otherwise.length} of ${said.length} are read the same;` : "") +
      ` ${median.toFixed(2)} ms each`;
  }

  /** The sample that comes with the page, as files are: an image (C, H, W), int16 samples, a text or two, a row. */
  given(number) {
    const tensor = this.vectors[`given.${number}`];
    if (!tensor) return this.facts.given[number];
    return this.about.modality === "audio" ? readWav(tensor.data.buffer).samples : tensor;
  }

  /** The samples that come out otherwise prepared here than in Python; see `resized` for what images may differ by. */
  unlikePreparations() {
    const { modality, type, divide_by, std } = this.about, level = type === "uint8" ? 1 : 1 / (divide_by * Math.min(...(std ?? [1])));
    const allowed = modality === "image" ? 1.001 * level : 0;
    return this.names("prepared").filter(([key, number]) => {
      const found = inOne(this.prepared(this.given(Number(number))));
      return !(largestDifference(found.data, this.vectors[key].data) <= allowed);
    });
  }

  /** The samples of which something else is said here than by run.py: spans {label, begin, end}, or a text. */
  async saysOtherwise(said) {
    const found = [];
    for (const [number, expected] of said.entries()) {
      const { label, spans } = await this.answered(this.given(number));
      const own = spans ? spans.map(({ label, begin, end }) => [label, begin, end]) : label;
      if (JSON.stringify(own) !== JSON.stringify(expected)) found.push(number);
    }
    return found;
  }

  // Preparing .........................................................................................................

  /** All inputs that a sample makes: of most one, of a long text one for each window, of two vectors one for each. */
  prepared(given) {
    switch (this.about.modality) {
      case "image": return [this.ofImage(given)];
      case "audio": return [this.ofSound(given)];
      case "text": return this.ofTexts(given);
      default: return [this.noted(encoded(given, this.about))];
    }
  }

  ofImage(image) {
    const fitted = fittedImage(image, this.about);
    return normalized({ ...fitted, shape: [1, ...fitted.shape] }, this.about);
  }

  /** A text is written of the whole clip. */
  ofSound(samples) {
    const data = this.isLong(samples) ? samples : fittedSound(samples, this.about.shape[0]);
    return normalized({ type: "int16", data, shape: [1, data.length] }, this.about);
  }

  isLong(samples) {
    return this.about.decoding === "transcript" && samples.length > this.about.shape[0];
  }

  ofTexts(texts) {
    switch (this.about.decoding) {
      case "spans": return windowed(texts[0], this.about, this.tokenizer).windows.map(({ inputs }) => inputs);
      case "vector": return texts.map((text) => this.noted(tokens([text], this.about, this.tokenizer)));
      default: return [this.noted(tokens(texts, this.about, this.tokenizer))];
    }
  }

  noted({ inputs, notes }) {
    this.notes.push(...notes);
    return inputs;
  }

  // Predicting ........................................................................................................

  /** Shows what the model says of what `ask` gives. */
  predict(ask) {
    this.predicting = this.predicted(ask);
    return this.predicting;
  }

  async predicted(ask) {
    try {
      [this.notes, this.spent] = [[], 0];
      const answer = await this.answered(await ask());
      if (this.about.decoding === "transcript" && !answer.label) this.notes.push("it writes no text of this sound");
      this.showAnswer(answer, `${this.spent.toFixed(2)} ms`);
    } catch (error) {
      this.notes = [error instanceof Refused ? error.message : `this cannot be predicted: ${error.message}`];
      this.showAnswer({ label: "", shares: [] }, "");
    }
  }

  /** What the model says of a sample as it comes, or of a Prepared one: {label, shares}, and spans or vectors. */
  async answered(given) {
    const { decoding } = this.about;
    if (given instanceof Prepared) return this.said(await this.run({ [this.facts.input]: given.inputs }));
    if (decoding === "spans") return this.saidSpans(given[0]);
    const prepared = this.prepared(given);
    if (decoding === "transcript" && this.isLong(given)) {
      return { label: await writtenDown(prepared[0], (inputs) => this.output(inputs), this.about), shares: [] };
    }
    if (decoding === "vector") {
      const vectors = [];
      for (const inputs of prepared) vectors.push((await this.output(inputs)).data);
      return this.saidVectors(vectors);
    }
    return this.said(await this.run({ [this.facts.input]: prepared[0] }));
  }

  said(outputs) {
    const [output] = Object.values(outputs);
    switch (this.about.decoding) {
      case "boxes": return this.saidBoxes(joinedHeads(outputs));
      case "mask": return this.saidMask(output);
      case "transcript": return { label: spelt(greedy(output), this.about.labels), shares: [] };
      case "vector": return this.saidVectors([output.data]);
      default: return decoded(output, this.about);
    }
  }

  async saidSpans(text) {
    const spans = await spansOf(text, (inputs) => this.output(inputs), this.about, this.tokenizer);
    const counts = counted(spans.map(({ label }) => label)).map(([label, count]) => `${count} ${label}`);
    return { label: counts.join(", ") || "none", shares: [], spans, text };
  }

  /** Two vectors are compared; of samples that come alone each with the one before. */
  saidVectors(vectors) {
    const [one, other] = vectors.length > 1 ? vectors : [vectors[0], this.about.modality === "text" ? null : this.before];
    this.before = one;
    const said = other ? `cosine ${cosine(one, other).toFixed(4)}` : `a vector of ${one.length} numbers`;
    if (other && vectors.length === 1) this.notes.push("compared with the sample before");
    return { label: said, shares: [], vectors };
  }

  /** The image that is shown, to draw on, and its size. */
  picture() {
    const canvas = element("shown").querySelector("canvas"), [, height, width] = this.about.shape;
    return { context: canvas?.getContext("2d"), size: canvas ? [canvas.height, canvas.width] : [height, width] };
  }

  saidBoxes(output) {
    const { labels } = this.about, { context, size } = this.picture(), things = objectsIn(output, this.about, size);
    if (context) things.forEach((thing) => drawBox(context, thing, labels[thing.label]));
    const counts = counted(things.map(({ label }) => label)).map(([label, count]) => `${count} ${labels[label]}`);
    return { label: counts.join(", ") || "nothing", shares: things.map(({ label, score }) => [labels[label], score]) };
  }

  saidMask(output) {
    const { labels } = this.about, { context, size } = this.picture(), map = classMap(output, this.about, size);
    if (context) paint(context, map);
    const shares = counted(map.data).map(([label, count]) => [labels[label], count / map.data.length]);
    return { label: shares[0][0], shares };
  }

  // Showing ...........................................................................................................

  showAnswer({ label, shares, spans, text, vectors }, time) {
    element("prediction").textContent = label;
    element("time").textContent = time;
    element("notes").textContent = this.notes.join("; ");
    element("shares").replaceChildren(...bars(shares));
    if (this.about.decoding === "spans") element("shown").replaceChildren(); // no marks of another text
    if (spans) this.showSpans(text, spans);
    if (vectors) this.showVectors(vectors);
  }

  showSpans(text, spans) {
    const kinds = [...new Set(this.about.labels.map((tag) => tag.slice(2)).filter(Boolean))];
    element("shown").replaceChildren(marked(text, spans, kinds));
    element("shares").replaceChildren(...spans.map(({ label, begin, end, text, probability }) =>
      make("div", `${begin} to ${end}: ${label} "${text}" ${(100 * probability).toFixed(1)} %`, "line")));
  }

  showVectors(vectors) {
    const lines = vectors.map((vector) => {
      const values = [...vector.slice(0, SHOWN_VALUES)].map((value) => Number(value.toPrecision(4)));
      return make("div", `${values.join(" ")}${vector.length > SHOWN_VALUES ? " ..." : ""}`, "line");
    });
    const link = make("a", `vectors.npy, ${vectors.length} x ${vectors[0].length}`);
    [link.href, link.download] = [URL.createObjectURL(new Blob([npy(vectors)])), "vectors.npy"];
    element("shares").replaceChildren(...lines, link);
  }
}
