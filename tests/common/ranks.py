"""Several processes of one run, as torchrun would start them."""

import os
import socket
import traceback
from multiprocessing import get_context

from xdc_fast.ranks import open_ranks

STARTS = get_context("forkserver")
STARTS.set_forkserver_preload(["xdc_fast.pretraining.loop"])


def in_ranks(world, function, *arguments):
    """What function(ranks, *arguments) returns on each of so many ranks, in their order."""
    if world == 1:
        with open_ranks() as ranks:
            return [function(ranks, *arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(world):
        ours, theirs = STARTS.Pipe()
        environment = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": port}  # fmt: skip
        process = STARTS.Process(target=_run, args=(theirs, environment, function, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    answers = []
    for pipe in pipes:
        answers.append(pipe.recv() if pipe.poll(120) else (False, "no answer"))
    for process in processes:
        process.join(10)
        process.kill()
    for fine, answer in answers:
        assert fine, answer
    return [answer for _, answer in answers]


def _run(pipe, environment, function, arguments):
    os.environ.update({name: str(value) for name, value in environment.items()})
    try:
        with open_ranks() as ranks:
            pipe.send((True, function(ranks, *arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
