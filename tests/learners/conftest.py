"""Learners that close themselves."""

import pytest


@pytest.fixture
def begin(request):
    """Begins learners: of the module's settings, seed and environment, unless others are given; closed at the end."""
    module, learners = request.module, []

    def make(settings=module.SMALL, where=None, seed=module.ABOUT.seed):
        learners.append(settings.start(where or module.environment(), seed))
        return learners[-1]

    yield make
    for learner in learners:
        learner.close()
