"""`python -m without_pictures <command> …`: `alignnet` whose evaluations draw nothing, most of their time."""

from __future__ import annotations

import sys

from alignnet.cli.main import main
from alignnet.evaluation.report.markup import Html
from alignnet.evaluation.report.pictures import Picture
from alignnet.evaluation.summary import Evaluation

if __name__ == "__main__":
    Evaluation.draw = lambda *arguments: None  # type: ignore[method-assign]
    Picture.html = lambda picture: Html("")  # type: ignore[method-assign]
    sys.exit(main())
