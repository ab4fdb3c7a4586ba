"""A transformers sequence classifier as a plain network: token numbers in, logits out."""

from typing import Any

from torch import Tensor, nn


class TokenLogits(nn.Module):
    """Turns padded token numbers into the model's arguments; the mask is where the padding token is not.

    Shapes: (B, L) int64 -> (B, classes) logits.
    """

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, attention_mask=(tokens != self.pad).long()).logits


def sequence_classifier(
    name: str, weights: str, classes: int, vocabulary: int, pad: int, options: dict[str, Any]
) -> nn.Module:
    """A classifier of the architecture `name`, such as "bert", by config, or from a folder or hub name.

    Args:
        weights: the folder or hub name; empty draws the weights.
        options: of the config; `keep_layers`, such as [0, 2, 4], cuts a student from the weights' encoder, whose other
            layers are left out (DistilBERT, Sanh et al. 2019, arXiv:1910.01108).

    Raises:
        ValueError: the options do not fit, or the tokenizer has tokens that the weights do not know.
    """
    import transformers

    options = dict(options)
    keep = options.pop("keep_layers", None)
    auto = transformers.AutoModelForSequenceClassification
    if not weights:
        config = transformers.AutoConfig.for_model(
            name, num_labels=classes, vocab_size=vocabulary, pad_token_id=pad, **options
        )
        model = auto.from_config(config)
    else:
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # a new head is no surprise here
        transformers.logging.disable_progress_bar()
        try:
            model = auto.from_pretrained(weights, num_labels=classes, **options)
        finally:
            transformers.logging.set_verbosity(level)
            transformers.logging.enable_progress_bar()
        if model.config.vocab_size < vocabulary:
            raise ValueError(
                f"{weights} knows {model.config.vocab_size} tokens, but the tokenizer has {vocabulary}: they do not"
                " belong together; set data.text.tokenizer to the same folder or hub name"
            )
    if keep is not None:
        keep_layers(model, keep)
    return model.float()


def keep_layers(model: Any, numbers: list[int]) -> None:
    """Leaves the encoder's layers of these numbers, in place.

    Raises:
        ValueError: there is no such layer, or no stack of layers is found.
    """
    count = model.config.num_hidden_layers
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ModuleList) and len(child) == count:
                if not numbers or not all(0 <= number < count for number in numbers):
                    raise ValueError(f"keep_layers = {numbers}: the encoder has the layers 0 to {count - 1}")
                setattr(module, name, nn.ModuleList(child[number] for number in numbers))
                model.config.num_hidden_layers = len(numbers)
                return
    raise ValueError(f"keep_layers: {type(model).__name__} has no stack of {count} layers that could be cut")
