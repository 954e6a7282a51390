#!/usr/bin/env bash
# The main job on the shipped fashion zoo: a Pareto curve of DiT-S in DiT-XL, in minutes on a laptop.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python -m scripts.figures figure=[demo,demo_frontier,demo_grid] precision=auto run=true "$@"
