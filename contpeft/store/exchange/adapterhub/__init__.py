"""AdapterHub's folders, read and written; :mod:`contpeft.adapters.adapterhub` knows what is in them."""

from __future__ import annotations

from contpeft.store.exchange.adapterhub.exporting import hub_files
from contpeft.store.exchange.adapterhub.files import Kind, Reader, kind_of_folder
from contpeft.store.exchange.adapterhub.importing import HubImport

__all__ = ["HubImport", "Kind", "Reader", "hub_files", "kind_of_folder"]
