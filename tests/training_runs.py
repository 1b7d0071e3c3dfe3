"""Training runs in this process and in others, for tests of several folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from alignnet.cli.app import CONF
from alignnet.cli.evaluate import main as evaluate_command
from alignnet.cli.train import main as train_command
from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import read_detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.training.callbacks import AlignmentMonitor
from alignnet.training.module import AlignmentModule
from alignnet.training.optim import GaussNewton, PreconditionedSGD
from alignnet.training.run import fit, make_trainer

NO_PICTURES = ("without_pictures",)
"""Launcher of commands whose evaluations draw nothing."""

SMALL = (
    "require_convergence=false",
    "detector=file",
    "data.batch_size=20",
    "figure_every=0",
    "trainer.accelerator=cpu",
)
"""Overrides of `alignnet train` for files of some hundred tracks."""

TOLERANCE = {"translation": 0.005, "rotation": 0.0005}
PRIOR = {"translation": 0.01, "rotation": 0.001}

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=1e-9, momentum=0.5),
    "preconditioned_sgd": partial(PreconditionedSGD, momentum=0.3, tolerance=TOLERANCE),
    "gauss_newton": partial(GaussNewton, sensor_prior=PRIOR, tolerance=1e-9),
}


def problem_of(
    file: Path,
    optimizer: Callable[..., torch.optim.Optimizer],
    parametrisation: str = "local",
    **options: Any,
) -> tuple[AlignmentModule, AlignmentData]:
    """A module and data of a file; options are those of the data."""
    detector = read_detector(file)
    sensors = SensorLayer.of(detector, parametrisation)
    data = AlignmentData([str(file)], detector, **{"batch_size": 20, **options})
    data.setup()
    return AlignmentModule(sensors, HelixChi2(detector, normalisation="total"), optimizer, detector), data


def fitted(
    folder: Path,
    module: AlignmentModule,
    data: AlignmentData,
    epochs: int,
    resume: Path | None = None,
    callbacks: tuple[Any, ...] = (),
    devices: int = 1,
    **options: Any,
) -> AlignmentMonitor:
    """Train in this process, all epochs unless `stop_when_converged`; options are those of `make_trainer`."""
    options = {"stop_when_converged": False, **options}
    settings = {"max_epochs": epochs, "accelerator": "cpu", "precision": "64-true", "log_every_n_steps": 1}
    settings |= {"num_sanity_val_steps": 0, "enable_model_summary": False, "devices": devices}
    monitor = AlignmentMonitor(figure_every=0)
    validates = len(data.rows["validation"]) > 0
    trainer = make_trainer(folder, settings, [monitor, *callbacks], validates=validates, **options)
    return fit(trainer, module, data, resume)


def theta_of(run: Path, which: str = "last") -> torch.Tensor:
    """Θ in a checkpoint of a run's folder."""
    content = torch.load(run / "checkpoints" / f"{which}.ckpt", weights_only=True)
    return content["state_dict"]["sensors.theta"]


def configured(command: str, *overrides: str, hydra: bool = False) -> DictConfig:
    """The configuration of a command."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return compose(command, overrides=list(overrides), return_hydra_config=hydra)


def train(folder: Path, *overrides: str) -> None:
    """`alignnet train` in this process, results in `folder`; what it raises comes through."""
    config = configured("train", *overrides, f"hydra.run.dir={folder}", hydra=True)
    config.hydra.runtime.output_dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    HydraConfig.instance().set_config(config)
    try:
        train_command.__wrapped__(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]))
    finally:
        HydraConfig.instance().cfg = None
        if dist.is_initialized():  # by averaging=partition; other tests are of one process
            dist.destroy_process_group()


def evaluate(*overrides: str) -> None:
    """`alignnet evaluate` in this process; what it raises comes through."""
    evaluate_command.__wrapped__(configured("evaluate", *overrides))


def start(*arguments: str, folder: Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`alignnet` (or what `launcher` starts instead of it) in a session of its own."""
    command = [sys.executable, "-m", *(launcher or ("alignnet",)), *arguments]
    path = os.pathsep.join((str(Path(CONF).parent), str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hear_interrupts,
    )  # fmt: skip


def _hear_interrupts() -> None:
    """Shells start what runs in the background with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], timeout: float = 240.0) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; nothing of its session outlives this."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        stop(process)
    return process.returncode, out, err


def stop(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def run(*arguments: str, folder: Path, launcher: tuple[str, ...] = ()) -> str:
    """Run `alignnet` to its end in good order; returns what it printed."""
    code, out, err = finish(start(*arguments, folder=folder, launcher=launcher))
    assert code == 0, f"exit code {code}\n{out}\n{err}"
    return out
