"""Every knowledge loss, by its name in the field.

The functions are pure: (student, teacher[, labels or mask], *, options) -> scalar in float32 or wider, whatever
autocast makes of their inputs; the teacher's tensors are expected without gradient. A loss of one layer takes one
pair of tensors, a loss of two layers takes a tuple of two. The classes have parameters or a memory of their own.
"""

from distiq.distillation.feature_losses import (
    attention_map,
    attention_transfer,
    fsp,
    hint_mse,
    nst_gaussian,
    nst_poly,
    reviewkd_hcl,
)
from distiq.distillation.learned_losses import CRD, MGD, VID, ReviewKD, SimilarityQueue
from distiq.distillation.logit_losses import (
    channel_kd,
    dist,
    dkd,
    logit_mse,
    logit_standardization_kd,
    multi_level_kd,
    soft_cross_entropy,
)
from distiq.distillation.relation_losses import (
    correlation_congruence,
    embedding_cosine,
    pkt,
    rkd,
    similarity_preserving,
)
from distiq.distillation.sequence_losses import sequence_kd
from distiq.distillation.token_losses import (
    attention_ce,
    attention_mse,
    gram_token_mse,
    hidden_cosine,
    hidden_mse,
    minilm_relation,
    pkd_cls,
)
from distiq.tasks.classification import kd
from distiq.tasks.multi_label import bernoulli_kd

__all__ = [
    "CRD",
    "MGD",
    "VID",
    "ReviewKD",
    "SimilarityQueue",
    "attention_ce",
    "attention_map",
    "attention_mse",
    "attention_transfer",
    "bernoulli_kd",
    "channel_kd",
    "correlation_congruence",
    "dist",
    "dkd",
    "embedding_cosine",
    "fsp",
    "gram_token_mse",
    "hidden_cosine",
    "hidden_mse",
    "hint_mse",
    "kd",
    "logit_mse",
    "logit_standardization_kd",
    "minilm_relation",
    "multi_level_kd",
    "nst_gaussian",
    "nst_poly",
    "pkd_cls",
    "pkt",
    "reviewkd_hcl",
    "rkd",
    "sequence_kd",
    "similarity_preserving",
    "soft_cross_entropy",
]
