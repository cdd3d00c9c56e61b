"""Attention and the wrappers that train on many processes: before them it works, after them it is refused."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attnreid import attach_apnet, attach_mla, attach_se
from attnreid.backbones import attach, attachments, find_sites
from tests.backbones.test_converters import SIZE, attention_runs, images, plain

CALLS: list[Callable[[nn.Module], Any]] = [
    lambda model: find_sites(model, SIZE),
    lambda model: attach(model, "se", "layer4", input_size=SIZE),
    lambda model: attach_apnet(model, input_size=SIZE),
    lambda model: attach_apnet(model, input_size=SIZE, variant="released"),
    lambda model: attach_mla(model, input_size=SIZE),
    attach_se,
]
REFUSAL = r"attach.* before .*wrapped .*in {}.*plain model .*then wrap"


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("there is no process group of its own to be had")
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", f"file://{Path(store)}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class OneOfItsKind(DistributedDataParallel):
    pass


@pytest.mark.parametrize("kind", [DistributedDataParallel, OneOfItsKind])
def test_a_model_in_distributed_data_parallel_is_refused(kind: type[DistributedDataParallel]) -> None:
    model = plain()
    together = kind(model)
    for call in CALLS:
        with pytest.raises(ValueError, match=REFUSAL.format("DistributedDataParallel")):
            call(together)
    for inside in (model, model.layer4):
        with pytest.raises(ValueError, match=REFUSAL.format("DistributedDataParallel, as this one is")):
            attach(inside, "se", "*", input_size=SIZE)
    assert attachments(model) == []
    del together
    attach_se(model)  # nobody wraps it any more


def test_data_parallel_copies_what_is_attached_later() -> None:
    model = plain()
    together = nn.DataParallel(model)
    before = together(images())
    with pytest.raises(ValueError, match="inside it, at 'module'"):
        attach_apnet(together, input_size=SIZE)
    attach_apnet(model, input_size=SIZE)
    assert not torch.equal(together(images()), before)


def shard(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model.layer4[0].bn2)
    fully_shard(model.layer4)
    fully_shard(model)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model.train()(images(4)).square().sum().backward()
    optimizer.step()
    model.eval()


@pytest.mark.filterwarnings("ignore")
def test_attention_works_under_fully_shard_and_comes_out_of_it() -> None:
    pytest.importorskip("torch.distributed.fsdp", reason="this torch has no FSDP")
    model = plain()
    handle = attach_se(model)
    alone = copy.deepcopy(model)
    shard(model)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, alone)]
    assert torch.equal(model(images()), alone(images()))
    assert attention_runs(model) == len(handle.sites)
    for one, optimizer in zip((model, alone), optimizers, strict=True):
        step(one, optimizer)
    torch.testing.assert_close(model(images()), alone(images()))
    assert len(str(handle).splitlines()) == len(handle.sites) + 2
    host = model.layer4[0].bn2
    handle.remove()
    attachments(alone)[0].remove()
    assert model.layer4[0].bn2 is host
    assert type(host).__name__ == "FSDPBatchNorm2d"
    assert "FSDPModule" in {cls.__name__ for cls in type(host).__mro__}
    torch.testing.assert_close(model(images()), alone(images()))
    for one, optimizer in zip((model, alone), optimizers, strict=True):
        step(one, optimizer)
    torch.testing.assert_close(model(images()), alone(images()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_a_sharded_model_is_refused(call: Callable[[nn.Module], Any]) -> None:
    pytest.importorskip("torch.distributed.fsdp", reason="this torch has no FSDP")
    model = shard(plain())
    for one in (model, nn.ModuleList([model]), model.layer3):
        with pytest.raises(ValueError, match=REFUSAL.format("fully_shard")):
            call(one)
