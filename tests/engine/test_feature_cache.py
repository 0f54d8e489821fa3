"""The feature cache for anybody's loop: right rows, or an error that says what is wrong."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import textwrap
from collections import UserDict

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, StackDataset

import siamkit.engine
import siamkit.freezing
from siamkit.cli.app import main
from siamkit.engine import FeatureCache, cut, prefix_store
from siamkit.engine.cache.budget import list_stores
from siamkit.engine.cache.store import OverflowInCache
from siamkit.errors import ConfigError, DataError, FrozenDriftError, ResourceError
from siamkit.freezing import FreezeController, FreezePlan, discover_stages

COUNT, SIZE = 20, 16


def block(channels, out, stride=2):
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem, self.middle, self.last = block(3, width), block(width, 16), block(16, 16)
        self.fc = nn.Linear(16, 4)

    def forward(self, images):
        return self.fc(self.last(self.middle(self.stem(images))).mean((2, 3)))


class Images:
    """Images by position, and how many of them were loaded."""

    def __init__(self, count=COUNT, size=SIZE, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.all = torch.randn(count, 3, size, size, generator=generator)
        self.loaded = 0

    def __call__(self, positions):
        self.loaded += len(positions)
        return self.all[positions]

    @property
    def keys(self):
        return [f"image {i}" for i in range(len(self.all))]


class Made:
    """A network that is frozen up to a stage, and cut there."""

    def __init__(self, train=("last",), images=None, net=Net, seed=0, wrap=lambda net: net):
        torch.manual_seed(seed)
        self.net = net()
        self.images = images or Images()
        wrapped = wrap(self.net)
        self.stages = discover_stages(wrapped, self.images.all[:1], head="fc")
        self.controller = FreezeController(wrapped, self.stages)
        plan = self.apply(*train)
        self.result = cut(wrapped, self.stages, plan, self.images.all[:5])
        assert self.result.cut is not None, self.result.reasons
        self.cut = self.result.cut

    def apply(self, *train):
        plan = FreezePlan.of(self.stages, train)
        self.controller.apply(plan)
        return plan

    def cache(self, root, **options):
        return FeatureCache(self.cut, self.controller, root=root, **options)


@pytest.fixture
def made():
    return Made()


def apart(rows, plain):
    return float((rows - plain).abs().max() / plain.abs().max())


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel, torch.compile])
@pytest.mark.parametrize("train", [("last",), ()])
def test_the_suffix_on_rows_does_what_the_network_does(tmp_path, train, wrap):
    made = Made(train, wrap=wrap)
    made.net.train()
    with made.cache(tmp_path, dtype=torch.float32) as cache:
        rows = cache.rows(made.images.keys, made.images)
    assert made.net.training and made.net.fc.training, "computing rows changed the modes"
    assert made.cut.boundary.module.startswith("last" if not train else "middle")
    batch = [4, 0, 4, 19]
    found = made.cut.suffix(rows[batch])
    expected = made.net(made.images.all[batch])
    assert torch.allclose(found, expected, atol=1e-5)
    grads = [torch.autograd.grad(y.sum(), made.net.fc.weight)[0] for y in (found, expected)]
    assert torch.allclose(*grads, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
)
def test_rows_are_the_prefixs_output_as_far_as_their_type_goes(made, tmp_path, dtype, least):
    with made.cache(tmp_path, dtype=dtype) as cache:
        rows = cache.rows(made.images.keys, made.images)
        assert cache.kernel_name == "eager"
    with torch.no_grad():
        assert apart(rows[:], made.cut.prefix(made.images.all)) < least
    assert rows[:].dtype == torch.float32


def test_maps_are_kept_in_half_precision_and_vectors_in_full(tmp_path):
    for train, dtype in ((("last",), "F16"), ((), "F32")):
        made = Made(train)
        if not train:  # up to the pooled features: a module of their own
            made = Made((), net=Pooled)
        with made.cache(tmp_path / dtype) as cache:
            cache.rows(made.images.keys, made.images)
        assert [store.dtype for store in list_stores(tmp_path / dtype)] == [dtype]


class Pooled(Net):
    def __init__(self):
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images):
        return self.fc(self.pool(self.last(self.middle(self.stem(images)))))


def test_one_key_has_one_row_to_the_bit(made, tmp_path):
    keys = made.images.keys
    with made.cache(tmp_path) as cache:
        first = cache.rows(keys, made.images)[:]
        shuffled = cache.rows(keys[::-1], lambda at: made.images([COUNT - 1 - i for i in at]))
        assert torch.equal(first, shuffled[:].flip(0))
        assert torch.equal(first, cache.rows(iter(keys), made.images)[:])  # a one-shot iterator
    with Made().cache(tmp_path, kernel="folded") as cache:
        again = cache.rows(keys, made.images)
        assert torch.equal(first, again[:]) and cache.kernel_name is None


def test_only_what_is_missing_is_loaded(made, tmp_path):
    keys, images = made.images.keys, made.images
    done = []
    with made.cache(tmp_path) as cache:
        cache.rows(keys[:12], images)
        before = images.loaded
        cache.rows(keys * 2, lambda at: images([i % COUNT for i in at]),
                   progress=lambda *counts: done.append(counts))  # fmt: skip
        assert done[-1] == (8, 8)
        # Eight rows, and the images that the check of rows takes: the first and the last row, one
        # that was there, and one whose key stands twice. The kernel was there already.
        assert images.loaded - before <= 8 + 4
        before = images.loaded
        cache.rows(keys, images)
        cache.rows(keys, images)
        cache.rows(keys, images)
        assert images.loaded - before == 2, "checked at the first and the second read alone"


def test_many_more_images_get_a_kernel_that_many_pay_for(made, tmp_path, monkeypatch):
    counts = []
    right = siamkit.engine.feature_cache.choose

    def choose(prefix, images, count, **options):
        counts.append(count)
        return right(prefix, images, count, **options)

    monkeypatch.setattr("siamkit.engine.feature_cache.choose", choose)
    keys = made.images.keys
    with made.cache(tmp_path) as cache:
        for end in (2, 4, COUNT):
            cache.rows(keys[:end], made.images)
    assert counts == [2, COUNT - 4]


def test_a_kernel_can_be_named(made, tmp_path):
    with made.cache(tmp_path, kernel="folded") as cache:
        cache.rows(made.images.keys, made.images)
        assert cache.kernel_name == "folded"


def test_rows_feed_a_data_loader(made, tmp_path):
    labels = list(range(COUNT))
    with made.cache(tmp_path) as cache:
        rows = cache.rows(made.images.keys, made.images)
    everything = rows[:]
    seen = []
    for batch, label in DataLoader(StackDataset(rows, labels), batch_size=8, shuffle=True):
        assert torch.equal(batch, everything[label])
        seen += label.tolist()
    assert sorted(seen) == labels


def test_rows_are_indexed_like_a_tensor(made, tmp_path):
    with made.cache(tmp_path) as cache:
        rows = cache.rows(made.images.keys, made.images)
    everything = rows[:]
    assert rows[-1].shape == everything.shape[1:] and torch.equal(rows[-1], everything[-1])
    assert torch.equal(rows[2:8:3], everything[2:8:3])
    assert torch.equal(rows[torch.tensor([5, -2])], everything[[5, -2]])
    assert len(list(rows)) == len(rows) == COUNT
    for wrong in (COUNT, [0, COUNT], -COUNT - 1):
        with pytest.raises(IndexError):
            rows[wrong]


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_rows_are_not_copied_to_where_nobody_watches_over_them(made, tmp_path, copied):
    with made.cache(tmp_path) as cache:
        rows = cache.rows(made.images.keys, made.images)
    with pytest.raises(ConfigError, match="num_workers=0"):
        copied(rows)


# --- whose rows they are -------------------------------------------------------------------------


class Edited(Net):
    """The same modules, and a forward that was edited."""

    def forward(self, images):
        return super().forward(-images)


Edited.__name__ = "Net"


def reweighted(made):
    with torch.no_grad():
        made.net.middle[0].weight[0, 0, 0, 0] += 1


def rebuffered(made):
    made.net.middle[1].running_mean[0] += 1


CHANGES = {
    "a weight": lambda: Made(seed=1),
    "the size of the images": lambda: Made(images=Images(size=24)),
    "the boundary": lambda: Made(("middle", "last")),
    "the code": lambda: Made(net=Edited),
    "the width": lambda: Made(net=lambda: Net(width=4)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_prefix_has_another_store(made, tmp_path, what):
    with made.cache(tmp_path) as cache:
        cache.rows(made.images.keys, made.images)
    other = CHANGES[what]()
    with other.cache(tmp_path) as cache:
        rows = cache.rows(other.images.keys, other.images)
        with torch.no_grad():
            assert apart(rows[:], other.cut.prefix(other.images.all)) < 1e-3
    assert len(list_stores(tmp_path)) == 2


def test_vectors_of_images_of_another_size_have_another_store(tmp_path):
    for size in (16, 24):
        made = Made((), net=Pooled, images=Images(size=size))
        with made.cache(tmp_path) as cache:
            rows = cache.rows(made.images.keys, made.images)
            with torch.no_grad():
                assert apart(rows[:], made.cut.prefix(made.images.all)) < 1e-4
    assert len(list_stores(tmp_path)) == 2


@pytest.mark.parametrize("change", [reweighted, rebuffered])
def test_a_plan_applied_to_other_weights_has_another_store(tmp_path, change):
    made = Made()
    with made.cache(tmp_path) as cache:
        cache.rows(made.images.keys, made.images)
        change(made)
        made.apply("last")
        with pytest.raises(ConfigError, match="another plan was applied"):
            cache.rows(made.images.keys, made.images)
    with made.cache(tmp_path) as cache:
        cache.rows(made.images.keys, made.images)
    assert len(list_stores(tmp_path)) == 2


def test_what_comes_after_the_prefix_does_not_matter(made, tmp_path):
    with made.cache(tmp_path) as cache:
        rows = cache.rows(made.images.keys, made.images)
        with torch.no_grad():
            made.net.fc.weight += 1
            made.net.last[0].weight += 1
        made.apply("last")
        made.apply()  # the last stage is frozen too: nothing before the boundary changed
        assert len(rows[[0, 1]]) == 2
        loaded = made.images.loaded
        cache.rows(made.images.keys, made.images)
        assert made.images.loaded == loaded + 1


def test_rows_are_refused_once_the_prefix_trains(made, tmp_path):
    with made.cache(tmp_path) as cache:
        rows = cache.rows(made.images.keys, made.images)
        made.apply("middle", "last")
        for read in (lambda: rows[0], lambda: cache.rows(made.images.keys, made.images)):
            with pytest.raises(ConfigError, match=r"call siamkit\.engine\.cut"):
                read()
    with pytest.raises(ConfigError, match=r"trains a part of the prefix, got 'middle\."):
        made.cache(tmp_path)


@pytest.mark.parametrize("change", [reweighted, rebuffered])
def test_a_prefix_that_moved_is_noticed_at_the_next_read(made, tmp_path, change):
    with made.cache(tmp_path) as cache:
        rows = cache.rows(made.images.keys, made.images)
        change(made)
        with pytest.raises(FrozenDriftError, match="middle"):
            rows[0]
        with pytest.raises(FrozenDriftError, match="middle"):
            cache.rows(made.images.keys, made.images)


def test_weights_that_are_loaded_are_compared_by_value(made, tmp_path):
    same = {name: tensor.clone() for name, tensor in made.net.state_dict().items()}
    with made.cache(tmp_path) as cache:
        rows = cache.rows(made.images.keys, made.images)
        for assign in (False, True):
            made.net.load_state_dict(same, assign=assign)
            assert len(rows[:2]) == 2
        other = {n: t + 1 if n == "stem.0.weight" else t.clone() for n, t in same.items()}
        made.net.load_state_dict(other, assign=True)
        with pytest.raises(FrozenDriftError, match=r"stem\.0\.weight"):
            rows[0]


def test_a_network_that_was_not_cut_has_no_cache(made, tmp_path):
    for wrong in (None, made.result):
        with pytest.raises(ConfigError, match="cut: must be a cut network, got"):
            FeatureCache(wrong, made.controller, root=tmp_path)


def test_cut_and_controller_belong_together(made, tmp_path):
    with pytest.raises(ConfigError, match="have different networks"):
        FeatureCache(made.cut, Made().controller, root=tmp_path)
    fresh = FreezeController(made.net, made.stages)
    with pytest.raises(ConfigError, match="no plan was applied"):
        FeatureCache(made.cut, fresh, root=tmp_path)


# --- keys and images -----------------------------------------------------------------------------


def test_a_key_that_stands_for_another_image_is_noticed_and_its_row_removed(made, tmp_path):
    other = Images(seed=1)
    with made.cache(tmp_path) as cache:
        cache.rows(made.images.keys, made.images)
    with made.cache(tmp_path) as cache:
        with pytest.raises(DataError, match=r"key 'image .*must change the key"):
            cache.rows(other.keys, other)
        rows = cache.rows(other.keys, other)
    with torch.no_grad():
        assert apart(rows[:], made.cut.prefix(other.all)) < 1e-3


FACTOR = UserDict({"of the stem": 1.0})  # of which no key covers the contents


class Scaled(Net):
    def forward(self, images):
        return self.fc(
            self.last(self.middle(FACTOR["of the stem"] * self.stem(images))).mean((2, 3))
        )


def test_rows_of_code_that_reads_another_value_are_noticed_beside_new_ones(tmp_path, monkeypatch):
    few, all_ = range(8), range(COUNT)
    with (made := Made(net=Scaled)).cache(tmp_path) as cache:
        cache.rows([made.images.keys[i] for i in few], lambda at: made.images.all[at])
    monkeypatch.setitem(FACTOR, "of the stem", 2.0)
    with (made := Made(net=Scaled)).cache(tmp_path) as cache:
        with pytest.raises(DataError, match=r"key 'image [0-7]': .*variables outside of it"):
            cache.rows([made.images.keys[i] for i in all_], made.images)
        rows = cache.rows(made.images.keys, made.images)
    with torch.no_grad():
        assert apart(rows[:], made.cut.prefix(made.images.all)) < 1e-3


def test_images_that_are_drawn_at_random_are_noticed(made, tmp_path):
    with made.cache(tmp_path) as cache, pytest.raises(DataError, match="the same image for a key"):
        cache.rows(made.images.keys, lambda at: torch.randn(len(at), 3, SIZE, SIZE))
    assert [store.rows for store in list_stores(tmp_path)] == [0]


@pytest.mark.parametrize(
    ("dtype", "factor"), [(torch.float32, 1.01), (torch.float16, 1.02), (torch.bfloat16, 1.1)]
)
def test_a_row_that_is_computed_wrongly_is_noticed(made, tmp_path, monkeypatch, dtype, factor):
    right = prefix_store.run

    def spoil(kernel, images):
        rows = right(kernel, images)
        rows[-1] *= factor
        return rows

    monkeypatch.setattr(prefix_store, "run", spoil)
    with (
        made.cache(tmp_path, dtype=dtype) as cache,
        pytest.raises(DataError, match=r"key 'image 19': the cached row differs"),
    ):
        cache.rows(made.images.keys, made.images)


def test_text_and_bytes_are_different_keys(made, tmp_path):
    with made.cache(tmp_path) as cache:
        rows = cache.rows(["a", b"a", "ä", "\udcff", b""], made.images)
        assert torch.equal(rows[:], cache.rows(["a", b"a", "ä", "\udcff", b""], made.images)[:])
    assert [store.rows for store in list_stores(tmp_path)] == [5]


WRONG = {
    "a key must be text or bytes, got 3": ([3], lambda at: None),
    "must hold at least one key": ([], lambda at: None),
    "load must return a tensor.*got 'list'": (["a"], lambda at: [torch.zeros(3, SIZE, SIZE)]),
    "load must return one image per position.*float64": (
        ["a"], lambda at: torch.zeros(len(at), 3, SIZE, SIZE, dtype=torch.float64)
    ),
    r"load must return one image per position.*allowed: \[1, 3, 16, 16\]": (
        ["a"], lambda at: torch.zeros(len(at), 3, SIZE, SIZE + 1)
    ),
    r"load must return one image per position.*got '\[2, ": (
        ["a"], lambda at: torch.zeros(2, 3, SIZE, SIZE)
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_wrong_keys_and_images_are_refused(made, tmp_path, message):
    keys, load = WRONG[message]
    with made.cache(tmp_path) as cache, pytest.raises(ConfigError, match=message):
        cache.rows(keys, load)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget: must be a number of bytes above 0"),
        ({"budget": "5GB"}, "budget: must be a number of bytes"),
        ({"dtype": torch.int8}, "dtype: .*float16"),
        ({"kernel": "fast"}, "kernel: unknown kernel, got 'fast'"),
        ({"precision": "int8"}, "precision: .*got 'int8', allowed: fp32"),
        ({"root": __file__}, "root: is a file"),
    ],
)
def test_wrong_arguments_are_refused(made, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        made.cache(**{"root": tmp_path, **options})


def test_values_too_large_for_half_precision_are_an_error_that_says_what_to_do(tmp_path):
    def large():
        net = Net()
        nn.init.constant_(net.middle[1].weight, 1e6)
        return net

    made = Made(net=large)
    with made.cache(tmp_path) as cache, pytest.raises(OverflowInCache, match="float32"):
        cache.rows(made.images.keys, made.images)
    with made.cache(tmp_path, dtype=torch.float32) as cache:
        cache.rows(made.images.keys, made.images)


# --- room, and others ----------------------------------------------------------------------------

STORE = 20 * (16 * 4 * 4 * 2 + 16) + 4096  # the rows of 20 images in float16


def total(root):
    return sum(store.bytes for store in list_stores(root))


def test_the_budget_is_kept_by_evicting_other_rows(tmp_path):
    budget = int(STORE * 1.6)
    first, second = Made(), Made(seed=1)
    with first.cache(tmp_path, budget=budget) as cache:
        rows = cache.rows(first.images.keys, first.images)
        other = Images(seed=2)
        keys = [f"view 2 of {key}" for key in other.keys]
        cache.rows(keys, other)  # the first rows of the same store make room
        assert total(tmp_path) <= budget
        assert [store.rows for store in list_stores(tmp_path)] == [COUNT]
        assert len(rows[:]) == COUNT, "what was handed over stays"
    with second.cache(tmp_path, budget=budget) as cache:
        cache.rows(second.images.keys, second.images)
    (left,) = list_stores(tmp_path)
    assert left.bytes <= budget and left.rows == COUNT


def test_what_can_never_fit_the_budget_is_refused_before_anything_is_computed(made, tmp_path):
    with made.cache(tmp_path, budget=STORE - 1) as cache:
        with pytest.raises(
            ResourceError, match=r"20 images take 14\.7 kB, more than the budget of 14\.7 kB"
        ):
            cache.rows(made.images.keys, made.images)
        assert made.images.loaded == 0
        cache.rows(made.images.keys[:-1], made.images)


def test_rows_that_others_use_are_not_evicted_and_the_budget_is_kept(tmp_path):
    first, second = Made(), Made(seed=1)
    with first.cache(tmp_path) as used, second.cache(tmp_path, budget=int(STORE * 1.6)) as cache:
        used.rows(first.images.keys, first.images)
        with pytest.raises(ResourceError, match="in use"):
            cache.rows(second.images.keys, second.images)
        assert sorted(store.rows for store in list_stores(tmp_path)) == [0, COUNT]


@pytest.mark.slow
def test_processes_share_what_one_of_them_computes(tmp_path):
    code = textwrap.dedent("""
        import sys, time
        sys.path.insert(0, sys.argv[2])
        from test_feature_cache import COUNT, Made
        made = Made()
        def load(positions):
            time.sleep(0.3)
            return made.images(positions)
        with made.cache(sys.argv[1], kernel="eager") as cache:
            rows = cache.rows(made.images.keys, load)
            print(made.images.loaded, float(rows[:].double().sum()))
    """)
    command = [sys.executable, "-c", code, str(tmp_path), str(__file__).rpartition("/")[0]]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    loaded, sums = zip(*(out.split() for out, _ in outputs), strict=True)
    assert sums[0] == sums[1]
    # The one: 8 to choose by, 20, and 2 to check. The other: 8 and 2, or a check of one.
    assert sum(map(int, loaded)) <= 2 * 10 + COUNT
    assert [store.rows for store in list_stores(tmp_path)] == [COUNT]


def test_the_command_line_lists_it(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with made.cache(tmp_path) as cache:
        cache.rows(made.images.keys, made.images)
    assert main(["cache", "list", "--cache-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if "Net" in line)
    assert re.search(r"Net\W+middle, .*16 x 16 px.*float16 +20 ", row), row


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [siamkit.engine, siamkit.freezing])
def test_every_public_name_resolves_and_is_documented(room):
    assert dir(room) == sorted(room.__all__)
    for name in room.__all__:
        value = getattr(room, name)
        assert isinstance(value, tuple) or value.__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'ctu'"):
        _ = room.ctu


def test_naming_the_rooms_imports_no_torch():
    code = "import sys, siamkit.engine, siamkit.freezing; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
