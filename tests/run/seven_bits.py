"""A rung that distiq does not have: 7-bit weights everywhere."""

from dataclasses import replace

from distiq.run.rungs import Rung

SEVEN_BITS = Rung(
    name="seven_bits",
    what="weights of 7 bits in every layer",
    helps="kernels add two products in 16 bits",
    cost="the same with other weights",
    scheme=lambda now: replace(now.plain, weight_bits=7),
    useless=lambda evidence, _biases_corrected: "weights make the noise" if evidence.weights_share > 0.9 else "",
)
