"""The command line as a module: ``python -m contpeft``."""

from __future__ import annotations

from contpeft.cli import main

if __name__ == "__main__":
    main()
