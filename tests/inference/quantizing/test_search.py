import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.inference.quantizing.search import choose


def network(costs, each=0.0):
    """A network whose layers each cost a given loss in int8, and the measurements made on it."""
    asked = []
    now = [0.0]

    def loss(floats):
        asked.append(frozenset(floats))
        now[0] += each
        return sum(cost for name, cost in costs.items() if name not in floats)

    return loss, loss, asked, (lambda: now[0])


def test_a_network_that_keeps_its_quality_is_all_int8_after_one_measurement():
    loss, error, asked, _ = network({"a": 0.001, "b": 0.002})
    chosen = choose(["a", "b"], loss, error, tolerance=0.01)
    assert chosen.floats == () and chosen.layers == 2
    assert asked == [frozenset()]


def test_layers_without_weights_stay_in_float_if_that_is_enough():
    loss, error, asked, _ = network({"conv": 0.001, "add": 0.1, "softmax": 0.1})
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
    loss, error, _, _ = network(costs)
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
    loss, error, _, _ = network({"a": 1.0, "b": 0.5, "c": 0.25})
    chosen = choose(["a", "b", "c"], loss, error, tolerance=0.01)
    assert chosen.floats == ("a", "b") and chosen.loss == 0.25


@pytest.mark.parametrize("layers", [2, 3, 5, 10, 16, 17, 33])
def test_any_number_of_layers_may_stay_in_float(layers):
    names = [f"layer{number}" for number in range(layers)]
    for need in range(1, layers):
        # The first ones are the most sensitive, and all of them must stay in float32.
        loss, _, _, _ = network(dict.fromkeys(names[:need], 1.0))
        _, error, _, _ = network({name: 1.0 / (place + 1) for place, name in enumerate(names)})
        assert choose(names, loss, error).floats == tuple(names[:need])


def test_neighbours_are_ranked_together_where_time_is_short():
    costs = {f"layer{number:03}": 0.1 if number == 100 else 0.0 for number in range(200)}
    loss, error, asked, clock = network(costs, each=1.0)
    chosen = choose(list(costs), loss, error, seconds=20.0, clock=clock)
    assert "layer100" in chosen.floats and 1 < len(chosen.floats) < 40
    assert chosen.in_time and len(asked) <= 15


def test_the_search_stops_when_its_time_is_up_and_says_so():
    costs = {f"layer{number}": 0.1 for number in range(200)}
    loss, error, asked, clock = network(costs, each=1.0)
    chosen = choose(list(costs), loss, error, seconds=6.0, clock=clock)
    assert not chosen.in_time
    assert len(asked) <= 10
    assert chosen.loss < sum(costs.values())


def test_a_network_without_layers_is_measured_as_it_is():
    loss, error, _, _ = network({})
    assert choose([], loss, error).floats == ()
