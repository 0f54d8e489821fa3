import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.inference.quantizing.search import GROUPS, choose


def network(costs):
    """A network whose layers each cost a given loss in int8, and the measurements made on it."""
    asked = []

    def loss(floats):
        asked.append(frozenset(floats))
        return sum(cost for name, cost in costs.items() if name not in floats)

    return loss, loss, asked


def test_a_network_that_keeps_its_quality_is_all_int8_after_one_measurement():
    loss, error, asked = network({"a": 0.001, "b": 0.002})
    chosen = choose(["a", "b"], loss, error, tolerance=0.01)
    assert chosen.floats == () and chosen.layers == 2
    assert asked == [frozenset()]


def test_layers_without_weights_stay_in_float_if_that_is_enough():
    loss, error, asked = network({"conv": 0.001, "add": 0.1, "softmax": 0.1})
    chosen = choose(
        ["conv", "add", "softmax"], loss, error, weightless={"add", "softmax"}, tolerance=0.01
    )
    assert chosen.floats == ("add", "softmax")
    assert len(asked) == 2


costs = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 0.05), min_size=2, max_size=12
)


@given(costs)
def test_the_most_sensitive_layers_stay_in_float_and_no_more(costs):
    layers = list(costs)
    loss, error, _ = network(costs)
    chosen = choose(layers, loss, error, tolerance=0.01)
    assert chosen.loss == loss(chosen.floats)
    inside = [name for name in layers if name not in chosen.floats]
    assert inside, "something is in int8"
    if chosen.loss <= 0.01 and chosen.floats:
        # One layer fewer in float32, the least sensitive one, would cost too much.
        least = min(chosen.floats, key=costs.__getitem__)
        assert loss(set(chosen.floats) - {least}) > 0.01
    assert list(chosen.floats) == [name for name in layers if name in chosen.floats]


def test_the_best_choice_is_returned_if_none_keeps_the_quality():
    loss, error, _ = network({"a": 1.0, "b": 0.5, "c": 0.25})
    chosen = choose(["a", "b", "c"], loss, error, tolerance=0.01)
    assert chosen.floats == ("a", "b") and chosen.loss == 0.25


@pytest.mark.parametrize("layers", [2, 3, 5, 10, 12])
def test_any_number_of_layers_may_stay_in_float(layers):
    names = [f"layer{number}" for number in range(layers)]
    for need in range(1, layers):
        # The first ones are the most sensitive, and all of them must stay in float32.
        loss, _, _ = network(dict.fromkeys(names[:need], 1.0))
        _, error, _ = network({name: 1.0 / (place + 1) for place, name in enumerate(names)})
        assert choose(names, loss, error).floats == tuple(names[:need])


def test_neighbours_are_ranked_together_so_that_the_number_of_measurements_is_bounded():
    costs = {f"layer{number:03}": 0.1 if number == 100 else 0.0 for number in range(200)}
    loss, error, asked = network(costs)
    chosen = choose(list(costs), loss, error)
    assert "layer100" in chosen.floats and 1 < len(chosen.floats) < 20
    assert len(asked) <= GROUPS + 2


@pytest.mark.parametrize("layers", [1, 2, 12, 13, 200])
def test_the_number_of_measurements_is_bounded_and_they_are_the_same_each_time(layers):
    costs = {f"layer{number}": 0.1 for number in range(layers)}
    asked = []
    for _ in range(2):
        loss, error, every = network(costs)
        choose(list(costs), loss, error, weightless={"layer0"})
        asked.append(every)
    assert asked[0] == asked[1]
    assert len(asked[0]) <= GROUPS + 10


def test_a_network_without_layers_is_measured_as_it_is():
    loss, error, _ = network({})
    assert choose([], loss, error).floats == ()
