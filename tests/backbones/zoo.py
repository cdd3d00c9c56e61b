"""Attention in one small network of every family that timm and torchvision have: what works, and why what does not.

`make test-zoo` runs it and writes docs/results/zoo.md. A family works when an SE pyramid stands at the end of every
stage (isotropic networks: at four depths), starts as the identity bit by bit, leaves plain weights loadable with
strict=True, gets finite gradients in one backward pass, and comes out again without a trace.
"""

import argparse
import copy
import multiprocessing
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from attnreid.backbones import Site, attach_pyramid

_SMALL = ("test_", "femto", "atto", "pico", "nano", "zepto", "xxt", "xxs", "tiny", "mini", "_xs", "_s", "small", "b0")
_CANDIDATES = 10
_LARGE = 224  # height and width
_LIMIT = 600  # seconds for one family


@dataclass
class Finding:
    """What came of one family.

    Args:
        library: that has it.
        family: its name there.
        model: the network that stands for it.
        input_size: channels, height and width.
        constructs: whether the network is built and runs.
        works: whether every stage passed every step.
        places: the stages' ends with layout, channels and size.
        said: the refusal or error; or what else there is to know.
        seconds: how long it took.
    """

    library: str
    family: str
    model: str = ""
    input_size: tuple[int, ...] = ()
    constructs: bool = False
    works: bool = False
    places: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0


def families() -> Iterator[tuple[str, str, list[str]]]:
    """Yield library, family and its networks' names."""
    for family in sorted(timm.list_modules()):
        yield "timm", family, timm.list_models(module=family)
    names: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        names.setdefault(family, []).append(name)
    for family in sorted(names):
        yield "torchvision", family, names[family]


def build(library: str, name: str, **options: int) -> nn.Module:
    """Return the network with random weights, as it is published but for the options."""
    if library == "timm":
        return timm.create_model(name, pretrained=False, **options)
    options = {"aux_logits": False, "init_weights": False} if name in ("inception_v3", "googlenet") else {}
    return torchvision.models.get_model(name, weights=None, **options)


def input_size_of(library: str, name: str, model: nn.Module) -> tuple[int, int, int]:
    """Return channels, height and width of the images that the network is made for."""
    if library == "timm":
        return tuple(model.pretrained_cfg["input_size"])
    return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


def at_a_small_size(library: str, name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return the network and its input size: a smaller one than it is made for where that is large and works."""
    model = build(library, name).eval()
    channels, height, width = input_size_of(library, name, model)
    if height * width > _LARGE**2:
        small = (channels, _LARGE, _LARGE)
        for options in ({}, {"img_size": _LARGE}):
            try:
                other = build(library, name, **options).eval()
                with torch.no_grad():
                    other(torch.randn(1, *small))
            except Exception:
                continue
            return other, small
    return model, (channels, height, width)


@torch.no_grad()
def wake(model: nn.Module) -> None:
    """Draw what the network starts at zero with, a classifier or a branch's scale: no gradient passes it."""
    for name, parameter in model.named_parameters():
        if not name.endswith("bias") and not parameter.any():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1)


def smallest(library: str, names: Sequence[str]) -> str:
    """Return the network that is cheapest to run, as far as its parameters and its input tell, of a few by name."""

    def likely(name: str) -> tuple[int, int, str]:
        ranks = [rank for rank, word in enumerate(_SMALL) if word in name]
        return min(ranks, default=len(_SMALL)), len(name), name

    costs = {}
    for name in sorted(names, key=likely)[:_CANDIDATES]:
        try:
            with torch.device("meta"):
                model = build(library, name)
            _, height, width = input_size_of(library, name, model)
        except Exception:
            continue
        costs[name] = height * width * sum(parameter.numel() for parameter in model.parameters())
    return min(costs or names, key=lambda name: costs.get(name, 0))


def examine(library: str, family: str, names: Sequence[str]) -> Finding:
    """Try one family."""
    torch.manual_seed(0)
    start = time.monotonic()
    found = Finding(library, family, smallest(library, names))
    try:
        model, found.input_size = at_a_small_size(library, found.model)
        wake(model)
        images = torch.randn(2, *found.input_size)
        with torch.no_grad():
            model(images)
        found.constructs = True
    except Exception as error:
        found.said = f"does not run by itself: {type(error).__name__}: {error}"
    if found.constructs:
        try:
            check(model, images, found)
            found.works = True
        except Exception as error:
            found.said = f"{'' if isinstance(error, ValueError) else type(error).__name__ + ': '}{error}"
    found.seconds = time.monotonic() - start
    return found


def check(model: nn.Module, images: Tensor, found: Finding) -> None:
    """Put the pyramids in, hold them to what they promise and take them out; raise at the first broken promise."""
    modules, weights = list(model.named_modules()), copy.deepcopy(model.state_dict())
    plain = outputs(model, images)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        attachment = attach_pyramid(model, "se", input_size=tuple(images.shape[1:]), identity_init=True)
    found.said = "; ".join(text for one in warned if "attach_pyramid" in (text := str(one.message)))
    found.places = [describe(site) for site in attachment.sites]
    require(same(outputs(model, images), plain), "the output is not the plain network's")
    model.load_state_dict(weights, strict=True)
    with torch.enable_grad():
        losses = [output.float().square().mean() for output in tree_leaves(model(images)) if isinstance(output, Tensor)]
        sum(losses).backward()
    for site in attachment.sites:
        part = dict(model.get_submodule(f"{site.name}.attention").named_parameters())
        require(
            all(one.grad is not None and bool(one.grad.isfinite().all()) for one in part.values()),
            f"the gradients of the attention at {site.name!r} are not finite",
        )
        learns = any(bool(one.grad.any()) for one in part.values())
        require(learns or repr(site.name) in found.said, f"the attention at {site.name!r} does not learn")
    attachment.remove()
    require([*model.named_modules()] == modules, "other modules are left than there were")
    require(all(map(torch.equal, model.state_dict().values(), weights.values())), "the weights are not as they were")
    require(same(outputs(model, images), plain), "the output is not the plain network's after remove()")


def require(holds: bool, broken: str) -> None:
    """Raise with what is broken unless it holds."""
    if not holds:
        raise BrokenPromiseError(broken)


class BrokenPromiseError(Exception):
    """Something that attaching promises does not hold."""


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return all tensors that the network returns."""
    torch.manual_seed(1)
    return [each.clone() for each in tree_leaves(model(images)) if isinstance(each, Tensor)]


def same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal, bit by bit; what is no number in both is."""
    pairs = zip(ones, others, strict=True)
    return all(torch.equal(one.nan_to_num(7), other.nan_to_num(7)) for one, other in pairs)


def describe(site: Site) -> str:
    """Return a place in a word or two."""
    prefix = f" after {site.prefix}" if site.prefix else ""
    return f"{site.name} ({site.layout}{prefix}, {site.channels} x {site.size[0]} x {site.size[1]})"


# The program ----------------------------------------------------------------------------------------------------------


def _child(pipe: Connection, *arguments: Any) -> None:
    torch.set_num_threads(1)
    pipe.send(examine(*arguments))


def findings(wanted: Sequence[tuple[str, str, list[str]]], workers: int) -> Iterator[Finding]:
    """Yield what came of each family as it comes; each has a process of its own, which may die or hang."""
    context, waiting = multiprocessing.get_context("fork"), list(reversed(wanted))
    running: dict[Connection, tuple[Any, tuple[str, str, list[str]], float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            ours, theirs = context.Pipe()
            process = context.Process(target=_child, args=(theirs, *job))
            process.start()
            theirs.close()
            running[ours] = process, job, time.monotonic()
        ready = wait(list(running), timeout=5)
        for pipe, (process, job, start) in list(running.items()):
            late = time.monotonic() - start > _LIMIT
            if pipe not in ready and not late:
                continue
            try:
                found = pipe.recv() if pipe in ready else None
            except EOFError:
                found = None
            if found is None:
                process.kill()
            process.join()
            del running[pipe]
            ended = f"took more than {_LIMIT} s" if late else f"its process ended with {process.exitcode}"
            yield found or Finding(*job[:2], said=ended, seconds=time.monotonic() - start)


def report(found: Sequence[Finding]) -> str:
    """Return the page."""
    counted = [each for each in found if each.constructs]
    working = [each for each in counted if each.works]
    lines = [
        "# Attention in every family",
        "",
        "One small network of each model family of timm and torchvision, with random weights, in eval mode. An SE",
        "pyramid (`attach_pyramid`, two levels, `identity_init=True`) stands at the end of every stage, or at four",
        "depths where there are no stages. A family works when all of these hold: the output equals the plain",
        "network's bit by bit; plain weights load with `strict=True`; after one backward pass every attention has",
        "finite gradients, and one that is not 0; `remove()` gives back the same modules, weights and outputs. Weights",
        "that a network starts at zero with are drawn, since no gradient passes them.",
        "",
        f"**{len(working)} of {len(counted)} work** ({100 * len(working) / max(1, len(counted)):.0f} %).",
        "",
        f"timm {timm.__version__}, torchvision {torchvision.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}. Made by `make test-zoo`.",
        "",
        "| library | family | network | input | works | places; or why not |",
        "|---|---|---|---|---|---|",
    ]
    for each in sorted(found, key=lambda each: (each.library, each.family)):
        size = " x ".join(map(str, each.input_size))
        mark = "yes" if each.works else "no" if each.constructs else "not counted"
        text = "; ".join(part for part in (", ".join(f"`{place}`" for place in each.places), each.said) if part)
        text = " ".join(text.split()).replace("|", "\\|")
        lines.append(f"| {each.library} | {each.family} | {each.model} | {size} | {mark} | {text} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Run the zoo, print it family by family and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the page to write")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAMILY", help="these families alone")
    parser.add_argument("--workers", type=int, default=2, help="how many at once (default: 2)")
    options = parser.parse_args()
    wanted = [each for each in families() if not options.only or each[1] in options.only]
    found: list[Finding] = []
    for each in findings(wanted, options.workers):
        found.append(each)
        mark = "works" if each.works else "NO" if each.constructs else "not counted"
        print(
            f"[{len(found)}/{len(wanted)}] {each.library} {each.family} ({each.model}, {each.seconds:.0f} s): {mark}"
            f"{'' if each.works else f': {each.said}'}",
            flush=True,
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(report(found), encoding="utf-8")
    counted = [each for each in found if each.constructs]
    print(f"{sum(each.works for each in counted)} of {len(counted)} families work")
    return 0 if counted and sum(each.works for each in counted) >= 0.9 * len(counted) else 1


if __name__ == "__main__":
    sys.exit(main())
