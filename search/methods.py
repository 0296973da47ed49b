"""The search methods: which trials to train, for how many epochs, and which one wins.

    candidates -> rung -> rung -> ... -> finalists, trained with other seeds too -> ranking

A rung trains some trials for the same number of epochs. Every result goes into the journal before it is used, so a
stopped search can resume. Nothing is decided before a rung is complete, so the order in which trials finish does not
matter.
"""

import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, as_completed
from dataclasses import dataclass, replace

from app.config import Config
from search.config import FINALISTS, SearchConfig
from search.trial import Journal, SearchError, Trial, score

ETA = 5  # halving: each rung has this many times fewer trials than the rung before, and this many times more epochs
Results = Generator[dict, None, list[dict]]  # yields results as they come in, returns all of them in order


def rungs(trials: int, epochs: int) -> list[tuple[int, int]]:
    """(trials, epochs) of each rung of successive halving, such as (125, 1), (25, 4), (5, 20)."""
    counts, lengths = [trials], [epochs]  # the last rung has all epochs: lengths are found from the end
    while counts[-1] >= ETA and lengths[0] > 1:
        counts.append(counts[-1] // ETA)
        lengths.insert(0, math.ceil(lengths[0] / ETA))
    return list(zip(counts, lengths, strict=True))


@dataclass
class Finalist:
    """One of the best trials, and its score with each seed; 0 for a seed that failed."""

    trial: Trial
    scores: list[float]


class Search:
    """A search: `run` yields its results as they come in; then `ranking` has the finalists, the winner first.

    fingerprint: of the data. journal: has the results of earlier runs. submit: starts `train_trial` of a config on a
    worker, and returns its future.
    """

    def __init__(
        self, config: SearchConfig, fingerprint: str, journal: Journal, submit: Callable[[Config], Future]
    ) -> None:
        self.config, self.fingerprint, self.journal, self.submit = config, fingerprint, journal, submit
        self.trials: dict[str, Trial] = {}
        self.ranking: list[Finalist] = []
        self._reported: set[tuple[str, int]] = set()

    def run(self) -> Iterator[dict]:
        """Search. Yields each result once, new or from the journal. SearchError if no trial succeeds."""
        results = yield from self._coordinate() if self.config.method == "coordinate" else self._halving()
        best = [result for result in sorted(results, key=score, reverse=True) if result["status"] == "ok"]
        if not best:
            raise SearchError(f"no trial succeeded; the first one {results[0]['status']}: {results[0]['reason']}")
        finalists = [self.trials[result["id"]] for result in best[:FINALISTS]]
        first, epochs = self.config.recipe.seed, self.config.recipe.epochs
        seeds = range(first, first + self.config.repeats)
        trials = {trial.id: [self._trial(replace(trial.config, seed=seed)) for seed in seeds] for trial in finalists}
        results = yield from self._rung(list(itertools.chain(*trials.values())), epochs)
        scores = {result["id"]: max(0, score(result)[0]) for result in results}
        self.ranking = [Finalist(trial, [scores[seeded.id] for seeded in trials[trial.id]]) for trial in finalists]
        self.ranking.sort(key=lambda finalist: statistics.mean(finalist.scores), reverse=True)  # stable

    def cost(self) -> int:
        """The number of epochs to train, for a progress bar; `_coordinate` may need fewer."""
        if self.config.method == "coordinate":
            values = sum(len(dimension.values) for dimension in self.config.space.values())
            sizes = [(values, self.config.recipe.epochs)]
        else:
            sizes = self._rungs(len(self.config.candidates()))
        count, epochs = sizes[-1]
        sizes.append((min(count, FINALISTS) * (self.config.repeats - 1), epochs))
        return sum(count * epochs for count, epochs in sizes)

    def results(self, all_seeds: bool = False) -> list[dict]:
        """The results in the order of trials and rungs, without or with those of the finalists' other seeds."""
        results = [result for result in self.journal.results.values() if result["id"] in self.trials]
        results.sort(key=lambda result: (self.trials[result["id"]].number, result["epochs"]))
        return [result for result in results if all_seeds or result["seed"] == self.config.recipe.seed]

    def final_results(self) -> list[dict]:
        """The result of each trial's last rung, with the first seed."""
        return list({result["id"]: result for result in self.results()}.values())

    def _rungs(self, trials: int) -> list[tuple[int, int]]:
        """(trials, epochs) of each rung: a single one for the grid and for random samples."""
        epochs = self.config.recipe.epochs
        return rungs(trials, epochs) if self.config.method == "halving" else [(trials, epochs)]

    def _halving(self) -> Results:
        """Synchronous successive halving (Karnin et al. 2013, Jamieson & Talwalkar 2016).

        Each rung trains its trials from the start, with a learning rate schedule of the rung's own length. To pause
        the trials and continue them takes fewer epochs, but compares them while their learning rate is still high,
        which favours low learning rates: see the measurements in docs/search.md.
        """
        trials = list({trial.id: trial for trial in map(self._trial, self.config.candidates())}.values())
        for count, epochs in self._rungs(len(trials)):
            results: list[dict] = []
            while trials and not any(result["status"] == "ok" for result in results):  # if all diverge, the next ones
                results += yield from self._rung(trials[:count], epochs)
                trials = trials[count:]
            best = sorted(results, key=score, reverse=True)
            trials = [self.trials[result["id"]] for result in best if result["status"] == "ok"]
            if not trials:
                break
        return results

    def _coordinate(self) -> Results:
        """One hyper-parameter at a time, the others as in the best trial so far; they start in the middle."""
        middle = {name: dimension.values[len(dimension.values) // 2] for name, dimension in self.config.space.items()}
        results, best = {}, replace(self.config.recipe, **middle)
        for name, dimension in self.config.space.items():
            trials = [self._trial(replace(best, **{name: value})) for value in dimension.values]
            results |= {r["id"]: r for r in (yield from self._rung(trials, self.config.recipe.epochs))}
            best = self.trials[max(results.values(), key=score)["id"]].config
        return list(results.values())

    def _trial(self, config: Config) -> Trial:
        text = json.dumps([config.settings(), self.fingerprint], sort_keys=True)
        identity = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.trials.setdefault(identity, Trial(len(self.trials) + 1, config, identity))

    def _identify(self, trial: Trial) -> dict:
        """The part of a result that follows from the trial alone."""
        settings = {name: getattr(trial.config, name) for name in self.config.space}
        return {"trial": trial.number, "id": trial.id, "seed": trial.config.seed, "settings": settings}

    def _rung(self, trials: list[Trial], epochs: int) -> Results:
        """Train each trial for `epochs`. Yields results as they come in, returns them in the order of the trials."""
        done = self.journal.results
        new = {trial.id: trial for trial in trials if (trial.id, epochs) not in self._reported}
        self._reported.update((identity, epochs) for identity in new)
        missing = []
        for trial in new.values():
            if (trial.id, epochs) in done:  # by an earlier search: it gets its number in this one
                done[trial.id, epochs] |= self._identify(trial)
                yield done[trial.id, epochs]
            else:
                missing.append(trial)
        missing.sort(key=lambda trial: sum(trial.config.hidden), reverse=True)  # the longest ones first
        futures = {self.submit(replace(trial.config, epochs=epochs)): trial for trial in missing}
        try:
            for future in as_completed(futures):
                yield self._record_result(futures[future], epochs, future)
        finally:
            for future in futures:
                future.cancel()
        return [done[trial.id, epochs] for trial in trials]

    def _record_result(self, trial: Trial, epochs: int, future: Future) -> dict:
        """Write the result of a worker to the journal."""
        try:
            result = future.result()
        except (CancelledError, ConnectionError) as error:
            raise SearchError(
                f"lost the workers ({str(error) or type(error).__name__}): the same command continues"
            ) from None
        except Exception as error:  # any error in a worker is the result of that trial
            nothing = {"validation_accuracy": [], "validation_loss": [], "seconds": 0.0}
            result = {"status": "failed", "reason": f"{type(error).__name__}: {error}"} | nothing
        row = self._identify(trial) | {"from": 0, "epochs": epochs} | result
        self.journal.add(row)
        return row
