"""One thread, and Hypothesis profiles: "ci" is quick and always the same, "many" searches (HYPOTHESIS_PROFILE=many)."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=15, database=None)
settings.register_profile(
    "many", deadline=None, max_examples=200, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

torch.set_num_threads(1)


# The package is imported inside: pytest reads this file before jaxtyping's import hook stands.
@pytest.fixture(scope="session")
def dictionary():
    from annotated_decoder.training import read_cmudict

    return read_cmudict()


@pytest.fixture(scope="session")
def trained():
    from annotated_decoder.pronunciation import pronouncer

    return pronouncer()
