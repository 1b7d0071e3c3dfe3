"""`resume=DIR`: a run goes on with the overrides it was started with, in its own folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import ListConfig, OmegaConf
from yaml import YAMLError

from alignnet.data.atomic import replacing
from alignnet.errors import AlignnetError, CheckpointError, ConvergenceError


def continued(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments that continue a run, where they ask for `resume=DIR`; the others unchanged.

    The run's own overrides come first, so that a new `trainer.max_epochs=20` wins; results go to DIR unless
    `hydra.run.dir` is given.

    Raises:
        CheckpointError: DIR is not the folder of a run, or what it was started with cannot be read.
    """
    given = {_key(argument): argument for argument in arguments}
    wanted = given.get("resume", "resume=null").partition("=")[2].strip("'\"")
    if wanted in ("", "null", "None"):
        return list(arguments)
    kept = [item for item in saved_overrides(Path(wanted)) if _key(item) not in given]
    place = [] if "hydra.run.dir" in given else [f"hydra.run.dir={wanted}"]
    return [*kept, *arguments, *place]


def saved_overrides(run: Path) -> list[str]:
    """The overrides that a run was started with.

    Raises:
        CheckpointError: the folder has no list of them, or one that cannot be read.
    """
    path = run / ".hydra" / "overrides.yaml"
    if not path.is_file():
        raise CheckpointError(
            f"resume={run}: not the folder of a training run, it has no .hydra/overrides.yaml"
        )
    try:
        saved = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError):
        saved = None
    if not isinstance(saved, ListConfig) or not all(isinstance(item, str) for item in saved):
        raise CheckpointError(
            f"{path}: is damaged, expected a list of overrides such as `- seed=2`; write it anew with "
            "those that the run was started with, or start another run"
        )
    return list(saved)


def remembered(arguments: Sequence[str]) -> dict[Path, bytes]:
    """The configuration of the run that `resume=DIR` continues, which Hydra is about to replace."""
    given = {_key(argument): argument.partition("=")[2].strip("'\"") for argument in arguments}
    folder = Path(given.get("resume", "null"), ".hydra")
    return {path: path.read_bytes() for path in folder.glob("*.yaml")}


@contextmanager
def restored_if_refused(saved: Mapping[Path, bytes]) -> Iterator[None]:
    """Puts a configuration back where the run does not go on with the new one."""
    try:
        yield
    except ConvergenceError:
        raise
    except AlignnetError:
        for path, content in saved.items():
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        raise


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")
