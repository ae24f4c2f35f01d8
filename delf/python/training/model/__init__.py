"""The models: backbones, DELF and DELG, and the graphs they are exported as."""

import delf

__all__, __getattr__, __dir__ = delf._lazy_submodules(
  __name__, "delf_model", "delg_model", "export_model_utils", "resnet50"
)
