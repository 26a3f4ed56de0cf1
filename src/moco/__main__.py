"""The process `moco`, or `python -m moco`: the command line with nobody else's code beside it."""

import sys

from moco import cli


def main() -> int:
    """Run this process's command line and return its exit code."""
    # Lightning Fabric imports torchmetrics where it finds it, for a version that no command needs: a fifth of a start.
    sys.modules.setdefault("torchmetrics", None)  # type: ignore[arg-type]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
