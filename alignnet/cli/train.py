"""`alignnet train`: fit the places of the sensors so that tracks pass through their hits."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import lightning as L
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig

from alignnet.cli.app import CONF, build, command, errors_in_one_line, values_of
from alignnet.cli.board import TrainingFigures, show_evaluation
from alignnet.cli.found_tracks import finding_figures, with_found_tracks
from alignnet.cli.keys import check_keys
from alignnet.cli.provenance import provenance, typed
from alignnet.cli.report import leave_report
from alignnet.cli.resume import continued, remembered, restored_if_refused
from alignnet.cli.run_folder import forget_curves
from alignnet.cli.sensor_answer import sensor_answer
from alignnet.cli.setup import evaluation_of, is_first_rank, load_problem, plain, quiet
from alignnet.cli.signals import handle_again
from alignnet.cli.told_sets import told_sets
from alignnet.cli.uncertainty import uncertainty_of
from alignnet.data.memory import peak_memory_mb
from alignnet.errors import NotConvergedError
from alignnet.evaluation.summary import report, write_metrics
from alignnet.export.result import write_result
from alignnet.training.answer import ALIGNED, answer_of
from alignnet.training.callbacks import AlignmentMonitor
from alignnet.training.convergence import convergence_of
from alignnet.training.module import AlignmentModule
from alignnet.training.robust_schedule import begin_epoch
from alignnet.training.run import fit, make_trainer

log = logging.getLogger("alignnet.train")


# Configuration of the run that goes on, as it was before Hydra wrote this one's.
EARLIER: dict[Path, bytes] = {}


@command("train")
def main(config: DictConfig) -> None:
    """Read the configuration, train, and leave alignment.root and metrics.json."""
    with restored_if_refused(EARLIER):
        train(config)


def train(config: DictConfig) -> None:
    """The command itself."""
    quiet()
    check_keys(config)
    start = time.perf_counter()
    folder = Path(HydraConfig.get().runtime.output_dir)
    with values_of("seed"):
        L.seed_everything(config.seed, workers=True, verbose=False)
    if config.resume is None and is_first_rank():
        forget_curves(folder)
    problem = load_problem(with_found_tracks(config, folder))
    sets = told_sets(problem.data, problem.objective.others)
    averaging = build(config.get("averaging"))
    module = AlignmentModule(
        problem.sensors,
        problem.loss,
        build(config.optimizer),
        problem.detector,
        local_training=averaging is not None,
        objective=problem.objective,
    )
    early_stop = plain(config.early_stop) if config.early_stop else None
    evaluation, uncertainty = evaluation_of(problem, config.evaluation), uncertainty_of(config, log)
    monitor = AlignmentMonitor(problem.truth, config.figure_every, TrainingFigures(evaluation))
    ends_promptly = LambdaCallback(on_train_start=lambda *_: handle_again())
    validates = len(problem.data.rows["validation"]) > 0
    trainer = make_trainer(
        folder, plain(config.trainer), [monitor, ends_promptly], early_stop, averaging, validates
    )
    log.info("%s: %d sensors, %d tracks from %s", problem.detector.name, len(problem.detector),
             problem.data.n_tracks, ", ".join(problem.data.files))  # fmt: skip
    for line in sets:
        log.info("%s", line)
    fit(trainer, module, problem.data, None if config.resume is None else Path(config.resume))
    draw = config.evaluation.limit and problem.truth is not None
    answer = answer_of(module, problem.data, draw, uncertainty, problem.volumes)  # ranks share the work
    if not trainer.is_global_zero:
        return
    status = convergence_of(trainer)
    write_result(folder / "alignment.root", problem.detector, answer, {"convergence": status.plain()})
    begin_epoch(problem.loss, None)  # before and after have scales of their own
    evaluation = replace(
        evaluation, after=answer.local, aligned=answer.status == ALIGNED, error_draws=answer.error_draws,
        errors=answer.errors, spectrum=answer.spectrum, modes=answer.modes, levels=answer.levels,
        answer=sensor_answer(
            problem, config, answer.local, [(one.volumes, one.moved) for one in answer.levels],
            (answer.n_hits, answer.status, answer.error),
        ),
    )  # fmt: skip
    metrics = evaluation.run(folder / "evaluation", monitor.history)
    show_evaluation(trainer, metrics, every=config.figure_every > 0)
    metrics |= {
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": peak_memory_mb(),
        "converged": status.converged,
        "convergence": status.plain(),
        "history": monitor.history,
        "run": provenance(problem, typed("train"), config.seed),
        **finding_figures(folder),
    }
    write_metrics(folder / "metrics.json", metrics)
    report(metrics, folder / "evaluation")
    if config.evaluation.report:
        leave_report(folder, metrics, problem.detector, answer.local)
    log.info("alignment: %s", folder / "alignment.root")
    log.info("%s", status)
    if not metrics["n_aligned"] and config.require_convergence:
        raise NotConvergedError(
            "no sensor was aligned: all have fewer hits than optimizer.min_hits, or are fixed; accept it "
            "with require_convergence=false"
        )
    if status.converged is False and config.require_convergence:
        raise NotConvergedError(
            f"{status}. All is written; go on with alignnet train resume={folder} trainer.max_epochs=N, or "
            "accept it with require_convergence=false"
        )


if __name__ == "__main__":
    with errors_in_one_line(CONF, "train"):
        if is_first_rank():  # when others are started, it is replaced already
            EARLIER |= remembered(sys.argv[1:])
        sys.argv[1:] = continued(sys.argv[1:])
    main()
