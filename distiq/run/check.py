"""Every refusal before any work: what cannot work is refused before anything is trained."""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from distiq.data.audio import Audio
from distiq.data.images import Images
from distiq.data.labels import filled
from distiq.data.samples import name_of
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.data.views import check_views
from distiq.distillation.adapt import gives_probabilities
from distiq.distillation.distil import check_losses, check_smoothing
from distiq.distillation.quant_regularization import quant_regularization
from distiq.errors import UserError, first_line
from distiq.models.audio import check_rate, front_ends
from distiq.models.build import check_output
from distiq.models.checkpoint import LOADED
from distiq.progress import Watch
from distiq.quantization.annotate import check_paths
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.joints import unlike_joints
from distiq.quantization.scheme import Scheme
from distiq.recipe.distil import DistilSettings
from distiq.recipe.recipe import Recipe
from distiq.run.measure import example_of
from distiq.run.networks import Models, Network
from distiq.run.rungs import rungs_of
from distiq.run.target import check_target, check_target_operators
from distiq.run.web import check_web
from distiq.runtimes.check import check_runtimes
from distiq.tasks.choose import task_of
from distiq.tasks.score import check_task


def check_recipe(recipe: Recipe, data: Data) -> None:
    """Raises UserError if the recipe needs what this machine, this data, or distiq does not have."""
    check_runtimes(recipe)
    check_target(recipe)
    rungs_of(recipe.quantize, recipe.export.integer_io, recipe.measure.runtimes)
    _check_task(recipe, data)  # first: what it refuses says more than what follows
    _check_keyword(recipe, data)
    _check_uint8(recipe, data)
    check_web(recipe, data)
    check_training(recipe, data)


def check_training(recipe: Recipe, data: Data) -> None:
    """Raises UserError if networks cannot be trained on this data as the recipe says."""
    for key, views in (("views", recipe.views), ("teacher.views", recipe.teacher_views)):
        check_views(views, data.preprocessing, data.words, data.labels.form, key)
    for role, network in recipe.networks().items():
        if network.weights:
            data.preprocessing.check_weights(Path(network.weights), f"{role}.weights")
        check_smoothing(network.training, task_of(data), f"{role}.training")
    _check_task(recipe, data)


def _check_task(recipe: Recipe, data: Data) -> None:
    task = task_of(data)
    check_task(task, data, recipe.budget.metrics, recipe.budget.recall)
    unfit = {"evaluation.keyword": bool(recipe.evaluation.keyword), "teacher.predict": bool(recipe.teacher.predict)}
    if task.decoding != "softmax" and (names := [name for name, is_set in unfit.items() if is_set]):
        raise UserError(f"{names[0]} is for one class a sample, but the task is {task.name}; leave it out")
    if why := task.refuses(recipe):
        raise UserError(f"task {task.name}: {why}")


def _check_keyword(recipe: Recipe, data: Data) -> None:
    keyword, classes = recipe.evaluation.keyword, data.classes
    if keyword and keyword not in classes:
        raise UserError(f'evaluation.keyword: no class is called "{keyword}"; the classes: {", ".join(classes)}')
    if keyword and classes.index(keyword) not in data.test.labels:
        raise UserError(f'evaluation.keyword: no sample of the test set is of the class "{keyword}"; give it some')


def _check_uint8(recipe: Recipe, data: Data) -> None:
    images = data.preprocessing
    if recipe.export.uint8_input and not (isinstance(images, Images) and images.dtype == torch.uint8):
        raise UserError(
            f"export.uint8_input is for images of uint8; the {data.noun} of this run are {name_of(images.dtype)}; set"
            " it to false"
        )


def check_models(recipe: Recipe, data: Data, models: Models, watch: Watch) -> None:
    """Raises UserError unless this data can train every network and the student can be quantized as the recipe says."""
    check_networks(data, models, (recipe.distil,), watch)
    check_export(recipe, data, models.student, watch)


def check_networks(data: Data, models: Models, distillations: Sequence[DistilSettings], watch: Watch) -> None:
    """Raises UserError unless every network can be trained on this data, and the student with these settings.

    Args:
        distillations: the settings that the student is trained with.
    """
    for network in models.all:
        _check_pretrained(network)
        check_output(network.module, task_of(data).form(data.train.labels[:2]), data.example, network.role)
        with torch.no_grad():
            outputs = task_of(data).read(network.module.eval()(data.example))
        if why := task_of(data).unfit(outputs, data.train.labels):
            raise UserError(f"{network.role}: {why}")
        _check_loss(network, data)
        if isinstance(data.preprocessing, Audio):
            check_rate(network.module, data.preprocessing.rate, network.role)
        if network.role != "teacher":
            _say_probabilities(network, data, watch)
    student = models.student.module
    for settings in distillations:
        quant_regularization(copy.deepcopy(student), settings.quant_regularization, data.example)
        if settings.teacher != "none":
            for source, learner in itertools.pairwise(models.all):
                check_losses(learner.module, source.module, settings, data)
    if models.kept:
        watch.note(_trimmed(data))


@torch.no_grad()
def _check_loss(network: Network, data: Data) -> None:
    """Raises UserError unless the task's loss can be computed on the network's outputs for two samples."""
    if network.is_predictor:
        return
    task, split = task_of(data), data.calibration.drawn(2)
    outputs = task.read(network.module.eval()(data.normalize(split.inputs)))
    try:
        task.loss(outputs, filled(split.labels))
    except UserError as error:
        raise UserError(f"{network.role}: {error}") from error
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{network.role}: the loss of {task.name} fails on outputs {tuple(outputs.shape)}: {first_line(error)}"
        ) from error


def _check_pretrained(network: Network) -> None:
    rate = network.settings.training.pretrained_rate
    if rate != 1 and not any(getattr(module, LOADED, ()) for module in network.module.modules()):
        raise UserError(
            f"{network.role}.training: pretrained_rate = {rate:g} is for weights that distiq loads from a file or"
            f" a folder of transformers, and none are; name one in {network.role}.weights, or leave it out"
        )


def _say_probabilities(network: Network, data: Data, watch: Watch) -> None:
    if task_of(data).decoding == "softmax" and gives_probabilities(network.module, data):
        watch.note(
            f"warning: {network.role}: its outputs are probabilities (it ends in a softmax), but losses and temperature"
            " are for logits: return what goes into it; bundles give probabilities all the same"
        )


def _trimmed(data: Data) -> str:
    """Says how much of the test texts a trimmed vocabulary does not cover."""
    text = data.preprocessing
    assert isinstance(text, Text)
    unknown, used = data.used_tokens()
    tokens = data.test.inputs[data.test.inputs != text.pad]
    strange = ~torch.isin(tokens, torch.tensor(used)) | (tokens == unknown)
    return (
        f"student: a vocabulary of {len(used)} of {text.vocabulary} tokens; {int(strange.sum())} of the {len(tokens)}"
        " tokens of the test texts count as unknown"
    )


def check_export(recipe: Recipe, data: Data, student: Network, watch: Watch | None = None) -> None:
    """Raises UserError unless the student can be exported, and quantized as the recipe says.

    Args:
        watch: receives a note if the student joins outputs whose ranges differ widely.
    """
    model = copy.deepcopy(student.module)
    graph = export_graph(model, example_of(data))
    if watch is not None:
        for joint in unlike_joints(graph, example_of(data)):
            watch.note(f"{student.role}: {joint}")
    check_paths(graph, recipe.quantize.float_modules or ())
    check_paths(graph, recipe.quantize.wide_modules, "wide_modules")
    check_target_operators(recipe, graph)
    if recipe.export.integer_io:
        prepare(graph, Scheme(float_modules=_kept_in_float(recipe, model), integer_io=True))


def _kept_in_float(recipe: Recipe, student: nn.Module) -> tuple[str, ...]:
    asked = recipe.quantize.float_modules
    return front_ends(student) if asked is None else asked
