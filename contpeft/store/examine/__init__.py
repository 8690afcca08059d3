"""Looking into stored adapters: spectra, outliers, likeness; importing it loads no torch."""

from __future__ import annotations

from contpeft.store.examine.report import AdapterReport, Family, Inspection, ModuleReport, TensorNorm

__all__ = ["AdapterReport", "Family", "Inspection", "ModuleReport", "TensorNorm"]
