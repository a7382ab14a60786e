"""`python -m mollify_core.networks`: a table of every network's parameters and multiply-adds per image."""

import sys
from collections.abc import Sequence

from mollify_core.networks import own
from mollify_core.networks.costs import Cost, cost, describe
from mollify_core.program import Parser, guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    return guarded(lambda: _run(argv))


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(prog="python -m mollify_core.networks", description=__doc__)
    p.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="these alone; also torchvision/NAME, timm/NAME where timm is installed, and FILE.py:FACTORY or "
        "MODULE:FACTORY of your own (default: all built-in ones)",
    )
    p.add_argument(
        "--network-kwargs", nargs="*", default=[], metavar="NAME=VALUE", help="further arguments of these networks"
    )
    p.add_argument("--classes", type=int, default=10, help="number of outputs (default: %(default)s)")
    p.add_argument("--image-size", type=int, default=32, metavar="N", help="pixels a side (default: %(default)s)")
    return p


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    shape = (3, args.image_size, args.image_size)
    if args.names:
        costs = [_cost(name, args.classes, shape, args.network_kwargs) for name in args.names]
    else:
        costs = describe(args.classes, shape)
    width = max(14, *(len(found.name) + 2 for found in costs))
    print(f"{'network':<{width}}{'parameters':>14}{'multiply-adds':>18}")
    for found in costs:
        print(f"{found.name:<{width}}{found.parameters:>14,}{found.multiply_adds:>18,}")
    return 0


def _cost(name: str, classes: int, shape: tuple[int, int, int], given: list[str]) -> Cost:
    if not own.is_own(name):
        return cost(name, classes, shape, given)
    settings = own.named(name)
    return cost(settings["network"], classes, shape, given, settings["network_sha256"])


if __name__ == "__main__":
    sys.exit(main())
