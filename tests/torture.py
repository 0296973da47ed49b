"""The promises of this project at length: hostile files, kills, full disks, bad servers, two processes at once.

    python tests/torture.py                                        the long run, forty minutes
    python tests/torture.py --quick                                a sample of every part, in a minute
    python tests/torture.py --part models --seed 3 --case 1234     one case again, such as one that failed

Every input ends in one of three ways: refused with one line, read as the same, or accepted as something valid. A
failure is everything else: a traceback (crash), more CPU time than the limit (hang), a damaged file that is read as
something else (different), too much memory for an input that is refused (memory), another broken promise (broken).

The long run writes each finished part into tests/torture.csv, and the figures of all parts there into
docs/reliability.md. After a stop, --part runs those that are left.
"""

import csv
import importlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy starts threads, which do not survive a fork
sys.path[0] = str(Path(__file__).resolve().parents[1])

import storage  # noqa: E402
from app import cli  # noqa: E402
from tests.bench import tables  # noqa: E402

tables.require("pytest")
from tests.conftest import ROOT  # noqa: E402
from tests.hostile import FAILURES, PARTS, WAYS, Broken, Case, patch  # noqa: E402

for module in "files", "arguments", "system", "mirrors":
    importlib.import_module(f"tests.hostile.{module}")  # adds its parts to PARTS

RESULTS = ROOT / "tests" / "torture.csv"
COLUMNS = "part seed cases refused same accepted crash hang different memory broken peak_mb slowest cpu_s".split()
MAX_MEMORY = 300  # MB above the start, for an input that is refused
WALL_SECONDS = 120  # for one case; the process is ended then
CHUNK = 2000  # cases in a process


def one_case(name: str, case: Case, seed: int, number: int) -> tuple[str, float, str]:
    """The outcome of a case, its CPU seconds, and the message of a failure."""
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)  # its signal ends the process, wherever that hangs
    started, printed, message = time.process_time(), os.fstat(2).st_size, ""
    try:
        outcome = case(random.Random(f"{name} {seed} {number}"), number)
    except Broken as error:
        outcome, message = error.kind, str(error)
    except BaseException as error:
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        outcome, message = "crash", f"{type(error).__name__}: {error} ({' '.join(where[-4:])})"
    cpu = time.process_time() - started
    if os.fstat(2).st_size > printed and outcome in WAYS:  # a file, see `work`
        outcome, message = "broken", f"printed on stderr: {os.pread(2, 1000, printed)}"
    if cpu > PARTS[name].cpu:
        outcome, message = "hang", f"{cpu:.1f} s of CPU time, then {outcome}"
    return outcome, cpu, message


def megabytes() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def work(name: str, numbers: list[int], seed: int, scratch: Path, current: SimpleNamespace, pipe: Connection) -> None:
    """The main function of a process: some cases of a part. Sends its figures, and the cases that are left."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    os.chdir(folder)
    os.dup2(os.open("stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND), 2)
    counts, failures, slowest, numbers = Counter(), [], 0.0, list(numbers)
    case = PARTS[name].make(folder)
    start = megabytes()
    while numbers and megabytes() - start < MAX_MEMORY:
        number = current.value = numbers.pop(0)
        outcome, cpu, message = one_case(name, case, seed, number)
        if outcome == "refused" and megabytes() - start > MAX_MEMORY:
            outcome, message = "memory", f"{megabytes() - start:.0f} MB for an input that is refused"
        counts[outcome] += 1
        slowest = max(slowest, cpu)
        if message:
            failures.append((number, outcome, message))
    signal.setitimer(signal.ITIMER_REAL, 0)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in usage)
    os.chdir("/")
    shutil.rmtree(folder, ignore_errors=True)
    pipe.send((counts, failures, slowest, megabytes() - start, cpu, numbers))


def run_part(name: str, cases: int, seed: int, workers: int, scratch: Path) -> dict:
    """All cases of a part, in processes of at most CHUNK cases each: its figures. Prints its failures."""
    context, size = multiprocessing.get_context("fork"), max(1, min(CHUNK, -(-cases // workers)))
    waiting = [list(range(start, min(start + size, cases))) for start in range(0, cases, size)][::-1]
    running, counts, row = {}, Counter(), {"slowest": 0.0, "peak_mb": 0.0, "cpu_s": 0.0}
    try:
        with cli.progress(text=name, total=cases, unit=" cases") as bar:
            while waiting or running:
                while waiting and len(running) < workers:
                    numbers, (near, far) = waiting.pop(), context.Pipe(duplex=False)
                    current = context.Value("q", -1, lock=False)
                    process = context.Process(target=work, args=(name, numbers, seed, scratch, current, far))
                    process.start()
                    far.close()
                    running[near] = process, numbers, current
                for near in wait(list(running)):
                    process, numbers, current = running.pop(near)
                    try:
                        found, failures, slowest, peak, cpu, left = near.recv()
                    except EOFError:  # the process died: the case is the failure, the others are repeated
                        process.join()
                        kind = "hang" if process.exitcode == -signal.SIGALRM else "crash"
                        left = [number for number in numbers if number != current.value]
                        found, failures = Counter([kind]), [(current.value, kind, f"exit code {process.exitcode}")]
                        slowest = peak = cpu = 0.0
                    process.join()
                    counts += found
                    bar.update(found.total())
                    row["slowest"], row["peak_mb"] = max(row["slowest"], slowest), max(row["peak_mb"], peak)
                    row["cpu_s"] += cpu
                    for number, kind, message in failures:
                        repeat = f"--part {name} --seed {seed} --case {number}"
                        cli.print_row(f"FAILED {repeat}: {kind}: {cli.one_line(message)}")
                    if left:
                        waiting.append(left)
    finally:
        for process, *_ in running.values():  # after Ctrl-C
            process.kill()
    row = {key: round(value, 2) for key, value in row.items()}
    row |= {"part": name, "seed": seed, "cases": cases, "machine": tables.machine()}
    return row | {way: counts[way] for way in WAYS + FAILURES}


def promises(rows: dict[str, dict]) -> str:
    """The promises and their figures, as a list in Markdown."""
    n = {name: f"{int(row['cases']):,}" for name, row in rows.items()}
    failures = {name: sum(int(row[kind]) for kind in FAILURES) for name, row in rows.items()}
    files = "models", "datasets", "photos", "checkpoints", "journals"
    peak = max(float(rows[name]["peak_mb"]) for name in files)
    texts = {
        files: f"A damaged or malicious file is refused with one line, or is valid and read as such, with at most "
        f"{peak:.0f} MB of memory: {n['models']} versions of model files, {n['datasets']} of datasets, {n['photos']} "
        f"of photos, {n['checkpoints']} of checkpoints, {n['journals']} of the results of a search",
        ("arguments",): f"A command that is used wrongly says so in one printable line: {n['arguments']} command lines",
        ("kills",): f"A training or search that is killed and resumed ends with the same model: {n['kills']} times",
        (
            "full_disks",
            "folders",
            "pairs",
        ): f"No file is lost or half written: {n['full_disks']} times with a full disk, "
        f"{n['folders']} with folders that are read-only or vanish, {n['pairs']} with two processes at once",
        (
            "mirrors",
        ): f"A download is right, or one line names all causes: {n['mirrors']} orders of good and bad download servers",
    }
    lines = [f"- {text}; {sum(failures[name] for name in names) or 'no'} failures." for names, text in texts.items()]
    runs: dict[str, list[str]] = {}
    for name, row in rows.items():
        runs.setdefault(f"seed {row['seed']}, {row['machine']}", []).append(name)
    measured = [run if len(runs) == 1 else f"{run} ({', '.join(parts)})" for run, parts in runs.items()]
    lines += ["", f"Measured by `python tests/torture.py`: {'; '.join(measured)}. A sample of every part runs in CI."]
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="  " * (line[:1] == "-")) for line in lines)


def read_results() -> dict[str, dict]:
    """The rows of the results, by part."""
    rows = csv.DictReader(RESULTS.read_text().splitlines()) if RESULTS.exists() else []
    return {row["part"]: row for row in rows}


def save(row: dict) -> None:
    """Replace the row of a part in the results, and write the figures of all parts into the page."""
    rows = read_results() | {row["part"]: row}
    rows = {name: rows[name] for name in PARTS if name in rows}
    storage.write_csv(RESULTS, [*COLUMNS, "machine"], rows.values())
    if rows.keys() == PARTS.keys():
        tables.write_block("torture", promises(rows))


def main() -> int:
    """Run the parts that are asked for, print a row of figures for each, and the verdict."""
    parser = cli.Parser(prog="torture.py", description="Test the promises of this project at length.")
    parser.add_argument("--quick", action="store_true", help="a sample of every part; writes no results")
    parser.add_argument("--scale", type=float, default=1, help="fraction of the cases; below 1 it writes no results")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers [0]")
    parser.add_argument("--part", nargs="+", choices=PARTS, help="only these parts: " + ", ".join(PARTS))
    parser.add_argument("--case", type=int, help="only this case")
    parser.add_argument("--workers", type=int, default=2, help="processes [2]")
    arguments = parser.parse_args()
    complete, rows = not arguments.quick and arguments.scale == 1 and arguments.case is None, {}
    widths = [max(12 if column == "part" else 8, len(column)) for column in COLUMNS]
    print(cli.format_row(COLUMNS, widths))
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # in memory, where there is such a folder
    with tempfile.TemporaryDirectory(prefix="torture-", dir=shared) as scratch:
        patch(Path(scratch))
        for name in arguments.part or PARTS:
            (warm := Path(scratch, "warm")).mkdir()
            os.chdir(warm)
            case = PARTS[name].make(warm)  # here too: what it caches is then there in every process
            if arguments.case is not None:
                print(*one_case(name, case, arguments.seed, arguments.case))
                return 0
            cases = getattr(case, "total", 0) or PARTS[name].cases
            cases = min(cases, PARTS[name].quick) if arguments.quick else max(1, round(cases * arguments.scale))
            rows[name] = row = run_part(name, cases, arguments.seed, arguments.workers, Path(scratch))
            print(cli.format_row([row[column] for column in COLUMNS], widths), flush=True)
            os.chdir(scratch)
            shutil.rmtree(warm)
            if complete:
                save(row)
    total, failed = (sum(int(row[key]) for row in rows.values() for key in keys) for keys in (["cases"], FAILURES))
    print(f"{total:,} cases: {f'{failed:,} PROMISES BROKEN' if failed else 'no promise was broken'}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # not `cli.command`: the processes of the cases would inherit its signal handlers
        sys.exit(cli.fail("stopped", 130))
