"""Statistics over chunks of the batch against a copy of the network a device; over processes against one process."""

import copy
import pickle

import pytest
import timm
import torch
from torch import multiprocessing, nn

from attnreid import attach_apnet, attach_mla, attach_se, attachments
from reference_pipelines.config.sections import ModelConfig
from reference_pipelines.distributed.batch_statistics import set_batch_statistics, share_running_statistics
from reference_pipelines.errors import UserError
from reference_pipelines.models import ReidModel, build_backbone
from tests.conftest import made_once, says
from tests.distributed import ranks
from tests.oracles import batch_statistics as oracle

SIZE = (64, 32)
ATTENTION = {
    "APNet-C2": lambda model: attach_apnet(model, "se", levels=2, input_size=SIZE),
    "APNet-S2": lambda model: attach_apnet(model, "rga_s", levels=2, input_size=SIZE),
    "APNet released": lambda model: attach_apnet(model, levels=2, variant="released", input_size=SIZE),
    "SE in every block": attach_se,
    "MLA": lambda model: attach_mla(model, input_size=SIZE),
}


def whole_network(attention):
    torch.manual_seed(0)
    backbone, width, *_ = build_backbone(ModelConfig("resnet_demo", "none"))
    ATTENTION[attention](backbone)
    model = ReidModel(backbone, width).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.rand_like(parameter))
    return model


class Features(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).features


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def assert_near(got, wanted, tolerance=1e-10):
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("devices", "images"), [(2, 6), (3, 8)], ids=["even", "uneven"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_network_on_one_device_steps_as_on_many(attention, devices, images):
    model = Features(whole_network(attention))
    batch = torch.randn(images, 3, *SIZE, dtype=torch.float64)
    weights = torch.randn(images, model.model.neck.num_features, dtype=torch.float64)

    def loss(outputs):
        return (outputs * weights).sum()

    wanted, gradients, state = oracle.data_parallel_step(model, batch, devices, loss)
    plain = copy.deepcopy(model)(batch)
    assert (plain - wanted).abs().max() > 0.1
    set_batch_statistics(model, devices)
    outputs = model(batch)
    loss(outputs).backward()
    assert_near(outputs, wanted)
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert_near(parameter.grad, gradients[name], 1e-9)
    assert list(model.state_dict()) == list(state)
    for name, value in model.state_dict().items():
        assert_near(value, state[name])


def test_timm_s_norms_step_as_on_many_devices():
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=0, drop_rate=0).double()
    plain = {type(norm) for norm in norms(model)}
    assert any(issubclass(kind, timm.layers.BatchNormAct2d) for kind in plain)
    batch = torch.randn(6, 3, 96, 64, dtype=torch.float64)
    weights = torch.randn(6, model.num_features, dtype=torch.float64)[:, :1]

    def loss(outputs):
        return (outputs * weights).sum()

    wanted, gradients, state = oracle.data_parallel_step(model, batch, 2, loss)
    set_batch_statistics(model, 2)
    outputs = model(batch)
    loss(outputs).backward()
    assert_near(outputs, wanted)
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert_near(parameter.grad, gradients[name], 1e-9)
    for name, value in model.state_dict().items():
        assert_near(value, state[name])
    assert {type(norm) for norm in norms(set_batch_statistics(model, 1))} == plain


@pytest.mark.parametrize("attention", ["APNet-S2", "MLA"])
def test_eval_mode_is_untouched_bit_for_bit(attention):
    model, images = whole_network(attention).eval(), torch.randn(3, 3, *SIZE, dtype=torch.float64)
    wanted = model(images).features
    assert torch.equal(set_batch_statistics(model, 2)(images).features, wanted)


def norm_and_batch(shape):
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    norm = kind(shape[1], momentum=0.3).double()
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    return norm, torch.randn(shape, dtype=torch.float64) * 3 + 1


@pytest.mark.parametrize("shape", [(8, 3, 4, 2), (7, 3, 1, 2), (3, 2, 2, 2), (8, 5), (6, 5, 4)])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_norm_equals_the_formula_chunk_by_chunk(shape, momentum):
    norm, batch = norm_and_batch(shape)
    norm.momentum = momentum
    set_batch_statistics(norm, 4)
    flat = batch.flatten(2) if len(shape) > 2 else batch[:, :, None]
    for step in (1, 2):
        chunks = [oracle.batch_norm(part, norm.weight, norm.bias, norm.eps) for part in (step * flat).chunk(4)]
        share = 1 / step if momentum is None else momentum
        wanted = [(1 - share) * kept + share * new for kept, new in zip(statistics(norm), chunks[0][1:], strict=True)]
        assert_near(norm(step * batch), torch.cat([chunk[0] for chunk in chunks]).view(shape))
        for got, value in zip(statistics(norm), wanted, strict=True):
            assert_near(got, value)
    assert norm.num_batches_tracked == 2


def statistics(norm):
    return [norm.running_mean.clone(), norm.running_var.clone()]


def test_two_chunks_by_hand():
    norm = set_batch_statistics(nn.BatchNorm1d(1, eps=1e-12), 2)
    assert norm(torch.tensor([[0.0], [2.0], [10.0], [14.0]])).flatten().tolist() == pytest.approx([-1, 1, -1, 1])
    assert norm.running_mean.item() == pytest.approx(0.1 * 1)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 2)


def test_a_norm_without_weights_or_statistics_is_chunked_too():
    norm = set_batch_statistics(nn.BatchNorm1d(1, eps=1e-12, affine=False, track_running_stats=False), 2)
    assert norm(torch.tensor([[0.0], [2.0], [10.0], [14.0]])).flatten().tolist() == pytest.approx([-1, 1, -1, 1])


def test_every_norm_changes_class_and_can_change_back():
    model = whole_network("APNet released")
    plain, names = [type(norm) for norm in norms(model)], list(model.state_dict())
    kept = norms(model)
    assert set_batch_statistics(model, 2) is model
    assert all(norm.chunks == 2 and "chunks=2" in repr(norm) for norm in norms(model))
    assert all(one is other for one, other in zip(norms(model), kept, strict=True))
    assert list(model.state_dict()) == names
    assert [type(norm) for norm in norms(set_batch_statistics(model, 1))] == plain


def test_attention_on_norms_stays_and_comes_out_of_the_chunked_norms():
    model = whole_network("SE in every block")
    images = torch.randn(8, 3, *SIZE, dtype=torch.float64)
    handle = attachments(model)[0]
    for chunks in (2, 1, 4):
        set_batch_statistics(model, chunks)
        hosts = [model.get_submodule(site.name) for site in handle.sites]
        assert all(getattr(host, "chunks", 1) == chunks or chunks == 1 for host in hosts)
        calls = []
        hooks = [host.attention.register_forward_hook(lambda *_, calls=calls: calls.append(1)) for host in hosts]
        model(images)
        for hook in hooks:
            hook.remove()
        assert len(calls) == len(hosts)
    twin = pickle.loads(pickle.dumps(model)).eval()
    assert torch.equal(twin(images).features, model.eval()(images).features)
    handle.remove()
    assert not attachments(model)
    assert all(norm.chunks == 4 for norm in norms(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_the_chunks_and_are_independent(copied):
    norm, batch = norm_and_batch((6, 3, 2, 2))
    set_batch_statistics(norm, 3)
    other = copied(norm)
    assert torch.equal(other(batch), norm(batch))
    set_batch_statistics(other, 2)
    assert norm.chunks == 3


def test_it_compiles_without_a_break():
    norm, batch = norm_and_batch((6, 3, 2, 2))
    set_batch_statistics(norm, 4)
    twin = copy.deepcopy(norm)
    assert_near(torch.compile(norm, fullgraph=True, backend="aot_eager")(batch), twin(batch))
    assert torch.equal(norm.running_mean, twin.running_mean)


def test_half_precision_with_single_precision_weights():
    norm, batch = norm_and_batch((6, 3, 2, 2))
    set_batch_statistics(norm.float(), 2)
    got = norm(batch.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), norm(batch.float()), atol=0.05, rtol=0.05)


def test_refusals():
    norm = set_batch_statistics(nn.BatchNorm2d(2), 2)
    with pytest.raises(UserError, match=r"2 values a channel, got .*\(1, 2, 1, 1\) .*--model\.bn_chunks"):
        norm(torch.randn(3, 2, 1, 1))
    assert norm.num_batches_tracked == 0
    with pytest.raises(ValueError, match="chunks .*1, got 0"):
        set_batch_statistics(norm, 0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm3d(2))
    with pytest.raises(ValueError, match=r"BatchNorm1d, BatchNorm2d or made of them, got '1' \(BatchNorm3d\)"):
        set_batch_statistics(model, 2)
    assert type(model[0]) is nn.BatchNorm2d
    with pytest.raises(UserError, match=r"model\.bn_chunks .*1, got 0"):
        ModelConfig(bn_chunks=0)


# chunks of the global batch of 8, and how many of its images the first of the two processes has
SHARES = {
    "synchronised": (1, 4),
    "synchronised, uneven": (1, 5),
    "synchronised, one share empty": (1, 8),
    "each its own": (2, 4),
    "chunks within each": (4, 4),
}


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    def make(folder):
        multiprocessing.spawn(ranks.run, args=(str(folder), SHARES), nprocs=2)

    folder = made_once(tmp_path_factory, "batch_statistics_of_two_processes", make)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def on_one_process(chunks):
    model = set_batch_statistics(ranks.network(), chunks)
    outputs, of_images = ranks.step(model, *ranks.batch())
    return outputs, of_images, {name: parameter.grad for name, parameter in model.named_parameters()}, model


@pytest.mark.parametrize("case", SHARES)
def test_two_processes_are_one(of_two_processes, case):
    outputs, of_images, gradients, model = on_one_process(SHARES[case][0])
    shares = [saved[case] for saved in of_two_processes]
    assert_near(torch.cat([share[0] for share in shares]), outputs)
    assert_near(torch.cat([share[1] for share in shares]), of_images)
    for _, _, got, state in shares:
        for name, gradient in gradients.items():
            assert_near(got[name], gradient)
        assert list(state) == list(model.state_dict())
        for name, value in model.state_dict().items():
            assert_near(state[name], value)


def test_the_cases_differ():
    whole, halves, quarters = (on_one_process(chunks)[0] for chunks in (1, 2, 4))
    assert (whole - halves).abs().max() > 0.1
    assert (halves - quarters).abs().max() > 0.1


def test_distributed_data_parallel_takes_synchronised_norms_on_the_cpu(of_two_processes):
    gradients = on_one_process(1)[2]
    for saved in of_two_processes:
        for name, gradient in gradients.items():
            assert_near(saved["ddp"][name], gradient)


def test_chunks_that_the_processes_do_not_divide_are_refused(of_two_processes):
    for saved in of_two_processes:
        assert says(saved["refusal"], "1 or a multiple of the number of processes", "got 3 with 2 processes")


def test_one_process_has_nothing_to_share():
    norm, batch = norm_and_batch((6, 3, 2, 2))
    norm(batch)
    before = norm.running_mean.clone()
    share_running_statistics(norm)
    assert torch.equal(norm.running_mean, before)
