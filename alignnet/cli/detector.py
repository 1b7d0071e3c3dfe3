"""The detector that a command's configuration names: built in, or from a file."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from alignnet.cli.app import build
from alignnet.data.root import read_detector
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector


def detector_of(node: DictConfig, files: Sequence[str] = ()) -> Detector:
    """The detector of a node of conf/detector.

    Args:
        node: it.
        files: where it is one of a file and detector.path does not say which, it is the first of these.

    Raises:
        ConfigError: it is one of a file, and there is none.
        SchemaError: that file has none.
        GeometryError: its values make no detector.
    """
    if node.get("_target_") is not None:
        detector: Detector = build(node)
        return detector
    path = node.get("path") or next(iter(files), None)
    if path is None:
        raise ConfigError("detector.path is null; give the file whose tree `sensors` is the detector")
    return read_detector(path, node.get("name"))
