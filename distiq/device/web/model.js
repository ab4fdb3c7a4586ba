// onnxruntime-web.

/** A function from inputs to outputs, both {name: tensor}, of an ONNX file; `ort` is onnxruntime-web. */
export async function open(ort, file) {
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return async (inputs) => {
    const feeds = {};
    for (const [name, { type, data, shape }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(type, data, shape);
    const results = await session.run(feeds);
    return Object.fromEntries(Object.entries(results).map(([name, { type, data, dims }]) =>
      [name, { type, data, shape: [...dims] }]));
  };
}

export async function runtime() {
  const ort = await import("./ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
  ort.env.wasm.numThreads = 1; // more need headers that a plain static server does not send
  return ort;
}
