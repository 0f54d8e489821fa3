import copy
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from torch import nn

from siamkit.errors import ConfigError
from siamkit.interfaces import HEAD, BackboneContext
from siamkit.model.backbone import WrappedBackbone, preprocessing_of
from siamkit.model.grouping import bucket, norm_parameters, run_name
from siamkit.model.stages import blocks_of, discover_stages

QUICK = {
    "resnet18": 32,
    "convnextv2_atto": 32,
    "deit_tiny_distilled_patch16_224": 224,
    "mobilenetv3_small_050": 32,
    "regnetx_002": 32,
    "levit_128s": 224,
    "poolformer_s12": 32,
    "pit_ti_224": 224,
    "hrnet_w18_small": 32,
    "test_vit": 160,
    "test_efficientnet": 32,
}
THOROUGH = {
    "resnet50": 64,
    "convnext_atto": 64,
    "swin_tiny_patch4_window7_224": 224,
    "xcit_nano_12_p16_224": 224,
    "swinv2_tiny_window8_256": 256,
    "vit_tiny_patch16_224": 224,
    "vit_small_patch16_dinov3": 256,
    "efficientnet_b0": 64,
    "mobilenetv3_large_100": 64,
    "mobilenetv4_conv_small": 64,
    "densenet121": 64,
    "repvgg_a0": 64,
    "maxvit_tiny_rw_224": 224,
    "coatnet_nano_rw_224": 224,
    "ghostnet_050": 64,
    "vgg11": 64,
    "edgenext_xx_small": 64,
    "beit_base_patch16_224": 224,
    "eva02_tiny_patch14_224": 224,
    "mobilevit_xxs": 64,
    "davit_tiny": 64,
    "fastvit_t8": 64,
    "efficientformer_l1": 224,
    "inception_v3": 128,
    "inception_v4": 128,
    "cait_xxs24_224": 224,
    "crossvit_9_240": 240,
    "twins_svt_small": 224,
    "tresnet_m": 64,
    "dla34": 64,
    "dpn68": 64,
    "resnetv2_50": 64,
    "volo_d1_224": 224,
    "visformer_tiny": 224,
    "mixer_s32_224": 224,
    "tnt_s_patch16_224": 224,
    "selecsls42b": 64,
    "xception41": 64,
    "mvitv2_tiny": 224,
    "rdnet_tiny": 64,
    "nextvit_small": 64,
    "mambaout_femto": 64,
}
ARCHITECTURES = [
    *(pytest.param(name, size, id=name) for name, size in QUICK.items()),
    *(pytest.param(name, size, id=name, marks=pytest.mark.slow) for name, size in THOROUGH.items()),
]


def owner(parameter):
    return parameter.rpartition(".")[0]


def first_calls(module, example):
    """Return the order of the modules' first calls, by other code than that under test."""
    calls = {}

    def called(name):
        calls.setdefault(name, len(calls))

    handles = [
        m.register_forward_pre_hook(lambda *_, n=name: called(n))
        for name, m in module.named_modules()
    ]
    with torch.no_grad():
        module.eval()(example)
    for handle in handles:
        handle.remove()
    return calls


def spans(units, calls):
    starts = [[calls[owner(p)] for p in u.parameters if calls.get(owner(p), 0) > 0] for u in units]
    return [(min(s), max(s)) for s in starts if s]


def assert_each_leaf_is_in_one(units, module):
    holder = {module: unit.name for unit in units for module in unit.modules}
    assert len(holder) == sum(len(unit.modules) for unit in units)
    for name, m in module.named_modules():
        if not any(True for _ in m.children()) and not isinstance(m, nn.ParameterList):
            parts = name.split(".")
            above = {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)} | {name}
            assert len(above & holder.keys()) == 1, (name, above & holder.keys())


def assert_sound(units, module, example):
    calls = first_calls(module, example)
    parameters = [name for name, _ in module.named_parameters()]
    assert sorted(p for u in units for p in u.parameters) == sorted(parameters)
    assert len({u.name for u in units}) == len(units)
    assert_each_leaf_is_in_one(units, module)
    for unit in units:
        called = [m for m in unit.modules if m in calls]
        assert called == sorted(called, key=calls.__getitem__)
        assert all(isinstance(module.get_submodule(m), nn.Module) for m in unit.modules)
        assert unit.output in called
        assert unit.norms <= set(unit.parameters)
    ranges = spans(units, calls)
    assert ranges == sorted(ranges)
    return ranges


@pytest.mark.parametrize(("name", "size"), ARCHITECTURES)
def test_stages_of_timm_models(name, size):
    model = timm.create_model(name, pretrained=False, num_classes=0)
    example = torch.zeros(1, 3, size, size)
    stages = discover_stages(model, example)
    assert 4 <= len(stages) <= 8
    assert stages[0].name == "stem"
    ranges = assert_sound(stages, model, example)
    assert all(a[1] < b[0] for a, b in pairwise(ranges)), "stages interleave"
    assert_sound(blocks_of(stages), model, example)
    for stage in stages:
        blocks = blocks_of([stage])
        assert sorted(p for b in blocks for p in b.parameters) == sorted(stage.parameters)
        assert len(stage.blocks) != 1
    # Class tokens and position embeddings: the stem's, but for Visformer's in mid-network.
    own = {p for p, _ in model.named_parameters() if "." not in p} - {"pos_embed2", "pos_embed3"}
    assert own <= set(stages[0].parameters)
    context = BackboneContext(name, image_size=size)
    backbone = WrappedBackbone(model, preprocessing_of(model, context))
    assert backbone.eval()(torch.zeros(2, 3, size, size)).shape == (2, backbone.embedding_dim)


def stages_of(module, size=32):
    example = torch.zeros(1, 3, size, size)
    stages = discover_stages(module, example)
    assert_sound(stages, module, example)
    return stages


def summary(stages):
    return {s.name: s.modules for s in stages}


def test_resnet50_in_full():
    model = timm.create_model("resnet50", pretrained=False, num_classes=0)
    stages = stages_of(model, 64)
    assert summary(stages) == {
        "stem": ("conv1", "bn1", "act1", "maxpool"),
        "layer1": ("layer1",),
        "layer2": ("layer2",),
        "layer3": ("layer3",),
        "layer4": ("layer4", "global_pool", "fc"),
    }
    counts = dict(model.named_parameters())
    assert [sum(counts[p].numel() for p in s.parameters) for s in stages] == [
        9536, 215808, 1219584, 7098368, 14964736,
    ]  # fmt: skip
    assert [b.name for b in stages[4].blocks] == ["layer4.0", "layer4.1", "layer4.2"]
    assert [s.output for s in stages] == ["maxpool", "layer1", "layer2", "layer3", "fc"]
    assert stages[4].blocks[0].output == "layer4.0"
    assert stages[4].blocks[2].modules == ("layer4.2", "global_pool", "fc")
    assert stages[0].norms == {"bn1.weight", "bn1.bias"}
    assert len(blocks_of(stages)) == 1 + 3 + 4 + 6 + 3


def test_vit_has_quarters_and_blocks():
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32)
    stages = stages_of(model)
    assert [s.name for s in stages] == [
        "stem", "blocks.0-2", "blocks.3-5", "blocks.6-8", "blocks.9-11",
    ]  # fmt: skip
    assert {"cls_token", "pos_embed"} < set(stages[0].parameters)
    assert {"norm.weight", "norm.bias"} < stages[-1].norms
    names = [b.name for b in blocks_of(stages)]
    assert names == ["stem", *(f"blocks.{i}" for i in range(12))]


def test_a_block_is_named_by_its_number_not_by_its_downsampling():
    model = timm.create_model("convnext_atto", pretrained=False, num_classes=0)
    stages = stages_of(model)
    assert [s.name for s in stages] == ["stem", *(f"stages.{i}" for i in range(4))]
    assert [b.name for b in stages[1].blocks] == ["stages.0.blocks.0", "stages.0.blocks.1"]
    assert stages[2].blocks[0].name == "stages.1.blocks.0"
    assert "stages.1.downsample.1.weight" in stages[2].blocks[0].parameters


def test_the_tail_joins_the_last_stage_where_there_is_one_too_many():
    model = timm.create_model("mobilenetv3_large_100", pretrained=False, num_classes=0)
    stages = stages_of(model)
    assert len(stages) == 8
    assert stages[-1].name == "blocks.6-conv_head"


# --- other people's modules ----------------------------------------------------------------------


def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class Tokens(nn.Module):
    """A network whose modules are not defined in the order in which they run.

    It also holds a parameter itself, and has a module that is not used and a shared activation.
    """

    def __init__(self):
        super().__init__()
        self.unused = nn.Identity()
        self.deep = conv(8, 16)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.act = nn.ReLU()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.LayerNorm(16)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.act(self.first(x)) * self.scale
        return self.drop(self.norm(self.pool(self.act(self.deep(x))).flatten(1)))


def test_execution_order_wins_over_definition_order():
    stages = stages_of(Tokens())
    assert summary(stages) == {
        "first": ("unused", "first", "act"),
        "deep": ("deep", "pool", "norm", "drop"),
    }
    assert "scale" in stages[0].parameters
    assert stages[1].norms == {"deep.1.weight", "deep.1.bias", "norm.weight", "norm.bias"}


def test_discovery_leaves_no_trace():
    model = Tokens()
    model.deep.eval()
    model.train()
    model.deep[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random = torch.random.get_rng_state()
    stages_of(model)
    discover_stages(model.train(), torch.zeros(1, 3, 32, 32))
    model.deep[1].eval()
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_wrapped_timm_model_is_cut_as_timm_would():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = timm.create_model("resnet18", pretrained=False, num_classes=0)

        def forward(self, x):
            return self.net(x)

    stages = stages_of(Wrapper())
    assert [s.name for s in stages] == ["stem", *(f"net.layer{i}" for i in range(1, 5))]
    assert [b.name for b in stages[1].blocks] == ["net.layer1.0", "net.layer1.1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("shufflenet_v2_x0_5", ["conv1", "stage2", "stage3", "stage4", "conv5"]),
    ],
)
def test_torchvision_models(name, expected):
    model = getattr(torchvision.models, name)(weights=None)
    model.fc = nn.Identity()
    assert [s.name for s in stages_of(model)] == expected


def test_a_deep_child_is_cut_at_its_blocks():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=9, num_heads=2, hidden_dim=8, mlp_dim=8
    )
    model.heads = nn.Identity()
    stages = stages_of(model)
    layer = "encoder.layers.encoder_layer_"
    assert [s.name for s in stages] == [
        "conv_proj",
        f"{layer}0-encoder_layer_2",
        f"{layer}3-encoder_layer_4",
        f"{layer}5-encoder_layer_6",
        f"{layer}7-encoder_layer_8",
    ]
    assert {"class_token", "encoder.pos_embedding"} < set(stages[0].parameters)
    assert "encoder.ln.weight" in stages[4].norms


def test_a_long_flat_network_is_put_into_quarters():
    layers = [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(11)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [s.name for s in stages_of(model)] == ["0", "1-3", "4-6", "7-8", "9-10"]


def test_a_norm_is_no_stage_of_its_own():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    assert summary(stages_of(model)) == {"0": ("0", "1", "2"), "3": ("3", "4", "5", "6")}


def test_a_parameter_free_layer_at_the_start_belongs_to_the_first_stage():
    model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    assert summary(stages_of(model)) == {"1": ("0", "1"), "2": ("2",)}


def test_a_list_of_modules_is_never_an_outermost_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([conv(3, 4), conv(4, 4)])
            self.rest = nn.ModuleList([conv(4, 4)])

        def forward(self, x):
            for layer in (*self.layers, *self.rest):
                x = layer(x)
            return x

    modules = [m for s in stages_of(Net()) for m in s.modules]
    assert modules == ["layers.0", "layers.1", "rest.0"]


def test_a_single_layer_and_no_layer_at_all():
    assert [(s.name, s.blocks) for s in stages_of(nn.Conv2d(3, 4, 3))] == [("stem", ())]
    assert discover_stages(nn.Flatten(), torch.zeros(1, 3, 4, 4)) == ()


def test_tied_parameters_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, padding=1)
            self.b = nn.Conv2d(3, 3, 3, padding=1)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    assert [s.parameters for s in stages_of(Tied())] == [("a.weight", "a.bias"), ("b.bias",)]


class TiedInABlock(nn.Module):
    """A network in which a layer of a block shares the weight of the last layer."""

    def __init__(self, bias, deep=True):
        super().__init__()
        self.last = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        layers = [nn.Conv2d(3, 3, 3, padding=1, bias=b) for b in (bias, True)]
        layers[0].weight = self.last.weight
        self.block = nn.Sequential(*(nn.Sequential(m) if deep else m for m in layers))

    def forward(self, x):
        return self.last(self.block(self.first(x)))


def test_a_module_whose_weight_another_stage_holds_belongs_to_that_stage():
    modules = {name: s.modules for s in stages_of(TiedInABlock(False)) for name in s.parameters}
    assert modules["last.weight"] == ("first", "block.0")
    assert modules["block.1.0.weight"] == ("block.1", "last")


@pytest.mark.parametrize("deep", [False, True])
def test_blocks_have_a_tied_weight_once_and_under_its_first_name(deep):
    net = TiedInABlock(True, deep)
    found = [name for unit in blocks_of(stages_of(net)) for name in unit.parameters]
    assert sorted(found) == sorted(name for name, _ in net.named_parameters())


def test_what_normalises_weights_is_no_norm_layer():
    from siamkit.model.grouping import is_norm

    for wrap in (nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm):
        (inner,) = wrap(nn.Linear(3, 4)).parametrizations.weight
        assert not is_norm(inner)


def test_norms_are_found_by_family_and_by_name():
    class RmsNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    class NormFreeBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

    from timm.layers import BatchNormAct2d, LayerNorm2d

    model = nn.ModuleDict(
        {
            "a": RmsNorm(), "b": NormFreeBlock(), "c": BatchNormAct2d(4), "d": LayerNorm2d(4),
            "e": nn.GroupNorm(2, 4), "f": nn.Linear(4, 4), "g": nn.LayerNorm((4, 4)),
        }
    )  # fmt: skip
    owners = {owner(name) for name in norm_parameters(model)}
    assert owners == {"a", "c", "d", "e", "g"}


@pytest.mark.parametrize("count", range(1, 40))
def test_buckets_keep_order_and_everything(count):
    groups = [[f"blocks.{i}.weight"] for i in range(count)]
    runs = bucket(groups)
    assert [g for run in runs for g in run] == groups
    assert len(runs) == (count if count <= 8 else 5)
    sizes = [len(run) for run in runs[1:]]
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_run_names():
    assert run_name("blocks.0", "blocks.2") == "blocks.0-2"
    assert run_name("a.1", "b.2") == "a.1-b.2"
    assert run_name("a", "a") == "a"


# --- where parameters are used -------------------------------------------------------------------


class Encoder(nn.Module):
    """CLIP's image encoder as in open_clip, which holds tokens and a projection directly."""

    def __init__(self, depth=6):
        super().__init__()
        self.proj = nn.Parameter(torch.randn(16, 5))  # defined first, used last
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.zeros(1, 17, 16))
        self.conv = nn.Conv2d(3, 16, 8, 8)
        self.ln_pre, self.ln_post = nn.LayerNorm(16), nn.LayerNorm(16)
        layer = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
        self.transformer = nn.Module()
        self.transformer.blocks = nn.ModuleList([copy.deepcopy(layer) for _ in range(depth)])

    def forward(self, images):
        if self.proj.dtype != images.dtype:  # looking is not using
            images = images.to(self.proj.dtype)
        x = self.conv(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = self.ln_pre(x)
        for block in self.transformer.blocks:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


def test_norms_are_no_children_and_the_encoder_is_cut():
    stages = stages_of(Encoder())
    assert [s.name for s in stages] == ["conv", *(f"transformer.blocks.{i}" for i in range(6))]


def test_a_late_parameter_belongs_to_the_last_stage_and_early_ones_to_the_stem():
    stages = stages_of(Encoder(12))
    assert {"token", "positions", "ln_pre.weight"} < set(stages[0].parameters)
    assert {"proj", "ln_post.weight"} < set(stages[-1].parameters)
    assert "proj" in stages[-1].blocks[-1].parameters


@pytest.mark.slow
def test_clips_image_encoder_has_five_stages():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=12, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    stages = discover_stages(transformers.CLIPVisionModel(config), torch.zeros(1, 3, 32, 32))
    assert len(stages) == 5
    assert any(p.endswith("class_embedding") for p in stages[0].parameters)
    assert any("post_layernorm" in p for p in stages[-1].parameters)


def test_many_children_with_one_deep_among_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.adapter, self.mix = nn.Conv2d(3, 4, 3), conv(4, 4), nn.Conv2d(4, 4, 1)
            self.encoder = nn.Sequential(*(conv(4, 4) for _ in range(4)))

        def forward(self, x):
            return self.encoder(self.mix(self.adapter(self.stem(x))))

    names = [s.name for s in stages_of(Net(), 128)]
    assert names == ["stem", "adapter", "mix", *(f"encoder.{i}" for i in range(4))]


def test_prompts_in_a_list_go_where_they_are_used():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.prompts = nn.ParameterList([torch.zeros(1, 4, 1, 1) for _ in range(3)])
            self.stem = conv(3, 4)
            self.blocks = nn.ModuleList([conv(4, 4) for _ in range(3)])

        def forward(self, x):
            x = self.stem(x)
            for prompt, block in zip(reversed(self.prompts), self.blocks, strict=True):
                x = block(x) + prompt
            return x

    stages = stages_of(Net(), 64)
    placed = {p: s.name for s in stages for p in s.parameters if p.startswith("prompts")}
    assert placed == {"prompts.2": "blocks.0", "prompts.1": "blocks.1", "prompts.0": "blocks.2"}


def test_a_network_without_layers_is_cut_by_use():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(4, 4, 3, 3) for _ in range(3)])
            self.bias = nn.Parameter(torch.zeros(4))
            self.first = nn.Parameter(torch.randn(4, 3, 3, 3))

        def forward(self, x):
            x = nn.functional.conv2d(x, self.first, self.bias)
            for weight in reversed(self.weights):
                x = nn.functional.conv2d(x, weight)
            return x

    stages = discover_stages(Net(), torch.zeros(1, 3, 16, 16))
    assert [s.parameters for s in stages] == [
        ("bias", "first"), ("weights.2",), ("weights.1",), ("weights.0",),
    ]  # fmt: skip


def test_a_module_in_several_places_is_one_stage():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv(3, 4)
            block = conv(4, 4)
            self.blocks = nn.ModuleList([block] * 3)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return x

    assert [s.name for s in stages_of(Shared(), 64)] == ["stem", "blocks"]


def test_a_tied_output_layer_leaves_the_embedding_its_stage():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, 8)
            self.layers = nn.ModuleList([nn.Sequential(nn.Sequential(nn.Linear(8, 8)))] * 1)
            self.mid = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
            self.out = nn.Linear(8, 9, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(self.mid(self.layers[0](self.embed(ids))))

    net = Language()
    stages = discover_stages(net, {"ids": torch.zeros(1, 4, dtype=torch.long)})
    assert stages[0].parameters == ("embed.weight",) and stages[0].modules == ("embed",)
    assert stages[-1].output == "out"
    with pytest.raises(ConfigError, match="shares all its parameters with modules that run before"):
        discover_stages(net, (torch.zeros(1, 4, dtype=torch.long),), head="out")


# --- the head ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head", "last"),
    [
        ("resnet18", "fc", "layer4"),
        ("swin_t", "head", "features.7"),
        ("vgg11", "classifier.6", "features.18-classifier.0-3"),
        ("densenet121", "classifier", "features.denseblock4"),
    ],
)
def test_the_head_of_a_classifier_is_the_last_stage(name, head, last):
    model = getattr(torchvision.models, name)(weights=None)
    example = torch.zeros(1, 3, 32, 32)
    stages = discover_stages(model, example, head=head)
    assert [s.name for s in stages][-2:] == [last, HEAD]
    assert stages[-1].modules == (head,) and stages[-1].output == head
    assert stages[-1].parameters == (f"{head}.weight", f"{head}.bias")
    parameters = [name for name, _ in model.named_parameters()]
    assert sorted(p for s in stages for p in s.parameters) == sorted(parameters)
    assert_each_leaf_is_in_one(stages, model)
    assert not any(s.name == HEAD for s in discover_stages(model, example))


def test_the_norm_before_a_head_is_no_stage():
    model = timm.create_model("convnext_atto", pretrained=False)
    stages = discover_stages(model, torch.zeros(1, 3, 32, 32), head="head.fc")
    assert [s.name for s in stages][-2:] == ["stages.3", "head"]
    assert "head.norm.weight" in stages[-2].parameters


def test_a_head_that_is_the_whole_network():
    net = nn.Sequential(nn.Linear(3, 3))
    assert [s.name for s in discover_stages(net, torch.zeros(1, 3), head="0")] == [HEAD]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("fcc", "head: no module has this name, got 'fcc'.*did you mean 'fc'"),
        ("", "no module has this name"),
        ("layer4.0.conv3", r"did you mean 'layer4\.0\.conv[12]'"),
        ("avgpool", "no parameters"),
    ],
)
def test_what_can_be_no_head_is_refused(head, message):
    model = torchvision.models.resnet18()
    with pytest.raises(ConfigError, match=message):
        discover_stages(model, torch.zeros(1, 3, 32, 32), head=head)


def test_a_forward_that_fails_on_the_example_says_what_was_given():
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).bfloat16()
    with pytest.raises(ConfigError, match=r"failed on the example.*\[1, 3, 8, 8\], torch\.float32"):
        discover_stages(net, torch.zeros(1, 3, 8, 8))


def test_compiled_modules_are_watched_as_they_were_written():
    plain = nn.Sequential(nn.Sequential(*conv(3, 4)), nn.Sequential(*conv(4, 4)))
    expected = discover_stages(plain, torch.zeros(1, 3, 32, 32))
    plain.compile(backend="eager")
    assert discover_stages(plain, torch.zeros(1, 3, 32, 32)) == expected
    inner = nn.Sequential(plain[0], torch.compile(plain[1], backend="eager"))
    stages = discover_stages(inner, torch.zeros(1, 3, 32, 32))
    assert [(s.name, s.output) for s in stages] == [("0", "0"), ("1", "1")]


def test_a_head_that_is_no_name_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="head: must be the name of a module"):
        discover_stages(net, torch.zeros(1, 2), head=net[1])  # type: ignore[arg-type]
