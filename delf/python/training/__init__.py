"""Models, their training, and exporting them."""

import delf

__all__, __getattr__, __dir__ = delf._lazy_submodules(__name__, "model")
