"""What the commands share: where conf/ is, how a config node becomes an object, and errors in one line.

A command is a file of alignnet/cli/ that reads as a recipe:

    @command("train")                       # conf/train.yaml
    def main(config: DictConfig) -> None:
        detector = build(config.detector)
        loss = build(config.loss, detector=detector)
        ...

    if __name__ == "__main__":
        main()

A leaf of conf/ is a constructor call: `_target_` and that callable's own argument names, plain values only.
What cannot be written in YAML (the detector that another node made) is handed over by `build`.

An error that the user can mend is one line on stderr, `alignnet: error: ...`, and exit code 2 (3 for an
answer that has not settled); any other keeps its traceback (exit code 1). ALIGNNET_DEBUG=1 shows the
traceback of both.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import alignnet
from alignnet.cli.arguments import check_arguments
from alignnet.cli.main import modules_are_kept
from alignnet.cli.messages import check_options, one_line
from alignnet.cli.signals import announce, ending_promptly
from alignnet.errors import ConfigError


def find_conf() -> str:
    """The folder of the configuration files: conf/ of the checkout, or the copy inside an installed wheel.

    Absolute, because Hydra reads a relative path against the module that was started, which differs between
    the console script, `python -m` and the ranks that Lightning starts.
    """
    package = Path(alignnet.__file__).resolve().parent
    checkout = package.parent / "conf"
    return str(checkout if (checkout / "train.yaml").is_file() else package / "conf")


CONF = find_conf()

# ${sample:NAME} in a configuration is a data file that ships with the package.
OmegaConf.register_new_resolver(
    "sample", lambda name: str(Path(alignnet.__file__).resolve().parent / "samples" / name), replace=True
)

Recipe = Callable[[DictConfig], Any]


def build(node: DictConfig | None, **given: Any) -> Any:
    """The object that a node of the configuration describes.

    Args:
        node: `_target_` and that callable's arguments. None, an option that is switched off, gives None.
        given: further arguments that are objects already; they arrive as they are.

    Returns:
        What the call returns; for a node with `_partial_: true` the callable, still waiting for the rest.

    Raises:
        ConfigError: an argument that the callable doesn't have, of the wrong kind, or missing.
    """
    if node is None:
        return None
    # Called by us and not by instantiate, which would turn the dataclasses in `given` into configs.
    make = instantiate(node, _partial_=True, _convert_="all")
    if not isinstance(make, functools.partial):
        raise ConfigError(f"{_key(node)} has no _target_: it needs one, the callable that its values are for")
    waits = bool(node.get("_partial_", False))
    check_arguments(make.func, make.keywords, _key(node), None if waits else given)
    return functools.partial(make, **given) if waits else make(**given)


def command(config_name: str, config_path: str = CONF) -> Callable[[Recipe], Callable[[], None]]:
    """Makes a recipe the main function of a command.

    Args:
        config_name: the command's file in `config_path`, without .yaml.
        config_path: absolute path of the configuration folder.
    """

    def decorate(recipe: Recipe) -> Callable[[], None]:
        @functools.wraps(recipe)
        def job(config: DictConfig) -> Any:
            # In a sweep the other jobs go on: Hydra names the one that failed and raises its error later.
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                try:
                    return recipe(config)
                except Exception as error:
                    line = one_line(error, config_path, config_name) or repr(error)
                    print(f"alignnet: job {HydraConfig.get().job.num} failed: {line}", file=sys.stderr)
                    raise
            with errors_in_one_line(config_path, config_name):
                return recipe(config)

        run = hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)(job)

        @functools.wraps(recipe)
        def main() -> None:
            modules_are_kept()
            # Hydra prints an error and exits unless this is set; with it, the error comes to us.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            with ending_promptly(), errors_in_one_line(config_path, config_name):
                check_options(sys.argv[1:], config_path, config_name)
                sys.argv[1:] = _flags_first(sys.argv[1:])
                run()

        return main

    return decorate


@contextmanager
def errors_in_one_line(config_path: str, config_name: str) -> Iterator[None]:
    """Ends the program with one line and the error's exit code where the user can mend it or stopped it."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(announce()) from None
    except Exception as error:
        line = one_line(error, config_path, config_name)
        if line is None or os.environ.get("ALIGNNET_DEBUG") == "1":
            raise
        sys.stdout.flush()
        print(f"alignnet: error: {line}", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_code", 2)) from None


@contextmanager
def values_of(key: str) -> Iterator[None]:
    """Makes what a constructor raises over a value an error of the user's configuration."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _flags_first(arguments: list[str]) -> list[str]:
    """Hydra wants --multirun before the values."""
    flags = [a for a in arguments if a in ("--multirun", "-m")]
    return [*flags, *(a for a in arguments if a not in flags)]


def _key(node: DictConfig) -> str:
    return str(node._get_full_key(None)) or "the configuration"
