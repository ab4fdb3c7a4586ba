// What the page draws: images with boxes and masks, texts with marks, shares.

const COLOURS = [
  [230, 25, 75], [60, 180, 75], [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240], [240, 50, 230],
  [210, 245, 60], [250, 190, 212], [0, 128, 128], [170, 110, 40], [128, 0, 0], [128, 128, 0], [0, 0, 128],
];

export const element = (id) => document.getElementById(id);

export function make(kind, text = "", className = "") {
  const made = document.createElement(kind);
  [made.textContent, made.className] = [text, className];
  return made;
}

const colour = (number, opacity = 1) => `rgb(${COLOURS[number % COLOURS.length].join(" ")} / ${opacity})`;

/** Planes (1, C, H, W) of uint8 as a canvas. */
export function drawn({ data, shape: [, channels, height, width] }) {
  const canvas = make("canvas"), count = height * width, pixels = new ImageData(width, height);
  [canvas.width, canvas.height] = [width, height];
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = data[(channels === 1 ? 0 : c * count) + i];
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

export function drawBox(context, { label, box: [x0, y0, x1, y1] }, name) {
  const width = Math.max(1, Math.round(context.canvas.width / 300));
  [context.strokeStyle, context.fillStyle, context.lineWidth] = [colour(label), colour(label), width];
  context.font = `${Math.max(10, 5 * width)}px sans-serif`;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.fillText(name, x0 + width + 1, y0 + width + Math.max(10, 5 * width));
}

/** Half of the image's colours become those of its classes. */
export function paint(context, { data, shape: [rows, columns] }) {
  const layer = make("canvas"), pixels = new ImageData(columns, rows);
  [layer.width, layer.height] = [columns, rows];
  data.forEach((label, pixel) => pixels.data.set([...COLOURS[label % COLOURS.length], 255], 4 * pixel));
  layer.getContext("2d").putImageData(pixels, 0, 0);
  [context.globalAlpha, context.imageSmoothingEnabled] = [0.5, false];
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
  context.globalAlpha = 1;
}

/** A text with its spans as coloured marks that say their kinds; `kinds` number the colours. */
export function marked(text, spans, kinds) {
  const letters = [...text], shown = make("p", "", "marked");
  let place = 0;
  for (const { label, begin, end } of spans) {
    const mark = make("mark", letters.slice(begin, end).join("")), number = kinds.indexOf(label);
    mark.style.background = colour(number, 0.3);
    mark.style.borderColor = colour(number);
    mark.append(make("small", label));
    shown.append(letters.slice(place, begin).join(""), mark);
    place = end;
  }
  shown.append(letters.slice(place).join(""));
  return shown;
}

/** Lines of bars, the largest five. */
export function bars(shares) {
  const best = [...shares].sort((one, other) => other[1] - one[1]).slice(0, 5);
  return best.map(([label, share]) => {
    const line = make("div", "", "share"), track = make("span", "", "track"), bar = make("span", "", "bar");
    bar.style.width = `${100 * share}%`;
    track.append(bar);
    line.append(make("span", label, "label"), track, make("span", `${(100 * share).toFixed(1)} %`, "number"));
    return line;
  });
}
