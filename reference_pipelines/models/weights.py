"""Weights from files: where a backbone stands in what people have, what is taken over, and what must be whole."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnreid import Weights, attachments, load_checkpoint, read_description, read_weights
from reference_pipelines.config.attention import AttentionConfig, modern
from reference_pipelines.config.loading import read_yaml, to_plain
from reference_pipelines.errors import UserError

_OF_A_RUN, _CONFIG = "model.safetensors", "config.yaml"
_ATTENTION = ".attention."  # stands in every name of attached attention
_COUNTER = "num_batches_tracked"  # which old files lack
_SHOWN = 3
NO_FILE = ("imagenet", "none", "package")  # what model.weights says where it names no file


def weights_file(weights: str) -> Path | None:
    """Return the file that `model.weights` names, there or not; None for torchvision's weights and for none."""
    if weights in NO_FILE:
        return None
    path = Path(weights).expanduser()
    return path / _OF_A_RUN if path.is_dir() else path


def read_file(path: Path) -> Weights:
    """Return the state dict in a file; code in a file is never run.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(
            f"model: there is no weights file {path}; name a run's folder or a file of weights with --model.weights"
        )
    try:
        return read_weights(path)
    except OSError as error:
        raise UserError(f"model: cannot read the weights {path} ({error.strerror}); check --model.weights") from None
    except ValueError as error:
        raise UserError(f"model: {str(error).removeprefix('read_weights: ').removesuffix('.')}") from None


@dataclass(frozen=True)
class StartingWeights:
    """What a file holds for a backbone.

    Args:
        path: the file.
        place: how the backbone's weights are reached in it, in words.
        backbone: the backbone's weights.
        attention: those of attention in it, under the names that attention has in the backbone.
        aside: the names of everything else.
    """

    path: Path
    place: str
    backbone: dict[str, Tensor]
    attention: dict[str, Tensor]
    aside: list[str]

    @classmethod
    def find(cls, path: Path, backbone: nn.Module) -> "StartingWeights":
        """Find a backbone in a file: under whatever names, with a head, a neck or attention beside it.

        Raises:
            UserError: the file cannot be read, or does not hold this backbone, or holds it twice.
        """
        weights = read_file(path)
        own = backbone.state_dict()
        under = _find_prefix(path, weights.tensors, own)
        inside = {key.removeprefix(under): value for key, value in weights.tensors.items() if key.startswith(under)}
        attention = {key: value for key, value in inside.items() if key not in own and _ATTENTION in key}
        parts = {key.partition(".")[0] for key in own}
        strange = [key for key in inside if key not in {**own, **attention} and key.partition(".")[0] in parts]
        difference = _difference(_missing(weights.tensors, own, under), strange, _unlike(inside, own))
        if difference:
            raise UserError(
                f"model: the weights in {path} do not fit this backbone, got {difference}{_quoted(' under ', under)}; "
                "choose the --model.backbone that they were trained with, or other weights"
            )
        taken = {key: value for key, value in inside.items() if key in own}
        ours = {under + key for key in (*taken, *attention)}
        return cls(
            path,
            "".join(_quoted(" in ", name) for name in weights.opened) + _quoted(" under ", weights.prefix + under),
            taken,
            attention,
            [key for key in weights.tensors if key not in ours],
        )

    def into_backbone(self, backbone: nn.Module) -> None:
        """Load the plain backbone, before attention is put into it."""
        # Everything was compared; what may be missing are counters, and what attention stands instead of.
        backbone.load_state_dict(self.backbone, strict=False)

    def into_attention(self, backbone: nn.Module, config: Any, say: Callable[[str], object]) -> None:
        """Load the attention too where it is the file's, and say what was taken over.

        Args:
            backbone: with its attention, if it has any.
            config: that of the attention.
            say: is given each line.
        """
        own = {key: value for handle in attachments(backbone) for key, value in handle.state_dict().items()}
        difference = self._other_attention(own, config)
        if own and self.attention and not difference:
            for handle in attachments(backbone):
                handle.load_state_dict({key: self.attention[key] for key in handle.state_dict()})
            known = "" if self._config() else " (the same by its names and sizes; there is no config beside the file)"
            say(f"weights: the backbone and its attention{known} are taken over from {self.path}{self.place}")
        else:
            say(f"weights: the backbone alone is taken over from {self.path}{self.place}{difference}")
        random = [key for key in backbone.state_dict() if key not in {**self.backbone, **own} and _COUNTER not in key]
        if random:
            say(f"weights: there are none for {_listed(random)}, where attention stands instead: random at first")
        if self.aside:
            modules = sorted({key.rpartition(".")[0] or key for key in self.aside})
            say(f"weights: left aside {len(self.aside)} of other modules: {_listed(modules)}")

    def _other_attention(self, own: Mapping[str, Tensor], config: Any) -> str:
        """Say what of attention is not taken over and why; empty where there is none, or all is."""
        if not self.attention:
            return "; the attention starts anew" if own else ""
        if not own:
            return "; its attention is left aside, since this network has none"
        there, here = _today(self._config()), {} if config is None else to_plain(config)
        differing = [
            f"attention.{key} is {there.get(key)} there and {value} here"
            for key, value in here.items()
            if key in there and there[key] != value
        ]
        missing = [key for key in own if key not in self.attention]
        unexpected = [key for key in self.attention if key not in own]
        found = ", ".join(differing) or _difference(missing, unexpected, _unlike(self.attention, own))
        return f"; its attention is left aside, since it is another one ({found}), and this one starts anew" * bool(
            found
        )

    def _config(self) -> dict[str, Any]:
        """Return the attention's section of the config in the file, or of the one beside it, if there is one."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            section = (read_description(self.path) or {})["config"]["attention"]
            return section if isinstance(section, dict) else {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            section = read_yaml(self.path.parent / _CONFIG)["attention"]
            return section if isinstance(section, dict) else {}
        return {}


def _today(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attention's section of a config as it is written today, with the defaults."""
    if not section:
        return {}
    values = modern({f"attention.{key}": value for key, value in section.items()})
    return {**to_plain(AttentionConfig()), **{key.removeprefix("attention."): value for key, value in values.items()}}


def load_whole(model: nn.Module, checkpoint: Path, rule: str, way_on: str) -> None:
    """Load a checkpoint into the network that it is of: every key, with the same attention.

    Args:
        model: takes the weights over.
        checkpoint: its file, or the folder.
        rule: who complains and what must hold, if something differs.
        way_on: what to do then.

    Raises:
        UserError: it is not whole or cannot be read, or does not fit; nothing is loaded then.
    """
    try:
        load_checkpoint(model, checkpoint)
    except (OSError, ValueError) as error:
        said = str(error).removeprefix("load_checkpoint: ")
        raise UserError(f"{rule}, and {said.rpartition('; ')[0] or said}; {way_on}") from None


def _find_prefix(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return what stands before the backbone's names in the file; where it is not whole, before most of them."""
    first = next(iter(own))
    found = [key.removesuffix(first) for key in tensors if f".{key}".endswith(f".{first}")]
    lacking = {prefix: len(_missing(tensors, own, prefix)) for prefix in found or [""]}
    whole = [prefix for prefix in lacking if not lacking[prefix]]
    if len(whole) > 1:
        raise UserError(
            f"model: the weights in {path} must hold the backbone once, got it under "
            f"{' and '.join(map(repr, whole))}; save the state dict of the one that is meant"
        )
    return min(lacking, key=lacking.__getitem__)


def _missing(tensors: Mapping[str, Tensor], own: Iterable[str], prefix: str) -> list[str]:
    """Return the keys that the file must have and does not: all but counters and what attention stands instead of."""
    attended = {key.partition(_ATTENTION)[0] for key in tensors if _ATTENTION in key}
    return [
        key
        for key in own
        if prefix + key not in tensors and _COUNTER not in key and prefix + key.rpartition(".")[0] not in attended
    ]


def _unlike(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key!r}, which is {_size(given[key])} and must be {_size(value)}"
        for key, value in own.items()
        if key in given and given[key].shape != value.shape
    ]


def _difference(missing: list[str], unexpected: list[str], unlike: list[str]) -> str:
    kinds = {"missing": list(map(repr, missing)), "unexpected": list(map(repr, unexpected)), "of another size": unlike}
    return ", ".join(f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds.items() if names)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names)})" if len(names) > _SHOWN else "")


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _quoted(word: str, name: str) -> str:
    return f"{word}{name!r}" if name else ""
