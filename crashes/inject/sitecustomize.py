"""Loaded by every interpreter that has this folder on PYTHONPATH: makes the processes of the Procfile mortal."""

import os
import sys

if (home := os.environ.get("CRASH_POINTS_DIR")) and len(sys.orig_argv) > 1:
    kind = sys.orig_argv[-1]
    if kind in {"api", "relay", "worker"}:
        import crash_points

        crash_points.install(kind, home)
