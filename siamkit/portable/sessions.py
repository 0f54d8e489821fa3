"""Sessions: run the network of an exported model with ONNX Runtime or OpenVINO, on the CPU."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, ConfigError, is_out_of_memory
from .cores import threads_of_libraries
from .cpu import described, has_int8
from .manifest import MANIFEST, Manifest
from .untracked import untracked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Session = Callable[["Floats"], "Floats"]
"""A function from prepared images ``[N, C, H, W]`` to embeddings ``[N, E]``, both float32."""

Ports = Mapping[str, tuple[str, list[Any]]]
"""The type and the shape of inputs or outputs, by name."""

KERNELS = {"onnx": "onnxruntime", "openvino": "openvino"}
"""The package that runs each format without torch."""

_HINT = "export the run again"
_X86 = ("x86_64", "amd64", "i386", "i686")
_ONE_CORE = threading.Lock()  # functools.cache can call a function twice


@dataclass(frozen=True)
class Network:
    """An opened network.

    Attributes:
        run: The session.
        inputs: The type and the shape of each input, by its name.
        outputs: The same of each output.
    """

    run: Session
    inputs: Ports
    outputs: Ports


def open_session(
    manifest: Manifest, files: Mapping[str, bytes], where: str, threads: int | None = None
) -> Session:
    """Return the session of an exported model.

    Args:
        manifest: The manifest.
        files: The content of the model's files, which were checked against the manifest.
        where: The folder, for messages.
        threads: The threads of one forward pass; None: as many as cores may be used.

    Raises:
        ConfigError: The format needs torch, or a package is missing.
        CheckpointError: The network cannot be loaded, or is not the one that the manifest states.
    """
    if manifest.kind not in KERNELS:
        raise ConfigError(
            f"the model was exported for {manifest.kind}, which cannot run without torch",
            where=where,
            hint="export the run again with --format onnx or --format openvino",
        )
    name = KERNELS[manifest.kind]
    _require_package(name, where)
    model = files[manifest.model]
    try:
        if manifest.kind == "onnx":
            # A run's own int8 part, inside a network in float32, has weights of 8 bits.
            plain = manifest.precision == "float32"
            network = onnx_network(model, threads, exact=plain and needs_exact_sums())
        else:
            weights = manifest.model.removesuffix(".xml") + ".bin"
            network = openvino_network(openvino_model(model, files.get(weights, b"")), threads)
    except Exception as error:  # the types are the packages' own
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{name} cannot load the network: {_brief(error)}", where=where, hint=_HINT
        ) from error
    kind = "tensor(float)" if manifest.kind == "onnx" else "f32"
    _require_match(manifest, network, kind, where)
    return network.run


def _require_package(name: str, where: str) -> None:
    try:
        _package(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise ConfigError(
            f"needs the package {name}" + ("" if missing else f", which does not load: {error}"),
            where=where,
            hint=f"pip install {name}",
        ) from None


def _package(name: str) -> Any:
    with untracked():
        return import_module(name)  # by name, because it has no type information


def needs_exact_sums() -> bool:
    """Return whether weights of 8 bits may overflow on this CPU: an x86 CPU without VNNI."""
    int8 = has_int8(described())
    return not int8 if platform.machine().lower() in _X86 else False


def onnx_network(content: bytes, threads: int | None, *, exact: bool = False) -> Network:
    """Open an ONNX file with one input and one output.

    Args:
        content: The content of the file.
        threads: The threads of one forward pass; None: as many as cores may be used.
        exact: Whether to add products of int8 so that weights of 8 bits never overflow. It takes
            more time; see :func:`needs_exact_sums`.

    Raises:
        Exception: ONNX Runtime cannot load the file.
    """
    session = onnx_session(content, threads, exact=exact)
    inputs = {one.name: (one.type, one.shape) for one in session.get_inputs()}
    outputs = {one.name: (one.type, one.shape) for one in session.get_outputs()}
    (source, *_), (result, *_) = inputs, outputs

    def run(images: Floats) -> Floats:
        embeddings: Floats = session.run([result], {source: images})[0]
        return embeddings

    return Network(run, inputs, outputs)


def onnx_session(content: bytes, threads: int | None, *, exact: bool = False) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of an ONNX file; see :func:`onnx_network`."""
    package = _package("onnxruntime")
    options = package.SessionOptions()
    options.log_severity_level = 4  # errors are raised; the log would repeat them on stderr
    options.intra_op_num_threads = threads or threads_of_libraries()
    # Waiting threads must not spin: image decoding needs the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return package.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def openvino_core() -> Any:
    """Return the process's one ``openvino.Core``, also to threads that ask at the same time.

    Each core gives the thread a stack for signal handlers, and puts the one before back when it
    goes. Of two cores, the first to come must not be the first to go: the second would put back a
    stack that is no more, and the next signal (Ctrl-C too) would end the process.
    """
    with _ONE_CORE:
        return _core()


@cache
def _core() -> Any:
    return _package("openvino").Core()


def openvino_model(graph: bytes, weights: bytes) -> Any:
    """Return the ``openvino.Model`` of a ``.xml`` file and its ``.bin`` file.

    Raises:
        Exception: OpenVINO cannot read them.
    """
    package = _package("openvino")
    blob = package.Tensor(np.frombuffer(weights, np.uint8))
    return openvino_core().read_model(graph, blob)


def openvino_network(model: Any, threads: int | None) -> Network:
    """Open an ``openvino.Model`` with one input and one output, on the CPU.

    Args:
        model: The model.
        threads: The threads of one forward pass; None: as many as cores may be used.

    Raises:
        Exception: OpenVINO cannot compile the model.
    """
    # Some CPUs would compute in bfloat16.
    how: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if count := threads or threads_of_libraries():
        how["INFERENCE_NUM_THREADS"] = count
    compiled = openvino_core().compile_model(model, "CPU", how)
    # A compiled model has one request: without the lock, a thread would get the embeddings of
    # another thread's images. More requests would be no faster, since all use the same threads.
    lock = threading.Lock()

    def run(images: Floats) -> Floats:
        with lock:
            return np.array(compiled(images)[0])  # a copy: the next call reuses the memory

    inputs, outputs = (
        {one.any_name: _described(one) for one in ports} for ports in (model.inputs, model.outputs)
    )
    return Network(run, inputs, outputs)


def _described(port: Any) -> tuple[str, list[int | None]]:
    shape = [dim.get_length() if dim.is_static else None for dim in port.partial_shape]
    return str(port.element_type.get_type_name()), shape


def _require_match(manifest: Manifest, network: Network, kind: str, where: str) -> None:
    """Check that the network has the input and the output that the manifest states."""
    tensors, inputs, outputs = manifest.tensors, network.inputs, network.outputs
    got, made = inputs.get(tensors.input), outputs.get(tensors.output)
    fits = (
        len(inputs) == len(outputs) == 1
        and got is not None
        and got[0] == kind
        and got[1][1:] == list(tensors.shape)
        and not isinstance(got[1][0], int)  # any size of a batch
        and made is not None
        and made[0] == kind
        and made[1][1:] == [tensors.width]
    )
    if not fits:
        raise CheckpointError(
            f"the network does not match {MANIFEST}",
            where=where,
            got=f"inputs {_listed(inputs)}; outputs {_listed(outputs)}",
            allowed=f"the input {tensors.input} {kind} [N, "
            f"{', '.join(map(str, tensors.shape))}]; the output {tensors.output} {kind} "
            f"[N, {tensors.width}]",
            hint=_HINT,
        )


def _listed(ports: Ports) -> str:
    return ", ".join(
        f"{name} {kind} [{', '.join('N' if not isinstance(n, int) else str(n) for n in shape)}]"
        for name, (kind, shape) in ports.items()
    )


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
