"""The search itself: which trials to train, how far, and who wins.

    plan -> trials -> rung -> rung -> ... -> finalists with other seeds -> standings

A rung trains some trials up to a number of epochs; then they rest, and the good ones go on from where they stopped.
What a rung finds is written down before anything else happens, so a search that is stopped goes on where it was; and
nothing is decided before a rung is complete, so it never matters which trial was ready first.
"""

import contextlib
import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import storage
from recipe import Recipe
from search.plan import FINALISTS, Plan
from search.trial import Journal, SearchError, Trial, score

ETA = 5  # halving: one trial of so many goes on to the next rung, which is so many times as long
Results = Generator[dict, None, list[dict]]  # yields lines as they come in, returns them in order


def rungs(trials: int, epochs: int) -> list[tuple[int, int]]:
    """(trials, epochs) of each rung of successive halving: ever fewer trials, ever longer."""
    result = [(trials, epochs)]
    for power in itertools.count(1):
        count, length = trials // ETA**power, math.ceil(epochs / ETA**power)
        if count < 1 or length == result[-1][1]:
            break
        result.append((count, length))
    counts, lengths = zip(*result, strict=True)
    return list(zip(counts, reversed(lengths), strict=True))


@dataclass
class Standing:
    """A finalist: its recipe and the score of each seed; a seed that failed counts 0."""

    recipe: Recipe
    scores: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores)


class Search:
    """A plan at work: `run` yields each result as it comes in; then `standings` has the finalists, the winner first.

    digits: a fingerprint of what is trained and validated on. journal: what is done already.
    submit: trains a trial on, somewhere; takes the arguments of `advance` up to the state, returns a future.
    width: how many trials to have under way.
    """

    def __init__(self, plan: Plan, digits: str, journal: Journal, submit: Callable[..., Future], width: int) -> None:
        self.plan, self.digits, self.journal, self.submit, self.width = plan, digits, journal, submit, width
        self.states = journal.path.parent / "trials"  # resting trials, a file each
        self.trials: dict[str, Trial] = {}
        self.told: set[tuple[str, int]] = set()
        self.standings: list[Standing] = []

    def run(self) -> Iterator[dict]:
        """Try what the plan says. Yields a line for each rung of a trial, whether it was found now or earlier.

        SearchError if no trial gets to its end.
        """
        lines = yield from {"halving": self._halving, "coordinate": self._coordinate}.get(self.plan.method, self._all)()
        finalists = [line for line in sorted(lines, key=score, reverse=True) if line["status"] == "ok"][:FINALISTS]
        if not finalists:
            raise SearchError(
                f"not one trial came to its end; the first one {lines[0]['status']}: {lines[0]['reason']}"
            )
        recipes = [self.trials[line["id"]].recipe for line in finalists]
        seeds = range(self.plan.recipe.seed, self.plan.recipe.seed + self.plan.repeats)
        trials = [[self._trial(replace(recipe, seed=seed)) for seed in seeds] for recipe in recipes]
        lines = iter((yield from self._rung(list(itertools.chain(*trials)), self.plan.recipe.epochs)))
        self.standings = [Standing(recipe, [max(0, score(next(lines))[0]) for _ in seeds]) for recipe in recipes]
        self.standings.sort(key=lambda standing: standing.mean, reverse=True)  # stable: of equals the first stays first
        self._forget(self.plan.recipe.epochs)
        with contextlib.suppress(OSError):
            self.states.rmdir()

    def cost(self) -> int:
        """How many epochs the search takes, at most."""
        plan, epochs = self.plan, self.plan.recipe.epochs
        again = FINALISTS * (plan.repeats - 1) * epochs
        if plan.method == "coordinate":
            return again + epochs * sum(len(axis.values) for axis in plan.space.values())
        trials = len(plan.grid() if plan.method == "grid" else plan.drawn())
        stages = rungs(trials, epochs) if plan.method == "halving" else [(trials, epochs)]
        before = [0, *(stop for _, stop in stages)]
        return again + sum(count * (stop - start) for (count, stop), start in zip(stages, before, strict=False))

    def lines(self) -> list[dict]:
        """Every result of this search, in the order of trials and rungs."""
        mine = [line for line in self.journal.lines.values() if line["id"] in self.trials]
        return sorted(mine, key=lambda line: (self.trials[line["id"]].number, line["epochs"]))

    def results(self) -> list[dict]:
        """What each trial of the first seed came to: the line of its longest rung."""
        return list({line["id"]: line for line in self.lines() if line["seed"] == self.plan.recipe.seed}.values())

    def seconds(self, identity: str) -> float:
        """How long a trial was trained, all its rungs together."""
        return sum(line["seconds"] for line in self.lines() if line["id"] == identity)

    def _all(self) -> Results:
        recipes = self.plan.grid() if self.plan.method == "grid" else self.plan.drawn()
        return (yield from self._rung(self._trials(recipes), self.plan.recipe.epochs))

    def _halving(self) -> Results:
        """Synchronous successive halving (Karnin et al. 2013, Jamieson & Talwalkar 2016)."""
        trials = self._trials(self.plan.drawn())
        for count, epochs in rungs(len(trials), self.plan.recipe.epochs):
            lines: list[dict] = []
            while trials and not any(line["status"] == "ok" for line in lines):  # if all diverge, the next ones
                lines += yield from self._rung(trials[:count], epochs)
                trials = trials[count:]
            best = sorted(lines, key=score, reverse=True)
            trials = [self.trials[line["id"]] for line in best if line["status"] == "ok"]
            if not trials:
                break
        return lines

    def _coordinate(self) -> Results:
        """One hyper-parameter at a time, the others as in the best trial so far; at first, the middle of each axis."""
        middle = {name: axis.values[len(axis.values) // 2] for name, axis in self.plan.space.items()}
        found, best = {}, replace(self.plan.recipe, **middle)
        for name, axis in self.plan.space.items():
            trials = [self._trial(replace(best, **{name: value})) for value in axis.values]
            found |= {line["id"]: line for line in (yield from self._rung(trials, self.plan.recipe.epochs))}
            best = self.trials[max(found.values(), key=score)["id"]].recipe
        return list(found.values())

    def _trials(self, recipes: list[Recipe]) -> list[Trial]:
        """A trial for each recipe; one for those that are equal."""
        return list({trial.id: trial for trial in map(self._trial, recipes)}.values())

    def _trial(self, recipe: Recipe) -> Trial:
        text = json.dumps([recipe.settings(), self.digits], sort_keys=True)
        identity = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.trials.setdefault(identity, Trial(len(self.trials) + 1, recipe, identity))

    def _rung(self, trials: list[Trial], epochs: int) -> Results:
        """Train each trial up to `epochs`. Yields lines in any order, returns them in that of the trials."""
        done = self.journal.lines
        for trial in trials:
            if (trial.id, epochs) in done:
                yield from self._tell(done[trial.id, epochs])
        missing = {trial.id: trial for trial in trials if (trial.id, epochs) not in done}.values()
        waiting = iter(sorted(missing, key=lambda trial: sum(trial.recipe.hidden), reverse=True))  # long ones first
        running: dict[Future, tuple[Trial, int]] = {}  # and the epoch it goes on from
        try:
            while True:
                for trial in itertools.islice(waiting, self.width - len(running)):
                    history, state = self._rested(trial, epochs)
                    running[self.submit(trial.recipe, epochs, history, state)] = trial, len(history)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield from self._tell(self._take_in(*running.pop(future), epochs, future))
        finally:
            for future in running:
                future.cancel()
        self._forget(epochs)
        return [done[trial.id, epochs] for trial in trials]

    def _forget(self, epochs: int) -> None:
        """Remove the states from before a rung that is complete."""
        storage.sweep(self.states)  # of a search that was killed
        for identity, before in self.journal.lines:
            if before < epochs:
                self._state(identity, before).unlink(missing_ok=True)

    def _tell(self, line: dict) -> Iterator[dict]:
        key = line["id"], line["epochs"]
        if key not in self.told:
            self.told.add(key)
            yield line

    def _rested(self, trial: Trial, epochs: int) -> tuple[list[dict], dict[str, np.ndarray]]:
        """History and state of a trial where it stopped last before `epochs`; nothing if it is to begin."""
        stops = [done for identity, done in self.journal.lines if identity == trial.id and done < epochs]
        if stops:
            with contextlib.suppress(storage.StorageError):  # a state that is lost only costs time
                description, state = storage.read(self._state(trial.id, max(stops)), "trial")
                return description["history"], state
        return [], {}

    def _state(self, identity: str, epochs: int) -> Path:
        return self.states / f"{identity}-{epochs}.npz"

    def _take_in(self, trial: Trial, before: int, epochs: int, future: Future) -> dict:
        """Write down what a worker found: the state first, so that a line in the journal always has one."""
        try:
            result = future.result()
        except (CancelledError, ConnectionError) as error:
            raise SearchError(f"lost the workers ({error}): the same command goes on") from None
        except Exception as error:  # whatever went wrong in a worker is that trial's result
            reason = f"{type(error).__name__}: {error}"
            result = {"status": "failed", "reason": reason, "history": [], "seconds": 0.0, "state": {}}
        history = result["history"]
        if result["status"] == "ok" and epochs < self.plan.recipe.epochs:
            storage.write(self._state(trial.id, epochs), {"history": history}, result["state"])
        line = {
            "trial": trial.number,
            "id": trial.id,
            "seed": trial.recipe.seed,
            "settings": {name: getattr(trial.recipe, name) for name in self.plan.space},
            "from": before,
            "epochs": epochs,
            "status": result["status"],
            "reason": result["reason"],
            "validation_accuracy": [record["validation_accuracy"] for record in history],
            "validation_loss": [record["validation_loss"] for record in history],
            "seconds": round(result["seconds"], 3),
        }
        self.journal.add(line)
        return line
