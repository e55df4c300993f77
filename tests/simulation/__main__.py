"""One seed with its whole trace, or many: python -m tests.simulation [ERA:]SEED [COUNT]."""

from __future__ import annotations

import sys
import time
from collections import Counter

from tests.simulation.world import ERA, World


def main(first: int, count: int, era: int) -> int:
    began, coverage, failed = time.process_time(), Counter[str](), 0
    for seed in range(first, first + count):
        report = World(seed, era=era, keep_all=count == 1).run()
        coverage.update(report.coverage)
        if count == 1:
            print("\n".join(report.trace))  # noqa: T201
        if report.problems:
            failed += 1
            print(report.text)  # noqa: T201
    print(  # noqa: T201
        f"{count} seeds, {failed} failed, {time.process_time() - began:.1f} s of a processor",
        dict(sorted(coverage.items())),
    )
    return 1 if failed else 0


if __name__ == "__main__":
    era, _, first = sys.argv[1].rpartition(":")
    sys.exit(main(int(first), int(sys.argv[2]) if len(sys.argv) > 2 else 1, int(era or ERA)))
