"""pool_beside is the map and its moments, to every order of derivative and under torch.func."""

import pytest
import torch

from attnreid.layers._pooling import pool_beside
from tests.layers import support

BOTH = pytest.mark.parametrize("variance", [False, True])


def moments(x, variance):
    y, found = pool_beside(x, variance=variance)
    return y, found.mean, found.variance if variance else None


def plain(x, variance):
    mean = x.sum(dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    return x, mean, (x - mean).pow(2).sum(dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3]) if variance else None


def gated(pool, variance):
    """A map that its own moments gate."""

    def function(x):
        y, mean, second = pool(x, variance)
        return y * mean.sigmoid() + (second.log() * y if variance else 0)

    return function


@BOTH
@pytest.mark.parametrize("learning", [False, True])
def test_the_map_and_its_moments(variance, learning):
    x = support.random_map(2, 3, 4, 2).requires_grad_(learning)
    got, wanted = moments(x, variance), plain(x, variance)
    assert torch.equal(got[0], x)
    support.assert_close(got[1], wanted[1], 1e-14)
    if variance:
        support.assert_close(got[2], wanted[2], 1e-14)


@BOTH
def test_gradients_of_first_and_second_order(variance):
    x = support.random_map(2, 3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(gated(moments, variance), x)
    assert torch.autograd.gradgradcheck(gated(moments, variance), x)
    cotangent = support.random_map(2, 3, 4, 2, seed=5)
    [got] = torch.autograd.grad(gated(moments, variance)(x), x, cotangent)
    [wanted] = torch.autograd.grad(gated(plain, variance)(x), x, cotangent)
    support.assert_close(got, wanted, 1e-14)


@BOTH
def test_forward_mode(variance):
    x, tangent = support.random_map(3, 4, 4, 2).requires_grad_(), support.random_map(3, 4, 4, 2, seed=4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        moved = torch.autograd.forward_ad.unpack_dual(gated(moments, variance)(dual)).tangent
    step = 1e-6 * tangent
    there, back = (gated(plain, variance)(x + sign * step) for sign in (1, -1))
    support.assert_close(moved, (there - back) / 2e-6, 1e-7)


@BOTH
def test_torch_func(variance):
    x = support.random_map(3, 4, 4, 2).requires_grad_()

    def loss(image):
        return gated(moments, variance)(image[None]).square().sum()

    each = torch.func.vmap(torch.func.grad(loss))(x)
    [whole] = torch.autograd.grad(gated(plain, variance)(x).square().sum(), x)
    support.assert_close(each, whole, 1e-12)


@pytest.mark.parametrize("differentiated", [False, True])
def test_a_map_far_from_zero_keeps_its_variance(differentiated):
    x = (support.random_map(4, 4, 8, 8) + 3000).float()
    _, _, variance = moments(x.clone().requires_grad_(differentiated), True)
    # As a difference of squares it would be off by more than itself.
    support.assert_close(variance.detach(), x.double().var(dim=(2, 3), keepdim=True, correction=0), 1e-4)


def test_backward_makes_one_map_where_autograd_makes_more():
    def maps_made(pool):
        x = torch.rand(2, 3, 8, 8, requires_grad=True)
        y, mean = pool(x)
        made = 0

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                nonlocal made
                out = function(*args, **(kwargs or {}))
                # An expanded view has the numbers of a map and the memory of an average.
                made += out.numel() == x.numel() and out.untyped_storage().nbytes() >= x.nbytes
                return out

        ones = torch.ones_like(x), torch.ones(2, 3, 1, 1)
        with Watch():
            torch.autograd.grad([y, mean], x, ones)
        return made

    assert maps_made(lambda x: moments(x, False)[:2]) == 1
    assert maps_made(lambda x: (x.view_as(x), x.mean(dim=(2, 3), keepdim=True))) > 1
