"""What a student learns from."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from distiq.recipe.part import Part, changed

OutputLoss = Literal[
    "kd",
    "soft_cross_entropy",
    "logit_mse",
    "dkd",
    "dist",
    "logit_standardization_kd",
    "multi_level_kd",
    "channel_kd",
    "sequence_kd",
]
LayerLoss = Literal[
    "hint_mse", "feature_mse", "attention_transfer", "fsp", "nst_poly", "nst_gaussian", "reviewkd", "vid", "mgd",
    "similarity_preserving", "rkd", "pkt", "correlation_congruence", "crd", "embedding_cosine", "similarity_queue",
]  # fmt: skip
TokenLoss = Literal["hidden_mse", "hidden_cosine", "pkd_cls", "minilm_relation"]
OUTPUT_LOSSES: tuple[str, ...] = get_args(OutputLoss)


class KnowledgeLoss(Part):
    """A knowledge loss by its name in the field, beside the plain one; docs/knowledge.md says which when."""

    name: Literal[OutputLoss, LayerLoss, TokenLoss] = Field(
        description='such as "dkd", "hint_mse", "attention_transfer", "rkd", "crd", of texts "hidden_mse"'
    )
    weight: float = Field(1.0, gt=0, description="factor of the loss")
    student: tuple[str, ...] = Field((), description='module path or paths in the student, such as "stages.2"')
    teacher: tuple[str, ...] = Field((), description="as many module paths in the teacher")
    options: dict[str, Any] = Field(default_factory=dict, description="the loss's own, such as {beta = 8.0}")

    @field_validator("student", "teacher", mode="before")
    @classmethod
    def _one_path_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        if self.name in OUTPUT_LOSSES:
            if self.student or self.teacher:
                raise ValueError(f"{self.name} compares outputs; leave student and teacher out")
        elif not self.student or len(self.student) != len(self.teacher):
            raise ValueError(
                f"{self.name} compares layers; name as many of the teacher (here {len(self.teacher)}) as of the"
                f" student (here {len(self.student)}), at least one"
            )
        if self.name == "fsp" and len(self.student) < 2:
            raise ValueError('fsp compares the flow between layers; name two or more, such as ["stages.0", "stages.1"]')
        return self


class CacheSettings(Part):
    """How a cached teacher's outputs are stored, one file per view."""

    WITHOUT_EFFECT = frozenset({"limit_mb"})

    storage: Literal["float16", "quantized", "top_k"] = Field(
        "float16",
        description='"float16": 2 bytes per class; "quantized": 6 bits per class; "top_k": the likeliest classes alone',
    )
    top_k: int = Field(16, ge=1, description="classes kept by top_k; the rest share what is left of the probability")
    features: bool = Field(False, description="also store the layers that the losses compare (float16)")
    limit_mb: float = Field(
        4000, gt=0, description="largest store of a run; the outputs of views beyond it are computed anew each time"
    )


class QuantRegularizationSettings(Part):
    """What makes the student easy to quantize while it is trained, with a teacher or without; 0 leaves a term out."""

    kurtosis: float = Field(0.0, ge=0, description="weight of the kurtosis of weights (KURE, Shkolnik et al. 2020)")
    range: float = Field(0.0, ge=0, description="weight of activations beyond four standard deviations")
    balance: float = Field(
        0.0, ge=0, description="weight of unlike ranges of the channels of depthwise layers, batch norm folded"
    )
    noise: float = Field(
        0.0, ge=0, le=1, description="share of the weights that each step moves by up to half a quantization step"
    )
    noise_bits: Literal[2, 3, 4, 6, 7, 8] = Field(8, description="of that quantization; see quantize.weight_bits")

    @property
    def is_on(self) -> bool:
        return bool(self.kurtosis or self.range or self.balance or self.noise)

    @model_validator(mode="after")
    def _bits_are_of_a_noise(self) -> Self:
        if self.noise_bits != 8 and not self.noise:
            raise ValueError(
                f"noise_bits = {self.noise_bits}, but noise = 0 draws none; set noise = 1.0, or leave noise_bits out"
            )
        return self


class DistilSettings(Part):
    """What the student learns from: labels, the teacher's outputs, the teacher's layers."""

    teacher: Literal["cached", "live", "none"] = Field(
        "cached",
        description='"cached" computes the outputs once per view; "live" at each step; "none" trains without a teacher',
    )
    temperature: float = Field(
        4.0, gt=0, description="of the softened outputs (Hinton et al. 2015); regression has none"
    )
    task_weight: float = Field(
        0.1, ge=0, description="of the cross entropy (regression: squared error) with the labels; 0 needs no labels"
    )
    kd_weight: float = Field(
        0.9,
        ge=0,
        description="of the divergence from the teacher's outputs (plain distillation; regression: squared error)",
    )
    losses: tuple[KnowledgeLoss, ...] = Field(
        (), description='more: [[distil.losses]] name = "rkd", student = "pool", teacher = "pool", weight = 1.0'
    )
    cache: CacheSettings = Field(default_factory=CacheSettings)
    quant_regularization: QuantRegularizationSettings = Field(default_factory=QuantRegularizationSettings)

    @property
    def layer_losses(self) -> tuple[KnowledgeLoss, ...]:
        return tuple(loss for loss in self.losses if loss.name not in OUTPUT_LOSSES)

    @property
    def output_losses(self) -> tuple[KnowledgeLoss, ...]:
        """Plain distillation, if it has a weight, and the listed losses between outputs."""
        listed = tuple(loss for loss in self.losses if loss.name in OUTPUT_LOSSES)
        if not self.kd_weight:
            return listed
        return (KnowledgeLoss(name="kd", weight=self.kd_weight, options={"temperature": self.temperature}), *listed)

    @property
    def teacher_paths(self) -> list[str]:
        """Module paths of the teacher whose activations are compared, each once."""
        return list(dict.fromkeys(path for loss in self.layer_losses for path in loss.teacher))

    def for_qat(self) -> "DistilSettings":
        """What quantization-aware training learns from: outputs alone; the teacher's, where nothing else is left."""
        left = tuple(loss for loss in self.losses if loss.name in OUTPUT_LOSSES)
        nothing = self.teacher != "none" and not (self.task_weight or self.kd_weight or left)
        return changed(self, {"losses": left, "kd_weight": 1.0 if nothing else self.kd_weight})

    def without_teacher(self) -> "DistilSettings":
        """The same training on the labels alone; what makes the student easy to quantize stays."""
        return changed(self, {"teacher": "none", "losses": ()})

    @model_validator(mode="after")
    def _teacher_is_used(self) -> Self:
        if self.teacher == "none" and self.losses:
            raise ValueError('losses need a teacher, but teacher = "none"; set it to "cached" or "live"')
        if self.teacher == "cached" and self.layer_losses and not self.cache.features:
            raise ValueError(
                f'{self.layer_losses[0].name} reads the teacher\'s layers, but teacher = "cached" stores its outputs'
                ' alone; set teacher = "live", or cache.features = true if the disk has room'
            )
        if (
            self.teacher == "cached"
            and self.cache.storage != "float16"
            and any(loss.name == "logit_mse" for loss in self.losses)
        ):
            raise ValueError(
                f'logit_mse compares the logits themselves; cache.storage = "{self.cache.storage}" keeps them only up'
                ' to a shift; take "float16"'
            )
        if self.teacher != "none" and not self.task_weight and not self.kd_weight and not self.losses:
            raise ValueError("all loss weights are zero; raise task_weight or kd_weight")
        return self
