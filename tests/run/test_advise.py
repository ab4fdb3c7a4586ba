"""Advice: each warning appears for its reason, and only then."""

import tomllib
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from distiq.data.labels import CLASS, NUMBER, Labels, Target
from distiq.data.samples import in_memory
from distiq.data.splits import from_tensors
from distiq.errors import UserError
from distiq.progress import Silent
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import AssistantSettings
from distiq.records.quality import Metric, Quality
from distiq.records.run import AdviceRecord
from distiq.run.advise import advice, advise, learned_samples, permuted
from distiq.run.measure import Scores
from distiq.tasks.classification import classification
from distiq.tasks.intervals import wilson_interval
from distiq.tasks.regression import regression
from distiq.tasks.score import score
from distiq.tasks.task import Taught

CLASSES = ("ant", "bee", "cat")
LABELS = torch.arange(300) % 3


def answers(labels: torch.Tensor = LABELS, height: float = 4.0) -> torch.Tensor:
    noise = torch.rand(300, 3, generator=torch.Generator().manual_seed(0))
    return height * torch.nn.functional.one_hot(labels, 3) + noise


def warnings(logits=None, recipe: Recipe | None = None, parameters=(1000, 100), count=20_000) -> tuple[str, ...]:
    logits = answers() if logits is None else logits
    recipe = recipe or Recipe()
    train = torch.arange(count) % 3
    return said(recipe, logits, train, parameters).warnings


def said(recipe: Recipe, logits: torch.Tensor, train: torch.Tensor, parameters: tuple[int, int]) -> AdviceRecord:
    task = classification(Labels(CLASS, CLASSES))
    taught = Taught(score(task, logits, LABELS), logits, LABELS, train, recipe.distil.temperature)
    return advice(recipe, task, taught, *parameters)


def test_a_sound_recipe_has_no_warning():
    assert warnings() == ()


def test_a_teacher_that_guesses():
    (warning,) = warnings(torch.rand(300, 3, generator=torch.Generator().manual_seed(3)) * 9)
    assert "not shown to be better than always guessing" in warning


def test_labels_in_another_order():
    found = warnings(answers((LABELS + 1) % 3))
    assert any("its bee is ant, its cat is bee" in warning or "its ant is cat" in warning for warning in found)


@pytest.mark.parametrize(("temperature", "word"), [(100.0, "nearly uniform"), (0.05, "hardly differ")])
def test_temperature(temperature: float, word: str):
    (warning,) = warnings(recipe=parse_recipe({"distil": {"temperature": temperature}}))
    assert word in warning
    assert f"temperature {temperature:g}" in warning


def test_a_student_larger_than_its_teacher():
    (warning,) = warnings(parameters=(1000, 1001))
    assert "larger than its teacher (1,001 and 1,000 parameters)" in warning


def test_a_far_smaller_student_unless_an_assistant_stands_between():
    (warning,) = warnings(parameters=(100_000, 1000))
    assert "100 times smaller" in warning
    assert warnings(recipe=Recipe(assistants=(AssistantSettings(),)), parameters=(100_000, 1000)) == ()


def test_few_steps():
    (warning,) = warnings(count=300)
    assert "20 steps are few" in warning  # 10 epochs of 300 // 128


def test_facts_name_teacher_and_overlap():
    undecided = answers()
    undecided[::3, 1] = undecided[::3, 0]
    facts = said(Recipe(), undecided, LABELS.repeat(50), (1000, 100)).facts
    assert "10.0 times fewer" in facts[1]
    assert "ant and bee (each over 10 % on 33" in facts[3]


def of_numbers(logits: torch.Tensor) -> AdviceRecord:
    numbers = torch.linspace(-1, 1, 300)
    task = regression(Labels(NUMBER, ("stars",), Target(0.0, 2.0)))
    taught = Taught(score(task, logits, numbers), logits, numbers, numbers.repeat(99), 4.0)
    return advice(Recipe(), task, taught, 9, 8)


def test_a_teacher_of_numbers():
    numbers = torch.linspace(-1, 1, 300).unsqueeze(1)
    found = of_numbers(numbers + 0.25)
    assert (
        found.warnings == ()
        and "teacher: 100.00 % correlation, 100.00 % rank correlation, 0.5 RMSE on the validation split"
        in found.facts[0]
    )
    assert len(found.facts) == 2
    (warning,) = of_numbers(torch.randn(300, 1, generator=torch.Generator().manual_seed(0))).warnings
    assert "not shown to be better than always guessing the mean" in warning
    (warning,) = of_numbers(5 * numbers + 3).warnings
    assert "are in another unit" in warning and "teacher.finetune = true" in warning


def shares(validation: float, test: float, samples: int = 1000) -> Scores:
    def of(share: float) -> Quality:
        interval = wilson_interval(round(share * samples), samples)
        metric = Metric(name="accuracy", title="accuracy", value=share, interval=interval, interval_by="Wilson")
        return Quality(samples=samples, primary=metric)

    return Scores(test=of(test), validation=of(validation))


def test_a_teacher_that_knows_the_validation_samples_is_seen():
    said = learned_samples(shares(0.99, 0.90))
    assert said.startswith("the teacher has 99.00 % accuracy on the validation split, but 90.00 % on the test set")


@pytest.mark.parametrize(
    "scores", [shares(0.90, 0.99), shares(0.92, 0.91), shares(0.95, 0.90, 50), shares(0.915, 0.9, 100_000)]
)
def test_a_teacher_of_like_accuracy_is_not_suspected(scores: Scores):
    """Better on the test set, a little better, within chance, and beyond chance by less than two points."""
    assert learned_samples(scores) == ""


# A loaded teacher whose labels stand in another order --------------------------------------------------------------


class Loaded(NamedTuple):
    """What advice reads of a network."""

    module: nn.Module = nn.Identity()
    is_given: bool = True
    source: str = ""
    is_predictor: bool = False


def refusal(recipe: Recipe, network: Loaded, classes: tuple[str, ...] = CLASSES) -> str:
    """Of a teacher whose outputs mean bee, cat, ant."""
    outputs = answers((LABELS - 1) % 3)
    quality = score(classification(Labels(CLASS, classes)), outputs, LABELS)
    data = from_tensors(
        (torch.zeros(300, 1, 4, 4), LABELS), (torch.zeros(6, 1, 4, 4), LABELS[:6]), classes, 30, 30, normalized=True
    )
    data = replace(data, validation=in_memory(torch.zeros(300, 1, 4, 4), LABELS))
    reference = SimpleNamespace(
        logits={"validation": outputs},
        scores=Scores(test=quality, validation=quality),
        cost=None,
        trained=SimpleNamespace(network=network),
    )
    student = SimpleNamespace(module=nn.Linear(1, 1))
    with pytest.raises(UserError) as caught:
        advise(SimpleNamespace(watch=Silent()), recipe, data, reference, student)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_loaded_teacher_of_another_order_is_refused_with_the_key_that_mends_it():
    said = refusal(Recipe(), Loaded())
    assert (
        "its ant is bee, its bee is cat, its cat is ant (100.0 % of those for the validation samples are right so"
        in said
    )
    assert said.endswith('[teacher.preprocessing]\nlabels = ["bee", "cat", "ant"]')
    own = parse_recipe({"teacher": {"preprocessing": {"labels": ["dog", "cat", "ant", "bee"]}}})
    assert refusal(own, Loaded()).endswith('labels = ["dog", "ant", "bee", "cat"]')
    module = nn.Identity()
    module.loaded_labels = ("cat", "owl", "ant", "bee"), (2, 3, 0)  # as weights of transformers name their outputs
    assert refusal(Recipe(), Loaded(module)).endswith('labels = ["ant", "owl", "bee", "cat"]')


def test_a_callable_of_another_order_is_refused_in_its_own_words():
    assert refusal(Recipe(), Loaded(is_predictor=True)).endswith(
        "give its outputs in the order of the classes: ant, bee, cat"
    )


def test_a_teacher_of_many_classes_shows_some_and_names_all():
    names = tuple(f"{n:04}" for n in range(1000))
    said = permuted(Loaded(), Recipe(), names, (*range(1, 1000), 0), 0.1, 0.9)  # type: ignore[arg-type]
    assert "its 0000 is 0001" in said and "... (1000 in all)" in said
    written = str(UserError(said)).partition("[teacher.preprocessing]\n")[2]
    assert tomllib.loads(written.replace("\n", " "))["labels"] == [*names[1:], names[0]]
