"""Teachers that are not one network of the same task: several, a callable, another preprocessing, an average."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.data.labels import NUMBER, Labels
from distiq.data.splits import Data, with_unlabelled
from distiq.distillation.distil import Distillation, distil
from distiq.distillation.generations import born_again, ensemble
from distiq.distillation.mutual import Mutual, mutual
from distiq.distillation.teacher import AdaptedTeacher, Ensemble, LiveTeacher, MeanTeacher, PredictTeacher
from distiq.errors import UserError
from distiq.models.resnet import ResNet
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings
from distiq.recipe.training import TrainingSettings
from distiq.tasks.regression import regression
from distiq.tasks.task import Task
from distiq.training.batches import Batch

LIVE = DistilSettings(teacher="live")


class Fixed(nn.Module):
    """Answers given probabilities to whatever it is asked."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.randn(4, 1, 12, 12), torch.tensor([0, 0, 1, 1]), torch.arange(4), 0)


def test_a_callable_teaches_without_a_network(batch: Batch, teacher: nn.Module):
    live = LiveTeacher(teacher)
    answered = PredictTeacher(lambda images: live.model(images).detach().numpy())(batch)
    torch.testing.assert_close(answered.logits, live(batch).logits)


def test_an_onnx_file_teaches(teacher, student, data: Data, training: TrainingSettings, tmp_path: Path):
    from distiq.runtimes.export import export, load

    export(teacher.eval(), tmp_path / "teacher.onnx", data.normalize(data.train.inputs[:2]))
    settings = DistilSettings(teacher="live", task_weight=0.0, kd_weight=1.0)
    answering = PredictTeacher(load(tmp_path / "teacher.onnx"))
    one, other = (distil(student, way, data, settings, training)[1] for way in (answering, teacher))
    assert one.epochs[-1].losses["kd"] == pytest.approx(other.epochs[-1].losses["kd"], rel=1e-3)


def test_an_ensemble_is_the_mean_of_the_probabilities(batch: Batch):
    joined = Ensemble([LiveTeacher(Fixed(0.9, 0.1)), LiveTeacher(Fixed(0.5, 0.5))])
    torch.testing.assert_close(joined(batch).logits.softmax(1), torch.tensor([[0.7, 0.3]]).expand(4, -1))


def test_confidence_counts_the_teacher_that_knows_the_label(batch: Batch):
    probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    joined = Ensemble([LiveTeacher(Fixed(*row.tolist())) for row in probabilities], "confidence")
    expected = []
    for label in batch.labels.tolist():
        surprise = -probabilities[:, label].log()
        shares = (1 - surprise.exp() / surprise.exp().sum()) / 2
        expected.append((shares.unsqueeze(1) * probabilities).sum(0))
    torch.testing.assert_close(joined(batch).logits.softmax(1), torch.stack(expected))


def test_one_teacher_is_no_ensemble():
    with pytest.raises(UserError, match="needs two or more"):
        Ensemble([LiveTeacher(Fixed(0.5, 0.5))])


def test_labels_in_another_order_are_put_right(batch: Batch, data: Data):
    assert data.classes == ("0", "1")
    adapted = AdaptedTeacher(LiveTeacher(Fixed(0.7, 0.1, 0.2)), data, classes=("other", "1", "0"))
    torch.testing.assert_close(adapted(batch).logits, torch.tensor([[0.2, 0.1]]).log().expand(4, -1))


def test_a_class_that_the_teacher_lacks_is_refused_with_both_lists(data: Data):
    with pytest.raises(UserError, match=r"does not know '1'. The teacher's classes: 0, x. The data's classes: 0, 1"):
        AdaptedTeacher(LiveTeacher(Fixed(0.5, 0.5)), data, classes=("0", "x"))


def test_the_teacher_sees_its_own_preprocessing_and_size(batch: Batch, data: Data):
    seen = []

    def look(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.zeros(len(images), 2)

    adapted = AdaptedTeacher(PredictTeacher(look), data, mean=(0.5,), std=(0.25,), size=(6, 6))
    pixels = torch.full((4, 1, 12, 12), 51, dtype=torch.uint8)  # 0.2 of 255
    adapted(batch._replace(inputs=data.normalize(pixels)))
    torch.testing.assert_close(seen[0], torch.full((4, 1, 6, 6), (0.2 - 0.5) / 0.25))


def test_mean_teacher_is_the_average_of_the_student(batch: Batch, student, task: Task):
    mean = MeanTeacher(decay=0.6)
    objective = Distillation(student, mean, LIVE, task=task).train()
    weights = []
    for step in range(4):
        with torch.no_grad():
            student.classifier.weight.fill_(float(step))
        objective(batch)
        weights.append(float(objective.followed.classifier.weight[0, 0]))
    # Even means 0, 1/2 while they take in more than 1 - 0.6, then the decay.
    assert weights == pytest.approx([0.0, 0.5, 0.5 * 0.6 + 2 * 0.4, (0.5 * 0.6 + 2 * 0.4) * 0.6 + 3 * 0.4])
    objective.eval()(batch)
    assert float(objective.followed.classifier.weight[0, 0]) == pytest.approx(weights[-1]), "not in evaluation"
    assert not any(value.requires_grad for value in objective.followed.parameters())


def test_mean_teacher_resumes_as_if_it_was_not_killed(student, data: Data, tmp_path: Path):
    class Killed(Exception):
        pass

    training = TrainingSettings(epochs=2, batch_size=32, learning_rate=0.05, precision="float32", checkpoint_seconds=0)
    whole, _ = distil(student, MeanTeacher(), data, LIVE, training)
    seen = 0

    class Killer:
        def __call__(self, *_: object) -> None:
            nonlocal seen
            seen += 1
            if seen == 5:
                raise Killed

    from distiq.progress import Silent

    watch = Silent()
    watch.step = Killer()
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        distil(student, MeanTeacher(), data, LIVE, training, checkpoint=path, watch=watch)
    resumed, _ = distil(student, MeanTeacher(), data, LIVE, training, checkpoint=path)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_each_generation_starts_anew_and_learns_from_the_last(student, data: Data, training: TrainingSettings):
    made = born_again(student, data, 3, training=training)
    assert [set(one.training.epochs[0].losses) for one in made] == [{"task"}, {"task", "kd"}, {"task", "kd"}]
    assert not torch.equal(made[0].model.classifier.weight, made[1].model.classifier.weight)
    batch = Batch(data.normalize(data.test.inputs), data.test.labels, torch.arange(32), 0)
    mean = torch.stack([one.model(batch.inputs).softmax(1) for one in made]).mean(0)
    torch.testing.assert_close(ensemble(made)(batch).logits.softmax(1), mean)


def test_students_learn_from_one_another(student, data: Data, training: TrainingSettings):
    torch.manual_seed(5)
    other = ResNet(2, 1, (4, 6), 1)
    before = copy.deepcopy([student.state_dict(), other.state_dict()])
    trained, record = mutual([student, other], data, training)
    assert set(record.epochs[0].losses) == {"task 1", "kd 1", "task 2", "kd 2"}
    for network, own, start in zip((student, other), trained, before, strict=True):
        assert all(torch.equal(value, start[key]) for key, value in network.state_dict().items())
        assert not torch.equal(own.classifier.weight, network.classifier.weight)


def test_mutual_gradients_stay_with_each_student(batch: Batch, student, task: Task):
    other = copy.deepcopy(student)
    losses = Mutual([student.eval(), other.eval()], task, 1.0, 1.0)(batch)
    losses["kd 1"].backward()
    assert all(parameter.grad is None for parameter in other.parameters())


def test_one_student_is_refused(student, data: Data):
    with pytest.raises(UserError, match="two or more"):
        mutual([student], data)


def test_mutual_takes_mixed_and_unlabelled_images(student, data: Data, training: TrainingSettings):
    more = with_unlabelled(data, data.train.inputs[:32])
    _, record = mutual([student, student], more, training, views=ViewSettings(mixup=0.5))
    assert set(record.epochs[0].losses) == {"task 1", "kd 1", "task 2", "kd 2"}


def test_confidence_in_mixed_images_is_refused(batch: Batch):
    joined = Ensemble([LiveTeacher(Fixed(0.9, 0.1)), LiveTeacher(Fixed(0.5, 0.5))], "confidence")
    with pytest.raises(UserError, match="one label per image"):
        joined(batch._replace(partners=batch.labels, shares=torch.ones(4)))


def test_an_ensemble_of_numbers_is_refused(student, data: Data):
    joined = Ensemble([LiveTeacher(Fixed(0.9, 0.1)), LiveTeacher(Fixed(0.5, 0.5))])
    with pytest.raises(UserError, match="averages the probabilities of classes, which regression does not have"):
        distil(student, joined, data, LIVE, task=regression(Labels(NUMBER, ("number",))))


def test_mutual_learning_of_numbers_is_by_squared_errors(batch: Batch):
    answers = torch.tensor([0.5, 0.25]).log()[:1]
    students = [Fixed(0.5), Fixed(0.25)]
    found = Mutual(students, regression(Labels(NUMBER, ("number",))), 3.0, 2.0)(
        batch._replace(labels=torch.zeros(len(batch.labels)))
    )
    assert found["task 1"].item() == pytest.approx(float(answers[0].square()))
    assert found["kd 1"].item() == found["kd 2"].item() == pytest.approx(2 * math.log(2) ** 2)
