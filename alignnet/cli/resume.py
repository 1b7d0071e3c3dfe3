"""`resume=DIR`: a run goes on with the overrides it was started with, in its own folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import ListConfig, OmegaConf

from alignnet.data.atomic import replacing
from alignnet.errors import AlignnetError, CheckpointError, ConvergenceError


def continued(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments that continue a run, where they ask for `resume=DIR`; the others unchanged.

    The run's own overrides come first, so that a new `trainer.max_epochs=20` wins; results go to DIR unless
    `hydra.run.dir` is given.

    Raises:
        CheckpointError: DIR is not the folder of a run.
    """
    given = {_key(argument): argument for argument in arguments}
    wanted = given.get("resume", "resume=null").partition("=")[2].strip("'\"")
    if wanted in ("", "null", "None"):
        return list(arguments)
    overrides = Path(wanted) / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        raise CheckpointError(
            f"resume={wanted}: not the folder of a training run, it has no .hydra/overrides.yaml"
        )
    saved = OmegaConf.load(overrides)
    earlier = [str(item) for item in saved] if isinstance(saved, ListConfig) else []
    kept = [item for item in earlier if _key(item) not in given]
    place = [] if "hydra.run.dir" in given else [f"hydra.run.dir={wanted}"]
    return [*kept, *arguments, *place]


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
