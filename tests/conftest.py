"""One thread, and Hypothesis profiles, chosen by HYPOTHESIS_PROFILE.

"ci" is quick and always the same, "mutants" the same but content with any failing example, and "many" searches.
"""

import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=15, database=None)
settings.register_profile(
    "mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
)
settings.register_profile(
    "many", deadline=None, max_examples=200, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

torch.set_num_threads(1)


@pytest.fixture
def interruptible():
    "Ctrl-C as in a terminal: a shell lets its background jobs ignore it."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# The package is imported inside: pytest reads this file before jaxtyping's import hook stands.
@pytest.fixture(scope="session")
def dictionary():
    from annotated_decoder.pronunciation.dictionary import read_cmudict

    return read_cmudict()


@pytest.fixture(scope="session")
def trained():
    from annotated_decoder.pronunciation.model import pronouncer

    return pronouncer()
