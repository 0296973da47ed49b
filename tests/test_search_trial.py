"""A trial, its score, and the journal."""

import contextlib
import os
from dataclasses import replace

import numpy as np
import pytest

from search.trial import Journal, SearchError, score, train_trial

from .search_helpers import RESULT, SMALL


@pytest.fixture(scope="module")
def arrays(digits):
    (images, labels), _ = digits
    return [images[:500], labels[:500], images[500:], labels[500:]]


def test_a_trial_is_a_complete_training_of_its_config(arrays):
    images, labels, *validation = arrays
    config = replace(SMALL, epochs=3)
    expected = list(config.build_network().fit(images, labels, tuple(validation), **config.fit_settings()))
    result = train_trial(config, *arrays)
    assert result["status"] == "ok" and result["reason"] == "" and 0 < result["seconds"] < 60
    for key in "validation_accuracy", "validation_loss":
        assert result[key] == [record[key] for record in expected]
    (loss,) = train_trial(replace(config, epochs=1), *arrays)["validation_loss"]
    assert loss != expected[0]["validation_loss"], "a schedule of its own"


def test_a_trial_does_not_change_its_data(arrays):
    before = [a.copy() for a in arrays]
    train_trial(replace(SMALL, epochs=1, augment=True), *arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


def test_a_diverged_trial_is_a_result(arrays):
    result = train_trial(replace(SMALL, lr=1e4), *arrays)
    assert result["status"] == "diverged" and "lower lr" in result["reason"]


def test_the_score_is_that_of_the_best_epoch():
    result = {"status": "ok", "validation_accuracy": [0.8, 0.9, 0.9, 0.7], "validation_loss": [1, 3, 2, 0.5]}
    assert score(result) == (0.9, -2)
    assert score(result | {"status": "diverged"}) < (0, 0)


def journal_of(path, search, *results):
    """Open a journal, add results, close it."""
    with contextlib.closing(Journal(path, search)) as journal:
        for result in results:
            journal.add(result)
    return journal


def test_the_journal_keeps_what_is_done(tmp_path, monkeypatch):
    path, synced = tmp_path / "new" / "m" / "search.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.stat().st_size))
    journal = Journal(path, {"method": "grid"})
    journal.add(RESULT)
    journal.add(RESULT | {"id": "b", "status": "failed"})
    assert not journal.resumed and len(path.read_text().splitlines()) == 3
    assert len(set(synced)) == 3 and synced[-1] == path.stat().st_size, "on disk at once"
    with pytest.raises(SearchError, match="in use"):
        Journal(path, {"method": "grid"})
    journal.close()
    again = journal_of(path, {"method": "grid"})
    assert again.resumed and again.results == {("a", 1): RESULT}, "what failed is tried again"


def test_an_incomplete_last_line_is_dropped(tmp_path):
    path = tmp_path / "search.jsonl"
    journal_of(path, {}, RESULT)
    whole = path.read_bytes()
    for torn in b'{"id": "b', b"{", b"\x00\x00":
        path.write_bytes(whole + torn)
        assert list(journal_of(path, {}).results) == [("a", 1)] and path.read_bytes() == whole
    path.write_bytes(whole[:5])
    assert not journal_of(path, {}).resumed, "not even the first line is complete"


def test_another_search_and_a_damaged_journal_are_refused(tmp_path):
    path = tmp_path / "search.jsonl"
    journal_of(path, {"method": "grid"})  # has no results: may be replaced
    journal_of(path, {"method": "grid", "space": 1}, RESULT)
    with pytest.raises(SearchError, match=r"other settings \(method\): give another --out"):
        Journal(path, {"method": "random", "space": 1})
    with pytest.raises(SearchError, match=r"other settings \(format\): give another --out"):
        Journal(path, {"format": 2, "method": "grid", "space": 1})
    with pytest.raises(SearchError, match=r"other settings \(lr\): give another --out"):
        Journal(path, {"method": "grid", "space": 1, "recipe": {"lr": 0.1}})
    whole = path.read_bytes()
    damages = [b"nonsense\n" + whole, whole + b"[1]\n", b'{"a": 1}\n', whole.replace(b'"id"', b'"di"')]
    damages += [whole.replace(b"validation_loss", b"loss"), whole + b"[" * 100_000 + b"\n"]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(SearchError, match="damaged"):
            Journal(path, {"method": "grid", "space": 1})
        assert path.read_bytes() == damaged


def test_no_changed_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "search.jsonl"
    journal_of(path, {}, RESULT)
    whole = path.read_bytes()
    for place in range(whole.index(b"\n") + 1, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert journal_of(path, {}).results == {("a", 1): RESULT}, place
        except SearchError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize(
    "change",
    [{"epochs": "1"}, {"validation_loss": []}, {"validation_loss": ["1"]}, {"validation_accuracy": [float("nan")]},
     {"seconds": float("inf")}, {"status": "new"}, {"epochs": 2}, {"epochs": 0},
     {"epochs": 0, "validation_accuracy": [], "validation_loss": []}, {"settings": []}, {"more": 1}],
    ids=str,
)  # fmt: skip
def test_wrong_results_with_the_right_checksum_are_refused(tmp_path, change):
    journal_of(tmp_path / "search.jsonl", {}, RESULT | change)
    with pytest.raises(SearchError, match="damaged"):
        Journal(tmp_path / "search.jsonl", {})
