"""fold: the same outputs from fewer operations, and the original as it was."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import get_model, resnet18

from attnreid import (
    AttentionPyramid,
    DomainLevelAttention,
    MultiLevelAttention,
    RelationAwareChannelAttention,
    RelationAwareSpatialAttention,
    SplitAttention,
    SqueezeExcitation,
    attach,
    attach_apnet,
    attach_mla,
    attachments,
    fold,
    set_last_stride,
)
from attnreid.counting import count_multiply_adds
from tests.layers import support
from tests.oracles.domain import domain
from tests.oracles.relation_aware import relation_aware_channel, relation_aware_spatial
from tests.oracles.split_attention import split_attention

SIZE = (4, 2)
INPUT = (64, 32)
LAYERS = {
    "rga_s": partial(RelationAwareSpatialAttention, 8, size=SIZE, reduction=2),
    "rga_s in strips": partial(RelationAwareSpatialAttention, 8, size=SIZE, reduction=2, parts=2),
    "rga_c": partial(RelationAwareChannelAttention, 8, size=SIZE, reduction=2),
    "rga_c in parts": partial(RelationAwareChannelAttention, 8, size=SIZE, reduction=2, parts=2),
    "split": partial(SplitAttention, 8),
    "split without norm": partial(SplitAttention, 8, norm=False),
    "domain": partial(DomainLevelAttention, 8, memory=4),
    "multi_level": partial(MultiLevelAttention, 8, size=SIZE, memory=4),
    "pyramid": partial(AttentionPyramid, 8, ("se", "split"), order="fine_to_coarse"),
    "pyramid of rga_s": partial(AttentionPyramid, 8, "rga_s", size=SIZE, identity_init=True),
}
ORACLES = {
    "rga_s": partial(relation_aware_spatial, parts=1, training=False),
    "rga_s in strips": partial(relation_aware_spatial, parts=2, training=False),
    "rga_c": partial(relation_aware_channel, parts=1, training=False),
    "rga_c in parts": partial(relation_aware_channel, parts=2, training=False),
    "split": partial(split_attention, parts=2, training=False),
    "split without norm": partial(split_attention, parts=2, training=False),
    "domain": domain,
}


def build(name):
    return support.randomise(LAYERS[name]()).eval()


@pytest.mark.parametrize("name", LAYERS)
def test_a_folded_layer_gives_the_same_map_and_the_original_stays(name):
    layer, x = build(name), support.random_map(3, 8, *SIZE)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    double = copy.deepcopy(layer).double()
    wanted = double(x)
    support.assert_close(fold(double)(x), wanted, 1e-10)
    support.assert_close(fold(layer)(x.float()), wanted, 1e-5)
    assert list(layer.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", ORACLES)
def test_a_folded_layer_is_the_formula(name):
    layer, x = build(name).double(), support.random_map(3, 8, *SIZE)
    support.assert_close(fold(layer)(x), ORACLES[name](x, layer.state_dict()), 1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_no_norm_that_follows_a_linear_map_is_left(name):
    folded = fold(build(name))
    assert not any(isinstance(module, nn.BatchNorm1d) for module in folded.modules())


def test_domain_attention_counts_fewer_operations():
    layer = DomainLevelAttention(512, memory=64).eval()
    x = torch.zeros(1, 512, 16, 8)
    counts = [count_multiply_adds(partial(model, x)) for model in (layer, fold(layer))]
    assert counts == [128 * (512 * 512 + 2 * 512 * 64), 128 * 2 * 512 * 64]


@pytest.mark.parametrize(
    ("attention", "options"),
    [("se", {}), ("rga_s", {}), (("se", "split"), {}), ("rga_s", {"identity_init": True})],
)
def test_a_folded_network_gives_the_same_features(attention, options):
    torch.manual_seed(0)
    model = resnet18(num_classes=16)
    set_last_stride(model)
    attach_apnet(model, attention, input_size=INPUT, **options)
    attach_mla(model, input_size=INPUT, memory=8)
    images = torch.rand(4, 3, *INPUT)
    for _ in range(3):  # statistics that are not the initial ones
        model.train()(images)
    model.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        wanted = copy.deepcopy(model).double()(images.double())
        support.assert_close(fold(copy.deepcopy(model).double())(images.double()), wanted, 1e-10)
        support.assert_close(fold(model)(images), wanted, 1e-4)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["rga_s", "rga_c", "split", "pyramid"])
def test_synchronised_norms_fold_too(name):
    layer, x = build(name), torch.rand(3, 8, *SIZE)
    wanted = layer(x)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synchronised.modules())
    support.assert_close(synchronised(x), wanted.double(), 1e-5)
    support.assert_close(fold(synchronised)(x), wanted.double(), 1e-5)


def test_without_attention_it_is_a_plain_copy():
    model, x = resnet18(num_classes=4).eval(), torch.rand(2, 3, *INPUT)
    copied = fold(model)
    assert [type(module) for module in copied.modules()] == [type(module) for module in model.modules()]
    assert torch.equal(copied(x), model(x))
    copied.fc.weight.data.add_(1)
    assert not torch.equal(copied(x), model(x))
    copied.train()


def test_what_cannot_be_folded_stays_as_it_is():
    layer, x = support.randomise(SqueezeExcitation(8)).eval(), torch.rand(2, 8, *SIZE)
    folded = fold(layer)
    assert torch.equal(folded(x), layer(x))
    assert list(folded.state_dict()) == list(layer.state_dict())


def test_folding_twice_folds_once():
    once, x = fold(build("rga_s")), torch.rand(2, 8, *SIZE)
    assert torch.equal(fold(once)(x), once(x))


def test_a_folded_copy_can_be_copied_pickled_compiled_and_undone():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    x = torch.rand(2, 3, *SIZE)
    plain = model.eval()(x)
    attach(model, "rga_s", "1", input_size=SIZE)
    folded = fold(model)
    wanted = folded(x)
    for twin in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert torch.equal(twin(x), wanted)
    torch.testing.assert_close(torch.compile(folded, fullgraph=True, backend="eager")(x), wanted)
    [attachment] = attachments(folded)
    attachment.remove()
    assert torch.equal(folded(x), plain)
    assert attachments(model)


def test_a_model_in_train_mode_is_refused():
    layer = LAYERS["rga_s"]()
    with pytest.raises(ValueError, match=r"fold: .*model .*eval mode, .*got .*\(Relation.*eval\(\)"):
        fold(layer)
    model = nn.Sequential(nn.ReLU(), layer).eval()
    layer.train()
    with pytest.raises(ValueError, match=r"got '1' \(RelationAwareSpatialAttention\) in train mode"):
        fold(model)


@pytest.mark.parametrize(("name", "norm"), [("rga_s", "embed.norm"), ("split", "reduce.1"), ("split", "norm")])
def test_a_norm_in_train_mode_inside_a_layer_in_eval_mode_is_refused(name, norm):
    model = nn.Sequential(build(name)).eval()
    model[0].get_submodule(norm).train()
    with pytest.raises(ValueError, match=rf"got '0.{norm}' \(BatchNorm.d\) in train mode"):
        fold(model)


@pytest.mark.parametrize("attention", ["rga_s", "se"])
def test_a_part_in_train_mode_elsewhere_is_refused_and_all_stays(attention):
    """The copy would be in eval mode in part, and give other outputs in eval mode as a whole."""
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), nn.ReLU(), nn.BatchNorm2d(8)).eval()
    attach(model, attention, "1", input_size=SIZE)
    model[0].train()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"fold: .*eval mode, .* got '0' \(Sequential\) in train mode: call eval\(\)"):
        fold(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module.training for module in fold(model.eval()).modules())


def test_what_has_no_eval_form_is_refused():
    layer = build("rga_s")
    layer.joint.norm = nn.Identity().eval()  # behind one that is folded before
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match=r"fold: the norms of RelationAware.* .*batch norms .*, got Identity"):
        fold(layer)
    assert list(layer.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())
    assert not any(module.training for module in layer.modules())
    layer = build("split")
    layer.reduce[1] = nn.BatchNorm1d(32, track_running_stats=False).eval()
    with pytest.raises(ValueError, match=r"fold: .*norms of SplitAttention .*running statistics"):
        fold(layer)
    layer = build("domain")
    torch.nn.utils.parametrizations.weight_norm(layer, "key").eval()
    with pytest.raises(ValueError, match=r"weights .*plain parameters, got .*remove_parametrizations"):
        fold(layer)


@pytest.mark.parametrize("name", ["rga_s", "split", "domain"])
def test_frozen_weights_stay_frozen(name):
    assert not any(value.requires_grad for value in fold(build(name).requires_grad_(False)).parameters())
    assert all(value.requires_grad for value in fold(build(name)).parameters())


def test_a_folded_layer_refuses_train_mode():
    folded = fold(build("domain"))
    with pytest.raises(ValueError, match=r"DomainLevelAttention: .*folded .*eval mode, .*eval\(\)"):
        folded.train()
    assert not folded.training
    assert folded.train(False) is folded


@pytest.mark.parametrize("part", ["", "0", "1"])
def test_a_folded_model_refuses_train_mode_before_any_of_it_changes(part):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), nn.Sequential(nn.ReLU()), nn.ReLU())
    attach(model.eval(), "rga_s", ["0.0", "1"], input_size=SIZE)
    folded = fold(model)
    for one in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        with pytest.raises(ValueError, match=r"eval mode, got train\(\) .*Relation.*folded"):
            one.get_submodule(part).train()
        assert not any(module.training for module in one.modules())
        assert one.eval() is one
    assert all(module.training for module in model.train().modules())
    for attachment in attachments(folded):
        attachment.remove()
    assert all(module.training for module in folded.train().modules())


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_or_traced_model_is_refused():
    model = nn.Sequential(nn.ReLU())
    for made in (
        torch.jit.script(model),
        torch.jit.trace(model, torch.rand(1)),
        nn.Sequential(torch.jit.script(model)),
    ):
        with pytest.raises(ValueError, match=r"fold: .*model .*Python modules, got .*scripted or traced"):
            fold(made)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"fold: .*model .*nn.Module, got dict"):
        fold({})


# The backbone's own norms ---------------------------------------------------------------------------------------------


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def unsettle(model):
    """Norms of which nothing is 0 or 1."""
    for norm in norms_of(model):
        for value, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2)):
            value.uniform_(low, high)
        for value, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -1, 1)):
            if value is not None:
                nn.init.uniform_(value, low, high)
    return model.eval().double()


def assert_folds(model, x, *, left):
    wanted = model(x)
    folded = fold(model, backbone=True)
    assert len(norms_of(folded)) == left
    support.assert_close(folded(x), wanted, 1e-10)
    assert torch.equal(model(x), wanted)
    return folded


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        pytest.param("resnet50", 0, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 0, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 0, marks=pytest.mark.slow),
        pytest.param("shufflenet_v2_x1_0", 0, marks=pytest.mark.slow),
        pytest.param("vgg11_bn", 0, marks=pytest.mark.slow),
        pytest.param("densenet121", 62, marks=pytest.mark.slow),  # before the convs
        pytest.param("convnext_tiny", 0, marks=pytest.mark.slow),
    ],
)
def test_the_backbones_norms_fold_on_demand(name, left):
    torch.manual_seed(0)
    model = unsettle(get_model(name, num_classes=8))
    folded = assert_folds(model, torch.rand(2, 3, 64, 64).double(), left=left)
    assert len(norms_of(fold(model))) == len(norms_of(model))
    if len(norms_of(model)) > left:
        with pytest.raises(ValueError, match=r"eval mode, got train\(\) with FoldedNorm inside"):
            folded.train()


def test_the_backbones_norms_fold_beside_attention_and_hosts_keep_theirs():
    torch.manual_seed(0)
    model = resnet18(num_classes=8)
    attach_apnet(model, "rga_s", input_size=INPUT)
    attach(model, "se", ["layer1.0.conv1", "layer1.1.bn2"], input_size=INPUT)
    for one in attachments(model):
        support.randomise(one)
    folded = assert_folds(unsettle(model), torch.rand(2, 3, *INPUT).double(), left=2)
    assert isinstance(folded.layer1[0].bn1, nn.BatchNorm2d)  # attention stands between it and the conv
    assert isinstance(folded.layer1[1].bn2, nn.BatchNorm2d)
    with pytest.raises(ValueError, match=r"eval mode, got train\(\)"):
        folded.train()
    assert not any(module.training for module in folded.modules())
    x = torch.rand(1, 3, *INPUT).double()
    assert torch.equal(pickle.loads(pickle.dumps(folded))(x), folded(x))


class Twice(nn.Module):
    """A conv and a norm behind it, used as `way` says."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 1)
        if way == "tied":
            self.other = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.other.weight = self.conv.weight

    def forward(self, x):
        y = self.conv(x)
        z = self.norm(y)
        if self.way == "seen":
            return z + y
        if self.way == "called twice":
            return z + self.conv(x + 1)
        if self.way == "norm called twice":
            return z + self.norm(self.other(x))
        if self.way == "read":
            return z * self.conv.weight.sum()
        if self.way == "norm read":
            return z * self.norm.weight.sum()
        return self.other(z)


@pytest.mark.parametrize("way", ["seen", "called twice", "norm called twice", "read", "norm read", "tied", "hook"])
def test_a_norm_whose_conv_is_used_otherwise_stays(way):
    torch.manual_seed(0)
    model = unsettle(Twice(way))
    if way == "hook":
        model.conv.register_forward_hook(lambda module, given, result: result * 2)
    assert_folds(model, torch.rand(2, 3, *SIZE).double(), left=1)
    assert_folds(unsettle(Twice("plain")), torch.rand(2, 3, *SIZE).double(), left=0)


@pytest.mark.parametrize(
    ("conv", "norm", "left"),
    [
        (nn.Conv2d(4, 6, 3, groups=2, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), 0),
        (nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False), 0),
        (nn.Conv2d(4, 6, 1), nn.SyncBatchNorm(6), 0),
        (nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False), 1),
        (nn.ConvTranspose2d(4, 6, 1), nn.BatchNorm2d(6), 1),
        (torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 1)), nn.BatchNorm2d(6), 1),
    ],
    ids=["groups", "not affine", "synchronised", "without statistics", "transposed", "parametrized"],
)
def test_kinds_of_convs_and_norms(conv, norm, left):
    model = nn.Sequential(conv, norm)
    if norm.running_mean is not None:
        unsettle(model)
    assert_folds(model.eval().double(), torch.rand(2, 4, *SIZE).double(), left=left)


def test_single_precision_loses_nothing():
    model = unsettle(resnet18(num_classes=8))
    x = torch.rand(2, 3, *INPUT).double()
    wanted = model(x)
    support.assert_close(fold(model.float(), backbone=True)(x.float()), wanted, 1e-5)


def test_a_backbone_that_cannot_be_traced_or_trains_is_refused():
    class Asking(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"fold: with backbone=True .*torch.fx can trace.*got TraceError: .*; fold"):
        fold(nn.Sequential(Asking()).eval(), backbone=True)
    model = resnet18(num_classes=8).eval()
    model.layer2[0].bn1.train()
    with pytest.raises(ValueError, match=r"got 'layer2.0.bn1' \(BatchNorm2d\) in train mode"):
        fold(model, backbone=True)
    with pytest.raises(TypeError, match=r"fold: backbone must be a bool, got 'yes'"):
        fold(model, backbone="yes")
