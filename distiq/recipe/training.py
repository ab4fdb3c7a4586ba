"""Networks and how each is trained."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from distiq.recipe.part import Name, Part

FROM_TEACHER = "teacher"
AUTO = "auto"
PICKLES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
WEIGHT_FILES = (".safetensors", *PICKLES)


class TrainingSettings(Part):
    """One training: optimizer, schedule, precision."""

    WITHOUT_EFFECT = frozenset({"checkpoint_seconds"})

    epochs: int = Field(10, ge=1, description="passes over the training samples")
    batch_size: int = Field(128, ge=2, description="samples per step, over all processes")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description='"sgd" (Nesterov momentum) or "adamw"')
    learning_rate: float = Field(0.1, gt=0, description="its highest value, reached after the warm-up")
    pretrained_rate: float = Field(
        1.0,
        gt=0,
        description="learning rate of weights that were loaded from a file, as a share of that of newly drawn ones",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(5e-4, ge=0, description="not applied to biases and normalization")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising learning rate, then cosine")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the task loss")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="moving average of the weights (at first their mean), evaluated and kept; 0 is off"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description='"auto" times a few steps in float32 and bfloat16 and takes the faster'
    )
    channels_last: bool = Field(
        True, description="memory layout of images and weights, unless oneDNN fails in it (narrow 1x1 strided layers)"
    )
    checkpoint_seconds: float = Field(20.0, ge=0, description="a killed run loses at most so many seconds")


class QATSettings(TrainingSettings):
    """Quantization-aware training: short and gentle, since it starts from trained weights."""

    epochs: int = Field(2, ge=1, description=TrainingSettings.model_fields["epochs"].description)
    learning_rate: float = Field(0.002, gt=0, description=TrainingSettings.model_fields["learning_rate"].description)
    weight_decay: float = Field(0.0, ge=0, description=TrainingSettings.model_fields["weight_decay"].description)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32", description="8-bit integers and their scales are exact only in float32"
    )

    @model_validator(mode="after")
    def _all_weights_are_trained_ones(self) -> Self:
        if self.pretrained_rate != 1:
            raise ValueError(
                f"pretrained_rate = {self.pretrained_rate:g}: quantization-aware training starts from a trained network"
                " and has no new weights; lower its learning_rate"
            )
        return self


class ModelSettings(Part):
    """A network and its weights."""

    model: str = Field(
        description='"resnet", "mobilenet_v2", "efficientnet_lite0" to 4, "mlp", "text_bilstm", "text_cnn",'
        ' "embedding_bag", "file.py:function", "transformers:NAME", "timm:NAME", "torchvision:NAME", "file.onnx"'
        " (float32, with its weights)"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    weights: str = Field(
        "", description="a file, shards or a folder of weights, plain or of a training, or a hub name; empty trains it"
    )
    trust: bool = Field(False, description="allow .pt, .pth and .bin files that run code when they are loaded")
    training: TrainingSettings = Field(default_factory=TrainingSettings)


class TeacherPreprocessing(Part):
    """How a teacher was trained elsewhere, where that differs from the data; it is fed and read so. Its layers are
    named behind "network." then."""

    mean: tuple[float, ...] = Field(
        (), description="of pixels in 0..1, taken off each channel, such as [0.485, 0.456, 0.406]; empty: as the data"
    )
    std: tuple[float, ...] = Field((), description="each channel is divided by it; empty: as the data")
    size: tuple[int, ...] = Field(
        (), description="height and width that images are resized to for it, such as [224, 224]; empty: as the data"
    )
    channels: Literal["rgb", "bgr"] = Field("rgb", description="the order in which it reads the channels of a colour")
    labels: tuple[Name, ...] = Field(
        (),
        description="the names of its classes in the order of its outputs; those that the data lacks are left out;"
        " empty: the data's classes in the data's order",
    )

    @model_validator(mode="after")
    def _is_an_image(self) -> Self:
        if self.size and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size = {list(self.size)}: give height and width, such as [224, 224]")
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std = {list(self.std)}: every channel's is above 0")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels names a class twice; name each output once")
        return self


class TeacherSettings(ModelSettings):
    """The large network. With `weights` it is loaded, otherwise trained."""

    model: str = Field("resnet", description=ModelSettings.model_fields["model"].description)
    finetune: bool = Field(False, description="train it on from its weights")
    predict: str = Field(
        "",
        description='"file.py:function": any callable in place of a network; the function is given the data (and the'
        " options) and returns it: array in, probabilities or logits out",
    )
    preprocessing: TeacherPreprocessing = Field(default_factory=TeacherPreprocessing)
    views: dict[str, Any] = Field(
        default_factory=dict, description="of its own training: what differs from [views], such as {mixup = 0.5}"
    )

    @model_validator(mode="after")
    def _callable_is_finished(self) -> Self:
        if self.predict and self.preprocessing != TeacherPreprocessing():
            raise ValueError(
                "preprocessing is for networks, but predict is a callable, which prepares its inputs and orders its"
                " outputs itself; leave one of the two out"
            )
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

    model: str = Field(
        "mobilenet_v2",
        description=f'{ModelSettings.model_fields["model"].description}, "plain"; "auto" looks for it, see [search]',
    )
    weights: str = Field(
        "",
        description='as the teacher\'s; "teacher" cuts the student from the trained teacher by its options, such as'
        " {keep_layers = [1, 3, 5], feed_forward = 512, heads = 6, trim_vocabulary = true, embedding_width = 128},"
        " or of a convolution network {keep_channels = 0.7} or {keep_macs = 0.5};"
        " without a teacher (distil.teacher), from what the teacher is before its training here",
    )

    @property
    def is_cut(self) -> bool:
        """It starts as a part of the trained teacher."""
        return self.weights == FROM_TEACHER

    @property
    def is_searched(self) -> bool:
        """It is looked for; its options are kept by every candidate that has them."""
        return self.model == AUTO

    @model_validator(mode="after")
    def _searched_is_untrained(self) -> Self:
        if self.is_searched and self.weights:
            raise ValueError(
                'model = "auto" looks for a network that is trained here, which takes no weights; name one'
            )
        return self
