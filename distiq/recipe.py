"""The recipe: one TOML file, read into frozen values.

Every key is declared here with its default and its meaning; `distiq init` prints them. An unknown key, a wrong type,
an impossible combination and a missing file are refused before any work, with the file, the key, what was found and
what to do.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from distiq.errors import UserError

RuntimeName = Literal["onnxruntime", "openvino", "litert", "executorch", "inductor"]
Rung = Literal[
    "static",
    "minmax",
    "percentile",
    "equalize",
    "rounding",
    "reconstruct",
    "float_layers",
    "mixed",
    "qat",
    "dynamic",
    "weight_only",
]
Mode = Literal["static", "dynamic", "weight_only"]
RUNGS: dict[Mode, tuple[Rung, ...]] = {
    "static": ("static", "minmax", "percentile", "equalize", "rounding", "reconstruct", "float_layers", "mixed", "qat"),
    "dynamic": ("dynamic", "rounding", "qat"),
    "weight_only": ("weight_only", "rounding", "qat"),
}
"""What each mode can climb: without grids of activations that calibration sets, there are no ranges to mend."""
STATIC_BY_NOW = (
    '"mse" is what "static" does by now: leave it out, or write "static" in its place; "minmax" has ranges as wide as'
    " all values"
)
CHEAP: tuple[Rung, ...] = ("rounding", "minmax", "percentile", "equalize", "float_layers", "mixed", "qat")
"""What is climbed unless a recipe says otherwise. It begins with the closed form, which takes no longer than rounding
to the nearest and flips fewer answers on nearly all networks; learned rounding takes minutes."""
NARROW_BITS = 4
GROUP_SIZES = (0, 16, 32, 64, 128, 256)


def impossible(mode: Mode, weight_bits: int, activation_bits: int, group_size: int, reduce_range: bool) -> str:
    """Why there is no such scheme, and the nearest that there is; empty where there is one."""
    if activation_bits == 16 and mode != "static":
        nearest = 'mode = "static"' if mode == "dynamic" else "leave activation_bits out"
        what = "grids of 8 bits" if mode == "dynamic" else "float32 activations"
        return f'activation_bits = 16, but mode = "{mode}" has {what}; nearest: {nearest}'
    if group_size not in GROUP_SIZES:
        size = min(GROUP_SIZES, key=lambda known: abs(known - group_size))
        return f"group_size = {group_size}: kernels have {', '.join(map(str, GROUP_SIZES))}; nearest: {size}"
    if group_size and mode != "weight_only":
        return (
            f'group_size = {group_size}, but mode = "{mode}" multiplies integers, which share one scale in an output'
            ' channel; nearest: mode = "weight_only", or group_size = 0'
        )
    if group_size and weight_bits > NARROW_BITS:
        return (
            f"group_size = {group_size} is for weights of 4 bits and fewer; at {weight_bits} bits a scale for each"
            " output channel is fine enough; nearest: weight_bits = 4, or group_size = 0"
        )
    if reduce_range and weight_bits < 8:
        return (
            f"reduce_range = true changes nothing at weight_bits = {weight_bits}: such sums fit into 16 bits already;"
            " leave one of the two out"
        )
    if reduce_range and (mode == "weight_only" or activation_bits == 16):
        return "reduce_range = true, but this scheme multiplies in float32, where nothing saturates; set it to false"
    return ""


def runtime_lacks(runtime: str, mode: Mode, activation_bits: int, group_size: int) -> str:
    """Why a runtime's files cannot hold such a scheme, and the nearest that they can; empty where they can."""
    if runtime == "onnxruntime" or (mode == "static" and activation_bits == 8):
        return ""
    if mode == "weight_only" and runtime == "openvino" and not group_size:
        return ""
    if group_size and runtime == "openvino":
        why, nearest = "groups of weights", "group_size = 0"
    elif mode == "dynamic":
        why = "grids that are made at each run"
        nearest = 'mode = "weight_only" or "static"' if runtime == "openvino" else 'mode = "static"'
    elif mode == "weight_only":
        why, nearest = "integer weights beside float32 activations", 'mode = "static"'
    else:
        why, nearest = "activations of 16 bits", "activation_bits = 8"
    return f'distiq writes no files of {runtime} with {why}; nearest: {nearest}, or runtime "onnxruntime"'


class Part(BaseModel):
    """A part of a recipe: frozen, typed, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AudioSettings(Part):
    """Clips of sound: how they are brought to one form, and who is heard in the test set alone."""

    rate: int = Field(16000, ge=1000, description="samples per second; clips of another rate are resampled")
    seconds: float = Field(
        1.0, gt=0, description="length of the window; shorter clips get silence, longer ones are cut"
    )
    manifest: str = Field(
        "",
        description="audio: a CSV file in `folder` with the columns path, label, and speaker or split;"
        " empty takes train/<class>/*.wav and test/<class>/*.wav",
    )
    held_out: tuple[str, ...] = Field(
        (), description='speakers whose clips are the test set, such as ["theo"]; empty takes the given split'
    )


class TableSettings(Part):
    """Rows of named columns; source = "table" reads them from two files in data.folder, "adult" has its own."""

    train: str = Field("train.csv", description="table: the file of training rows: CSV, TSV, JSON lines, Parquet")
    test: str = Field("test.csv", description="table: the file of test rows")
    header: tuple[str, ...] = Field((), description="names of all columns, where the files' first line is no header")
    label: str = Field("label", description="the column of the class")
    numeric: tuple[str, ...] = Field((), description="columns of numbers; adult: empty takes all")
    categorical: tuple[str, ...] = Field((), description="columns of categories; adult: empty takes all")
    bins: int = Field(64, ge=2, description="inputs that a number is spread over, at most (piecewise linear encoding)")


class TextSettings(Part):
    """Texts with a class each; source = "text" reads them from two files in data.folder."""

    train: str = Field("train.tsv", description="the file of training texts: TSV, CSV, JSON lines, Parquet")
    test: str = Field("test.tsv", description="the file of test texts")
    header: tuple[str, ...] = Field((), description="names of all columns, where the files' first line is no header")
    text: str = Field("text", description="the column of the text")
    pair: str = Field("", description="the column of a second text, where two are judged together")
    label: str = Field("label", description="the column of the class")
    labels: tuple[str, ...] = Field(
        (), description="in place of `label`, where a text has several: columns of 0 and 1, one for each label"
    )
    separator: str = Field(
        "", description='what stands between the labels in the column `label`, such as ","; a text may have none then'
    )
    target: str = Field(
        "", description="in place of `label`, for regression: the column of a number, which the model learns to answer"
    )
    names: tuple[str, ...] = Field((), description="names of the classes, in the order of their sorted labels")
    tokenizer: str = Field(
        "", description="a folder, a tokenizer.json or a hub name; empty trains a WordPiece on the training texts"
    )
    vocabulary: int = Field(8000, ge=10, description="most tokens of a tokenizer that is trained here")
    length: int = Field(64, ge=3, description="tokens kept of a text; what is cut is counted and said")

    @model_validator(mode="after")
    def _labels_are_written_one_way(self) -> Self:
        if self.labels and self.separator:
            raise ValueError("labels names columns of 0 and 1, separator parts one column; leave one of the two out")
        of_classes = {"labels": self.labels, "separator": self.separator, "names": self.names}
        if self.target and (set_too := [key for key, value in of_classes.items() if value]):
            raise ValueError(
                f'target = "{self.target}" is the column of a number, {set_too[0]} is for classes; leave one of the two'
                " out"
            )
        return self


class DataSettings(Part):
    """Where the samples come from and how they are split."""

    source: str = Field(
        "fashion_mnist",
        description='"fashion_mnist", "folder" (images), "spoken_digits", "audio", "adult", "table", "text", or'
        ' "file.py:function"',
    )
    folder: str = Field(
        "",
        description="fashion_mnist: a folder of IDX files (all 60,000 images; empty takes the packaged part);"
        " folder: holds train/<class>/*.png and test/<class>/*.png",
    )
    download: bool = Field(False, description="fashion_mnist: fetch missing IDX files into `folder`, with checksum")
    train: int = Field(0, ge=0, description="use at most so many training images; 0 takes all")
    validation: int = Field(2000, ge=1, description="training images held out to steer by")
    calibration: int = Field(512, ge=1, description="training images held out to calibrate quantization")
    image_size: int = Field(32, ge=1, description="folder: images are resized to this height and width")
    channels: Literal[1, 3] = Field(3, description="folder: 1 reads grey, 3 reads colour")
    audio: AudioSettings = Field(default_factory=AudioSettings)
    table: TableSettings = Field(default_factory=TableSettings)
    text: TextSettings = Field(default_factory=TextSettings)


class AudioViewSettings(Part):
    """What a view does to a clip; images are not touched by it."""

    shift: float = Field(0.1, ge=0, le=1, description="move in time by up to this share of the window, either way")
    speed: float = Field(0.0, ge=0, lt=1, description="play faster or slower by up to this share, pitch with it")
    gain_db: float = Field(6.0, ge=0, description="louder or quieter by up to so many decibels")
    noise: float = Field(0.0, ge=0, le=1, description="share of the clips that get white noise")
    snr_db: tuple[float, float] = Field((5.0, 40.0), description="lowest and highest signal-to-noise ratio of it")
    mask: float = Field(0.0, ge=0, le=1, description="longest stretch of silence put over a clip, share of the window")

    @model_validator(mode="after")
    def _snr_is_a_range(self) -> Self:
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db = {list(self.snr_db)} begins above its end; give the lowest first")
        return self


class TextViewSettings(Part):
    """What a view does to a text that students learn from; needs a teacher, since labels may not hold any more."""

    mask: float = Field(0.0, ge=0, le=1, description="share of the tokens that are hidden behind the mask token")
    replace: float = Field(
        0.0, ge=0, le=1, description="share of the tokens in whose place stands one drawn from all training texts"
    )

    @model_validator(mode="after")
    def _at_most_every_token(self) -> Self:
        if self.mask + self.replace > 1:
            raise ValueError(
                f"mask + replace = {self.mask + self.replace:g} is more than every token; at most 1 in sum"
            )
        return self


class ViewSettings(Part):
    """Augmented views of the training samples; each is a pure function of (seed, view number, sample index)."""

    distinct: int = Field(
        0, ge=0, description="students learn from so many views in turn, each answered once; 0: a new one every epoch"
    )
    flip: bool = Field(True, description="mirror half of the images")
    shift: int = Field(2, ge=0, description="move by up to so many pixels, filled with black")
    crop: float = Field(1.0, gt=0, le=1, description="smallest share of the area that a crop keeps; 1 never crops")
    erase: float = Field(0.0, ge=0, le=1, description="share of the images in which a rectangle is erased")
    mixup: float = Field(
        0.0, ge=0, le=1, description="share of the images that are blended with another one (Zhang et al. 2018)"
    )
    cutmix: float = Field(
        0.0, ge=0, le=1, description="share of the images that get a rectangle of another one (Yun et al. 2019)"
    )
    audio: AudioViewSettings = Field(default_factory=AudioViewSettings)
    text: TextViewSettings = Field(default_factory=TextViewSettings)

    @model_validator(mode="after")
    def _one_kind_of_mixing_an_image(self) -> Self:
        if self.mixup + self.cutmix > 1:
            raise ValueError(
                f"mixup + cutmix = {self.mixup + self.cutmix:g} is more than every image; at most 1 in sum"
            )
        return self


class TrainingSettings(Part):
    """One training: optimizer, schedule, precision."""

    epochs: int = Field(10, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=2, description="images per step, over all processes")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description='"sgd" (Nesterov momentum) or "adamw"')
    learning_rate: float = Field(0.1, gt=0, description="its highest value, reached after the warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(5e-4, ge=0, description="not applied to biases and normalization")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising learning rate, then cosine")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the task loss")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="moving average of the weights, evaluated and kept; 0 is off")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description='"auto" times a few steps in float32 and bfloat16 and takes the faster'
    )
    channels_last: bool = Field(True, description="memory layout of images and weights")
    checkpoint_seconds: float = Field(20.0, ge=0, description="a killed run loses at most so many seconds")


class GridTrainingSettings(TrainingSettings):
    """Quantization-aware training: short and gentle, since it starts from trained weights."""

    epochs: int = Field(2, ge=1, description=TrainingSettings.model_fields["epochs"].description)
    learning_rate: float = Field(0.002, gt=0, description=TrainingSettings.model_fields["learning_rate"].description)
    weight_decay: float = Field(0.0, ge=0, description=TrainingSettings.model_fields["weight_decay"].description)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32", description="an 8-bit grid is exact in float32 alone"
    )


class ModelSettings(Part):
    """A network and its weights."""

    model: str = Field(
        description='"resnet", "mobilenet_v2", "mlp", "text_bilstm", "text_cnn", "embedding_bag", "file.py:function",'
        ' "transformers:NAME", "timm:NAME", "torchvision:NAME", "file.onnx" (float32, with its weights)'
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    weights: str = Field("", description="a .safetensors file, a hub name, or a .pt/.pth file; empty trains it")
    trust: bool = Field(False, description="allow .pt/.pth files that run code when they are loaded")
    training: TrainingSettings = Field(default_factory=TrainingSettings)


class TeacherSettings(ModelSettings):
    """The large network. With `weights` it is loaded, otherwise trained."""

    model: str = Field("resnet", description=ModelSettings.model_fields["model"].description)
    finetune: bool = Field(False, description="train it on from its weights")
    predict: str = Field(
        "",
        description='"file.py:function": any callable in place of a network; the function is given the data (and the'
        " options) and returns it: array in, probabilities or logits out",
    )

    @model_validator(mode="after")
    def _callable_is_finished(self) -> Self:
        if self.predict and self.weights:
            raise ValueError("predict names a finished teacher, which takes no weights; leave one of the two out")
        if self.finetune and not self.weights and not self.model.endswith(".onnx"):
            raise ValueError("finetune = true trains on from weights; name them, or leave it out")
        if self.predict and ".py:" not in self.predict:
            raise ValueError(f'predict = "{self.predict}" names no function; write "file.py:function"')
        return self


class AssistantSettings(ModelSettings):
    """A network between teacher and student: the teacher teaches it, and it teaches the student."""

    model: str = Field("resnet", description=ModelSettings.model_fields["model"].description)


class StudentSettings(ModelSettings):
    """The small network."""

    model: str = Field("mobilenet_v2", description=ModelSettings.model_fields["model"].description)
    weights: str = Field(
        "",
        description='as the teacher\'s; "teacher" cuts the student from the trained teacher by its options, such as'
        " {keep_layers = [1, 3, 5], feed_forward = 512, heads = 6, trim_vocabulary = true, embedding_width = 128};"
        " without a teacher (distil.teacher), from what the teacher is before its training here",
    )

    @property
    def is_cut(self) -> bool:
        """It starts as a part of the trained teacher."""
        return self.weights == FROM_TEACHER


FROM_TEACHER = "teacher"
OutputLoss = Literal[
    "kd", "soft_cross_entropy", "logit_mse", "dkd", "dist", "logit_standardization_kd", "multi_level_kd"
]
LayerLoss = Literal[
    "hint_mse", "feature_mse", "attention_transfer", "fsp", "nst_poly", "nst_gaussian", "reviewkd", "vid", "mgd",
    "similarity_preserving", "rkd", "pkt", "correlation_congruence", "crd", "embedding_cosine", "similarity_queue",
]  # fmt: skip
TokenLoss = Literal["hidden_mse", "hidden_cosine", "pkd_cls", "minilm_relation"]
OUTPUT_LOSSES: tuple[str, ...] = get_args(OutputLoss)
RELATIVE = "correct the path (it is taken relative to the recipe's folder)"


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
                f"{self.name} compares layers; name as many of the teacher ({len(self.teacher)} found) as of the"
                f" student ({len(self.student)} found), at least one"
            )
        if self.name == "fsp" and len(self.student) < 2:
            raise ValueError('fsp compares the flow between layers; name two or more, such as ["stages.0", "stages.1"]')
        return self


class CacheSettings(Part):
    """How a cached teacher's answers are stored, one file per view."""

    storage: Literal["float16", "quantized", "top_k"] = Field(
        "float16",
        description='"float16": 2 bytes per class; "quantized": 6 bits per class; "top_k": the likeliest classes alone',
    )
    top_k: int = Field(16, ge=1, description="classes kept by top_k; the rest share what is left of the probability")
    features: bool = Field(False, description="also store the layers that the losses compare (float16)")
    limit_mb: float = Field(4000, gt=0, description="largest store; views beyond it are answered anew each time")


class FriendlySettings(Part):
    """What makes the student easy to quantize while it is trained, with a teacher or without; 0 leaves a term out."""

    kurtosis: float = Field(0.0, ge=0, description="weight of the kurtosis of weights (KURE, Shkolnik et al. 2020)")
    range: float = Field(0.0, ge=0, description="weight of activations beyond four standard deviations")
    balance: float = Field(
        0.0, ge=0, description="weight of unlike ranges of the channels of depthwise layers, batch norm folded"
    )
    noise: float = Field(
        0.0, ge=0, le=1, description="share of the weights that each step moves by up to half a step of their grid"
    )
    noise_bits: Literal[2, 3, 4, 6, 7, 8] = Field(8, description="of that grid; see quantize.weight_bits")

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
    friendly: FriendlySettings = Field(default_factory=FriendlySettings)

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
        """Module paths of the teacher whose activations are wanted, each once."""
        return list(dict.fromkeys(path for loss in self.layer_losses for path in loss.teacher))

    def on_grids(self) -> "DistilSettings":
        """What the training on grids learns from: outputs alone; the teacher's, where nothing else is left."""
        left = self.model_copy(update={"losses": tuple(loss for loss in self.losses if loss.name in OUTPUT_LOSSES)})
        nothing = self.teacher != "none" and not left.task_weight and not left.output_losses
        return left.model_copy(update={"kd_weight": 1.0}) if nothing else left

    def without_teacher(self) -> "DistilSettings":
        """The same training on the labels alone; what makes the student easy to quantize stays."""
        return self.model_copy(update={"teacher": "none", "losses": ()})

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


class QuantizeSettings(Part):
    """The rungs of the ladder, in the order in which they are tried, and quantization-aware training."""

    rungs: tuple[Rung, ...] = Field(
        CHEAP,
        min_length=1,
        description='"rounding" (closed form; ranges of least squared error, as "static", which rounds to the nearest),'
        ' "minmax" (ranges as wide as all values), "percentile", "equalize" (scales moved between layers),'
        ' "reconstruct" (learned rounding, block by block: minutes, so not in this list), "float_layers" (the worst'
        ' stay float32), "mixed" (4 bits where they cost least, if the file is too large; 6 to 2, if there are too many'
        ' bit operations), "qat" (with the teacher); other modes have "dynamic" or "weight_only", "rounding", "qat"',
    )
    mode: Mode = Field(
        "static",
        description='"static": int8 throughout, ranges from calibration; "dynamic": linear layers in int8, ranges of'
        ' each batch; "weight_only": integer weights, computed in float32. Tables of embeddings are int8 in all',
    )
    weight_bits: Literal[2, 3, 4, 6, 7, 8] = Field(
        8, description="of every layer; 4 and fewer are stored as 4 bits and computed as 8"
    )
    activation_bits: Literal[8, 16] = Field(
        8, description="static: 16 has no integer kernel here, so the file is small and no faster than float32"
    )
    group_size: int = Field(
        0, description="weight_only, 4 bits: inputs of a linear layer that share a scale; 0: a scale for each output"
    )
    reduce_range: bool = Field(
        False,
        description="7-bit weights where sums of two products could leave 16 bits: the same answers on x86 CPUs without"
        " VNNI",
    )
    percentile: float = Field(
        99.99, gt=50, le=100, description="share of the activations kept by that rung, in percent"
    )
    float_modules: tuple[str, ...] | None = Field(
        None,
        description='student modules that stay in float32, such as ["frontend"]; unset: a front-end that int8 harms',
    )
    fall_back: bool = Field(
        True,
        description="where int8 measured slower than float32: deliver another runtime's or rung's file that is faster,"
        " else the float32 student, if the budget allows; false delivers int8 and says so",
    )
    learn_ranges: bool = Field(
        False, description='static, "qat": the steps of activations are learned, too (LSQ); meant for narrow weights'
    )
    training: GridTrainingSettings = Field(default_factory=GridTrainingSettings)

    def climbed(self) -> tuple[Rung, ...]:
        """The rungs; another mode than static has its own in place of those that `distiq init` prints."""
        return RUNGS[self.mode] if self.rungs == CHEAP and self.mode != "static" else self.rungs

    @model_validator(mode="after")
    def _rungs_are_of_the_mode(self) -> Self:
        if why := impossible(self.mode, self.weight_bits, self.activation_bits, self.group_size, self.reduce_range):
            raise ValueError(why)
        if self.learn_ranges and self.mode != "static":
            raise ValueError(
                f'learn_ranges = true, but mode = "{self.mode}" has no calibrated grids of activations; nearest: mode ='
                ' "static", or leave learn_ranges out'
            )
        for rung in self.climbed():
            if rung not in RUNGS[self.mode]:
                raise ValueError(
                    f'rungs names "{rung}", which mode = "{self.mode}" has not; it has {", ".join(RUNGS[self.mode])}'
                )
        return self

    @model_validator(mode="after")
    def _rungs_differ(self) -> Self:
        if len(set(self.rungs)) < len(self.rungs):
            raise ValueError(f"rungs = {list(self.rungs)} names a rung twice; name each once")
        if self.training.precision != "float32":
            raise ValueError(
                f'training.precision = "{self.training.precision}" cannot carry an 8-bit grid exactly; take "float32"'
            )
        return self


class Budget(Part):
    """The limits that the deployed file must keep; each is optional."""

    accuracy_drop_points: float | None = Field(
        None, description="largest loss of accuracy against the teacher, in percentage points"
    )
    auc_drop_points: float | None = Field(
        None, description="two classes: largest loss of AUC against the teacher, in hundredths"
    )
    f1_drop_points: float | None = Field(
        None, description="several labels: largest loss of micro F1 against the teacher, in hundredths"
    )
    correlation_drop_points: float | None = Field(
        None, description="regression: largest loss of Pearson's correlation against the teacher, in hundredths"
    )
    size_kb: float | None = Field(None, gt=0, description="largest file, in kilobytes of 1000 bytes")
    latency_ms: float | None = Field(None, gt=0, description="largest median time of one image, in milliseconds")
    bit_operations_m: float | None = Field(
        None,
        gt=0,
        description="most bit operations of one sample, in millions: multiply-adds times bits of weight and activation;"
        " for accelerators, the runtimes here compute narrow weights as int8",
    )

    @property
    def quality_drop_points(self) -> float | None:
        """Largest loss of accuracy, or of correlation, against the teacher: a run has one of the two."""
        return self.accuracy_drop_points if self.correlation_drop_points is None else self.correlation_drop_points


class MeasureSettings(Part):
    """Where files are measured, and how latency is."""

    runtimes: tuple[RuntimeName, ...] = Field(
        ("onnxruntime",),
        min_length=1,
        description='every trial is measured in each, the first is delivered (see quantize.fall_back): "onnxruntime",'
        ' "openvino", "litert", "executorch", "inductor"',
    )
    threads: int = Field(1, ge=1, description="threads of the runtime")
    throughput_batch: int = Field(32, ge=1, description="images per batch when throughput is measured")
    rounds: int = Field(5, ge=1, description="interleaved rounds over all files")
    seconds: float = Field(0.1, gt=0, description="time spent on each file and batch size in one round")
    tune: bool = Field(
        False,
        description="time each file under the runtime's settings first; the fastest with the same answers is kept",
    )

    @field_validator("runtimes")
    @classmethod
    def _runtimes_differ(cls, names: tuple[RuntimeName, ...]) -> tuple[RuntimeName, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"{list(names)} names a runtime twice; name each once")
        return names


class EvaluationSettings(Part):
    """What is measured beside accuracy."""

    keyword: str = Field(
        "", description="a class, such as the word that wakes a device: how often it is missed, how often falsely heard"
    )
    false_accepts: float = Field(
        0.01, ge=0, lt=1, description="share of the other samples that may be taken for the keyword"
    )


class ExportSettings(Part):
    """What the exported files take."""

    pixels: bool = Field(
        False, description="images: files take uint8 pixels and normalize them themselves (not executorch)"
    )


class Recipe(Part):
    """Everything that a run needs to know."""

    name: str = Field("distiq", pattern=r"^[A-Za-z0-9._-]+$", description="of the run; its folder is runs/<name>")
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order and views")
    data: DataSettings = Field(default_factory=DataSettings)
    views: ViewSettings = Field(default_factory=ViewSettings)
    teacher: TeacherSettings = Field(default_factory=TeacherSettings)
    assistants: tuple[AssistantSettings, ...] = Field(
        (),
        description="[[assistants]]: networks between the two, from large to small (Mirzadeh et al. 2020)",
    )
    student: StudentSettings = Field(default_factory=StudentSettings)
    distil: DistilSettings = Field(default_factory=DistilSettings)
    quantize: QuantizeSettings = Field(default_factory=QuantizeSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    budget: Budget = Field(default_factory=Budget)
    measure: MeasureSettings = Field(default_factory=MeasureSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)

    def networks(self) -> dict[str, ModelSettings]:
        """The recipe's networks by role: teacher, assistants.0 and so on, student."""
        between = {f"assistants.{number}": assistant for number, assistant in enumerate(self.assistants)}
        return {"teacher": self.teacher, **between, "student": self.student}

    @model_validator(mode="after")
    def _mixed_images_have_no_label(self) -> Self:
        if (self.views.mixup or self.views.cutmix) and any(loss.name == "dkd" for loss in self.distil.losses):
            raise ValueError("dkd needs one label per image, but views.mixup or views.cutmix blends two; set them to 0")
        return self

    @model_validator(mode="after")
    def _pixels_have_a_form(self) -> Self:
        without = [name for name in self.measure.runtimes if name not in ("onnxruntime", "openvino", "litert")]
        if self.export.pixels and without:
            raise ValueError(
                f"export.pixels = true, but files of {without[0]} take normalized float32; set it to false, or measure"
                ' in "onnxruntime", "openvino" and "litert" alone'
            )
        return self

    @model_validator(mode="after")
    def _runtimes_hold_the_scheme(self) -> Self:
        settings = self.quantize
        for name in self.measure.runtimes:
            if why := runtime_lacks(name, settings.mode, settings.activation_bits, settings.group_size):
                raise ValueError(f"quantize and measure.runtimes: {why}")
        return self

    @model_validator(mode="after")
    def _ranges_are_of_grids(self) -> Self:
        if self.distil.friendly.range and self.quantize.mode == "weight_only":
            raise ValueError(
                f'distil.friendly.range = {self.distil.friendly.range:g}, but quantize.mode = "weight_only" leaves'
                " activations float32, whose range costs nothing; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _a_callable_has_no_layers(self) -> Self:
        if self.teacher.predict and self.distil.layer_losses:
            raise ValueError(
                f"{self.distil.layer_losses[0].name} reads the teacher's layers, but teacher.predict is a callable,"
                " which has none; use losses between outputs alone"
            )
        return self

    @model_validator(mode="after")
    def _a_student_is_cut_from_a_network(self) -> Self:
        if not self.student.is_cut:
            return self
        if self.teacher.predict:
            raise ValueError(
                'student.weights = "teacher", but teacher.predict is a callable; nothing can be cut from it'
            )
        if self.student.model != self.teacher.model:
            raise ValueError(
                f'student.weights = "teacher" cuts the student from the teacher, but their models differ:'
                f' "{self.student.model}" and "{self.teacher.model}"; name the same'
            )
        return self

    @model_validator(mode="after")
    def _assistants_have_a_teacher(self) -> Self:
        if self.assistants and self.distil.teacher == "none":
            raise ValueError('assistants need a teacher, but distil.teacher = "none"; set it to "cached" or "live"')
        if any(assistant.weights for assistant in self.assistants):
            raise ValueError("an assistant is trained here and takes no weights; name a trained network as the teacher")
        if self.assistants and self.distil.layer_losses:
            raise ValueError(
                f"{self.distil.layer_losses[0].name} names layers of one teacher and one student; with assistants use"
                " losses between outputs alone"
            )
        return self


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and applies overrides such as ``distil.epochs=3``.

    Paths in a recipe are taken relative to the recipe's folder.

    Raises:
        UserError: the file is missing, is not TOML, or says something that distiq does not understand.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the recipe ({error.strerror}); `distiq init` writes one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        _override(tree, override)
    recipe = parse_recipe(tree, str(path))
    _check_files(recipe, path)
    return _with_absolute_paths(recipe, path.parent.resolve())


def parse_recipe(tree: dict[str, Any], name: str = "recipe") -> Recipe:
    """Builds a Recipe from nested dictionaries; `name` stands in the error messages.

    Raises:
        UserError: one line for each thing that is wrong.
    """
    try:
        # JSON mode of the strict parser takes a list for a tuple; nothing else is converted.
        return Recipe.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        problems = error.errors()
        # What a wrong entry makes of the list around it is no problem of its own.
        around = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
        lines = [_explain(name, tree, problem) for problem in problems if problem["loc"] not in around]
        raise UserError("\n".join(lines)) from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {override}: write it as key=value, for example --set student.training.epochs=3")
    *parents, last = key.strip().split(".")
    for number, parent in enumerate(parents):
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {'.'.join(parents[: number + 1])} is a value, not a table")
    try:
        tree[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        tree[last] = text


def _explain(name: str, tree: dict[str, Any], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    place = f"{name}: {key}" if key else name
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        return f"{place}: unknown key; {_suggest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{place}: this key is required"
    if problem["type"] == "value_error":
        return f"{place}: {problem['ctx']['error']}"
    if problem["type"] == "literal_error" and (names := re.findall("'([^']*)'", problem["ctx"]["expected"])):
        found = str(problem["input"])
        if found == "mse" and problem["loc"][:2] == ("quantize", "rungs"):
            return f"{place}: {STATIC_BY_NOW}"
        return f'{place}: "{found}" is none of its values; {_suggest(found, names)}'
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{place}: {message}, but found {json.dumps(problem['input'], default=str)}"


def _suggest(found: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    return f'did you mean "{nearest[0]}"?' if nearest else f"known here: {', '.join(known)}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    part: Any = Recipe
    for step in location:
        if isinstance(step, str):
            part = part.model_fields[step].annotation
            part = next((a for a in getattr(part, "__args__", ()) if isinstance(a, type)), part)
    return list(part.model_fields)


def _check_files(recipe: Recipe, path: Path) -> None:
    folder = path.parent.resolve()
    if recipe.data.source == "fashion_mnist" and recipe.data.download and not recipe.data.folder:
        raise UserError(f"{path}: data.download = true fetches into data.folder; name one, such as data/fashion_mnist")
    if recipe.data.source == "folder" and not recipe.data.folder:
        raise UserError(f'{path}: data.folder: source = "folder" needs a folder that holds train/ and test/')
    if recipe.data.source == "audio" and not recipe.data.folder:
        raise UserError(f'{path}: data.folder: source = "audio" needs a folder of clips')
    if recipe.data.source in ("table", "text") and not recipe.data.folder:
        kind = recipe.data.source
        raise UserError(f'{path}: data.folder: source = "{kind}" needs the folder of data.{kind}.train and .test')
    if recipe.data.folder and not recipe.data.download and not (folder / recipe.data.folder).is_dir():
        raise UserError(f"{path}: data.folder: no such folder: {folder / recipe.data.folder}; {RELATIVE}")
    for role, settings in recipe.networks().items():
        weights = settings.weights
        if weights.endswith((".safetensors", ".pt", ".pth")) and not (folder / weights).is_file():
            raise UserError(f"{path}: {role}.weights: no such file: {folder / weights}; {RELATIVE}")
        name = settings.model.removeprefix("transformers:")
        config = folder / name / "config.json"
        if name and config.is_file():
            kind = json.loads(config.read_text(encoding="utf-8")).get("model_type", "NAME")
            raise UserError(
                f"{path}: {role}.model: {folder / name} is a folder of transformers; write model ="
                f' "transformers:{kind}" and weights = "{name}"'
            )
    sources = {
        "data.source": recipe.data.source,
        **{f"{role}.model": settings.model for role, settings in recipe.networks().items()},
    }
    sources["teacher.predict"] = recipe.teacher.predict
    for key, source in sources.items():
        file = source.partition(":")[0]
        if file.endswith((".py", ".onnx")) and not (folder / file).is_file():
            raise UserError(f"{path}: {key}: no such file: {folder / file}; {RELATIVE}")


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    def absolute(text: str, is_path: bool) -> str:
        return str(folder / text) if text and is_path else text

    def located(settings: Any) -> Any:
        is_file = settings.weights.endswith((".safetensors", ".pt", ".pth")) or (folder / settings.weights).is_dir()
        is_file = is_file and settings.weights != FROM_TEACHER
        return settings.model_copy(
            update={
                "weights": absolute(settings.weights, is_file),
                "model": absolute(settings.model, ".py:" in settings.model or settings.model.endswith(".onnx")),
            }
        )

    tokenizer = recipe.data.text.tokenizer
    text = recipe.data.text.model_copy(update={"tokenizer": absolute(tokenizer, (folder / tokenizer).exists())})
    data = recipe.data.model_copy(
        update={
            "text": text,
            "folder": absolute(recipe.data.folder, True),
            "source": absolute(recipe.data.source, ".py:" in recipe.data.source),
        }
    )
    return recipe.model_copy(
        update={
            "data": data,
            "teacher": located(recipe.teacher).model_copy(update={"predict": absolute(recipe.teacher.predict, True)}),
            "assistants": tuple(located(assistant) for assistant in recipe.assistants),
            "student": located(recipe.student),
        }
    )


def describe(name: str = "distiq") -> str:
    """A commented recipe of that name: every key, its default and its meaning, as TOML."""
    return _describe_values(Recipe(name=re.sub(r"[^A-Za-z0-9._-]+", "-", name)), "")


def _describe_values(values: Part, path: str) -> str:
    lines, tables = [], []
    for key, field in type(values).model_fields.items():
        value = getattr(values, key)
        if isinstance(value, Part):
            doc = (type(value).__doc__ or "").strip().splitlines()[0]
            table = f"{path}.{key}" if path else key
            tables.append(f"\n# {doc}\n[{table}]\n{_describe_values(value, table)}")
        else:
            lines.append(_describe_line(key, value, field.description))
    return "\n".join(lines + tables)


def _describe_line(key: str, value: Any, description: str | None) -> str:
    if value == () or value is None:  # tables of that name may follow, or nothing is set
        text = f"# {key} = {_toml(value) if value == () else ''}"
    else:
        text = f"{key} = {_toml(value)}"
    return f"{text:<32}# {description}" if description else text


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # JSON's escapes are TOML's, but for surrogate pairs (so nothing is made ASCII) and DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case dict():
            return "{" + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case Part():
            return _toml(value.model_dump())
        case _:
            return str(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; reading it back gives an equal Recipe."""
    return _plain(recipe.model_dump(), "")


def _plain(tree: dict[str, Any], path: str) -> str:
    tables = {key: value for key, value in tree.items() if isinstance(value, dict) and key != "options"}
    lines = [f"{key} = {_toml(value)}" for key, value in tree.items() if key not in tables and value is not None]
    for key, value in tables.items():
        name = f"{path}.{key}" if path else key
        lines.append(f"\n[{name}]\n{_plain(value, name)}")
    return "\n".join(lines)
