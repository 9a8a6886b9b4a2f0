"""What becomes of this process: its forks, and its end."""

import atexit
import os

from ._native import after_fork, before_fork, end

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=before_fork, after_in_parent=after_fork, after_in_child=after_fork
    )
atexit.register(end)
