"""Work in threads: everything is done, in whichever thread, and what went wrong comes out when all have ended."""

import os
import signal
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


@pytest.mark.parametrize("wrong", [False, True])
def test_what_was_worked_on_is_let_go_of(wrong):
    held = [Held() for _ in range(4)]
    gone = [weakref.ref(job) for job in held]
    if wrong:
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda job: 1 / 0, held)
    else:
        assert in_threads(lambda job: 1, held) == [1] * 4
    held.clear()
    begun = time.monotonic()
    while any(job() is not None for job in gone) and time.monotonic() < begun + 10.0:
        time.sleep(0.01)  # threads may be about to let go
    assert all(job() is None for job in gone)


@pytest.mark.parametrize("cores", [1, 3])
def test_an_interrupt_waits_for_what_was_begun_and_begins_no_more(cores, monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    begun, ended = [], []

    def work(job):
        begun.append(job)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)
        ended.append(job)

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, range(20))
    assert len(begun) <= cores
    assert len(ended) == len(begun) - 1  # all but the one that was interrupted
    assert in_threads(lambda job: job, range(4)) == [0, 1, 2, 3]


def test_an_interrupt_while_waiting_for_the_others(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    ended = []

    def work(job):
        if threading.current_thread() is threading.main_thread():
            while len(begun) < 2:
                begun.append(job) if not begun else time.sleep(0.001)
            return
        begun.append(job)
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        ended.append(job)

    begun = []
    with pytest.raises(KeyboardInterrupt):
        in_threads(work, range(2))
    assert len(ended) == 1


def test_an_error_is_the_same_on_one_core(monkeypatch):
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(threads, "available_cores", lambda cores=cores: cores)
        done = []
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda job: done.append(job) or 1 // (job - 1), range(5))  # noqa: B023
        found.append(sorted(done))
    assert found == [[0, 1, 2, 3, 4]] * 2


def test_after_a_fork_there_are_threads_again():
    in_threads(lambda job: job, range(3))
    child = os.fork()
    if not child:
        right = False
        try:
            signal.alarm(30)
            right = in_threads(lambda job: job, range(3)) == [0, 1, 2]
        finally:
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
