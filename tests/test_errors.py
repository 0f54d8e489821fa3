import errno
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit import errors
from siamkit.errors import (
    ConfigError,
    Interrupted,
    SiamkitError,
    did_you_mean,
    is_out_of_memory,
)

EXIT_CODES = {
    "SiamkitError": 1, "ConfigError": 2, "DataError": 3, "CheckpointError": 4, "PluginError": 5,
    "NonFiniteError": 6, "ResourceError": 7, "NoMemoryError": 7,
    "FrozenDriftError": 1, "Interrupted": 1,
}  # fmt: skip


def test_every_error_has_its_exit_code_and_a_place_in_the_drawn_tree():
    tree = {
        name: kind for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, SiamkitError)
    }  # fmt: skip
    assert {name: kind.exit_code for name, kind in tree.items()} == EXIT_CODES
    for name in tree:
        assert name in errors.__doc__


def test_an_error_says_where_what_got_of_allowed_and_the_next_step():
    error = ConfigError(
        "must be positive", where="run.yaml: loss.margin", got=-1.0, of="loss 'triplet'",
        allowed="> 0", hint="try 0.2",
    )  # fmt: skip
    assert str(error) == (
        "run.yaml: loss.margin: must be positive, got -1.0 (loss 'triplet'), allowed: > 0; try 0.2"
    )


def test_what_is_not_known_is_not_said():
    assert str(ConfigError("is wrong")) == "is wrong"
    assert ConfigError("is wrong").to_dict() == {
        "type": "ConfigError", "message": "is wrong", "exit_code": 2,
    }  # fmt: skip


def test_json_keeps_numbers_and_turns_the_rest_into_text():
    told = ConfigError("x", got=0.5, where="a").to_dict()
    assert told["got"] == 0.5
    assert ConfigError("x", got=[1, 2]).to_dict()["got"] == "[1, 2]"


def test_several_problems_are_one_error_with_a_line_each():
    problems = [ConfigError("is wrong", where=key) for key in ("a", "b")]
    error = ConfigError.of_all(problems)
    assert str(error) == "2 problems:\n  a: is wrong\n  b: is wrong"
    assert [p["where"] for p in error.to_dict()["problems"]] == ["a", "b"]
    assert isinstance(error, ConfigError)


def test_one_problem_is_that_error():
    only = ConfigError("is wrong")
    assert ConfigError.of_all([only]) is only


@pytest.mark.parametrize("code", [130, 143])
def test_an_interruption_carries_the_code_of_its_signal(code):
    assert Interrupted("stopped", exit_code=code).to_dict()["exit_code"] == code


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_name_that_exists_is_its_own_nearest(names):
    assert did_you_mean(names[0], names) == f"did you mean {names[0]!r}?"


def test_nothing_near_suggests_nothing():
    assert did_you_mean("zzz", ["resnet50"]) == ""


@pytest.mark.parametrize("name", EXIT_CODES)
def test_an_error_comes_back_from_another_process(name: str) -> None:
    kind = getattr(errors, name)
    more = {"exit_code": 143} if kind is Interrupted else {"where": "a.csv", "got": 3}
    error = kind("is wrong", hint="mend it", **more)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.to_dict()) == (str(error), error.to_dict())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("could not create a primitive"),  # oneDNN
        RuntimeError("could not execute a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("unable to mmap 8 bytes from file <x>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)  # fmt: skip
def test_a_lack_of_memory_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive descriptor for a convolution"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("out of memory"),
    ],
)
def test_another_error_is_no_lack_of_memory(error):
    assert not is_out_of_memory(error)
