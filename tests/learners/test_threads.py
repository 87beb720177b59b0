"""Work in threads: everything is done, in whichever thread, and what went wrong comes out when all have ended."""

import threading
import time

import pytest
from trimtab.learners import threads
from trimtab.learners.threads import in_threads


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 1)


def test_jobs_are_divided_and_results_in_order():
    who = set()

    def work(job):
        who.add(threading.get_ident())
        time.sleep(0.01)
        return 10 * job

    assert in_threads(work, range(30)) == list(range(0, 300, 10))
    assert threading.get_ident() in who
    assert 2 <= len(who) <= 3


@pytest.mark.parametrize("wrong", [0, 1, 6])
def test_an_error_comes_out_when_all_have_ended(wrong):
    at_work = set()

    def work(job):
        at_work.add(job)
        if job == wrong:
            raise ValueError(f"job {job}")
        time.sleep(0.02)
        at_work.remove(job)

    with pytest.raises(ValueError, match=f"job {wrong}"):
        in_threads(work, range(7))
    assert at_work == {wrong}


def test_one_job_needs_no_thread():
    assert in_threads(lambda job: threading.get_ident(), [0]) == [threading.get_ident()]
