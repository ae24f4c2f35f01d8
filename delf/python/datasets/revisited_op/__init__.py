"""Revisited Oxford and Paris: ground truth and metrics."""

import delf

__all__, __getattr__, __dir__ = delf._lazy_submodules(__name__, "dataset")
