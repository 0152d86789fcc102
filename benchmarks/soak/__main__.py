"""`make soak`: an installation of real processes under steady change for two hours; are memory, descriptors, tasks and tables flat?

    python -m benchmarks.soak [--minutes 120] [--devices 500] [--broker embedded|mosquitto] [--out DIR]
    python -m benchmarks.soak --judge DIR/samples.csv

Every 30 s a sample of each process and table goes to DIR/samples.csv. At the end: what was done, what it cost, each series with its growth
after the first quarter of an hour (or of the run, where that is shorter), and what was allowed. Exit code 1 where something grew, failed or
was restarted.
"""

import argparse
import asyncio
import csv
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.soak.installation import ROLES, Installation
from benchmarks.soak.load import Load
from benchmarks.soak.sample import Sample, Sampler
from benchmarks.soak.verdict import WARMING_S, Finding, judge, restarted

EVERY_S = 30.0
TELL_EVERY = 10
"""Samples between two lines on the terminal."""


def main() -> int:
    options = _options()
    if options.judge is not None:
        return report(read(options.judge), options.all)
    out: Path = options.out or Path(tempfile.mkdtemp(prefix="fleetward-soak-"))
    out.mkdir(parents=True, exist_ok=True)
    for directory in (out, *out.parents[:2]):
        directory.chmod(directory.stat().st_mode | 0o011)
    print(f"samples: {out / 'samples.csv'}", flush=True)
    load = asyncio.run(_soak(out, options))
    code = report(read(out / "samples.csv"), options.all)
    return max(code, _work(load))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--broker", default="embedded", choices=("embedded", "mosquitto"))
    parser.add_argument("--out", type=Path, help="for samples, logs and the database; default: a new directory of the system's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--judge", type=Path, metavar="CSV", help="only judge what an earlier run has measured")
    parser.add_argument("--all", action="store_true", help="show the series that are flat, too")
    return parser.parse_args()


async def _soak(out: Path, options: argparse.Namespace) -> Load:
    installation = Installation.start(out / "installation", options.broker, options.devices)
    load = Load(installation, options.seed)
    try:
        await load.prepare()
        certificates = installation.integration("soak")
        doing = asyncio.create_task(load.run("soak", certificates))
        sampling = asyncio.create_task(_sample(installation, load, out / "samples.csv", options.minutes * 60))
        await asyncio.wait((doing, sampling), return_when=asyncio.FIRST_COMPLETED)
        for task in (doing, sampling):
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(doing, sampling, return_exceptions=True)
    finally:
        await load.close()
        installation.stop()
        shutil.rmtree(installation.data / "postgres", ignore_errors=True)
    return load


async def _sample(installation: Installation, load: Load, path: Path, seconds: float) -> None:
    began = time.monotonic()
    sampler = Sampler(installation, began)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(Sample._fields)
        for number in range(int(seconds // EVERY_S) + 1):
            await asyncio.sleep(max(0.0, began + number * EVERY_S - time.monotonic()))
            found = await sampler.take()
            lines.writerows(found)
            file.flush()
            if number % TELL_EVERY == 0:
                _tell(found, load)


def _tell(found: Sequence[Sample], load: Load) -> None:
    value = {(sample.subject, sample.measure): sample.value for sample in found}
    memory = "  ".join(f"{role} {value[role, 'pss_mib']:.0f}" for role in ROLES)
    minutes = found[0].at / 60
    print(f"{minutes:6.1f} min  PSS, MiB: {memory}  done {load.done.total()}, failed {load.failed.total()}", flush=True)


def read(path: Path) -> list[Sample]:
    with path.open(newline="") as file:
        return [Sample(float(at), subject, measure, float(value)) for at, subject, measure, value in list(csv.reader(file))[1:]]


def report(samples: Sequence[Sample], everything: bool) -> int:
    """Print it; the exit code."""
    minutes = samples[-1].at / 60
    findings = judge(samples, min(WARMING_S, samples[-1].at / 4))
    growing = [finding for finding in findings if not finding.flat]
    print(f"{'subject':28} {'measure':14} {'median':>12} {'growth':>12} {'allowed':>12}")
    for finding in findings:
        if everything or not finding.flat or finding.measure in ("pss_mib", "fds", "tasks"):
            print(_line(finding))
    _costs(samples)
    dead = restarted(samples)
    for role in dead:
        print(f"{role} was not the same process all the time: see its log")
    print(f"verdict after {minutes:.0f} min: {len(findings) - len(growing)} series flat or growing as meant, {len(growing)} growing")
    return 1 if growing or dead else 0


def _line(finding: Finding) -> str:
    mark = "" if finding.flat else f"  GROWS (allowed: {finding.why})"
    numbers = f"{finding.median:12.1f} {finding.growth:12.2f} {finding.allowed:12.2f}"
    return f"{finding.subject:28} {finding.measure:14} {numbers}{mark}"


def _costs(samples: Sequence[Sample]) -> None:
    """What it took: cores a process, changes and WAL a second."""
    ends: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        ends.setdefault((sample.subject, sample.measure), []).append(sample)

    def rate(subject: str, measure: str) -> float:
        series = ends[subject, measure]
        return (series[-1].value - series[0].value) / max(1.0, series[-1].at - series[0].at)

    cores = "  ".join(f"{role} {rate(role, 'cpu_s'):.3f}" for role in ROLES)
    print(f"cores: {cores}")
    print(f"changes a second: {rate('database', 'position'):.1f}, WAL: {rate('database', 'wal_written_mib') * 60:.1f} MiB a minute")


def _work(load: Load) -> int:
    """Print what was done and what failed; 1 where anything did."""
    print("done: " + ", ".join(f"{count} {name}" for name, count in load.done.most_common()))
    for what, count in load.failed.most_common():
        print(f"failed {count} times: {what}")
    return 1 if load.failed else 0


if __name__ == "__main__":
    sys.exit(main())
