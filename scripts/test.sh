#!/usr/bin/env bash
# Lint and the whole test suite, in up to four processes of one thread; arguments go to pytest.
requirements="requirements.txt requirements-pipelines.txt requirements-explore.txt" # the tests need what is optional, too
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export OMP_NUM_THREADS=1 # in processes that tests start, too
ruff check .
ruff format --check .
# The tests of a file stay together: they share what is made once for all of them.
exec python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
