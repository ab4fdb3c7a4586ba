import torch

from distiq.models.build import build
from distiq.models.mlp import MLP
from distiq.recipe.training import StudentSettings


def test_it_is_its_layers_in_turn():
    model = MLP(2, 3, hidden=(4,)).eval()
    rows = torch.randn(5, 3)
    first = model.layers[0]
    hidden = torch.relu(rows @ first.weight.T + first.bias)
    torch.testing.assert_close(model(rows), hidden @ model.classifier.weight.T + model.classifier.bias)


def test_a_recipe_builds_it_to_the_data_s_columns():
    settings = StudentSettings(model="mlp", options={"hidden": [8, 4]})
    model = build(settings, 2, torch.zeros(1, 7), "student")
    assert [parameter.shape[1] for parameter in model.parameters() if parameter.ndim == 2] == [7, 8, 4]
