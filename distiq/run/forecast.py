"""What candidates of a search will cost before their files are made: learned from files of networks that were drawn."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds
from distiq.evaluation.operations import operations
from distiq.models.spaces import Choice
from distiq.records.search import Candidate, CandidateCost, ForecastRecord, PredictionError
from distiq.timing.predictor import FEWEST, Predictor, error_of, features, fit, unseen

COSTS = ("latency_ms", "size_kb")


@dataclass(frozen=True)
class Forecast:
    """Predicts costs by name; knows nothing where too few files were measured.

    Args:
        learned: from how many files. crossed: the error on each of them as the others predict it.
    """

    learned: int
    predictors: Mapping[str, Predictor]
    crossed: Mapping[str, PredictionError | None]

    def costs(self, model: nn.Module, example: Tensor) -> dict[str, float]:
        """What a network will cost; without what cannot be told, such as that of operations never seen."""
        if not self.predictors:
            return {}
        given = features(operations(model, example))
        found = {name: predictor(given) for name, predictor in self.predictors.items()}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def surely_over(self, predicted: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
        """Predictions that break a limit by more than nine of ten errors."""
        return {
            name: predicted[name]
            for name, most in limits.items()
            if (error := self.crossed.get(name)) and predicted.get(name, 0.0) > most * (1 + error.p90)
        }


NOTHING = Forecast(0, {}, {})


def drawn(choose: Callable[[Any], Choice], count: int, seed: int) -> list[Choice]:
    """Different networks that a space gives at random: so many, or fewer where it has not so many.

    Raises:
        UserError: it gives none.
    """
    study, found, why = _at_random(seed), dict[str, Choice](), UserError("search.space gives no network")
    for _ in range(4 * count):
        try:
            choice = choose(study.ask())
        except UserError as error:  # of these values; it may give one of others
            why = error
            continue
        found.setdefault(json.dumps(choice), choice)
    if count and not found:
        raise why
    return list(found.values())[:count]


def largest(
    choose: Callable[[Any], Choice],
    module_of: Callable[[Choice], nn.Module],
    forecast: Forecast,
    limits: Mapping[str, float],
    example: Tensor,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """The parameters of the network with the most multiply-adds, of so many drawn at random that hold the limits, as
    predicted; empty where none does.

    Before training, multiply-adds tell about as much of a network's quality as anything: White et al. 2022, "A deeper
    look at zero-cost proxies for lightweight NAS" (ICLR blog track).
    """
    study, best, most = _at_random(seed), dict[str, Any](), 0
    for _ in range(count if forecast.predictors else 0):
        trial = study.ask()
        try:
            model = module_of(choose(trial))
            predicted = forecast.costs(model, example)
            macs = multiply_adds(model, example)  # of recurrent layers, too
        except Exception:  # a network that cannot be built is refused when it is tried
            continue
        if macs > most and all(predicted.get(name, math.inf) <= limit for name, limit in limits.items()):
            best, most = trial.params, macs
    return best


def _at_random(seed: int) -> Any:
    """A study that remembers nothing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def learn(measured: Sequence[tuple[nn.Module, CandidateCost]], example: Tensor) -> Forecast:
    """A forecast from networks whose files were measured."""
    if len(measured) < FEWEST:
        return Forecast(len(measured), {}, {})
    seen = [features(operations(model, example)) for model, _ in measured]
    by_cost = {name: [getattr(cost, name) for _, cost in measured] for name in COSTS}
    return Forecast(
        len(measured),
        {name: fit(seen, values) for name, values in by_cost.items()},
        {name: error_of(unseen(seen, values), values) for name, values in by_cost.items()},
    )


def records(forecast: Forecast, candidates: Sequence[Candidate]) -> tuple[ForecastRecord, ...]:
    """How good the forecast was, in the end."""
    found = []
    for name, crossed in forecast.crossed.items():
        pairs = [
            (one.predicted[name], getattr(one.cost, name))
            for one in candidates
            if one.cost and name in one.predicted and not one.is_repeated
        ]
        checked = error_of([one for one, _ in pairs], [other for _, other in pairs])
        found.append(ForecastRecord(cost=name, learned=forecast.learned, crossed=crossed, checked=checked))
    return tuple(found)
