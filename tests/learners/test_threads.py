"""Work in threads: everything is done, in whichever thread, and what went wrong comes out when all have ended."""

import os
import threading
import time
import weakref

import pytest
from trimtab.learners import threads
from trimtab.learners.threads import in_threads


class Held:
    """What can be referred to weakly."""


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


def test_threads_that_have_gone_to_sleep_are_woken(monkeypatch):
    monkeypatch.setattr(threads, "_LOOKS", 0)
    for _ in range(200):
        assert in_threads(lambda job: job + 1, range(3)) == [1, 2, 3]


def test_calls_within_and_beside_each_other():
    def work(job):
        return in_threads(lambda own: (job, own), range(5))

    wanted = [[(job, own) for own in range(5)] for job in range(4)]
    found = []
    beside = [threading.Thread(target=lambda: found.append(in_threads(work, range(4)))) for _ in range(8)]
    for thread in beside:
        thread.start()
    for thread in beside:
        thread.join()
    assert found == [wanted] * 8


def test_what_was_worked_on_is_let_go_of():
    held = [Held() for _ in range(4)]
    gone = [weakref.ref(job) for job in held]
    assert in_threads(lambda job: 1, held) == [1] * 4
    held.clear()
    assert all(job() is None for job in gone)


def test_after_a_fork_there_are_threads_again():
    in_threads(lambda job: job, range(3))
    child = os.fork()
    if not child:
        os._exit(int(in_threads(lambda job: job, range(3)) != [0, 1, 2]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
