"""Local training with a weighted mean of Θ, on two processes: what they hold after every step."""

from __future__ import annotations

import multiprocessing
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from training_runs import fitted, problem_of, theta_of

from alignnet.cli.setup import quiet
from alignnet.data.datamodule import EventBatches
from alignnet.errors import ConfigError
from alignnet.training.averaging import PartitionAveraging

ETA, PERIOD = 1e-9, 3


class Record(L.Callback):
    """Θ before and after every step, the gradient that it used, and the gradient of this rank's own batch."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer, module, batch, index):
        with torch.enable_grad():
            cost = module.loss.cost(module.loss(module.sensors, batch))
        (own,) = torch.autograd.grad(cost, module.sensors.theta)
        events = batch.event_number.tolist()
        self.steps.append({"before": module.sensors.theta.detach().clone(), "own": own, "events": events})

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.steps[-1]["used"] = module.sensors.theta.grad.clone()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.steps[-1]["after"] = module.sensors.theta.detach().clone()


def train_rank(rank: int, port: int, folder: Path, file: Path) -> None:
    """One of two processes; leaves what it recorded, with the weights of the partitions and with others."""
    torch.set_num_threads(1)
    quiet()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    for name, weight in (("sizes", None), ("given", 1.0 + 2.0 * rank)):
        make = partial(torch.optim.SGD, lr=ETA)
        module, data = problem_of(file, make, split=(1, 0, 0), max_tracks=91, batch_size=3, partitioned=True)
        module.local_training = True
        record, averaging = Record(), PartitionAveraging(PERIOD, weight)
        options = {"averaging": averaging, "tensorboard": False, "devices": 2}
        fitted(folder / name, module, data, 2, callbacks=(record,), **options)
        content = {"steps": record.steps, "weight": averaging.weight, "answer": module.sensors.theta.detach()}
        torch.save(content, folder / f"{name}{rank}.pt")


@pytest.fixture(scope="module")
def recorded(barrel_file, tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """What the two processes recorded, for each choice of the weights."""
    folder = tmp_path_factory.mktemp("averaging")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forks of a process that has imported everything, and that has no threads which could hold a lock.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["training_runs"])
    arguments = (port, folder, barrel_file)
    context = mp.start_processes(train_rank, arguments, nprocs=2, join=False, start_method="forkserver")
    try:
        for _ in range(20):
            if context.join(timeout=10):
                break
        else:
            pytest.fail("two processes did not end within 200 s")
    finally:
        for process in context.processes:
            process.kill()
    found = {
        name: [torch.load(folder / f"{name}{rank}.pt") for rank in (0, 1)] for name in ("sizes", "given")
    }
    return found | {"folder": folder}


def test_partitions_are_disjoint_and_stay_as_they_are(recorded):
    ranks = recorded["sizes"]
    events = [{event for step in rank["steps"] for event in step["events"]} for rank in ranks]
    assert not events[0] & events[1]
    assert [rank["weight"] for rank in ranks] == [12.0, 11.0] == [len(part) for part in events]


@pytest.mark.parametrize("weights", ["sizes", "given"])
def test_every_rank_descends_its_own_gradient(recorded, weights):
    for rank in recorded[weights]:
        for step in rank["steps"]:
            assert torch.allclose(
                step["used"], step["own"], rtol=1e-12, atol=1e-12 * float(step["own"].abs().max())
            )
    first, second = (rank["steps"][0]["used"] for rank in recorded[weights])
    assert (first - second).norm() > 0.1 * first.norm()


@pytest.mark.parametrize("weights", ["sizes", "given"])
def test_every_tau_steps_all_ranks_hold_the_weighted_mean_and_between_they_differ(recorded, weights):
    ranks = recorded[weights]
    mu = [rank["weight"] for rank in ranks]
    if weights == "given":
        assert mu == [1.0, 3.0]
    n_steps = len(ranks[0]["steps"])
    assert n_steps == len(ranks[1]["steps"]) == 8
    for i in range(n_steps):
        steps = [rank["steps"][i] for rank in ranks]
        local = [step["before"] - ETA * step["used"] for step in steps]
        after = [step["after"] for step in steps]
        if (i + 1) % PERIOD:
            for found, expected in zip(after, local, strict=True):
                assert torch.allclose(found, expected, rtol=1e-14, atol=1e-24)
            assert (after[0] - after[1]).norm() > 1e-3 * after[0].norm()
        else:
            mean = (mu[0] * local[0] + mu[1] * local[1]) / sum(mu)
            assert torch.equal(*after)
            assert torch.allclose(after[0], mean, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("weights", ["sizes", "given"])
def test_the_answer_is_the_mean_after_the_last_step(recorded, weights):
    ranks = recorded[weights]
    last = [rank["steps"][-1]["after"] for rank in ranks]
    mu = [rank["weight"] for rank in ranks]
    assert not torch.equal(*last)
    assert torch.equal(ranks[0]["answer"], ranks[1]["answer"])
    mean = (mu[0] * last[0] + mu[1] * last[1]) / sum(mu)
    assert torch.allclose(ranks[0]["answer"], mean, rtol=1e-12, atol=1e-18)
    assert torch.equal(theta_of(recorded["folder"] / weights), last[0])


def test_batches_of_a_partition_cover_it_once_an_epoch_in_any_order():
    rows = np.arange(101)
    orders = []
    for rank in range(3):
        sampler = EventBatches(rows, 10, True, 5, rank, 3, partitioned=True)
        epochs = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            epochs.append([event for batch in sampler for event in batch])
        assert epochs[0] != epochs[1]
        assert all(
            len(set(epoch)) == len(epoch) and set(epoch) <= set(rows[rank::3].tolist()) for epoch in epochs
        )
        orders.append(len(sampler))
    assert len(set(orders)) == 1  # ranks that take part in the same number of averages


@pytest.mark.parametrize("options", [{"period": 0}, {"weight": 0.0}, {"weight": -1.0}])
def test_a_period_or_a_weight_that_cannot_be_used_is_refused(options):
    with pytest.raises(ConfigError, match=r"averaging\.period is"):
        PartitionAveraging(**options)
