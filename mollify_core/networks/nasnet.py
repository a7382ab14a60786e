"""NASNet-A for small images (Zoph et al. 2018, arXiv:1707.07012)."""

import torch
from torch import nn
from torch.nn import functional as F

from mollify_core.networks.layers import classifier, conv_bn

CELLS = 4
FILTERS = (44, 88, 176)


def nasnet(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """NASNet-A: four normal cells per width 44, 88, 176, a reduction cell between, PyTorch's default initialisation.

    887,568 of its parameters never get a gradient: each cell allocates both ways of adapting the map before its
    input and uses at most one (released code of Heinonen et al. 2025). So data-parallel training of it must be told
    to look for unused parameters.

    Args:
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    return nn.Sequential(_Cells(image_shape[0]), *classifier(6 * FILTERS[-1], num_classes))


class _Cells(nn.Module):
    """Stem and cells, each cell fed by the two maps before it: (batch, channels, height, width) -> last map, rectified.

    Every use of a cell's output rectifies it first, so a cell rectifies it itself, once and in place. Of the stem's
    output, two of the three uses (`before` of the first two cells) take it as it is.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(in_channels, FILTERS[0], 3))
        self.cells = nn.ModuleList()
        now, before, halved = FILTERS[0], FILTERS[0], False
        for i, filters in enumerate(FILTERS):
            if i > 0:
                self.cells.append(_ReductionCell(now, before, filters))
                now, before, halved = 4 * filters, now, True
            for _ in range(CELLS):
                self.cells.append(_NormalCell(now, before, filters, halved))
                now, before, halved = 6 * filters, now, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        now, before = self.cells[0](F.relu(stem), stem), stem
        for cell in self.cells[1:]:
            now, before = cell(now, before), now
        return now


class _NormalCell(nn.Module):
    """Keeps the map size; 6 `filters` outputs."""

    def __init__(self, now: int, before: int, filters: int, halved: bool) -> None:
        super().__init__()
        self.squeeze = _conv_bn(now, filters, bias=False)
        self.adapt = _Adapter(before, filters, halved)
        self.h3, self.p3a, self.p3b = (_separable(filters, 3, 1, first_bias=False) for _ in range(3))
        self.h5, self.p5 = (_separable(filters, 5, 1, first_bias=False) for _ in range(2))

    def forward(self, now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        h, p = self.squeeze(now), self.adapt(before)
        h_relu, p_relu = F.relu(h), F.relu(p)
        h_mean, p_mean = F.avg_pool2d(h, 3, 1, 1), F.avg_pool2d(p, 3, 1, 1)
        parts = [
            p,
            self.h3(h_relu) + h,
            self.p3a(p_relu) + self.h5(h_relu),
            h_mean + h,
            2 * p_mean,
            self.p5(p_relu) + self.p3b(p_relu),
        ]
        return torch.cat(parts, dim=1).relu_()


class _ReductionCell(nn.Module):
    """Halves the map size; 4 `filters` outputs."""

    def __init__(self, now: int, before: int, filters: int) -> None:
        super().__init__()
        self.squeeze = _conv_bn(now, filters, bias=True)
        self.adapt = _Adapter(before, filters, halved=False)
        self.p7a, self.p7b = (_separable(filters, 7, 2, first_bias=True) for _ in range(2))
        self.h5, self.p5 = (_separable(filters, 5, 2, first_bias=True) for _ in range(2))
        self.r3 = _separable(filters, 3, 1, first_bias=True)

    def forward(self, now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        h, p = self.squeeze(now), self.adapt(before)
        h_relu, p_relu = F.relu(h), F.relu(p)
        h_max = F.max_pool2d(h, 3, 2, 1)
        r1 = self.p7a(p_relu) + self.h5(h_relu)
        r2 = h_max + self.p7b(p_relu)
        r3 = F.avg_pool2d(h, 3, 2, 1) + self.p5(p_relu)
        parts = [r2, r3, h_max + self.r3(F.relu(r1)), F.avg_pool2d(r1, 3, 1, 1) + r2]
        return torch.cat(parts, dim=1).relu_()


class _Adapter(nn.Module):
    """Brings the map before a cell's input to the cell's width, and to half its size when `halved`."""

    def __init__(self, in_channels: int, filters: int, halved: bool) -> None:
        super().__init__()
        self.halved, self.same = halved, in_channels == filters
        self.even = nn.Conv2d(in_channels, filters // 2, 1, stride=2)
        self.odd = nn.Conv2d(in_channels, filters // 2, 1, stride=2)
        self.bn = nn.BatchNorm2d(filters)
        self.project = _conv_bn(in_channels, filters, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.halved:
            return self.bn(torch.cat([self.even(x), self.odd(_drop_first(x))], dim=1))
        return x if self.same else self.project(x)


def _drop_first(x: torch.Tensor) -> torch.Tensor:
    """`x` without its first row and column; maps of odd side get a row and column of zeros at the far end instead."""
    odd = x.shape[-1] % 2
    return F.pad(x, (-1, odd, -1, odd)) if odd else x[:, :, 1:, 1:]


def _conv_bn(in_channels: int, out_channels: int, *, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=bias), nn.BatchNorm2d(out_channels))


def _separable(channels: int, kernel: int, stride: int, *, first_bias: bool) -> nn.Sequential:
    """Depthwise, pointwise, batch norm, twice, with a ReLU between; the caller applies the one before."""

    def half(stride: int, bias: bool) -> list[nn.Module]:
        depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=bias)
        return [depthwise, nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)]

    return nn.Sequential(*half(stride, first_bias), nn.ReLU(inplace=True), *half(1, True))
