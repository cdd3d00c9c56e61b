"""Grad-CAM: against the formula written out, on networks whose evidence is planted, and with nothing left behind."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from attnreid import attach, attach_apnet, attach_mla, attachments
from reference_pipelines.errors import UserError
from reference_pipelines.explaining.heat_maps import (
    BEFORE,
    STAGE,
    class_target,
    heat_maps,
    similarity_target,
    stages_of,
)
from reference_pipelines.explaining.on_person import share_on_person
from reference_pipelines.models import ReidModel
from reference_pipelines.models.narrow import resnet_demo
from reference_pipelines.reporting.overlay import grown
from tests.conftest import says
from tests.explaining import planted

SIZE = (64, 32)


def attended(attention, **options):
    """A narrow ResNet with APNet's pyramids, in double precision, its gates and norms far from the start."""
    torch.manual_seed(0)
    network = resnet_demo()
    network.fc = nn.Identity()
    if attention is not None:
        attach_apnet(network, attention, input_size=SIZE, **options)
    model = ReidModel(network, 512, classes=5).double().eval()
    for name, parameter in model.named_parameters():
        if ".attention." in name and parameter.ndim > 1:
            parameter.data.normal_(std=0.8)
    nn.init.normal_(model.classifier.weight)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def stages():
    return stages_of(attended(None).backbone, SIZE)


def by_place(found):
    return {(each.site, each.level): each.values for each in found}


def formula(map_, score):
    """Selvaraju et al., Eq. 1 and 2, with loops."""
    (gradient,) = torch.autograd.grad(score.sum(), map_, retain_graph=True)
    heat = torch.zeros(map_.shape[0], *map_.shape[2:], dtype=map_.dtype)
    for n in range(map_.shape[0]):
        for k in range(map_.shape[1]):
            heat[n] += gradient[n, k].mean() * map_[n, k].detach()
    return heat.clamp(min=0).float().numpy()


def test_it_is_the_formula_after_every_level_of_the_last_stage(images, stages):
    model = attended(("se", "rga_s"))
    network = model.backbone
    target = class_target(model, images)
    found = by_place(heat_maps(model, images, target.score, stages))
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    x = network.layer3(network.layer2(network.layer1(x)))
    pyramid = network.layer4.attention
    before = x
    for name, layer in network.layer4.named_children():
        before = before if name == "attention" else layer(before)
    maps = [before]
    for level in pyramid.levels:
        maps.append(level.gate(maps[-1]) * maps[-1])
    logits = model.classifier(model.neck(maps[-1].mean(dim=(2, 3))))
    chosen = logits.argmax(dim=1)
    score = logits[torch.arange(2), chosen]
    np.testing.assert_allclose(target.score(images).detach(), score.detach(), rtol=1e-9)
    for level, map_ in zip((BEFORE, "level1", "level2"), maps, strict=True):
        wanted = formula(map_, score)
        np.testing.assert_allclose(found["layer4", level], wanted, rtol=1e-5, atol=1e-6 * wanted.max())


@pytest.mark.parametrize("attention", ["se", "rga_s"])
def test_two_levels_maps_differ_and_vary_in_space(attention, images, stages):
    model = attended(attention)
    target = similarity_target(model, images, images.flip(-1).flip(0), ("a.jpg", "b.jpg"))
    found = by_place(heat_maps(model, images, target.score, stages))
    assert list(found) == [(f"layer{n}", level) for n in (1, 2, 3, 4) for level in (BEFORE, "level1", "level2")]
    assert min(each.min() for each in found.values()) == 0  # what speaks against it is left out
    for site in ("layer1", "layer2"):
        one, other = found[site, "level1"], found[site, "level2"]
        assert min(each.std(axis=(1, 2)).max() / each.max() for each in (one, other)) > 0.05
        assert np.abs(one / one.max() - other / other.max()).max() > 1e-3


def test_stages_without_and_with_other_attention(images, stages):
    plain = attended(None)
    found = heat_maps(plain, images, class_target(plain, images).score, stages)
    assert [(each.site, each.level) for each in found] == [(f"layer{n}", STAGE) for n in (1, 2, 3, 4)]
    assert [each.values.shape for each in found] == [(2, 16, 8), (2, 8, 4), (2, 4, 2), (2, 2, 1)]
    # A single layer has a map before and after it; a pyramid behind a blend ends where the blend does.
    attach(plain.backbone, "se", "layer3", input_size=SIZE)
    found = heat_maps(plain.double(), images, class_target(plain, images).score, stages)
    assert [each.level for each in found if each.site == "layer3"] == [BEFORE, STAGE]
    blended = attended("se", identity_init=True)
    found = heat_maps(blended, images, class_target(blended, images).score, stages)
    assert [each.level for each in found if each.site == "layer2"] == [BEFORE, "level1", "level2", STAGE]


def test_the_stages_are_told_whatever_attention_is_there(stages):
    model = attended("se")
    attach_mla(model.backbone.float(), input_size=SIZE)
    before = len(attachments(model.backbone))
    assert stages_of(model.backbone, SIZE) == stages
    assert len(attachments(model.backbone)) == before == 2


def test_nothing_stays_in_the_network(images, stages):
    model = attended("se")
    twin = copy.deepcopy(model)
    before = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]

    def unchanged():
        after = [(n, len(module._forward_hooks), len(module._forward_pre_hooks)) for n, module in model.named_modules()]
        assert after == before
        assert not any(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, twin.state_dict()[name])
        assert torch.equal(model(images).logits, twin(images).logits)

    given = images.clone()
    heat_maps(model, images, class_target(model, images).score, stages)
    unchanged()
    assert torch.equal(given, images)
    assert not images.requires_grad
    with pytest.raises(ZeroDivisionError):
        heat_maps(model, images, lambda x: model(x).logits[:, 0] / (1 // 0), stages)
    unchanged()


PLANTED = {
    "maps": (planted.WithMaps, 2),
    "channels last": (lambda: planted.WithMaps(channels_last=True), 2),
    "tokens": (planted.WithTokens, 1),
}


@pytest.mark.parametrize(("backbone", "places"), PLANTED.values(), ids=PLANTED)
def test_planted_evidence_is_found_where_it_is(backbone, places):
    model = planted.model_of(backbone())
    image = planted.painted((0, 4, 2), (2, 20, 8))[None]
    masks = {0: np.zeros(planted.SIZE, np.float32), 2: np.zeros(planted.SIZE, np.float32)}
    masks[0][4:12, 2:10] = 1
    masks[2][20:28, 8:16] = 1
    for colour, mask in masks.items():
        found = heat_maps(model, image, lambda x, colour=colour: model(x).logits[:, colour])
        assert len(found) == places
        for each in found:
            full = grown(each.values, planted.SIZE)[0]
            assert mask.flat[full.argmax()] == 1, (each.site, colour)
            (share,) = share_on_person(each.values, [mask])
            assert share > 0.55, (each.site, colour, share)  # the maps are 8x4 or 16x8, and are blurred when grown
            (other,) = share_on_person(each.values, [masks[2 - colour]])
            assert other < 0.02


def test_the_classifiers_own_choice_is_the_target():
    model = planted.model_of(planted.WithMaps())
    images = torch.stack([planted.painted((2, 4, 2)), planted.painted((0, 4, 2), (0, 20, 2), (1, 12, 8))])
    target = class_target(model, images)
    assert [said.partition(",")[0] for said in target.said] == [
        "person 3 of the 3 of the training",
        "person 1 of the 3 of the training",
    ]
    logits = model(images).logits
    assert torch.equal(target.score(images), torch.stack([logits[0, 2], logits[1, 0]]))


def test_similarity_is_the_cosine_to_the_other_image():
    model = planted.model_of(planted.WithMaps())
    images = torch.stack([planted.painted((0, 4, 2), (1, 18, 6)), planted.painted((1, 4, 2))])
    other = planted.painted((0, 20, 2), (2, 4, 2))[None]
    target = similarity_target(model, images, other, ("b.jpg",))
    mine, theirs = model(images).features, model(other).features
    wanted = nn.functional.cosine_similarity(mine, theirs)
    torch.testing.assert_close(target.score(images), wanted)
    assert target.said[0] == f"similarity to b.jpg, {wanted[0]:.3f}"
    # Red is what the two have in common; green takes away from the likeness, and is not shown.
    found = heat_maps(model, images[:1], target.score)[-1].values[0]
    assert found[1:3].max() > 0
    assert not found[4:].any()
    assert not heat_maps(model, images[1:], lambda x: target.score(x.expand(2, -1, -1, -1))[1:])[-1].values.any()


def test_what_cannot_be_explained_is_refused_in_a_sentence():
    model = planted.model_of(planted.NoMaps())
    with pytest.raises(UserError) as raised:
        heat_maps(model, torch.zeros(1, 3, *planted.SIZE), lambda x: model(x).logits[:, 0])
    assert says(str(raised.value), "explain: the backbone must have stages that end with a map, and ")
    model.set_classifier(None)
    with pytest.raises(UserError) as raised:
        class_target(model, torch.zeros(1, 3, *planted.SIZE))
    assert says(str(raised.value), "must have a classifier", "weights have none", "--against")


def test_several_features_scores_are_added():
    torch.manual_seed(0)

    class Two(nn.Module):
        def forward(self, x):
            return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)

    model = ReidModel(Two(), 6, features=2, classes=4).eval()
    images = torch.rand(3, 3, 8, 4)
    logits = model(images).logits
    both = logits[:, :4] + logits[:, 4:]
    torch.testing.assert_close(class_target(model, images).score(images), both.amax(dim=1))
