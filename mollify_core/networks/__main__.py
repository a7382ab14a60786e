"""`python -m mollify_core.networks`: a table of every network's parameters and multiply-adds per image."""

import sys

from mollify_core.networks.costs import describe
from mollify_core.program import Parser, guarded


def main() -> int:
    parser = Parser(prog="python -m mollify_core.networks", description=__doc__)
    parser.add_argument("--classes", type=int, default=10, help="number of outputs (default: %(default)s)")
    parser.add_argument("--side", type=int, default=32, help="image side in pixels (default: %(default)s)")
    args = parser.parse_args()
    costs = describe(args.classes, (3, args.side, args.side))
    print(f"{'network':<14}{'parameters':>14}{'multiply-adds':>18}")
    for cost in costs:
        print(f"{cost.name:<14}{cost.parameters:>14,}{cost.multiply_adds:>18,}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
