// Rows of named columns as run.py encodes them.

import { Refused } from "./tensors.js";

const MISSING = new Set(["", "?", "NA", "N/A", "NaN", "nan", "null", "None"]);
const UNKNOWN = "?";
const NUMBER = /^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$/;

/** A row {column: text} as the vector (1, features) that the model takes, and what is to be said of it. */
export function encoded(row, about) {
  const values = [], notes = [];
  for (const [name, facts] of Object.entries(about.numeric)) {
    const text = String(row[name] ?? "");
    let value = Number(text);
    if (MISSING.has(text)) {
      value = facts.median;
      notes.push(`"${name}" is missing; taken as its median, ${facts.median}`);
    } else if (!NUMBER.test(text) || !Number.isFinite(value)) {
      throw new Refused(`"${name}": "${text}" is no number; write it as 1234.5, or leave it empty`);
    }
    for (let i = 0; i + 1 < facts.edges.length; i++) {
      const [low, high] = [facts.edges[i], facts.edges[i + 1]];
      values.push(Math.max(0, Math.min(1, (value - low) / (high - low))));
    }
  }
  for (const [name, seen] of Object.entries(about.categorical)) {
    const text = String(row[name] ?? ""), value = MISSING.has(text) ? UNKNOWN : text;
    if (!seen.includes(value)) notes.push(`"${name}": "${text}" was not seen in training; taken as none of its values`);
    for (const one of seen) values.push(one === value ? 1 : 0);
  }
  return { inputs: { type: "float32", data: Float32Array.from(values), shape: [1, values.length] }, notes };
}
