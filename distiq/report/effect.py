"""The tables of an ablation: did the teacher help?"""

from distiq.records.ablation import AblationRecord
from distiq.report.cells import Cell, Row
from distiq.report.figures import (
    NOTHING,
    count,
    p_value,
    percent,
    points,
    points_interval,
)

ABLATION_HEADINGS = (
    Cell("Difference", "95 % interval"),
    Cell("Each seed"),
    Cell("McNemar p", "each seed"),
    Cell("Verdict"),
)


def arm_rows(ablation: AblationRecord) -> tuple[Row, ...]:
    """One row for each arm: the mean of the primary metric and that of each seed."""
    return tuple(
        Row(
            Cell(arm.name),
            (
                Cell(percent(sum(arm.values) / len(arm.values)), f"mean of {len(arm.values)} seeds"),
                Cell(", ".join(f"{100 * share:.2f}" for share in arm.values)),
            ),
        )
        for arm in ablation.arms
    )


def pair_rows(ablation: AblationRecord) -> tuple[Row, ...]:
    """One row for each comparison, under ABLATION_HEADINGS."""
    return tuple(
        Row(
            Cell(f"{pair.first} against {pair.second}"),
            (
                Cell(points(pair.difference_points / 100), points_interval(pair.interval_points)),
                Cell(", ".join(points(value / 100).removesuffix(" points") for value in pair.per_seed_points)),
                Cell(", ".join(p_value(p) for p in pair.mcnemar_p) or NOTHING),
                Cell(pair.verdict, f"n = {len(ablation.seeds)} seeds, {count(ablation.samples)} samples"),
            ),
            marked=pair.verdict == "helps",
        )
        for pair in ablation.pairs
    )


def ablation_sentence(ablation: AblationRecord) -> str:
    """Whether the recipe's way of using the teacher helped, in one sentence."""
    against_none = {pair.first: pair for pair in ablation.pairs if pair.second == "no teacher"}
    name = next(name for name in ("recipe", "outputs alone", *against_none) if name in against_none)
    pair = against_none[name]
    says = {
        "helps": "The teacher helps",
        "hurts": "The teacher hurts",
        "cannot tell": "Whether the teacher helps cannot be told from these seeds",
    }
    return (
        f"{says[pair.verdict]} ({name}): {points(pair.difference_points / 100)} (95 % interval"
        f" {points_interval(pair.interval_points)}, {len(ablation.seeds)} seeds,"
        f" {count(ablation.samples)} test samples)."
    )
