"""BLAS and LAPACK on parts of row-major matrices, in place.

They are scipy's, by address: what its wrappers (and torch's) would copy, or do for both triangles of a
symmetric matrix, is done where it lies and once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import get_cython_function_address

from alignnet.data.tracks import Array

_LETTER: dict[np.dtype[Any], str] = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}
_REAL: dict[np.dtype[Any], Any] = {
    np.dtype(np.float32): ctypes.c_float,
    np.dtype(np.float64): ctypes.c_double,
}
_Int = ctypes.c_int


def _routine(module: str, name: str, arguments: int) -> dict[np.dtype[Any], Callable[..., None]]:
    """A Fortran routine, all of whose arguments are pointers, for each precision."""
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)
    return {
        dtype: prototype(get_cython_function_address(f"scipy.linalg.{module}", letter + name))
        for dtype, letter in _LETTER.items()
    }


_gemm = _routine("cython_blas", "gemm", 13)
_syrk = _routine("cython_blas", "syrk", 10)
_trsm = _routine("cython_blas", "trsm", 11)
_potrf = _routine("cython_lapack", "potrf", 5)


def subtract_product(c: Array, a: Array, b: Array) -> None:
    """C ← C − A Bᵀ, of shapes (m, n), (m, k), (n, k)."""
    (m, n), k = c.shape, a.shape[1]
    if m and n and k:
        _call(_gemm, c, "T", "N", n, m, k, -1.0, b, _ld(b), a, _ld(a), 1.0, c, _ld(c))


def subtract_square(c: Array, a: Array, keep: bool = True) -> None:
    """C ← C − A Aᵀ in the lower triangle, of shapes (n, n), (n, k); ← −A Aᵀ if C is not to be kept."""
    n, k = a.shape
    if n and k:
        _call(_syrk, c, "U", "T", n, k, -1.0, a, _ld(a), float(keep), c, _ld(c))


def divide_by_transpose(b: Array, lower: Array) -> None:
    """B ← B L⁻ᵀ with a lower triangular L, of shapes (m, n), (n, n)."""
    m, n = b.shape
    if m and n:
        _call(_trsm, b, "L", "U", "T", "N", n, m, 1.0, lower, _ld(lower), b, _ld(b))


def cholesky(a: Array) -> int:
    """Lower triangle of A ← L with A = L Lᵀ; returns how many columns could be factored, all or less."""
    failed = _Int(0)
    _call(_potrf, a, "U", len(a), a, _ld(a), failed)
    return len(a) if failed.value == 0 else failed.value - 1


def _call(routine: dict[np.dtype[Any], Callable[..., None]], like: Array, *arguments: Any) -> None:
    real = _REAL[like.dtype]
    routine[like.dtype](*[_pointer(argument, real) for argument in arguments])


def _pointer(argument: Any, real: Any) -> Any:
    """What a Fortran routine takes; lives as long as the caller's list of them."""
    kind = type(argument)
    if kind is np.ndarray:
        return argument.ctypes.data
    if kind is int:
        return ctypes.byref(_Int(argument))
    if kind is float:
        return ctypes.byref(real(argument))
    return argument.encode() if kind is str else ctypes.byref(argument)


def _ld(a: Array) -> int:
    """Numbers from one row to the next; elements of a row follow each other."""
    if a.shape[1] > 1 and a.strides[1] != a.itemsize:
        raise ValueError(f"rows with gaps: strides {a.strides} of {a.itemsize}-byte numbers")
    return int(max(a.strides[0] // a.itemsize, a.shape[1], 1))
