"""Groups of real processes: forks of a server that has imported the package once, which meet as under torchrun."""

import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

FORKS = multiprocessing.get_context("forkserver")
PACKAGE = ["annotated_decoder.trained.together", "annotated_decoder.pronunciation.recipe"]
FORKS.set_forkserver_preload(["pytest", "hypothesis", "torch._dynamo", *PACKAGE])


def _join(work, rank, world, port, ready, folder, arguments):
    "What each process does: its own number, what it says in a file of its own, and the work."
    os.dup2(os.open(folder / f"said-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    if world:    # else as without torchrun
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        os.environ.update(meeting, RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    ready.wait()    # on a busy machine one may have been started long before the other
    work(*arguments)


class Group:
    "Processes 0 to world - 1, each at `work(*arguments)`; a world of 0 is one process without torchrun."

    def __init__(self, world: int, folder: Path, work, *arguments):
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)    # any free port
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        ranks = range(max(world, 1))
        self.ready = FORKS.Barrier(len(ranks))
        rest = [(work, rank, world, self.store.port, self.ready, folder, arguments) for rank in ranks]
        self.processes = [FORKS.Process(target=_join, args=each, daemon=True) for each in rest]
        for process in self.processes:
            process.start()

    def end(self, *ranks: int, within: float = 60) -> list[int]:
        "Wait for these processes, all of them unless told, then end those that are left; their exit statuses."
        last = time.monotonic() + within
        for rank in ranks or range(len(self.processes)):
            self.processes[rank].join(max(0.0, last - time.monotonic()))
        found = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return found

    def said(self, rank: int) -> str:
        return (self.folder / f"said-{rank}").read_text()

    def succeed(self) -> None:
        "All of them end well."
        statuses = self.end()
        assert not any(statuses), f"{statuses}\n" + "\n".join(map(self.said, range(len(statuses))))
