"""fold: the same outputs from fewer operations, and the original as it was."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

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
