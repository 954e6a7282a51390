#!/usr/bin/env bash
# Lint and the whole test suite; arguments go to pytest.
requirements="requirements.txt requirements-pipelines.txt requirements-explore.txt" # the tests need what is optional, too
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
exec python -m pytest "$@"
