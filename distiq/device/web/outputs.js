// What outputs mean, and when one predicts something else.

import { classMap } from "./scenes.js";
import { largestDifference, likeliest } from "./tensors.js";
import { greedy } from "./transcripts.js";

export const ALLOWED = 0.02; // share of the outputs' span by which another processor may move one

const REPAINTED = 0.01; // share of the pixels of an image that may get another class

/** The prediction of one output: {label, and by label a share of 1}, or {label, value} of a number. */
export function decoded(output, about) {
  const logits = [...output.data];
  if (about.decoding === "number") {
    const value = about.target.mean + about.target.std * logits[0];
    return { label: `${about.labels[0]} ${Number(value.toPrecision(4))}`, shares: [] };
  }
  const largest = Math.max(...logits), powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((one, other) => one + other, 0);
  const isSoftmax = about.decoding === "softmax";
  const shares = logits.map((logit, i) => [about.labels[i], isSoftmax ? powers[i] / sum : 1 / (1 + Math.exp(-logit))]);
  const above = about.labels.filter((_, i) => logits[i] > 0).join(", ") || "none";
  return { label: isSoftmax ? about.labels[logits.indexOf(largest)] : above, shares };
}

/** Whether an output predicts something else than the expected one: another class, tag or text, or numbers beyond
 * `allowed`. */
export function isChanged(output, expected, about, allowed) {
  const [one, other] = [output.data, expected.data];
  if (about.decoding === "softmax") return one.indexOf(Math.max(...one)) !== other.indexOf(Math.max(...other));
  if (about.decoding === "sigmoid") return one.some((logit, i) => logit > 0 !== other[i] > 0);
  if (about.decoding === "mask") {
    const [own, before] = [output, expected].map((map) => classMap(map, { shape: about.shape }, [1, 1]).data);
    return own.reduce((sum, label, pixel) => sum + (label !== before[pixel]), 0) > REPAINTED * own.length;
  }
  if (about.decoding === "spans") return largestDifference(likeliest(output), likeliest(expected)) > 0;
  if (about.decoding === "transcript") return String(greedy(output)) !== String(greedy(expected));
  return largestDifference(one, other) > allowed;
}
