"""An evaluation that is killed goes on where it was; processes share it; the numbers are always the same."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest

from lexalcm.errors import LexaError, UserError
from lexalcm.evaluate.run import evaluation_run
from lexalcm.evaluate.run.evaluation_run import EvaluationRun, Predictor, ScoredUnit, SingleProcess, run_evaluation
from lexalcm.evaluate.run.journal import Journal
from lexalcm.io.progress import silent

DOCUMENTS, BATCH_SIZE = 90, 3
UNITS = [np.arange(start, start + BATCH_SIZE) for start in range(0, DOCUMENTS, BATCH_SIZE)]
ABOUT = {"models": ["one", "two"]}


def make_trial(seconds=0.0):
    """30 units of 3 documents; two numbers of each, which no rounding may change."""

    def score(predictor, unit):
        time.sleep(seconds)
        numbers = np.random.default_rng([unit, predictor.settings["seed"]]).normal(size=(2, 2, BATCH_SIZE, 2))
        return ScoredUnit(numbers, {0: [f"{predictor.name} says"]} if unit == 0 else {})

    return EvaluationRun(UNITS, score, metrics=2, bins=2)


def make_other_trial():
    """The same units with other numbers."""

    def score(predictor, unit):
        return ScoredUnit(np.full((2, 2, BATCH_SIZE, 2), 7.0))

    return EvaluationRun(UNITS, score, metrics=2, bins=2)


def predictors():
    for seed, name in enumerate(["one", "two"]):
        yield Predictor(name, "model", lambda batch, number: None, {"seed": seed})


def run(folder, seconds=0.0, processes=None):
    journal = None if folder is None else Journal(folder, ABOUT, rank=processes.rank if processes else 0)
    trial = make_trial(seconds)
    return run_evaluation(predictors(), trial, journal=journal, processes=processes or SingleProcess(), progress=silent)


def lines(folder):
    return [json.loads(line) for part in folder.glob("part-*") for line in part.read_text().splitlines()]


def same(one, other):
    assert all((ours == theirs).all() for ours, theirs in zip(one.tallies, other.tallies, strict=True))
    assert one.texts == other.texts
    assert [predictor.name for predictor in one.predictors] == ["one", "two"]


def written(folder):
    return sum(part.stat().st_size for part in folder.glob("part-*"))


def evaluate_and_shoot(folder, generator):
    """Evaluate in a process that is killed a random while after it got something done; says whether it was."""
    before = written(folder)
    child = os.fork()
    if child == 0:
        try:
            run(folder, seconds=0.01)
        finally:
            os._exit(0)
    ended = None
    while written(folder) == before and ended is None:
        time.sleep(0.001)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    time.sleep(generator.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_twenty_kills_at_random_moments_lose_and_repeat_no_document(tmp_path):
    generator, whole = random.Random(0), run(None)
    folders, kills = [tmp_path / "0.unfinished"], 0
    while kills < 20:
        if evaluate_and_shoot(folders[-1], generator):
            kills += 1
        else:  # it had been finished before
            folders.append(tmp_path / f"{len(folders)}.unfinished")
    for folder in folders:
        same(run(folder), whole)
        done = [(line["predictor"], line["unit"]) for line in lines(folder)]
        assert sorted(done) == [(index, unit) for index in (0, 1) for unit in range(len(UNITS))]
        assert sum(len(line["documents"]) for line in lines(folder)) == 2 * DOCUMENTS


@pytest.mark.parametrize("cut", [1, 7, 200])
def test_a_torn_last_line_is_dropped_and_done_again(tmp_path, cut):
    folder = tmp_path / "work"
    whole = run(folder)
    part = next(folder.glob("part-*"))
    part.write_bytes(part.read_bytes()[:-cut])
    same(run(folder), whole)
    assert len(lines(folder)) == 2 * len(UNITS)


def test_what_is_done_is_not_done_again(tmp_path):
    run(tmp_path / "work")
    journal = Journal(tmp_path / "work", ABOUT)

    def never(predictor, unit):
        raise AssertionError("scored again")

    trial = EvaluationRun(UNITS, never, metrics=2, bins=2)
    run_evaluation(predictors(), trial, journal=journal, processes=SingleProcess(), progress=silent)


class Process:
    """One of several, which run one after another here."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def barrier(self):
        pass


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_documents_and_the_first_has_all_numbers(tmp_path, size):
    whole = run(None)
    for rank in reversed(range(size)):
        outcome = run(tmp_path / "work", processes=Process(rank, size))
        assert (outcome is None) == (rank > 0)
    same(outcome, whole)
    shares = [len(part.read_text().splitlines()) for part in sorted((tmp_path / "work").glob("part-*"))]
    assert shares == [2 * len(UNITS) // size] * size


def test_another_number_of_processes_goes_on_with_what_is_there(tmp_path):
    run(tmp_path / "work", processes=Process(2, 3))
    same(run(tmp_path / "work"), run(None))
    assert len(lines(tmp_path / "work")) == 2 * len(UNITS)


def test_several_processes_need_a_place_to_meet():
    with pytest.raises(UserError, match="need --out"):
        run(None, processes=Process(0, 2))


def test_results_that_do_not_arrive_are_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_run, "TIMEOUT_S", 0.1)
    with pytest.raises(LexaError, match="30 batches of other processes are not in"):
        run(tmp_path / "work", processes=Process(0, 2))


def test_an_unfinished_evaluation_of_something_else_is_not_continued(tmp_path):
    run(tmp_path / "work")
    with pytest.raises(UserError, match="of other models, data or settings"):
        Journal(tmp_path / "work", {"models": ["one", "three"]})


@pytest.mark.parametrize("torn", ["", '{"predictor": 0'])
def test_one_that_got_nothing_done_is_in_nobodys_way(tmp_path, torn):
    begun = Journal(tmp_path / "work", {"models": ["mistyped"]})
    begun._lock.release()
    (tmp_path / "work" / "part-00000-0123.jsonl").write_text(torn)
    same(run(tmp_path / "work"), run(None))


def test_lines_of_another_evaluation_are_not_read_where_nothing_says_whose_they_are(tmp_path):
    journal = Journal(tmp_path / "work", {"models": ["one", "three"]})
    run_evaluation(predictors(), make_other_trial(), journal=journal, processes=SingleProcess(), progress=silent)
    journal._lock.release()
    (tmp_path / "work" / "about.json").unlink()  # as a removal in any order leaves it, when it is killed
    same(run(tmp_path / "work"), run(None))


def test_a_removal_that_is_killed_leaves_no_lines_without_their_fingerprint(tmp_path, monkeypatch):
    run(tmp_path / "work")
    journal = Journal(tmp_path / "work", ABOUT)

    def killed(folder):
        assert (folder / "about.json").exists()
        assert lines(folder) == []
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lexalcm.evaluate.run.journal.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            journal.remove()
    journal._lock.release()
    same(run(tmp_path / "work"), run(None))


def test_two_evaluations_do_not_write_one_report(tmp_path):
    going_on = Journal(tmp_path / "work", ABOUT)
    with pytest.raises(UserError, match="is writing"):
        Journal(tmp_path / "work", ABOUT)
    going_on.remove()
    assert not (tmp_path / "work").exists()
