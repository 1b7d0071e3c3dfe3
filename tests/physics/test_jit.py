"""Kernels are used at once where they are on disk, and else when they pay; a switch decides too."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignnet.errors import ConfigError
from alignnet.physics import jit
from alignnet.physics.jit import SWITCH, compiled, in_threads, is_finite, pays


@compiled
def kernel(x: float) -> float:
    return x + 1.0


@pytest.fixture(autouse=True)
def _auto(monkeypatch):
    monkeypatch.setenv(SWITCH, "auto")
    monkeypatch.setattr(jit, "_on_disk", {})
    monkeypatch.setattr(jit, "_seen", {})
    monkeypatch.setattr(jit, "_said", set())
    monkeypatch.setattr(jit, "PAYS_AFTER", 100)


def test_nobody_waits_for_a_compiler_before_it_pays(monkeypatch):
    monkeypatch.setattr(jit, "is_on_disk", lambda _: False)
    assert [pays(kernel, 40) for _ in range(4)] == [False, False, True, True]


def test_a_kernel_on_disk_is_used_at_once(monkeypatch):
    monkeypatch.setattr(jit, "is_on_disk", lambda _: True)
    assert pays(kernel, 1)


def test_little_work_is_done_without_a_kernel_even_from_disk(monkeypatch):
    monkeypatch.setattr(jit, "is_on_disk", lambda _: True)
    assert [pays(kernel, 40, after=1000, quick=100) for _ in range(4)] == [False, False, True, True]


def test_what_appears_on_disk_later_does_not_change_a_run_that_goes_on(monkeypatch):
    monkeypatch.setattr(jit, "is_on_disk", lambda _: False)
    assert not pays(kernel, 1)
    monkeypatch.setattr(jit, "is_on_disk", lambda _: True)
    assert not pays(kernel, 1)


@pytest.mark.parametrize("switch", ["auto", "on", "off"])
@pytest.mark.parametrize("ready", [True, False])
def test_a_wait_for_the_compiler_is_said_once(switch, ready, monkeypatch, caplog):
    monkeypatch.setenv(SWITCH, switch)
    monkeypatch.setattr(jit, "is_on_disk", lambda _: ready)
    with caplog.at_level("INFO", "alignnet.kernels"):
        for _ in range(3):
            assert pays(kernel, 200) == (switch != "off")
    said = [line for line in caplog.messages if line.startswith("compiling loops over tracks and hits")]
    assert len(said) == (switch != "off" and not ready)


def test_compiled_kernels_are_found_on_disk(tmp_path, monkeypatch):
    assert kernel(1.0) == 2.0
    assert jit.is_on_disk(kernel)


def test_without_a_folder_for_it_code_is_made_and_not_kept(monkeypatch):
    def without_folder(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'kernel': no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(jit.numba, "njit", without_folder)
    function, options = compiled(math.sqrt)
    assert function is math.sqrt
    assert options["nogil"]


@pytest.mark.parametrize(("switch", "answer"), [("on", True), ("off", False)])
def test_the_switch_decides(monkeypatch, switch, answer):
    monkeypatch.setenv(SWITCH, switch)
    assert pays(kernel, 1) is answer


def test_an_unknown_switch_is_refused(monkeypatch):
    monkeypatch.setenv(SWITCH, "maybe")
    with pytest.raises(ConfigError, match="'maybe'; choose auto, on or off"):
        pays(kernel, 1)


def test_threads_return_answers_in_order():
    assert in_threads(lambda a, b: a * b, [(k, 2) for k in range(9)], 3) == [2 * k for k in range(9)]


@compiled
def sum_is_finite(values):
    return is_finite(values[0] + values[1])


@pytest.mark.parametrize(("pair", "finite"), [((math.nan, 1), False), ((math.inf, 1), False), ((1, 2), True)])
def test_a_sum_that_is_no_number_is_none_in_loops_that_reorder_sums(pair, finite):
    assert sum_is_finite(np.array(pair, dtype=np.float64)) == finite
