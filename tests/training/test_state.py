from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siamkit.training.seeding import derive
from siamkit.training.state import (
    BEFORE,
    RunState,
    below_baseline,
    best_epoch,
    ends_trained,
    heads_text,
    no_loss,
)

HISTORY = st.lists(st.fixed_dictionaries({"m": st.floats(0, 1)}), max_size=12)


@given(HISTORY)
def test_the_best_epoch_is_the_first_with_the_highest_metric(
    history: list[dict[str, float]],
) -> None:
    best = best_epoch(history, "m")
    if not history:
        assert best is None
        return
    assert best is not None
    assert all(history[best]["m"] >= h["m"] for h in history)
    assert all(history[best]["m"] > h["m"] for h in history[:best])


def test_the_state_survives_json() -> None:
    import json

    state = RunState(epoch=2, history=[{"m": 0.5}], untrained={"m": 0.1}, best_epoch=0)
    assert RunState(**json.loads(json.dumps(state.to_json()))) == state


def test_seeds_differ_by_purpose_and_index() -> None:
    seeds = {derive(s, w, i) for s in (0, 1) for w in ("init", "step") for i in range(50)}
    assert len(seeds) == 200 and all(0 <= seed < 2**63 for seed in seeds)


def test_a_loss_of_zero_is_told_after_three_epochs_in_a_row() -> None:
    def history(*losses: float) -> list[dict[str, float]]:
        return [{"train_loss": loss} for loss in losses]

    assert no_loss(history(0, 0, 0)) and no_loss(history(0.5, 0, 0, 0))
    assert not no_loss(history(0, 0)) and not no_loss(history(0, 0, 0, 1e-9))
    assert not no_loss([])


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_run_below_its_baseline_is_told(before: float, after: float) -> None:
    text = below_baseline({"m": before}, {"m": after}, "m")
    assert (text is None) is (after >= before)
    if text is not None:
        assert f"m is {after:.3f} after the best epoch, and {before:.3f} with" in text


def test_the_head_of_the_best_network_was_trained_unless_it_was_only_computed() -> None:
    for state, trained in (
        (RunState(best_epoch=2), True),
        (RunState(best_epoch=2, refitted=True), False),
        (RunState(best_epoch=BEFORE), False),
        (RunState(best_epoch=None), False),  # the checkpoint before the first step
        (RunState(best_epoch=BEFORE, inherited=True), True),
        (RunState(best_epoch=None, inherited=True), True),
    ):
        assert ends_trained(state.to_json()) is trained


def test_which_head_a_run_starts_from_is_told() -> None:
    assert heads_text({}, "recall@1") is None
    for closed, verdict in ((0.5, "the trained head stays"), (0.6, "that one replaces it")):
        text = heads_text({"trained": 0.5, "closed form": closed}, "map@r")
        assert text is not None and text.startswith("before the first step, map@r is 0.500 with")
        assert text.endswith(verdict)
