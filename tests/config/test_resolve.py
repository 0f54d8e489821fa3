"""Configuration: defaults < file < --set < flags, and errors that say where."""

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr, field_validator

from siamkit.builtins.optimizers import AdamOptions
from siamkit.config import (
    COMPONENTS,
    HeadConfig,
    Layer,
    RunConfig,
    calibration_config,
    is_resolved,
    json_schema,
    merge,
    named_head,
    options_of,
    parse_sets,
    read_file,
    resolve,
    yaml_text,
)
from siamkit.errors import ConfigError, PluginError
from siamkit.interfaces import Options
from siamkit.registry import Entry, NoOptions, Provider, Registry


class Margin(Options):
    margin: float = Field(0.2, gt=0)


class Temperature(Options):
    temperature: float = Field(0.1, gt=0)


class LastN(Options):
    n: int = Field(2, ge=1)
    names: tuple[str, ...] = ()


ENTRIES = {
    "backbone": {"resnet50": NoOptions, "timm:": NoOptions},
    "head": {"mlp": NoOptions, "identity": NoOptions},
    "freeze": {"stages": LastN, "full": NoOptions},
    "loss": {"triplet": Margin, "supcon": Temperature},
    "optimizer": {"adamw": AdamOptions},
    "scheduler": {"cosine": NoOptions},
}


@pytest.fixture(scope="module")
def registries() -> dict[str, Registry]:
    found = {section: Registry(section, f"list {section}") for section in COMPONENTS}
    for section, entries in ENTRIES.items():
        for name, options in entries.items():
            found[section].add(Entry(name, print, options))
    return found


BASE = {
    "backbone": "resnet50", "head": "mlp", "freeze": "stages", "loss": "triplet",
    "scheduler": "cosine",
}  # fmt: skip


@pytest.fixture
def config(registries):
    return lambda *layers, **kwargs: resolve(registries, BASE, *layers, **kwargs)


@pytest.fixture
def refusal(config):
    def refused(*layers, **kwargs) -> str:
        with pytest.raises(ConfigError) as caught:
            config(*layers, **kwargs)
        return str(caught.value)

    return refused


def flags(**values) -> Layer:
    return Layer({"train": values}, lambda key: f"--{key.split('.')[-1]}")


# --- layers ---


def test_defaults_lose_to_the_file_the_file_to_set_and_set_to_flags(config, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {epochs: 2, seed: 2, batch_size: 32}\n")
    sets = parse_sets(["train.epochs=3", "train.seed=3"])
    resolved = config(read_file(file), sets, flags(epochs=4)).train
    assert (resolved.epochs, resolved.seed, resolved.batch_size) == (4, 3, 32)
    assert resolved.images_per_class == RunConfig().train.images_per_class


def test_options_of_the_same_component_merge(config):
    resolved = config({"freeze": {"n": 3}}, {"freeze": {"names": ["layer4"]}})
    assert resolved.freeze.options == {"n": 3, "names": ["layer4"]}


def test_options_beside_a_name_that_a_higher_layer_replaces_are_dropped(config):
    resolved = config({"loss": {"name": "triplet", "margin": 0.5}}, {"loss": "supcon"})
    assert resolved.loss.options == {"temperature": 0.1}


@pytest.mark.parametrize("above", ["supcon", {"name": "supcon"}])
def test_options_without_a_name_are_those_of_whatever_entry_a_higher_layer_names(config, above):
    resolved = config({"loss": {"temperature": 0.5}}, {"loss": above})
    assert resolved.loss.options == {"temperature": 0.5}


@pytest.mark.parametrize("key", ["margin", "temperatur"])
def test_options_without_a_name_are_checked_against_that_entry(refusal, tmp_path, key):
    (tmp_path / "run.yaml").write_text(f"loss: {{{key}: 0.5}}\n")
    text = refusal(read_file(tmp_path / "run.yaml"), {"loss": "supcon"})
    assert text.startswith(f"{tmp_path / 'run.yaml'}: loss.{key}: unknown key (loss 'supcon')")


def test_options_beside_the_name_that_comes_out_highest_stay_whatever_is_between(config):
    named = {"name": "supcon", "temperature": 0.5}
    layers = {"loss": named}, {"loss": {"name": "triplet", "margin": 1}}, {"loss": "supcon"}
    assert config(*layers).loss.options == {"temperature": 0.5}
    assert merge(*layers) == {"loss": named}


def test_an_error_does_not_name_a_layer_whose_option_was_dropped(refusal):
    meant = Layer({"loss": {"margin": -1}}, lambda key: f"low: {key}")
    dropped = Layer({"loss": {"name": "supcon", "margin": 1}}, lambda key: f"middle: {key}")
    assert refusal(meant, dropped, {"loss": "triplet"}).startswith("low: loss.margin: must be")


def test_a_component_that_repeats_its_name_keeps_them(config):
    resolved = config({"loss": {"margin": 0.5}}, {"loss": {"name": "triplet"}})
    assert resolved.loss.options == {"margin": 0.5}


def test_a_renamed_component_keeps_what_belongs_to_the_section(config):
    layers = {"head": {"normalize": False}}, {"head": "identity"}
    assert config(*layers).head.normalize is False


def test_only_top_level_names_are_components():
    below = {"loss": {"name": "x", "head": {"name": "a", "b": 1}}}
    above = {"loss": {"head": "c"}}
    assert merge(below, above) == {"loss": {"name": "x", "head": "c"}}


# All of Unicode takes hypothesis seconds to tabulate in a fresh checkout, a failure of its own.
text = st.text("ab.: é数")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.dictionaries(text, inner),
)
# A section by its main key alone (``data: photos``) is merged as a mapping.
sections = st.sampled_from(["train", "engine", "x"])
layers = st.dictionaries(sections, values)


@settings(max_examples=40)
@given(layers, layers)
def test_merging_is_idempotent_and_changes_neither_layer(below, above):
    before = repr((below, above))
    merged = merge(below, above)
    assert merge(merged, above) == merged
    assert repr((below, above)) == before


@settings(max_examples=40)
@given(layers)
def test_nothing_laid_over_changes_nothing(layer):
    assert merge(layer, {}) == layer == merge({}, layer)


# --- values ---


def test_a_resolved_config_is_complete_and_survives_yaml(config, tmp_path):
    resolved = config({"loss": {"margin": 0.5}, "data": {"path": str(tmp_path)}})
    file = tmp_path / "config.yaml"
    file.write_text(resolved.to_yaml())
    again = config(read_file(file))
    assert again == resolved
    assert yaml_text.load(file.read_text())["loss"] == {"name": "triplet", "margin": 0.5}
    assert again.to_yaml() == resolved.to_yaml()


def test_names_in_any_script_survive_yaml(config, tmp_path):
    resolved = config({"freeze": {"names": ["[/bold]", "数字", "a: b"]}})
    (tmp_path / "c.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    assert config(read_file(tmp_path / "c.yaml")) == resolved


def test_paths_in_a_file_are_relative_to_the_file(config, tmp_path):
    (tmp_path / "run.yaml").write_text("data: {path: images}\nbackbone: {weights: ../w.pth}\n")
    resolved = config(read_file(tmp_path / "run.yaml"))
    assert resolved.data.path == str(tmp_path / "images")
    assert resolved.backbone.weights == tmp_path.parent / "w.pth"


def test_every_path_in_a_file_starts_at_the_folder_of_the_file(tmp_path, monkeypatch):
    folder, here = tmp_path / "configs", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    (folder / "run.yaml").write_text(
        "data: {path: photos, root: pictures}\n"
        "backbone: {name: timm:local-dir:net, weights: w.pth}\n"
        "engine: {cache_dir: ../cache}\n"
        "run_dir: sample\n"
    )
    read = read_file(folder / "run.yaml")
    assert read["data"] == {"path": f"{folder}/photos", "root": f"{folder}/pictures"}
    assert read["backbone"]["name"] == f"timm:local-dir:{folder}/net"
    assert read["backbone"]["weights"] == f"{folder}/w.pth"
    assert read["engine"]["cache_dir"] == f"{tmp_path}/cache"
    assert read["run_dir"] == f"{folder}/sample"


def test_a_backbone_in_a_folder_that_is_named_alone_starts_at_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    for name, expected in {
        "timm:local-dir:net": f"timm:local-dir:{tmp_path}/net",
        "timm:local-dir:": "timm:local-dir:",
        "timm:resnet18": "timm:resnet18",
    }.items():
        file.write_text(f"backbone: '{name}'")
        assert read_file(file)["backbone"] == {"name": expected}


def test_paths_from_flags_are_relative_to_here_and_stay_so(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config({"data": {"path": "images"}}).data.path == str(tmp_path / "images")
    assert config({"data": {"path": "sample"}}).data.path == "sample"


def test_a_config_cannot_be_changed(config):
    with pytest.raises(ValueError, match="frozen"):
        config().train.epochs = 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5), ("1e-3", 0.001), ("3", 3), ("null", None), ("true", True),
        ("[layer3, layer4]", ["layer3", "layer4"]), ("", None), ("nan", "nan"), ("a=b", "a=b"),
        ("off", "off"), ("0123", 123), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("0o17", 15),
    ],
)  # fmt: skip
def test_set_reads_yaml_values(text, value):
    assert parse_sets([f"a.b={text}"]) == {"a": {"b": value}}


def test_later_sets_win_and_others_stay():
    assert parse_sets(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize("text", ["a", "=1", ".a=1", "a.=1", "a..b=1", ""])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(ConfigError, match="--set: must be KEY=VALUE"):
        parse_sets([text])


def test_a_value_that_is_no_yaml_is_refused():
    with pytest.raises(ConfigError, match=r"--set a.b: the value is not YAML: .*, got '\[1'"):
        parse_sets(["a.b=[1"])


@pytest.mark.slow
@pytest.mark.parametrize("raw", ["{a: 1, a: 2}", "!!int ''", "!!timestamp x", "[" * 5000])
def test_what_the_yaml_reader_itself_trips_over_is_refused(tmp_path, raw):
    with pytest.raises(ConfigError, match=r"^--set x: the value is not YAML: .*, got "):
        parse_sets([f"x={raw}"])
    (tmp_path / "run.yaml").write_text(f"train:\n  epochs: {raw}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml(:2)?: not YAML: ") as caught:
        read_file(tmp_path / "run.yaml")
    if raw.startswith("{a"):
        told = f"{tmp_path / 'run.yaml'}:2: not YAML: the key 'a' is given twice, first in line 1"
        assert str(caught.value).startswith(told[:-1])


def test_a_section_given_twice_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  epochs: 30\nloss: triplet\ntrain:\n  seed: 3\n")
    with pytest.raises(ConfigError) as caught:
        read_file(file)
    told = f"{file}:4: not YAML: the key 'train' is given twice, first in line 1"
    assert str(caught.value) == told


def test_the_documented_words_and_names_are_text(config, tmp_path):
    assert config(parse_sets(["engine.cache=off"])).engine.cache == "off"
    assert config(parse_sets(["report=off"])).report is False
    file = tmp_path / "run.yaml"
    file.write_text("engine: {cache: off, cut: off}\nrun_dir: 2020-01-01\ntrain: {seed: 0123}\n")
    read = config(read_file(file))
    assert (read.engine.cache, read.engine.cut, read.train.seed) == ("off", "off", 123)
    assert read.run_dir is not None and read.run_dir.name == "2020-01-01"
    file.write_text("train: {batch_size: 1:30}")
    with pytest.raises(ConfigError, match=r"train\.batch_size: must be an integer, got '1:30'"):
        config(read_file(file))


def test_a_byte_order_mark_is_no_part_of_the_file(config, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {seed: 3}", encoding="utf-8-sig")
    assert config(read_file(file)).train.seed == 3


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    st.floats(1e-12, 1000),
    st.none() | st.floats(1e-12, 1e6),
)
def test_every_config_that_is_written_is_read_back(config, tmp_path_factory, name, lr, norm):
    written = config({
        "freeze": {"name": "stages", "names": [name]},
        "optimizer": {"lr": lr, "clip_norm": norm},
    })  # fmt: skip
    file = tmp_path_factory.mktemp("c") / "config.yaml"
    file.write_text(written.to_yaml(), encoding="utf-8")
    assert config(read_file(file)) == written


# --- errors ---


def test_an_unknown_key_gets_the_nearest_wherever_it_is(refusal):
    assert refusal(parse_sets(["trian.epochs=3"])).endswith("did you mean 'train'?")
    text = refusal(parse_sets(["train.epoch=3"]))
    assert text.startswith("--set train.epoch: unknown key, allowed: accumulation, batch_size, ")
    assert text.endswith("did you mean 'epochs'?")
    text = refusal({"data": {"augment": {"blurr": 1}}})
    assert text.startswith("data.augment.blurr: unknown key")
    assert text.endswith("did you mean 'blur'?")


def test_an_option_of_another_entry_is_unknown(refusal):
    text = refusal({"loss": {"name": "supcon", "margin": 0.2}})
    assert text == "loss.margin: unknown key (loss 'supcon'), allowed: temperature"


def test_an_error_names_the_layer_that_the_value_came_from(refusal, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("loss: {margin: -1}\ntrain: {epochs: -1, seed: 1}\n")
    text = refusal(read_file(file), parse_sets(["train.seed=-1"]), flags(batch_size=1))
    assert f"{file}: train.epochs: must be greater than or equal to 0, got -1" in text
    assert "--set train.seed: must be greater than or equal to 0, got -1" in text
    assert "--batch_size: must be greater than or equal to 2, got 1" in text


def test_an_option_error_names_its_layer_too(refusal, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("loss: {name: triplet, margin: -1}\n")
    bad = "must be greater than 0, got -1 (loss 'triplet')"
    assert refusal(read_file(file)) == f"{file}: loss.margin: {bad}"
    assert refusal(read_file(file), parse_sets(["loss.margin=-1"])) == f"--set loss.margin: {bad}"


def test_an_unknown_name_says_where_it_stands(refusal, tmp_path):
    (tmp_path / "run.yaml").write_text("loss: tripplet\n")
    text = refusal(read_file(tmp_path / "run.yaml"))
    assert text.startswith(f"{tmp_path / 'run.yaml'}: loss.name: unknown loss 'tripplet'; did you")


def test_plain_values_take_the_given_place(refusal):
    assert refusal({"train": {"epochs": -1}}, where="cfg").startswith("cfg: train.epochs: must be")
    assert refusal({"train": {"epochs": -1}}).startswith("train.epochs: must be")


def test_checks_across_keys_name_the_key_and_not_the_section(refusal):
    text = refusal({"train": {"batch_size": 10, "images_per_class": 6}})
    assert text.startswith("train.images_per_class: must be at most half of train.batch_size (10)")
    assert text.endswith("got 6")
    text = refusal({"train": {"batch_size": 16, "micro_batch": 32}})
    assert text == "train.micro_batch: must be at most train.batch_size (16), got 32"


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("optimizer.betas=[1.5, 0.9]", "--set optimizer.betas.0: must be less than 1, got 1.5 "
         "(optimizer 'adamw')"),
        ("optimizer.betas=[0.9, -1]", "--set optimizer.betas.1: must be greater than or equal to "
         "0, got -1 (optimizer 'adamw')"),
        ("optimizer.lr=1e300", "--set optimizer.lr: must be less than or equal to 1000, or "
         "'auto', got 1e+300"),
        ("optimizer.lr=.inf", "--set optimizer.lr: must be a finite number, or 'auto', got inf"),
        ("optimizer.clip_norm=1e999", "--set optimizer.clip_norm: must be a finite number, got "
         "inf"),
        ("optimizer.weight_decay=.nan", "--set optimizer.weight_decay: must be a finite number, "
         "got nan"),
        ("data.augment.crop_ratio=[1, .inf]", "--set data.augment.crop_ratio.1: must be a finite "
         "number, got inf"),
        ("loss.margin=.inf", "--set loss.margin: must be a finite number, got inf (loss "
         "'triplet')"),
        ("data.path=''", "--set data.path: must have at least 1 character, got ''"),
        (r'data.path="a\0b"', "--set data.path: must not contain a NUL character, got 'a\\x00b'"),
        (r'run_dir="a\0b"', "--set run_dir: must not contain a NUL character, got 'a\\x00b'"),
        (r'backbone.weights="a\0b"', "--set backbone.weights: must not contain a NUL character, "
         "got 'a\\x00b'"),
        ("train.micro_batch=0", "--set train.micro_batch: must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_values_that_could_only_fail_later_are_refused(refusal, assignment, told):
    assert RunConfig().train.images_per_class == 4
    assert refusal(parse_sets([assignment])) == told


def test_a_naive_micro_batch_needs_two_classes(config, refusal):
    naive = "train.accumulation=naive"
    assert config(parse_sets([naive, "train.micro_batch=8"])).train.micro_batch == 8
    assert refusal(parse_sets([naive, "train.micro_batch=7"])) == (
        "--set train.micro_batch: must be at least twice train.images_per_class (4), since a "
        "micro-batch of one class has no negatives, got 7"
    )
    assert "auto needs exact accumulation" in refusal(parse_sets([naive, "train.micro_batch=auto"]))


def test_an_exact_micro_batch_may_hold_one_image_or_as_many_as_fit(config):
    assert config(parse_sets(["train.micro_batch=1"])).train.pass_size == 1
    assert config(parse_sets(["train.micro_batch=auto"])).train.pass_size == 64


@pytest.mark.parametrize(
    ("path", "told"), [("''", "must have at least 1"), (r'"a\0b"', "must not contain a NUL")]
)
def test_what_is_no_path_in_a_file_is_not_taken_for_one_beside_it(refusal, tmp_path, path, told):
    (tmp_path / "run.yaml").write_text(f"data: {{path: {path}}}\n")
    text = refusal(read_file(tmp_path / "run.yaml"))
    assert text.startswith(f"{tmp_path / 'run.yaml'}: data.path: {told}")


def test_the_home_of_nobody_is_a_name_like_others(config, tmp_path):
    (tmp_path / "run.yaml").write_text("data: {path: ~no-such-user/x}\nrun_dir: ~no-such-user\n")
    resolved = config(read_file(tmp_path / "run.yaml"))
    assert resolved.data.path == str(tmp_path / "~no-such-user" / "x")
    assert resolved.run_dir == tmp_path / "~no-such-user"


@pytest.mark.parametrize("bad", [[0, 1], [0.9, 0.5], [0.5, 1.5]])
def test_ranges_are_checked(refusal, bad):
    text = refusal({"data": {"augment": {"crop_scale": bad}}})
    assert text.startswith("data.augment.crop_scale: must be [low, high] with 0 < low <= high <= 1")


def test_an_aspect_ratio_may_exceed_one(config):
    assert config({"data": {"augment": {"crop_ratio": [0.5, 2]}}}).data.augment.crop_ratio[1] == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"loss": None}, "loss: must be a mapping of keys to values, got null"),
        ({"loss": 5}, "loss: must be a mapping of keys to values, got 5"),
        ({"train": "fast"}, "train: must be a mapping of keys to values, got 'fast'"),
        ({"train": {"epochs": "many"}}, "train.epochs: must be an integer, got 'many'"),
        ({"train": {"precision": "fp8"}}, "train.precision: must be 'fp32', 'bf16' or 'fp16', got "
         "'fp8'"),
    ],
)  # fmt: skip
def test_wrong_types_are_told_in_plain_words(refusal, values, text):
    assert refusal(values) == text


def test_an_option_that_hides_a_key_of_its_section_is_the_plugins_fault(registries):
    class Shadow(Options):
        normalize: bool = True

    registry = Registry("head", "list heads")
    registry.add(Entry("bad", print, Shadow, distribution="siamkit-bad"))
    with pytest.raises(PluginError, match=r"option named 'normalize'.*siamkit-bad must rename it"):
        resolve({**registries, "head": registry}, BASE, {"head": "bad"})


class Degrees(Options):
    angle: float = 90.0

    @field_validator("angle")
    @classmethod
    def in_radians(cls, angle: float) -> float:
        return math.radians(angle)


class Secret(Options):
    key: SecretStr = SecretStr("")


class Alias(Options):
    weight: float = Field(0.5, alias="lambda")


@pytest.mark.parametrize(
    ("options", "given"),
    [(Degrees, {"angle": 45}), (Secret, {"key": "abc"}), (Alias, {"lambda": 0.3})],
)
def test_options_that_are_others_once_read_back_are_the_plugins_fault(registries, options, given):
    registry = Registry("head", "list heads")
    registry.add(Entry("bad", print, options, distribution="siamkit-bad"))
    with pytest.raises(PluginError, match=r"head 'bad' of siamkit-bad.*options that survive JSON"):
        resolve({**registries, "head": registry}, BASE, {"head": {"name": "bad", **given}})
    with pytest.raises(PluginError, match="options that survive JSON"):
        named_head("bad", HeadConfig(), registry, **given)


def test_options_that_survive_json_are_taken_whatever_their_types(registries):
    class Rich(Options):
        sides: frozenset[str] = frozenset()
        path: Path = Path()
        bound: float = 0.1

    registry = Registry("head", "list heads")
    registry.add(Entry("rich", print, Rich))
    given = {"name": "rich", "sides": ["a"], "path": "b"}
    config = resolve({**registries, "head": registry}, BASE, {"head": given})
    assert options_of(config.head, registry)[1] == Rich(sides=frozenset({"a"}), path=Path("b"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [1", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"- 1\n- 2\n", "must be a mapping of sections, got [1, 2]"),
        (b"1: 2\n", "must be a mapping of sections, got {1: 2}"),
        (b"!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_files_that_are_no_config_are_refused(tmp_path, content, told):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_file(file)
    assert str(caught.value).startswith(str(file))
    assert told in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot read the config file: No such file"):
        read_file(tmp_path / "no.yaml")


def test_an_empty_file_is_no_config_at_all(config, tmp_path):
    (tmp_path / "run.yaml").write_text("")
    assert config(read_file(tmp_path / "run.yaml")) == config()


@pytest.mark.parametrize(
    ("path", "sets"),
    [("loss.name", True), ("loss.margin", False), ("train.epochs", True), ("train", True),
     ("train.seed", False), ("data.augment.crop_scale.0", True)],
)  # fmt: skip
def test_a_layer_knows_what_it_sets(path, sets):
    values = {"loss": "triplet", "train": {"epochs": 1}, "data": {"augment": {"crop_scale": [1]}}}
    assert Layer(values, str).sets(path) is sets


def test_the_schema_holds_every_entrys_options(registries):
    schema = json_schema(registries)
    losses = {one["title"]: one for one in schema["$defs"]["LossConfig"]["oneOf"]}
    assert set(losses) == {"triplet", "supcon"}
    assert losses["triplet"]["properties"]["margin"]["exclusiveMinimum"] == 0


def test_every_key_is_explained():
    def unexplained(model, path=""):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                yield from unexplained(inner, f"{path}{name}.")
            elif not field.description and field.default is None:
                yield path + name

    assert list(unexplained(RunConfig)) == []


def test_the_path_of_the_default_run_is_left_open():
    assert RunConfig().run_dir is None
    assert RunConfig(run_dir=Path("~/x")).run_dir == Path("~/x").expanduser()


@pytest.mark.parametrize("text", ["data: sample", "data: {path: sample}"])
def test_the_data_may_be_named_alone(config, text, tmp_path):
    (tmp_path / "run.yaml").write_text(f"{text}\n")
    layer = read_file(tmp_path / "run.yaml")
    assert config(layer).data.path == "sample"
    assert layer.sets("data.path") and not layer.sets("data.root")
    assert config(layer, parse_sets(["data.image_size=32"])).data.path == "sample"


def test_a_folder_that_is_named_alone_is_relative_to_the_file(config, tmp_path):
    (tmp_path / "run.yaml").write_text("data: images\n")
    assert config(read_file(tmp_path / "run.yaml")).data.path == str(tmp_path / "images")
    both = parse_sets(["data=sample", "data.image_size=32"])
    assert config(both).data.path == "sample" and config(both).data.image_size == 32


def test_all_problems_of_a_file_are_told_at_once(refusal, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "train: {epochs: -1}\nloss: {name: triplet, margin: -1}\nfreeze: stagse\nhed: mlp\n"
    )
    text = refusal(read_file(file))
    assert text.startswith("4 problems:")
    for place in ("train.epochs", "loss.margin", "freeze.name", "hed"):
        assert f"\n  {file}: {place}: " in text
    # Of a section that is no component, nothing more can be told.
    assert refusal({"loss": 3, "train": {"epochs": -1}}).startswith("2 problems:")


def test_only_what_was_resolved_counts_as_resolved(config):
    found = config()
    assert is_resolved(found)
    assert not is_resolved(found.model_copy()) and not is_resolved(RunConfig())


def test_a_name_that_is_missing_is_told_with_the_plugin_that_the_run_used(config, refusal):
    values, where = {"loss": {"name": "lost"}}, (lambda key: f"run: {key}")

    def used(name):
        return Layer(values, where, {"loss": Provider(name, "siamkit-lost", "1.0")})

    with pytest.raises(PluginError, match="siamkit-lost"):
        config(used("lost"))
    assert "unknown loss 'lost'" in refusal(used("another"))
    assert "unknown loss 'lost'" in refusal(values)


def test_a_target_of_calibration_is_checked():
    assert calibration_config("eer", None).target == "eer"
    assert calibration_config("far", 0.01).far == 0.01
    for target, far in (("far", None), ("eer", 0.01), ("far", 2.0)):
        with pytest.raises(ConfigError):
            calibration_config(target, far)


# --- a head that the run chooses -----------------------------------------------------------------


def heads(**entries: type[Options]) -> Registry:
    registry = Registry("head", "list heads")
    for name, options in entries.items():
        registry.add(Entry(name, print, options, distribution="acme"))
    return registry


def test_a_head_that_is_not_named_stays_open(registries):
    config = resolve(registries, BASE, {"head": {"name": "auto", "normalize": False}})
    assert config.head.model_dump() == {"name": "auto", "normalize": False, "trained": True}


def test_an_option_of_a_head_that_is_not_named_is_refused_with_the_heads_that_have_it(registries):
    known = {**registries, "head": heads(one=Margin, two=Margin, three=Temperature)}
    with pytest.raises(ConfigError, match=r"head.margin: is an option of some.*: one, two"):
        resolve(known, BASE, {"head": {"name": "auto", "margin": 0.1}})
    with pytest.raises(ConfigError, match=r"head.marg: is an option of no head.*list_heads"):
        resolve(known, BASE, {"head": {"name": "auto", "marg": 0.1}})


def test_a_plugins_head_cannot_have_the_name_of_the_choice(registries):
    known = {**registries, "head": heads(auto=Margin)}
    with pytest.raises(PluginError, match=r"head 'auto' has a name.*acme must rename it"):
        resolve(known, BASE, {"head": "auto"})


def test_a_named_head_has_all_its_options():
    bare = HeadConfig(normalize=False, trained=None)
    head = named_head("two", bare, heads(two=Margin, three=Temperature))
    values = {"name": "two", "normalize": False, "trained": None, "margin": 0.2}
    assert head.model_dump() == values
    head = named_head("two", HeadConfig(), heads(two=Margin), margin=0.5)
    assert head.model_dump() == {"name": "two", "normalize": True, "trained": True, "margin": 0.5}
