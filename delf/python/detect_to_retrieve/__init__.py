"""Detect-to-Retrieve: scripts and functions of the original."""

import delf

__all__, __getattr__, __dir__ = delf._lazy_submodules(
  __name__, "aggregation_extraction", "boxes_and_features_extraction"
)
