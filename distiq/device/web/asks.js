// What the page asks for: an image, a sound, a text or two, a row. Each hands the page what it was given.

import { drawn, element, make } from "./draws.js";
import { planes } from "./images.js";
import { quantized, readWav } from "./sounds.js";
import { Prepared, Refused } from "./tensors.js";

/** A zone for a file of some kind; `read` makes of it what the page predicts. */
function dropZone(page, types, what, read) {
  const zone = make("label", "", "zone"), chosen = make("input");
  [chosen.type, chosen.accept] = ["file", types];
  zone.append(make("strong", `Drop ${what} here`), make("span", "or click to choose a file"), chosen);
  const take = (file) => file && page.predict(() => read(file));
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

export function askImage(page) {
  dropZone(page, "image/*", "an image", async (file) => {
    const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" })
      .catch(() => { throw new Refused(`${file.name}: no image that this browser decodes`); });
    const canvas = make("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    element("shown").replaceChildren(canvas);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return planes(data, canvas.height, canvas.width, page.about.shape[0]);
  });
}

export function askSound(page) {
  dropZone(page, "audio/*", "a sound", async (file) => heard(page, await file.arrayBuffer(), file.name));
  const button = make("button", "Record");
  button.addEventListener("click", () => (page.recorder ? page.recorder.stop() : record(page, button)));
  element("ask").append(button);
}

/** int16 samples at the model's rate. */
async function heard(page, content, name) {
  const wav = readWav(content), { rate } = page.about;
  if (wav && wav.rate === rate) return wav.samples;
  const context = new OfflineAudioContext(1, rate, rate); // decodes, and resamples to its own rate
  const sound = await context.decodeAudioData(content)
    .catch(() => { throw new Refused(`${name}: no sound that this browser decodes`); });
  page.notes.push(`resampled to ${rate} Hz by this browser, which Python does a little otherwise`);
  const parts = Array.from({ length: sound.numberOfChannels }, (_, number) => sound.getChannelData(number));
  return quantized(parts[0].map((_, i) => parts.reduce((sum, part) => sum + part[i], 0) / parts.length));
}

/** Records as long as the model hears, or for a text until the button is clicked again. */
async function record(page, button) {
  const seconds = page.about.shape[0] / page.about.rate, isText = page.about.decoding === "transcript";
  await page.predict(async () => {
    const stream = await navigator.mediaDevices?.getUserMedia({ audio: true }).catch(() => null);
    if (!stream) throw new Refused("this page may not use the microphone; allow it, over https or on localhost");
    button.textContent = isText ? "Stop" : `recording ${seconds.toFixed(1)} s`;
    const recorder = (page.recorder = new MediaRecorder(stream)), parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    const stopped = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.start();
    if (!isText) setTimeout(() => recorder.state === "recording" && recorder.stop(), 1000 * seconds);
    await stopped;
    stream.getTracks().forEach((track) => track.stop());
    return heard(page, await new Blob(parts).arrayBuffer(), "the recording");
  });
  page.recorder = null;
  button.textContent = "Record";
}

export function askText(page) {
  if (!page.about.tokenizer) return cannotAsk("token numbers without a tokenizer");
  const isVector = page.about.decoding === "vector", form = make("form");
  const says = page.about.pair || isVector ? ["first text", isVector ? "second text, to compare" : "second text"] : ["a text"];
  const boxes = says.map((says) => Object.assign(make("textarea"), { placeholder: says, ariaLabel: says }));
  form.append(...boxes, make("button", isVector ? "Compare" : "Predict"));
  // a second text that is left empty is no text, where one alone makes sense
  onSubmit(page, form, () => boxes.map((box) => box.value).filter((text, i) => i === 0 || !isVector || text.trim()));
  page.fill = (texts) => boxes.forEach((box, i) => (box.value = texts[i] ?? ""));
}

export function askRow(page) {
  if (!page.about.numeric) return cannotAsk("vectors without named columns");
  const form = make("form", "", "row"), fields = {};
  for (const name of Object.keys(page.about.numeric)) {
    fields[name] = make("input");
    fields[name].value = String(page.about.numeric[name].median);
  }
  for (const [name, seen] of Object.entries(page.about.categorical)) {
    fields[name] = make("select");
    fields[name].append(...seen.map((value) => make("option", value)));
  }
  for (const [name, field] of Object.entries(fields)) {
    const label = make("label", name);
    label.append(field);
    form.append(label);
  }
  form.append(make("button", "Predict"));
  page.fill = (row) => Object.entries(fields).forEach(([name, field]) => (field.value = row[name]));
  onSubmit(page, form, () => Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value])));
}

function cannotAsk(what) {
  element("ask").append(make("p", `This model takes ${what}: it predicts its test vectors alone.`));
}

function onSubmit(page, form, given) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    page.predict(given);
  });
  element("ask").append(form);
}

/** Samples to click on: texts, rows and clips as they come, others are those of the test vectors. */
export function showExamples(page, most) {
  const raw = page.vectors.pixels, given = page.fill ? page.facts.given : null;
  const count = Math.min(most, given?.length ?? Object.values(page.expected())[0].shape[0]);
  for (let number = 0; number < count; number++) {
    const button = make("button", raw ? "" : `sample ${number + 1}`, "example");
    if (raw) button.append(drawn(page.vector("pixels", number)));
    if (Array.isArray(given?.[number])) button.textContent = given[number].join(" / ");
    button.addEventListener("click", () => {
      if (raw) element("shown").replaceChildren(drawn(page.vector("pixels", number)));
      if (given) page.fill(given[number]);
      page.predict(() => (given ? given[number] : new Prepared(Object.values(page.inputs(number))[0])));
    });
    element("examples").append(button);
  }
}
