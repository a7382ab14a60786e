"""`python -m mollify_core.networks`: a table of every network's parameters and multiply-adds per image."""

import sys

from mollify_core.networks.costs import cost, describe
from mollify_core.program import Parser, guarded


def main() -> int:
    parser = Parser(prog="python -m mollify_core.networks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="these alone; also torchvision/NAME, and timm/NAME where timm is installed (default: all built-in ones)",
    )
    parser.add_argument(
        "--network-kwargs", nargs="*", default=[], metavar="K=V", help="arguments of a library's network"
    )
    parser.add_argument("--classes", type=int, default=10, help="number of outputs (default: %(default)s)")
    parser.add_argument("--side", type=int, default=32, help="image side in pixels (default: %(default)s)")
    args = parser.parse_args()
    shape = (3, args.side, args.side)
    if args.names:
        costs = [cost(name, args.classes, shape, args.network_kwargs) for name in args.names]
    else:
        costs = describe(args.classes, shape)
    width = max(14, *(len(found.name) + 2 for found in costs))
    print(f"{'network':<{width}}{'parameters':>14}{'multiply-adds':>18}")
    for found in costs:
        print(f"{found.name:<{width}}{found.parameters:>14,}{found.multiply_adds:>18,}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
