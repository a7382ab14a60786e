"""The nineteen corruptions, batched, against the package imagecorruptions, which goes image by image; one CPU thread.

    uv run python benchmarks/corruptions.py [--batch 256] [--rounds 5] [--types fog,snow]

Both make all five severities of the same images of 32 pixels. The package (imagecorruptions-imaug, of the extra
`corruptions`) has ImageNet-C's strengths, not CIFAR-C's, and its own variants of some algorithms: the figures compare
the work of making such a set, not equal pixels.

Found on one core of an AMD EPYC (AVX-512, shared with other work), torch 2.15, imagecorruptions-imaug 1.1.5, CPU time,
medians of 5 interleaved rounds, images/s with the range of the ratios:

    gaussian_noise        68,849 against  10,836:    6.2x (4.9 to 6.6)
    shot_noise            21,036 against   4,837:    4.4x (2.2 to 8.7)
    impulse_noise         64,016 against  10,931:    5.9x (5.3 to 6.2)
    defocus_blur          51,432 against   6,138:    8.3x (5.0 to 9.7)
    glass_blur            20,040 against   3,155:    6.4x (4.6 to 8.6)
    motion_blur           39,743 against   1,485:   26.6x (24.5 to 35.2)
    zoom_blur             72,243 against     690:  103.1x (89.7 to 107.5)
    snow                  27,727 against   1,980:   14.7x (13.8 to 15.1)
    frost                 55,736 against     193:  306.0x (172.6 to 390.5)
    fog                  104,667 against   3,475:   29.9x (28.5 to 32.0)
    brightness           377,389 against   3,153:  119.1x (118.0 to 129.3)
    contrast             490,192 against  21,103:   23.2x (23.0 to 23.6)
    elastic_transform     28,353 against   3,317:    8.6x (8.0 to 8.9)
    pixelate             153,000 against  36,480:    4.2x (4.1 to 4.4)
    jpeg_compression      26,323 against   9,900:    2.6x (2.6 to 2.7)
    speckle_noise         93,548 against  15,752:    6.0x (5.7 to 6.4)
    gaussian_blur         68,931 against   9,745:    7.0x (6.9 to 7.5)
    spatter               25,520 against   5,139:    4.9x (4.6 to 5.5)
    saturate             163,233 against   3,056:   54.4x (49.0 to 54.5)

10,000 images x 15 x 5 take 0.28 against 8.13 CPU minutes (29x), x 19 x 5 0.34 against 8.70 (26x).
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.augment import pictures
from benchmarks.timing import compare
from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, SEVERITIES
from mollify_core.corruptions.suite import corrupt

SET = 10_000  # images of a test set


def ours(images: Tensor, name: str) -> list[Tensor]:
    return [corrupt(images, name, severity) for severity in SEVERITIES]


def package(images: np.ndarray, name: str) -> list[np.ndarray]:
    """The same of images (n, height, width, channels) by imagecorruptions."""
    import imagecorruptions

    return [imagecorruptions.corrupt(image, severity, name) for severity in SEVERITIES for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--types", default=",".join(CORRUPTIONS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = pictures(args.batch, 32)
    rows = images.permute(0, 2, 3, 1).contiguous().numpy()
    made = args.batch * len(SEVERITIES)
    print(f"{args.batch} images, 32 px, five severities, one CPU thread, medians of {args.rounds}; images/s")
    seconds: dict[str, tuple[float, float]] = {}  # per image: ours, the package's
    for name in args.types.split(","):
        result = compare(partial(ours, images, name), partial(package, rows, name), args.rounds)
        seconds[name] = result.ours / made, result.reference / made
        mine, theirs = (1 / s for s in seconds[name])
        ratio = f"{result.ratio:6.1f}x ({result.low:.1f} to {result.high:.1f})"
        print(f"{name:18s} {mine:9,.0f} against {theirs:7,.0f}: {ratio}")
    for title, names in (("benchmark", BENCHMARK), ("with the extra four", CORRUPTIONS)):
        if set(names) <= seconds.keys():
            mine, theirs = (sum(seconds[name][side] for name in names) * SET * len(SEVERITIES) / 60 for side in (0, 1))
            work = f"{SET:,} images x {len(names)} x {len(SEVERITIES)}"
            print(f"{title}, {work}: {mine:.2f} against {theirs:.2f} CPU minutes, {theirs / mine:.1f}x")


if __name__ == "__main__":
    main()
