"""A multilayer perceptron for vectors, such as the encoded rows of a table."""

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        classes: number of classes, the width of the output.
        inputs: width of the input.
        hidden: widths of the layers between.
        dropout: share of each hidden layer's values that training leaves out.

    Shapes: (B, inputs) -> (B, classes) logits.
    """

    def __init__(self, classes: int, inputs: int, hidden: Sequence[int] = (128, 64), dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = inputs
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, rows: Tensor) -> Tensor:
        return self.classifier(self.layers(rows))
