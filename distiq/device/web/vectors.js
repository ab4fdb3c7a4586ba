// Vectors of samples: how near two are, and a file of them as numpy reads it.

export function cosine(one, other) {
  let [both, own, others] = [0, 0, 0];
  one.forEach((value, i) => {
    both += value * other[i];
    own += value * value;
    others += other[i] * other[i];
  });
  return both / Math.sqrt(own * others);
}

/** The bytes of an .npy file of vectors of float32 and of one width, (count, width): as `run.py --out` writes them. */
export function npy(vectors) {
  const [{ length: width }] = vectors, shape = `(${vectors.length}, ${width})`;
  const said = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`;
  const header = said.padEnd(Math.ceil((said.length + 11) / 64) * 64 - 11) + "\n"; // 10 bytes before, a whole number of 64
  const bytes = new Uint8Array(10 + header.length + 4 * width * vectors.length), view = new DataView(bytes.buffer);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0]);
  view.setUint16(8, header.length, true);
  bytes.set(new TextEncoder().encode(header), 10);
  vectors.forEach((vector, row) => vector.forEach((value, column) =>
    view.setFloat32(10 + header.length + 4 * (row * width + column), value, true)));
  return bytes;
}
