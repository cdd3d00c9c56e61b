"""The rows of single layers: against the formulas as they are written, and against other packages' layers."""

from functools import partial

from attnreid import fold
from benchmarks import formulas, ours, peers
from benchmarks.cases import Build, Case, Peer, Shape, Target

STAGES: tuple[Shape, ...] = ((256, 64, 32), (512, 32, 16), (1024, 16, 8), (2048, 16, 8))
"""The maps after ResNet-50's stages for an image of 256x128, with a last stride of 1."""

_FIRST = STAGES[0]
_DOMAIN: Shape = (512, 16, 8)
_NONE = Target()
_NOT_SLOWER = Target(1.0)


def _against_itself(literal: Build, against: str, *targets: tuple[Shape, Target], default: Target = _NONE) -> Peer:
    return Peer("literal", against, literal, default, dict(targets))


_rga_s = partial(ours.in_training, make=ours.make_rga_s)
_rga_s_parts = partial(ours.in_training, make=partial(ours.make_rga_s, parts=2))
_rga_c = partial(ours.in_training, make=ours.make_rga_c)
_pyramid = partial(ours.in_training, make=ours.make_pyramid)
_released = partial(ours.in_training, make=ours.make_released_pyramid)
_split = partial(ours.in_training, make=ours.make_split)
_split_eval = partial(ours.in_inference, make=ours.make_split)
_head = partial(ours.in_training, make=ours.make_head)
_shared_head = partial(ours.in_training, make=peers.make_shared_head)
_domain = partial(ours.in_inference, make=ours.make_domain)

CASES = (
    Case(
        "rga_s",
        "RGA-S",
        _rga_s,
        (
            _against_itself(
                partial(_rga_s, forward=formulas.literal_rga_s),
                "formula, P x P affinity",
                (_FIRST, Target(10.0, memory_ratio=10.0)),
                default=_NOT_SLOWER,
            ),
        ),
        STAGES,
        4,
    ),
    Case(
        "rga_s_parts",
        "RGA-S, parts=2",
        _rga_s_parts,
        (Peer("part_by_part", "two layers on the halves", partial(_rga_s_parts, change=formulas.part_by_part)),),
        STAGES,
        4,
    ),
    Case(
        "rga_c",
        "RGA-C",
        _rga_c,
        (
            _against_itself(
                partial(_rga_c, forward=formulas.literal_rga_c), "formula, C x C affinity", default=_NOT_SLOWER
            ),
        ),
        STAGES,
        4,
    ),
    Case(
        "pyramid",
        "SE pyramid, 3 levels",
        _pyramid,
        (
            Peer("levels", "level by level", partial(_pyramid, forward=formulas.level_by_level), Target(3.0)),
            Peer("timm", "timm's SE, once", peers.timm_se_variant, _NOT_SLOWER),
        ),
        (_FIRST,),
        16,
    ),
    Case(
        "split",
        "Split attention",
        _split,
        (Peer("literal", "formula", partial(_split, forward=formulas.literal_split)),),
        (_FIRST,),
        16,
    ),
    Case(
        "split_eval",
        "Split attention, inference",
        _split_eval,
        (Peer("literal", "formula", partial(_split_eval, forward=formulas.literal_split)),),
        (_FIRST,),
        16,
    ),
    Case(
        "released_pyramid",
        "SE and split attention, fine to coarse",
        _released,
        (Peer("levels", "level by level", partial(_released, forward=formulas.released_level_by_level)),),
        (_FIRST,),
        16,
    ),
    Case(
        "head",
        "HLA",
        _head,
        (
            _against_itself(
                partial(_head, forward=formulas.literal_head),
                "formula, P x P logits",
                ((512, 16, 8), Target(1.05)),
                ((512, 32, 16), Target(1.12)),
            ),
        ),
        ((512, 16, 8), (512, 32, 16)),
        16,
    ),
    Case(
        "head_peers",
        "HLA, scale 1/sqrt(d)",
        _shared_head,
        (
            Peer(
                "bottleneck_transformer",
                "bottleneck-transformer-pytorch",
                peers.bottleneck_transformer_variant,
                _NOT_SLOWER,
            ),
            Peer("timm", "timm's BottleneckAttn", peers.timm_bottleneck_variant, _NOT_SLOWER),
        ),
        ((512, 16, 8), (512, 32, 16)),
        16,
    ),
    Case(
        "domain_folded",
        "DLA folded, inference",
        partial(_domain, change=fold),
        (
            Peer("unfolded", "ours, unfolded", _domain, targets={_DOMAIN: Target(2.0)}),
            Peer(
                "fightingcv",
                "fightingcv's ExternalAttention",
                peers.external_attention_variant,
                targets={_DOMAIN: Target(1.25)},
            ),
        ),
        (_DOMAIN,),
        16,
    ),
)
"""The rows of this file: forward and backward in train mode where `what` does not say otherwise."""
