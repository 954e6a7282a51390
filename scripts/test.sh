#!/usr/bin/env bash
# Lint and the whole test suite; arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
exec python -m pytest "$@"
