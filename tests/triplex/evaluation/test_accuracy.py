import pytest

from triplex.evaluation.accuracy import accuracies
from triplex.rewards.preference import PreferenceConfig

FOLDER = {"kind": "folder", "path": "x", "sha256": "0" * 64}
PREFERENCE = PreferenceConfig.model_validate({"weight": 0.2, "model": FOLDER})
PAIRS = [{"prompt": f"p{n}", "chosen": "good", "rejected": "bad" if n % 4 else "good"} for n in range(40)]


def test_the_interval_is_wilsons_and_guessing_names_the_commoner_label() -> None:
    labels = [0] * 9 + [1] * 15 + [None] * 6
    found = accuracies({"sentiment": 0.5}, labels, None, [])["sentiment"]
    assert (found.share, found.num, found.guessing) == (0.5, 24, 0.625)
    assert (found.low, found.high) == pytest.approx((0.3143, 0.6857), abs=1e-4)  # Wilson 1927, by hand: z = 1.96
    assert not found.beats_guessing


def test_pairs_that_differ_count_and_guessing_gets_half() -> None:
    found = accuracies({"preference": 0.9}, [], PREFERENCE, PAIRS)["preference"]
    assert (found.num, found.guessing) == (30, 0.5)
    assert found.low == pytest.approx(0.7438, abs=1e-4)
    assert found.beats_guessing


@pytest.mark.parametrize(("share", "beats"), [(0.8, True), (0.78, False), (0.1, False)])
def test_guessing_is_beaten_where_the_whole_interval_lies_above_it(share: float, beats: bool) -> None:
    """Of 100 texts, 70 of one label: 0.80 has the interval 0.711 to 0.867, 0.78 one that begins at 0.689."""
    found = accuracies({"sentiment": share}, [1] * 70 + [0] * 30, None, [])["sentiment"]
    assert found.beats_guessing is beats


def test_what_was_not_measured_is_left_out() -> None:
    assert accuracies({}, [None, None], PREFERENCE, PAIRS) == {}
