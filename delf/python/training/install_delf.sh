#!/bin/bash
# Installs delf from this checkout, with all that it needs.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
python3 -m pip install "$root"
python3 -c "import delf; print('delf', delf.__version__, 'is installed')"
