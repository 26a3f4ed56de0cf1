"""The line that says that another program is using the machine: when it comes, and when it is taken back."""

from __future__ import annotations

from moco.train.neighbours import SLOW, WELL_AGAIN, WINDOW, Neighbours, Pressure, judged


def said(times: list[float]) -> list[tuple[int, str]]:
    neighbours = Neighbours()
    return [(i, sentence) for i, seconds in enumerate(times) if (sentence := neighbours.step(seconds))]


def test_a_pure_judgement_with_hysteresis() -> None:
    known, sentence = judged(Pressure(), [1.0] * WINDOW)
    assert (known, sentence) == (Pressure(1.0, False), None)
    assert judged(known, [SLOW - 0.01] * WINDOW) == (known, None)
    slow, sentence = judged(known, [SLOW + 0.1] * WINDOW)
    assert slow == Pressure(1.0, True)
    assert sentence is not None and "1.7 times" in sentence and "another program is using this machine" in sentence
    assert judged(slow, [SLOW - 0.1] * WINDOW) == (slow, None)  # between the two: neither
    assert judged(slow, [3.0] * WINDOW) == (slow, None)  # once
    well, sentence = judged(slow, [WELL_AGAIN - 0.1] * WINDOW)
    assert well == Pressure(1.0, False) and sentence is not None
    assert judged(well, [0.9] * WINDOW) == (Pressure(0.9, False), None)


def test_it_is_said_once_and_taken_back_once() -> None:
    lines = said([0.1] * 50 + [0.3] * 200 + [0.1] * 50)
    assert len(lines) == 2
    assert 50 < lines[0][0] < 50 + WINDOW and "3.0 times" in lines[0][1]
    assert 250 < lines[1][0] <= 250 + WINDOW


def test_a_slow_beginning_and_single_slow_steps_are_nothing() -> None:
    assert said([2.0] * 3 + [0.1] * 40) == []
    assert said(([0.1] * 9 + [5.0]) * 20) == []


def test_a_pace_on_the_border_does_not_flicker() -> None:
    assert len(said([0.1] * 40 + [0.1 * SLOW * f for f in (0.98, 1.02)] * 200)) <= 1


def test_views_of_another_size_are_other_work() -> None:
    neighbours = Neighbours()
    assert [neighbours.step(0.1, 32) for _ in range(40)] == [None] * 40
    assert [neighbours.step(0.3, 64) for _ in range(40)] == [None] * 40
    assert any("another program" in (neighbours.step(0.9, 64) or "") for _ in range(40))
