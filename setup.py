"""Builds the package; what it is stands in pyproject.toml."""

import setuptools
from setuptools.command import build_py


class BuildWithoutTests(build_py.build_py):
  """Leaves the `*_test.py` files, which lie beside what they test, out."""

  def find_package_modules(self, package, package_dir):
    """Returns [(package, module, path)] of a package, without its tests."""
    modules = super().find_package_modules(package, package_dir)
    return [module for module in modules if not module[1].endswith("_test")]


setuptools.setup(cmdclass={"build_py": BuildWithoutTests})
