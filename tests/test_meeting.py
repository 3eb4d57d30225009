"""Processes that were started together find each other, and whoever is missing is named."""

import os
import signal
import time

import torch
import torch.distributed as dist
from group import Group
from speller import small_pronouncer

from annotated_decoder.scaling_out import shared, spread
from annotated_decoder.trained.meeting import processes
from annotated_decoder.training import Example, TrainingConfig, loss_of, train

EXAMPLES = [Example([3 + i % 5] * (1 + i % 4), [3 + i % 5] * (1 + i % 3)) for i in range(11)]


def in_step(place):
    "A group of two whose process `place[0]` does `place[1]` in its third step."
    who, what = place

    def objective(model, batch, config, step):
        if (dist.get_rank(), step // 2) == (who, 2):
            what()
        return loss_of(model, batch, config, step)

    with processes(limit=3):
        train(spread(small_pronouncer().model), EXAMPLES, TrainingConfig(), progress=False, objective=shared(objective))


def stall():
    time.sleep(60)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("what this process has to say")


def test_who_is_missing_is_named_within_the_limit(tmp_path):
    silent = "has given no sign for 3 seconds; start the same again"
    ended = "has ended; see its own message, if it left one, and start again"
    cases = [(0, stall), (1, stall), (1, be_killed), (0, fail)]
    groups = [Group(2, tmp_path / f"{who}-{what.__name__}", in_step, (who, what)) for who, what in cases[:2]]
    for number, (who, what) in enumerate(cases):
        group = groups[number] if number < 2 else Group(2, tmp_path / what.__name__, in_step, (who, what))
        statuses = group.end(1 - who, within=30)
        assert statuses[1 - who] == 1, (who, what, statuses)
        last = group.said(1 - who).strip().splitlines()[-1]
        assert last == f"ConnectionError: process {who} {silent if what is stall else ended}"
        if what is fail:
            assert group.said(who).strip().endswith("ValueError: what this process has to say")


def test_a_group_of_one_needs_no_torchrun_and_is_left_behind_by_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    for error in (None, ValueError("mine"), RuntimeError("mine too")):
        try:
            with processes() as place:
                assert (place, dist.get_rank(), dist.get_world_size()) == (torch.device("cpu"), 0, 1)
                if error:
                    raise error
        except (ValueError, RuntimeError) as found:
            assert found is error    # what is not about the group stays as it is
        assert not dist.is_initialized()
