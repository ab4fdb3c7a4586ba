from distiq.records.scenes import ScenesRecord
from distiq.report.scenes import confusion_rows, precision_recall
from distiq.report.trials import _by_part


def test_confusion_is_shown_in_shares_of_what_is_there():
    scenes = ScenesRecord(
        worst=(), rows=("cat", "nothing there"), columns=("cat", "missed"), confusion=((3, 1), (0, 0))
    )
    first, second = confusion_rows(scenes)
    assert [cell.text for cell in first.cells] == ["75.0 %", "25.0 %", "4"]
    assert [cell.text for cell in second.cells] == ["–", "–", "0"]


def test_precision_is_drawn_for_each_class():
    curve = (1.0,) * 50 + (0.0,) * 51
    scenes = ScenesRecord(worst=(), rows=(), columns=(), confusion=(), precision={"cat": curve, "dog": curve})
    drawing = precision_recall(scenes)
    assert "cat" in drawing and "dog" in drawing and drawing.startswith("<svg")


def test_noise_is_said_of_boxes_and_of_scores():
    class Trial:
        sqnr_by_part = {"boxes": 41.26, "scores": 35.0}

    assert _by_part(Trial()) == "boxes 41.3 dB, scores 35.0 dB"  # type: ignore[arg-type]
