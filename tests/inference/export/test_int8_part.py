"""The graph of an int8 part takes any number of images where it was made for a fixed number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from siamkit.inference.export.int8_part import (
    _DOMAIN,
    _KIND,
    _import_too,
    _take_any_number,
    opset_of,
    put_in,
)
from siamkit.model.quantized import ROWS

onnx = pytest.importorskip("onnx")


def graph_of(nodes: list[Any], **constants: Any) -> Any:
    made = [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    return onnx.helper.make_graph(nodes, "part", [], [], made)


def node(kind: str, *inputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, ["out"], **attributes)


def constants_of(graph: Any) -> dict[str, list[int]]:
    return {one.name: onnx.numpy_helper.to_array(one).tolist() for one in graph.initializer}


def test_rows_are_reshaped_for_any_number_of_images() -> None:
    graph = graph_of(
        [node("Reshape", "a", "shape"), node("Relu", "b"), node("Reshape", "c", "shape")],
        shape=np.array([ROWS, 3, 1], np.int64),
    )
    _take_any_number(onnx, graph)
    kept, first, second = constants_of(graph).items()
    assert kept == ("shape", [ROWS, 3, 1]) and first[1] == second[1] == [-1, 3, 1]
    assert [list(one.input) for one in graph.node] == [["a", first[0]], ["b"], ["c", second[0]]]


def test_a_choice_of_all_values_in_order_is_a_reshaping() -> None:
    every = np.arange(ROWS * 2, dtype=np.int64).reshape(ROWS, 2)
    graph = graph_of([node("Gather", "a", "at", axis=0)], at=every)
    _take_any_number(onnx, graph)
    (changed,) = graph.node
    assert changed.op_type == "Reshape" and not changed.attribute
    assert constants_of(graph)[changed.input[1]] == [-1, 2]


@pytest.mark.parametrize(
    ("kind", "constant"),
    [
        ("Reshape", np.array([ROWS], np.int64)),
        ("Reshape", np.array([ROWS + 1, 3], np.int64)),
        ("Reshape", np.array([ROWS, -1], np.int64)),
        ("Reshape", np.array([ROWS, 0], np.int64)),
        ("Gather", np.arange(ROWS * 2)[::-1].reshape(ROWS, 2).copy()),
        ("Gather", np.arange(ROWS)),
        ("Add", np.array([ROWS, 3], np.int64)),
        ("Tile", np.array([ROWS, 3], np.int64)),
    ],
)
def test_what_does_not_depend_on_the_number_stays(kind: str, constant: Any) -> None:
    last = node("Reshape", "c", "rows")
    graph = graph_of(
        [node(kind, "a", "constant"), node("Reshape", "b", "computed"), last],
        constant=constant,
        rows=np.array([ROWS, 2], np.int64),
    )
    before = [one.SerializeToString() for one in graph.node]
    _take_any_number(onnx, graph)
    after = [one.SerializeToString() for one in graph.node]
    assert after[:2] == before[:2] and after[2] != before[2], "but the last one changes"
    assert constants_of(graph)["constant"] == constant.tolist()


def test_the_version_is_that_of_the_standard_operations() -> None:
    imports = [onnx.helper.make_opsetid("com.microsoft", 1), onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph_of([]), opset_imports=imports)
    assert opset_of(model.SerializeToString()) == 17


def model_of(graph: Any, **versions: int) -> Any:
    imports = [onnx.helper.make_opsetid("", 17)]
    imports += [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_the_graph_takes_the_place_of_each_of_its_nodes() -> None:
    """The part doubles, and is made for a fixed number of images. The network uses it twice."""
    from onnx.reference import ReferenceEvaluator

    make, port = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    constants = [
        onnx.numpy_helper.from_array(np.array([ROWS, 3], np.int64), "shape"),
        onnx.numpy_helper.from_array(np.array(2, np.float32), "two"),
    ]
    part = onnx.helper.make_graph(
        [make("Reshape", ["in", "shape"], ["flat"]), make("Mul", ["flat", "two"], ["out"])],
        "part", [port("in", kind, [ROWS, 3])], [port("out", kind, [ROWS, 3])], constants,
    )  # fmt: skip
    nodes = [
        make("Relu", ["x"], ["a"]), make(_KIND, ["a"], ["b"], domain=_DOMAIN),
        make(_KIND, ["b"], ["c"], domain=_DOMAIN), make("Neg", ["c"], ["y"]),
    ]  # fmt: skip
    ends = [port("x", kind, ["n", 3])], [port("y", kind, ["n", 3])]
    model = model_of(onnx.helper.make_graph(nodes, "net", *ends), **{_DOMAIN: 1})
    put_in(model, model_of(part, unused=1).SerializeToString())
    onnx.checker.check_model(model)
    assert [one.domain for one in model.opset_import] == [""]
    images = np.array([[-1, 1, 2]] * (ROWS + 1), np.float32)
    (found,) = ReferenceEvaluator(model).run(None, {"x": images})
    np.testing.assert_array_equal(found, [[0, -4, -8]] * (ROWS + 1))


def test_versions_of_operations_are_taken_over_once_and_only_if_they_are_used() -> None:
    model, part = model_of(graph_of([]), known=1), model_of(graph_of([]), known=2, new=3, unused=4)
    _import_too(model, part, {"known", "new", ""})
    found = [(one.domain, one.version) for one in model.opset_import]
    assert found == [("", 17), ("known", 1), ("new", 3)]
