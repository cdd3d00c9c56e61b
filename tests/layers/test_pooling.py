"""pool_beside is the map and its average, to every order of derivative and under torch.func."""

import torch

from attnreid.layers import SqueezeExcitation
from attnreid.layers._pooling import pool_beside
from tests.layers import support


def plain(x):
    return x, x.mean(dim=(2, 3), keepdim=True)


def gated(pool):
    def function(x):
        y, averages = pool(x)
        return y * averages.sigmoid()

    return function


def test_the_map_and_its_average():
    x = support.random_map(2, 3, 4, 2).requires_grad_()
    y, averages = pool_beside(x)
    assert torch.equal(y, x)
    assert torch.equal(averages, plain(x)[1])


def test_gradients_of_first_and_second_order():
    x = support.random_map(2, 3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(gated(pool_beside), x)
    assert torch.autograd.gradgradcheck(gated(pool_beside), x)
    cotangent = support.random_map(2, 3, 4, 2, seed=5)
    [got] = torch.autograd.grad(gated(pool_beside)(x), x, cotangent)
    [wanted] = torch.autograd.grad(gated(plain)(x), x, cotangent)
    support.assert_close(got, wanted, 1e-14)


def test_forward_mode():
    x, tangent = support.random_map(3, 4, 4, 2).requires_grad_(), support.random_map(3, 4, 4, 2, seed=4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        moved = torch.autograd.forward_ad.unpack_dual(gated(pool_beside)(dual)).tangent
    step = 1e-6 * tangent
    support.assert_close(moved, (gated(plain)(x + step) - gated(plain)(x - step)) / 2e-6, 1e-7)


def test_torch_func():
    layer, x = SqueezeExcitation(4).double(), support.random_map(3, 4, 4, 2).requires_grad_()
    each = torch.func.vmap(torch.func.grad(lambda image: layer(image[None]).square().sum()))(x)
    [whole] = torch.autograd.grad(layer(x).square().sum(), x)
    support.assert_close(each, whole, 1e-12)


def test_backward_makes_one_map_where_autograd_makes_three():
    def maps_made(pool):
        x = torch.rand(2, 3, 8, 8, requires_grad=True)
        y, averages = pool(x)
        made = 0

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                nonlocal made
                out = function(*args, **(kwargs or {}))
                alias = any(out is a or (isinstance(a, torch.Tensor) and out._base is a) for a in args)
                made += isinstance(out, torch.Tensor) and out.numel() == x.numel() and not alias and _owns(out)
                return out

        with Watch():
            torch.autograd.grad([y, averages], x, [torch.ones_like(x), torch.ones(2, 3, 1, 1)])
        return made - 1  # ones_like is ours

    def _owns(tensor):
        return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()

    assert maps_made(pool_beside) == 1
    assert maps_made(plain) > 1
