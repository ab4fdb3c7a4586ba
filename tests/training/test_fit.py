import copy
import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from distiq.data.samples import InMemory
from distiq.data.splits import from_tensors
from distiq.data.views import Views
from distiq.errors import UserError
from distiq.progress import Silent
from distiq.recipe.data import ViewSettings
from distiq.recipe.training import TrainingSettings
from distiq.records.quality import Metric
from distiq.tasks.choose import task_of
from distiq.training.batches import Batch, Batches
from distiq.training.checkpoint import Checkpoint
from distiq.training.fit import Losses, _Run, fit, validation_metric
from distiq.training.precision import faster_precision
from distiq.training.schedule import learning_rate, make_optimizer, moving_average

SEED = 5


class Objective(nn.Module):
    """Cross entropy of a small convolutional network, in two weighted parts."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(64, 4),
        )

    def forward(self, batch: Batch) -> Losses:
        task = F.cross_entropy(self.network(batch.inputs), batch.labels)
        return Losses(task=0.75 * task, more=0.25 * task)


class Recorder(Silent):
    """Keeps what is shown; raises at a step, as a kill would."""

    def __init__(self, raise_at: int = 0) -> None:
        self.steps, self.raise_at = [], raise_at

    def step(self, done, total, values):
        self.steps.append((done, total, dict(values)))
        if done == self.raise_at:
            raise KeyboardInterrupt


def settings(**more) -> TrainingSettings:
    return TrainingSettings(
        **{
            "epochs": 3,
            "batch_size": 32,
            "learning_rate": 0.05,
            "precision": "float32",
            "checkpoint_seconds": 0.0,
            **more,
        }
    )


def make_objective(dropout: float = 0.0) -> Objective:
    torch.manual_seed(7)
    return Objective(dropout)


@pytest.fixture
def batches(tiny_data) -> Batches:
    """128 images in 4 batches of 32, with augmented views."""
    return Batches(tiny_data, Views(ViewSettings(flip=False, shift=1), SEED), 32, SEED)


# Schedule and optimizer ---------------------------------------------------------------------------------------------


def test_learning_rate_by_hand():
    chosen = settings(learning_rate=0.8, warmup=0.2)
    rates = [learning_rate(chosen, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.4, 0.8, 0.8])  # two steps of warm-up, then the top of the cosine
    assert rates[6] == pytest.approx(0.4)  # halfway: 4 of 8 steps
    assert rates[9] == pytest.approx(0.4 * (1 + math.cos(math.pi * 7 / 8)))
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_learning_rate_without_warmup_begins_at_the_top():
    chosen = settings(learning_rate=0.8, warmup=0.0)
    assert learning_rate(chosen, 0, 10) == 0.8
    assert learning_rate(chosen, 0, 1) == 0.8


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_learning_rate_stays_positive_and_below_its_limit(warmup, total):
    rates = [learning_rate(settings(learning_rate=0.8, warmup=warmup), step, total) for step in range(total)]
    assert min(rates) > 0
    assert max(rates) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("optimizer", "kind", "expected"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
    ],
)
def test_vectors_are_not_decayed(optimizer, kind, expected):
    objective = make_objective()
    objective.network[5].bias.requires_grad_(False)
    made = make_optimizer(objective, settings(optimizer=optimizer, momentum=0.8, weight_decay=0.01))
    assert isinstance(made, kind)
    decayed, plain = made.param_groups
    assert [decayed["weight_decay"], plain["weight_decay"]] == [0.01, 0.0]
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 1, 3, 3), (4, 64)]
    assert [tuple(p.shape) for p in plain["params"]] == [(4,), (4,)]
    assert {key: decayed[key] for key in expected} == expected


def test_weights_that_were_loaded_learn_at_their_share_of_the_rate(batches):
    """One step of plain descent: the change of a loaded layer is that share of what it would be."""
    changes = []
    for share in (1.0, 0.25):
        objective = make_objective()
        objective.network.loaded_names = ("0.weight", "of no parameter")
        before = copy.deepcopy(objective.state_dict())
        chosen = settings(epochs=1, batch_size=128, momentum=0.0, weight_decay=0.0, pretrained_rate=share)
        fit(objective, Batches(batches.data, batches.views, 128, SEED), chosen, stage="s")
        changes.append({name: value - before[name] for name, value in objective.named_parameters()})
    torch.testing.assert_close(changes[1]["network.0.weight"], 0.25 * changes[0]["network.0.weight"])
    torch.testing.assert_close(changes[1]["network.5.weight"], changes[0]["network.5.weight"])


def test_a_tied_weight_is_loaded_by_either_name():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False), nn.LayerNorm(4))
    model[1].weight = model[0].weight
    model.loaded_names = ("1.weight",)
    groups = make_optimizer(model, settings(pretrained_rate=0.1)).param_groups
    assert [(group["share"], len(group["params"])) for group in groups if group["params"]] == [(1.0, 2), (0.1, 1)]


def test_sgd_without_momentum():
    group = make_optimizer(make_objective(), settings(momentum=0.0)).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.0, False)


# Batches ------------------------------------------------------------------------------------------------------------


def order(batches: Batches, epoch: int, **more) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches.epoch(epoch, **more)]


@pytest.mark.parametrize(("size", "count"), [(32, 4), (30, 4), (128, 1), (100, 1), (1000, 1)])
def test_an_index_comes_at_most_once_an_epoch(tiny_data, size, count):
    batches = Batches(tiny_data, Views(ViewSettings(), 0), size, SEED)
    seen = order(batches, 0)
    assert len(seen) == len(batches) == count
    assert {len(indices) for indices in seen} == {min(size, 128)}
    flat = [index for indices in seen for index in indices]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(128))


def test_every_epoch_has_its_own_order(batches, tiny_data):
    assert order(batches, 0) != order(batches, 1)
    assert order(batches, 1) == order(batches, 1)
    assert order(batches, 0) != order(Batches(tiny_data, batches.views, 32, SEED + 1), 0)


def test_texts_of_like_length_share_a_batch_without_padding():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 31, (130,), generator=generator)
    tokens = (torch.arange(30) < lengths[:, None]).long() * 5
    labels = torch.arange(130) % 2
    data = from_tensors((tokens, labels), (tokens, labels), validation=1, calibration=1, modality="text")
    seen = list(Batches(data, Views(ViewSettings(), 0), 16, SEED).epoch(0))
    assert len(seen) == 8
    flat = torch.cat([batch.indices for batch in seen])
    assert len(flat.unique()) == len(flat) == 128
    widths = [batch.inputs.shape[1] for batch in seen]
    lengths = data.preprocessing.lengths(data.train.inputs)
    assert widths == [int(lengths[batch.indices].max()) for batch in seen]
    assert sum(widths) * 16 < 1.25 * int(lengths[flat].sum())  # at random it is 1.8 times
    assert sorted(widths) != widths


def test_an_epoch_can_begin_in_the_middle(batches):
    assert order(batches, 2, start=3) == order(batches, 2)[3:]
    assert order(batches, 2, start=4) == []


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_batch(batches, processes):
    shares = [order(batches, 0, process=process, processes=processes) for process in range(processes)]
    for whole, *parts in zip(order(batches, 0), *shares, strict=True):
        assert sorted(index for part in parts for index in part) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_batch_shows_the_view_of_its_samples(batches, tiny_data):
    batch = next(batches.epoch(2))
    samples = tiny_data.train.take(batch.indices)
    assert batch.view == 2
    assert torch.equal(batch.labels, samples.labels)
    assert torch.equal(batch.inputs, tiny_data.normalize(batches.views.view(samples.inputs, 2, batch.indices)))


def test_distinct_views_are_shown_in_turn(tiny_data):
    batches = Batches(tiny_data, Views(ViewSettings(distinct=2), 0), 32, SEED)
    assert [next(batches.epoch(epoch)).view for epoch in range(4)] == [0, 1, 0, 1]


# fit ----------------------------------------------------------------------------------------------------------------


def test_fit_learns(batches, tiny_data):
    objective, watch = make_objective(), Recorder()
    record = fit(
        objective,
        batches,
        settings(epochs=6),
        stage="student",
        validate=lambda trained: validation_metric(trained.network, tiny_data, task_of(tiny_data)),
        watch=watch,
    )
    first, last = record.epochs[0], record.epochs[-1]
    assert last.losses["task"] < 0.5 * first.losses["task"]
    assert last.losses["more"] == pytest.approx(last.losses["task"] / 3, rel=1e-5)
    assert last.validation.value > 0.9  # chance is 0.25
    assert [entry.epoch for entry in record.epochs] == [1, 2, 3, 4, 5, 6]
    assert (record.stage, record.steps, record.kept, record.precision) == ("student", 24, 6, "float32")
    assert not objective.training
    assert [done for done, _, _ in watch.steps] == list(range(1, 25))
    assert {total for _, total, _ in watch.steps} == {24}
    assert watch.steps[5][2]["epoch"] == "2/6"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_step_is_the_optimizers(batches, optimizer):
    """fit of one batch against the same step written out."""
    chosen = settings(epochs=1, batch_size=128, optimizer=optimizer, learning_rate=0.01, clip_norm=0.1)
    whole = Batches(batches.data, batches.views, 128, SEED)
    objective, oracle = make_objective(), make_objective()
    fit(objective, whole, chosen, stage="s")

    stepper = make_optimizer(oracle, chosen)
    sum(oracle(next(whole.epoch(0))).values()).backward()
    nn.utils.clip_grad_norm_(oracle.parameters(), 0.1)
    stepper.step()
    for found, expected in zip(objective.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_weights(batches):
    states = []
    for _ in range(2):
        objective = make_objective(dropout=0.3)
        torch.rand(17)  # what was drawn before does not matter
        fit(objective, batches, settings(), stage="s")
        states.append(objective.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_averaged_weights_are_kept(batches):
    """By hand: the mean of the first steps while 1 / steps > 1 - decay, then the exponential average."""
    chosen = settings(epochs=1, ema_decay=0.6)
    objective, oracle = make_objective(), make_objective()
    fit(objective, batches, chosen, stage="s")
    average: list[torch.Tensor] = []
    stepper = make_optimizer(oracle, chosen)
    for step, batch in enumerate(batches.epoch(0)):
        stepper.param_groups[0]["lr"] = stepper.param_groups[1]["lr"] = learning_rate(chosen, step, 4)
        stepper.zero_grad()
        sum(oracle(batch).values()).backward()
        stepper.step()
        now = [parameter.detach().clone() for parameter in oracle.parameters()]
        share = [0.0, 1 / 2, 0.6, 0.6][step]  # 2 / 3 and 3 / 4 are above the decay
        average = [share * a + (1 - share) * b for a, b in zip(average or now, now, strict=True)]
    for found, expected in zip(objective.parameters(), average, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


RESUMED = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.0},
    {"optimizer": "adamw", "learning_rate": 0.005},
    {"ema_decay": 0.7},
    {"optimizer": "adamw", "ema_decay": 0.7, "clip_norm": 0.5},
    {"channels_last": False},
]


def run_to_the_end(batches, chosen, dropout, checkpoint, watch=None):
    """Trains a fresh objective and keeps the epoch that `validate` likes best."""
    objective = make_objective(dropout)

    def validate(trained):
        # A value that depends on the weights and on nothing else, so a resumed run sees the same.
        return accuracy(float(trained.network[0].weight.detach().abs().sum() * 7 % 1))

    record = fit(
        objective, batches, chosen, stage="s", validate=validate, keep_best=True, checkpoint=checkpoint, watch=watch
    )
    return objective.state_dict(), record


def history(record) -> list:
    """A training without what a clock decides."""
    return [record.model_dump(exclude={"seconds", "epochs"})] + [
        entry.model_dump(exclude={"seconds", "images_per_s"}) for entry in record.epochs
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("more", RESUMED, ids=str)
@pytest.mark.parametrize("killed_at", [3, 5, 12])
def test_a_killed_training_ends_as_if_it_was_not(batches, tmp_path, more, killed_at, dropout):
    chosen = settings(**more)
    whole, whole_record = run_to_the_end(batches, chosen, dropout, None)

    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(batches, chosen, dropout, checkpoint, Recorder(killed_at))
    watch = Recorder()
    resumed, resumed_record = run_to_the_end(batches, chosen, dropout, checkpoint, watch)

    assert watch.steps[0][0] == killed_at, "one step is lost, not more"
    assert {key for key, value in whole.items() if not torch.equal(value, resumed[key])} == set()
    assert history(resumed_record) == history(whole_record)


def test_a_training_killed_twice(batches, tmp_path):
    whole, _ = run_to_the_end(batches, settings(), 0.4, None)
    checkpoint = tmp_path / "checkpoint.safetensors"
    for killed_at in (2, 7):
        with pytest.raises(KeyboardInterrupt):
            run_to_the_end(batches, settings(), 0.4, checkpoint, Recorder(killed_at))
    resumed, _ = run_to_the_end(batches, settings(), 0.4, checkpoint)
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_a_finished_training_is_not_done_again(batches, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    first, record = run_to_the_end(batches, settings(), 0.0, checkpoint)
    watch = Recorder()
    again, record_again = run_to_the_end(batches, settings(), 0.0, checkpoint, watch)
    assert watch.steps == []
    assert record_again == record
    assert all(torch.equal(value, again[key]) for key, value in first.items())


def test_a_checkpoint_is_not_written_more_often_than_asked(batches, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(batches, settings(checkpoint_seconds=3600.0), 0.0, checkpoint, Recorder(4))
    assert not checkpoint.exists()


def test_a_precision_that_was_timed_is_kept_when_resumed(batches, tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint.safetensors"
    answers = iter(["bfloat16", "float32"])
    monkeypatch.setattr("distiq.training.fit.faster_precision", lambda *_: next(answers))
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(batches, settings(precision="auto"), 0.0, checkpoint, Recorder(3))
    _, record = run_to_the_end(batches, settings(precision="auto"), 0.0, checkpoint)
    assert record.precision == "bfloat16"


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"damaged" * 99, lambda content: content[:-50], flipped],
    ids=["empty", "text", "cut", "one bit"],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused(batches, tmp_path, damage):
    checkpoint = tmp_path / "checkpoint.safetensors"
    run_to_the_end(batches, settings(epochs=1), 0.0, checkpoint)
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(
        UserError, match=r"checkpoint.safetensors: damaged checkpoint .*delete it to train from the start"
    ):
        run_to_the_end(batches, settings(epochs=1), 0.0, checkpoint)


def test_a_checkpoint_of_another_network_is_refused(batches, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    run_to_the_end(batches, settings(epochs=1), 0.0, checkpoint)
    other = make_objective()
    other.network[5] = nn.Linear(64, 5)
    with pytest.raises(UserError, match=r"checkpoint.safetensors: this checkpoint is of another training "):
        fit(other, batches, settings(epochs=2), stage="s", checkpoint=checkpoint)


def of_other_data(batches, _):
    images = batches.data.train.inputs.clone()
    images[0, 0, 0, 0] += 1
    data = replace(batches.data, train=replace(batches.data.train, samples=InMemory(images)))
    return replace(batches, data=data), settings()


OTHERS = {
    "its learning_rate is 0.05, here 0.06": lambda batches, _: (batches, settings(learning_rate=0.06)),
    "its epochs is 3, here 4": lambda batches, _: (batches, settings(epochs=4)),
    "its seed is 5, here 6": lambda batches, _: (replace(batches, seed=6), settings()),
    "its views differ": lambda batches, _: (replace(batches, views=Views(ViewSettings(shift=2), SEED)), settings()),
    "its data differs": of_other_data,
}


@pytest.mark.parametrize("difference", OTHERS)
def test_a_checkpoint_names_what_its_training_differs_in(batches, tmp_path, difference):
    checkpoint = tmp_path / "checkpoint.safetensors"
    run_to_the_end(batches, settings(), 0.0, checkpoint)
    before = checkpoint.read_bytes()
    other, chosen = OTHERS[difference](batches, None)
    with pytest.raises(UserError, match=rf"of another training \({difference}\); delete it .* or name another file"):
        run_to_the_end(other, chosen, 0.0, checkpoint)
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_another_objective_is_refused(batches, tmp_path):
    """The same network and settings, another factor in the loss."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    run_to_the_end(batches, settings(), 0.0, checkpoint)
    objective = make_objective()
    objective.temperature = 2.0
    with pytest.raises(UserError, match=r"another training \(its objective differs\)"):
        fit(objective, batches, settings(), stage="s", checkpoint=checkpoint)
    with pytest.raises(UserError, match=r"another training \(its stage is s, here teacher\)"):
        fit(make_objective(), batches, settings(), stage="teacher", checkpoint=checkpoint)


def test_how_often_a_checkpoint_is_written_makes_no_other_training(batches, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    first, _ = run_to_the_end(batches, settings(), 0.0, checkpoint)
    again, _ = run_to_the_end(batches, settings(checkpoint_seconds=9.0), 0.0, checkpoint)
    assert all(torch.equal(value, again[key]) for key, value in first.items())


def test_the_scale_of_float16_losses_is_in_the_checkpoint(batches, tmp_path):
    """What Accelerate holds on a GPU; the scaler itself runs on a CPU, too."""

    def run(scale: float) -> _Run:
        objective = make_objective()
        accelerator = Accelerator()
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        model, optimizer = accelerator.prepare(objective, make_optimizer(objective, settings()))
        last = torch.channels_last
        return _Run(
            accelerator, model, objective, optimizer, None, settings(), batches, last, "s", "float16", False, {}
        )

    first, second = run(1024.0), run(8.0)
    first._save(tmp_path / "checkpoint.safetensors", 0.0)
    second.restore(Checkpoint.read(tmp_path / "checkpoint.safetensors"))
    assert second.accelerator.scaler.state_dict() == first.accelerator.scaler.state_dict()
    assert second.accelerator.scaler.get_scale() == 1024.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_explained(batches, value):
    class Breaking(Objective):
        def forward(self, batch):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(batch) | ({"kd": torch.tensor(value)} if self.calls == 6 else {})

    with pytest.raises(UserError) as caught:
        fit(Breaking(), batches, settings(), stage="student")
    message = str(caught.value)
    assert message.startswith(f"student: the loss part(s) kd became {value} in epoch 2, step 2; lower learning_rate")
    assert "(now at most 0.05)" in message


def test_a_slow_average_of_a_short_training_is_the_mean():
    average, weights = [torch.zeros(2), torch.tensor(0)], torch.tensor([[3.0, 1.0], [5.0, 2.0], [7.0, 9.0]])
    average[0].copy_(weights[0])  # as AveragedModel begins
    for number, weight in enumerate(weights[1:], 1):
        moving_average(0.999)(average, [weight, torch.tensor(number)], torch.tensor(number))
    torch.testing.assert_close(average[0], weights.mean(0))
    assert average[1] == 2, "a counter is not averaged"


class _Poisoned(torch.autograd.Function):
    """The value itself, with a gradient of NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def test_a_gradient_that_is_not_finite_in_the_last_step_is_refused(batches):
    """No later loss would show what it did to the weights."""

    class Breaking(Objective):
        def forward(self, batch):
            self.calls = getattr(self, "calls", 0) + 1
            losses = super().forward(batch)
            return losses if self.calls < 12 else Losses(task=_Poisoned.apply(losses["task"]))

    objective = Breaking()
    with pytest.raises(UserError, match=r"^student: .*weight and \d+ more became NaN .* last step of epoch 3"):
        fit(objective, batches, settings(), stage="student")
    assert objective.calls == 12


def accuracy(value):
    return Metric(name="accuracy", title="accuracy", value=value)


def test_of_an_error_the_lowest_is_the_best(batches):
    errors = iter([0.5, 0.25, 0.75])

    def validate(_):
        return Metric(name="mae", title="mean error", value=next(errors), unit="levels", higher_is_better=False)

    assert fit(make_objective(), batches, settings(), stage="s", validate=validate, keep_best=True).kept == 2


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
@pytest.mark.parametrize(
    ("accuracies", "kept"), [([0.5, 0.9, 0.7], 2), ([0.9, 0.5, 0.7], 1), ([0.1, 0.2, 0.3], 3), ([0.4, 0.4, 0.2], 2)]
)
def test_the_best_epoch_is_kept(batches, accuracies, kept, ema_decay):
    seen = []

    def validate(trained):
        assert not trained.training
        seen.append(copy.deepcopy(trained.state_dict()))
        return accuracy(accuracies[len(seen) - 1])

    objective = make_objective()
    chosen = settings(ema_decay=ema_decay)
    record = fit(objective, batches, chosen, stage="s", validate=validate, keep_best=True)
    assert record.kept == kept
    assert [entry.validation.value for entry in record.epochs] == accuracies
    assert all(torch.equal(value, seen[kept - 1][key]) for key, value in objective.state_dict().items())


def test_the_last_epoch_is_kept_unless_asked(batches):
    record = fit(make_objective(), batches, settings(), stage="s", validate=lambda _: accuracy(1 / 3))
    assert record.kept == 3


def test_the_validation_metric_counts(tiny_data):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return F.one_hot(torch.zeros(len(images), dtype=torch.long), 4).float()

    expected = float((tiny_data.validation.labels == 0).float().mean())
    found = validation_metric(Fixed(), tiny_data, task_of(tiny_data))
    assert found.name == "accuracy" and found.value == pytest.approx(expected)
    assert validation_metric(Fixed(), tiny_data, task_of(tiny_data), batch=7) == found


def test_faster_precision_names_one_and_leaves_the_network_alone(batches):
    objective = make_objective()
    before = copy.deepcopy(objective.state_dict())
    assert faster_precision(objective, batches, settings()) in ("float32", "bfloat16")
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_precision_bfloat16_trains_and_leaves_float32_weights(batches):
    objective = make_objective()
    record = fit(objective, batches, settings(epochs=1, precision="bfloat16"), stage="s")
    assert record.precision == "bfloat16"
    assert {parameter.dtype for parameter in objective.parameters()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine can")
def test_float16_without_a_gpu_is_refused(batches):
    with pytest.raises(UserError, match=r'^student: precision = "float16" needs a GPU; take "float32" or "bfloat16"'):
        fit(make_objective(), batches, settings(precision="float16"), stage="student")
