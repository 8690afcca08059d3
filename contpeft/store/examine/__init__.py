"""Looking into stored adapters: spectra, outliers, likeness; importing it loads no torch."""

from __future__ import annotations

from contpeft.store.examine.report import (
    BEYOND,
    ENOUGH,
    AdapterReport,
    Family,
    Inspection,
    ModuleReport,
    TensorNorm,
)

__all__ = ["BEYOND", "ENOUGH", "AdapterReport", "Family", "Inspection", "ModuleReport", "TensorNorm"]
