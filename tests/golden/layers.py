"""What is kept of every registered layer: its outputs in both modes, its gradients and its statistics, sketched."""

from functools import partial

from attnreid import AttentionPyramid, create_attention, list_attention
from attnreid.registry import find_attention, takes_option
from tests.golden.formulas import fill, sketch, wave

# Large enough that nothing which the defaults divide is left at 1.
IMAGES, CHANNELS, SIZE = 3, 32, (8, 4)


def _registered(name):
    options = {"size": SIZE} if takes_option(find_attention(name), "size") else {}
    return create_attention(name, CHANNELS, **options)


# Others' layers, which tests and docs register, are no business of these files.
OWN = [name for name in list_attention() if find_attention(name).__module__.startswith("attnreid.")]
LAYERS = {name: partial(_registered, name) for name in OWN} | {
    "AttentionPyramid of se and split": partial(AttentionPyramid, CHANNELS, attention=("se", "split")),
    "AttentionPyramid of rga_s, fine to coarse": partial(
        AttentionPyramid, CHANNELS, attention="rga_s", order="fine_to_coarse", size=SIZE
    ),
    "AttentionPyramid, mixed, along the height": partial(
        AttentionPyramid, CHANNELS, attention=("se", "domain"), levels=(2, 1), dim="height", size=SIZE
    ),
}


def measured(name):
    """Return the sketches of one layer by what they are of."""
    layer = fill(LAYERS[name]())
    x = wave(IMAGES, CHANNELS, *SIZE, number=50).requires_grad_()
    found = {"eval": sketch(layer.eval()(x))}
    y = layer.train()(x)
    (y * wave(*y.shape, number=60)).sum().backward()
    found |= {"train": sketch(y), "gradient of x": sketch(x.grad)}
    found |= {f"gradient of {name}": sketch(value.grad) for name, value in layer.named_parameters()}
    return found | {f"then {name}": sketch(value) for name, value in layer.named_buffers()}


def tolerance(key, kept):
    """Return by how much a number may be off: one rounding is 1e-16, a change of a formula 1e-3."""
    return 1e-9 * max(1.0, abs(kept))
