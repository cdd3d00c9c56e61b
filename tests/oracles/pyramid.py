"""APNet's Eq. 1-3: at each level split, attend every part, merge, multiply; then the next level."""

from tests.oracles.relation_aware import relation_aware_channel, relation_aware_spatial
from tests.oracles.split_attention import split_attention
from tests.oracles.squeeze_excitation import squeeze_excitation_gate

LEVELS = {"rga_s": relation_aware_spatial, "rga_c": relation_aware_channel, "split": split_attention}


def level_parameters(p, index):
    prefix = f"levels.{index}."
    return {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}


def pyramid(x, p, *, kinds, parts, order, training):
    """kinds and parts are given level 1 first; every level multiplies the whole map."""
    steps = range(len(kinds)) if order == "coarse_to_fine" else reversed(range(len(kinds)))
    for index in steps:
        own = level_parameters(p, index)
        if kinds[index] == "se":
            assert own["reduce"].shape[0] == parts[index]
            x = x * squeeze_excitation_gate(x, own)
        else:
            x = LEVELS[kinds[index]](x, own, parts=parts[index], training=training)
    return x


def blended(x, p, **options):
    """identity_init: the pyramid's output mixed into its input by the learnt scalar."""
    return x + p["blend"] * (pyramid(x, p, **options) - x)
