"""Forks of this process: records are closed across them."""

import os

from ._native import after_fork, before_fork

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=before_fork, after_in_parent=after_fork, after_in_child=after_fork
    )
