"""How fast ipam decides, and how fast grants come through the bus: `python -m bench.ipam [--quick]`.

Wanted: at most 20 µs per decision, flat over exclusions and fill. The naive allocator runs in the same process, on
the same state; the anchor's own figures, measured with its own benchmark on a machine of this kind, stand as text.
"""

import argparse
import time

from bench import burst, decisions
from bench.decisions import Row
from bench.figures import Table, duration, median, worst_of_99
from services._runtime import logs

WANTED_SECONDS = 20e-6
ANCHOR = (
    "the anchor's allocator, measured elsewhere on a machine of this kind: 2 µs without exclusions, "
    "1.5 ms with 1,000, 3.9 ms and 4.0 ms fragmented"
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, under a minute")
    parser.add_argument("--no-bus", action="store_true", help="decisions only")
    chosen = parser.parse_args()
    logs.configure("bench", level="warning")
    started = time.perf_counter()
    samples, limit = (400, 0.25) if chosen.quick else (2_000, 5.0)
    print("One decision (median; p99 = what 99 of 100 do not exceed)\n")
    table = Table(
        pool=26, excluded=8, decision=8, p99=8, addresses=9, naive=8, naive_by_addresses=18
    )
    decided, found = 0.0, 0.0
    for row in decisions.measure(samples=samples, limit_seconds=limit):
        table.row(*_cells(row))
        decided, found = max(decided, median(row.ours)), max(found, median(row.finding))
    print(f"\nwanted at most {duration(WANTED_SECONDS)} in every row:")
    for what, slowest in (("finding addresses", found), ("whole decisions", decided)):
        verdict = "held" if slowest <= WANTED_SECONDS else "missed"
        print(f"  {what}: {verdict}, slowest {duration(slowest)}")
    print(ANCHOR)
    if not chosen.no_bus:
        _bursts(times=1 if chosen.quick else 3)
    print(f"\ntook {time.perf_counter() - started:.0f} s")


def _bursts(*, times: int) -> None:
    print(f"\n{burst.PODS:,} Pods at once, file storage, real ipam process (best of {times})\n")
    table = Table(pool=22, servers=7, requests_stored=15, half_granted=12, all_granted=11, grants=8)
    for what, spec in (("roomy pool", burst.ROOMY), ("pool of exactly 1,000", burst.EXACT)):
        for replicas in (1, 3):
            runs = [burst.run(replicas=replicas, ipam=spec) for _ in range(times)]
            best = max(runs, key=lambda result: result.rate)
            seconds = (duration(s) for s in (best.published, best.half, best.granted))
            table.row(what, str(replicas), *seconds, f"{best.rate:,.0f}/s")


def _cells(row: Row) -> tuple[str, ...]:
    finding = median(row.finding)
    if row.naive_gave_up:
        naive, ratio = row.naive_gave_up, f"> {float(row.naive_gave_up.split()[1]) / finding:,.0f}"
    else:
        naive, ratio = duration(median(row.naive)), f"{median(row.naive) / finding:,.1f}"
    figures = (median(row.ours), worst_of_99(row.ours), finding)
    return row.case, f"{row.exclusions:,}", *map(duration, figures), naive, ratio


if __name__ == "__main__":
    main()
