import pytest

from siamkit.errors import ConfigError
from siamkit.inference.export import formats
from siamkit.inference.export.formats import format_of


def test_a_format_is_found_by_its_name():
    assert format_of("onnx").model == "model.onnx"
    assert format_of("onnx", "int8").name == "onnx"
    assert format_of("torch").packages == ()


@pytest.mark.parametrize("name", ["tflite", None, 3])
def test_an_unknown_format_is_refused(name):
    with pytest.raises(ConfigError, match=r"no such format.*allowed: onnx, openvino, torch, timm"):
        format_of(name)


def test_only_int8_is_a_type_to_quantize_to():
    with pytest.raises(ConfigError, match="quantize: no such type, got 'int4', allowed: int8"):
        format_of("onnx", "int4")


@pytest.mark.parametrize("name", ["torch", "timm"])
def test_formats_for_torch_are_not_quantized(name):
    with pytest.raises(ConfigError, match="works only with the formats onnx, openvino"):
        format_of(name, "int8")


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "nncf" else object())
    assert format_of("openvino").name == "openvino"
    with pytest.raises(
        ConfigError, match=r"needs nncf, which is not installed; pip install 'siamkit\[export\]'"
    ):
        format_of("openvino", "int8")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs onnx, onnxscript, onnxruntime, which are not"):
        format_of("onnx")
