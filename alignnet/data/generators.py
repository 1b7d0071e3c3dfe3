"""Collisions from the event generators that the package chromo brings (extra `generators`).

Pythia 6 and Sibyll run as they are installed; chromo fetches tables for others (Pythia 8, EPOS, QGSJet,
DPMJET) when they are first used. Each call runs in a process of its own (`alignnet.data.chromo_process`), so
that equal seeds give equal collisions however many were made before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from alignnet.data.chromo_process import REFUSED
from alignnet.data.events import Events, of_columns
from alignnet.errors import ConfigError


@dataclass(frozen=True)
class Collider:
    """What collides, and what of it is kept.

    Args:
        model: a class of `chromo.models`: Pythia6, Sibyll23d, EposLHCR, …
        sqrt_s: energy of a pair of nucleons in their centre of mass, which is the frame [GeV].
        projectile: along +z, as chromo names it: p, O16, …
        target: along −z.
        tune: number of Pythia 6's PYTUNE, 350 is Perugia 2011; None leaves its own; other models have none.
        pt_min: charged particles with less transverse momentum are left out [GeV/c].
        eta_max: and those with a larger |pseudorapidity|.

    Raises:
        ConfigError: chromo is not installed.
    """

    model: str = "Pythia6"
    sqrt_s: float = 13600.0
    projectile: str = "p"
    target: str = "p"
    tune: int | None = 350
    pt_min: float = 0.05
    eta_max: float = 3.0

    def __post_init__(self) -> None:
        if importlib.util.find_spec("chromo") is None:
            raise ConfigError(
                "source: generators of collisions need the package chromo, which is not installed: "
                "pip install 'alignnet[generators]'"
            )

    def collisions(self, n: int, seed: int) -> Events:
        """`n` collisions, the first of them the same however many follow.

        Raises:
            ConfigError: chromo has no such model, its tables cannot be fetched, it refuses the energy or a
                particle, or it broke off.
        """
        request = json.dumps({**asdict(self), "n_collisions": n, "seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "events.npz")
            command = [sys.executable, "-m", "alignnet.data.chromo_process", request, str(answer)]
            done = subprocess.run(
                command, env=_environment(), cwd=folder, capture_output=True, text=True, errors="replace"
            )
            if done.returncode or not answer.is_file():
                raise ConfigError(self._failure(done))
            with np.load(answer) as columns:
                return of_columns(dict(columns))

    def _failure(self, done: subprocess.CompletedProcess[str]) -> str:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        if done.returncode == REFUSED:
            return f"source: {self.model}: {said}"
        return f"source: {self.model} of chromo broke off with code {done.returncode}; its last words: {said}"


def _environment() -> dict[str, str]:
    """Where the process finds this alignnet, however it was found here."""
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
