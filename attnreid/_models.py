"""What a user names on the command line: a model as module:callable, its options, an input size, levels.

Whatever is wrong with it is a `UserError`.
"""

import ast
import importlib
import io
import pkgutil
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn

import torch
from torch import nn

from attnreid._timm import PREFIX
from attnreid.backbones._measuring import observe, stand_in
from attnreid.backbones.sites import InputSize
from attnreid.command_line import UserError
from attnreid.text import nearest

# What the library says in Python's words, and what is typed instead.
_TYPED = (
    (
        r"pass another input_size, or example_inputs=.*? where forward takes something else",
        "give another --input-size; a model whose forward takes something else can be looked at in Python alone, by "
        "find_sites(model, example_inputs=...)",
    ),
    (
        r"got dim=None: pass dim='channels' or dim='height'",
        "which is for Python, AttentionPyramid(..., dim=...), to say; --levels 1 splits nothing",
    ),
    (r"find_sites\(model, \.\.\.\)", "the command sites"),
    (r"\b(use|pass) (attach\(|layout=|dim=|identity_init)", r"in Python, \1 \2"),
    (r"\b(input_size)=\((\d+), (\d+)\)", r"--input-size \2 \3"),
)
_VALUE = re.compile(
    r"\b(attention|levels|radix|variant|blocks|heads|memory|reduction)="
    r"('[^']*'|\d+|[(\[](?:[\w' ]+,? ?)*[)\]])"
)
_UNQUOTED = str.maketrans("", "", "'()[] ")


class _WantsDownload(BaseException):
    """A callable asks for a file from the net; no `Exception`, so that none takes it for a failure to try around."""


# A model


def build_model(target: str, options: dict[str, Any], size: InputSize) -> nn.Module:
    """Return the model that a callable builds: on the meta device if it is built and runs there, else a real one.

    Args:
        target: the callable, as module:callable.
        options: what it is called with.
        size: (height, width) or (channels, height, width) of an input to try the model on.

    Raises:
        UserError: the target leads to no callable, or that fails, wants a download or returns no model.
    """
    factory = load(target)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise UserError(
            f"{target} must be a function or class that returns a model, got {_kind(factory)}; write one around it"
        )
    model = None
    try:
        model = _call(target, factory, options, "meta")
    except UserError:
        raise
    except (Exception, SystemExit):
        pass  # Some callables look at the numbers in their tensors, and there are none on the meta device.
    if not isinstance(model, nn.Module) or not _runs_on_meta(model, size):
        try:
            model = _call(target, factory, options, "cpu")
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{target} must return a model when it is called with {_arguments(options)}, and it failed with "
                f"{_failure(error)}; --option NAME=VALUE passes an argument"
            ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{target} must return an nn.Module, got {_kind(model)}; return the model")
    return model


def _runs_on_meta(model: nn.Module, size: InputSize) -> bool:
    try:
        double = stand_in(model, meta=True, bypass=False)
    except ValueError:
        return False
    like = next((tensor for tensor in double.parameters() if tensor.is_floating_point()), torch.empty(0))
    return observe(double, (torch.zeros((1, *with_channels(size)), dtype=like.dtype, device="meta"),)).error is None


def load(target: str) -> Any:
    """Import what `target`, module:name, stands for."""
    module, _, path = target.partition(":")
    if not path or module.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(
            "what is to be built must be module:callable, such as torchvision.models:resnet50, or models:build for "
            f"models.py in this folder, got {target!r}"
        )
    found: Any = _import(module)
    for name in path.split("."):
        try:
            with quiet():
                found = getattr(found, name)
        except AttributeError:
            inside = getattr(found, "__dict__", {}).items()  # and not dir(), which makes lazy packages import it all
            names = [each for each, value in inside if callable(value) and not each.startswith("_")]
            raise UserError(f"{module} has no {path!r}{_hint(name, names) or _some(names)}") from None
        except Exception as error:
            raise UserError(f"{target} must be importable, and it failed with {_failure(error)}") from error
    return found


def _import(module: str) -> Any:
    try:
        with quiet():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if missing == "torchvision":
            raise UserError("torchvision is not installed: pip install torchvision") from error
        if module != missing and not module.startswith(f"{missing}."):
            raise UserError(f"the module {module} imports {missing}, which is not installed: install it") from error
        package, _, name = missing.rpartition(".")
        folders = getattr(sys.modules.get(package), "__path__", []) if package else None
        siblings = [each.name for each in pkgutil.iter_modules(folders)]
        hint = _hint(name, siblings, f"{package}." if package else "")
        where = "" if package else ", neither installed nor in this folder"
        raise UserError(f"there is no module {missing!r}{where}{hint}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"the module {module} must be importable, and it failed with {_failure(error)}") from error


def _call(target: str, factory: Callable[..., Any], options: dict[str, Any], device: str) -> Any:
    def refuse(url: str, *_: Any, **__: Any) -> NoReturn:
        raise _WantsDownload(url)

    download = torch.hub.download_url_to_file
    torch.hub.download_url_to_file = refuse
    try:
        with quiet(), torch.device(device):
            return factory(**options)
    except _WantsDownload as wish:
        raise UserError(
            f"{target} must build its model without a download, since weights make no difference here, and it wants "
            f"{wish}; turn its weights off, with --option weights=None or as it calls them"
        ) from wish
    finally:
        torch.hub.download_url_to_file = download


# What goes with it


def call_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a value that is no Python literal is a text."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals):
            raise UserError(f"--option must be NAME=VALUE, such as aux_logits=False, got {text!r}")
        if name in options:
            raise UserError(f"--option must give an argument once, got {name} twice")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            options[name] = value
    return options


def input_size(texts: Sequence[str]) -> InputSize:
    """Read two or three whole numbers, with spaces or commas between them."""
    numbers = words(",".join(texts))
    if len(numbers) not in (2, 3) or not all(text.isdecimal() and len(text) < 7 and int(text) for text in numbers):
        raise UserError(
            "--input-size must be height and width, such as 256 128, or channels, height and width, got "
            f"{' '.join(texts)!r}"
        )
    size: Any = tuple(map(int, numbers))
    return size  # type: ignore[no-any-return]


def with_channels(size: InputSize) -> tuple[int, int, int]:
    """Return (channels, height, width)."""
    return size if len(size) == 3 else (3, *size)


def apnet_levels(text: str) -> int | tuple[int, ...]:
    """Read a count of levels, or with commas the parts of each."""
    try:
        numbers = tuple(map(int, words(text)))
    except ValueError:
        numbers = ()
    if not numbers:
        raise UserError(
            f"--levels of apnet must be a count, such as 2, or the parts of each level, such as 1,2,4, got {text!r}"
        )
    return numbers if "," in text else numbers[0]


def attention(text: str) -> Any:
    """Read a registered name, one of timm's (timm:cbam) or module:callable, or with commas one for each level."""
    built = [word if word.startswith(PREFIX) else load(word) if ":" in word else word for word in words(text)]
    return built if "," in text else (built or [()])[0]


def words(text: str) -> tuple[str, ...]:
    """Split at commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


# What is said about it


@contextmanager
def quiet() -> Iterator[None]:
    """Keep stdout and stderr for the answer: what others print, and their warnings, go nowhere."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())


def as_typed(text: str) -> str:
    """Say with the options of the command line what the library says with its arguments."""
    for pattern, typed in _TYPED:
        text = re.sub(pattern, typed, text)
    return _VALUE.sub(lambda found: f"--{found[1]} {found[2].translate(_UNQUOTED)}", text)


def _failure(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def _arguments(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no arguments"


def _kind(found: Any) -> str:
    return f"a model, {type(found).__name__}" if isinstance(found, nn.Module) else reprlib.repr(found)


def _hint(name: str, names: Sequence[str], prefix: str = "") -> str:
    near = [repr(prefix + each) for each in nearest(name, names, cutoff=0.7)]
    return f": did you mean {' or '.join(near)}?" if near else ""


def _some(names: Sequence[str], most: int = 6) -> str:
    return f": it has {', '.join(names[:most])}{', …' if len(names) > most else ''}" if names else ""
