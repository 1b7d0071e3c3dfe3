"""The units of alignnet, and the few constants that convert between them.

Lengths are in cm, angles in rad, momenta in GeV/c, masses in GeV/c², the field in tesla and charges in
units of e. Beam and field run along z. Numbers that a person reads (tables, plots) are in µm and mrad.
"""

from __future__ import annotations

CURVATURE = 0.00299792458
"""|κ| [1/cm] of a unit charge with p_T = 1 GeV/c in 1 T: κ = CURVATURE · B · q / p_T."""

UM = 1e-4
"""One micrometre in cm."""

MRAD = 1e-3
"""One milliradian in rad."""

PION_MASS = 0.13957039
"""Charged pion [GeV/c²] (PDG 2024); the default mass of a track."""

ELECTRON_MASS = 0.00051099895
"""Electron [GeV/c²] (PDG 2024)."""

KAON_MASS = 0.493677
"""Charged kaon [GeV/c²] (PDG 2024)."""

PROTON_MASS = 0.93827209
"""Proton [GeV/c²] (PDG 2024)."""
