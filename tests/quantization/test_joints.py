import pytest
import torch
from torch import Tensor, nn

from distiq.numerics import sqnr_db
from distiq.quantization.graph import export_graph
from distiq.quantization.joints import parts_of, unlike_joints
from distiq.quantization.quantize import quantize


class Joined(nn.Module):
    """A detector that joins corners in pixels and scores in its last operation, as exporters of such networks do."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)
        self.register_buffer("centres", torch.arange(64).float().view(1, 1, 64) * 8)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        distances, scores = self.boxes(maps).flatten(2), self.scores(maps).flatten(2).sigmoid()
        if self.form == "corners":
            distances = nn.functional.softplus(distances) * 8
            return torch.cat([self.centres - distances[:, :2], self.centres + distances[:, 2:], scores], 1)
        low, high = distances.chunk(2, 1)
        low, high = self.centres - low * 8, self.centres + high * 8
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1), scores], 1)


@pytest.mark.parametrize("form", ["corners", "centres"])
def test_a_joint_at_the_root_costs_neither_part(form: str):
    torch.manual_seed(0)
    network, images = Joined(form).eval(), torch.randn(16, 3, 32, 32)
    joint = unlike_joints(export_graph(network, images[:2]), images)[-1]
    assert "joins outputs of unlike range" in str(joint) and "stay in float32" in str(joint)
    quantized = quantize(network, images)
    assert [one.sizes for one in unlike_joints(quantized.prepared, images)][-1] == joint.sizes == (*joint.sizes[:-1], 2)
    with torch.no_grad():
        wanted, given = network(images), quantized(images)
    assert torch.equal(torch.cat(list(parts_of([joint], wanted).values()), 1), wanted)
    assert sqnr_db(wanted[:, :4], given[:, :4]) > 40
    assert sqnr_db(wanted[:, 4:], given[:, 4:]) > 25, "of scores between 0 and 1 beside pixels up to 512"


def test_parts_of_like_range_are_no_such_joint():
    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([self.one(images), self.other(images)], 1)

    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    assert unlike_joints(export_graph(Alike().eval(), images[:2]), images) == []
