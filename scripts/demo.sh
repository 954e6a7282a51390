#!/usr/bin/env bash
# The main job on the shipped zoos: a Pareto curve of DiT-S in DiT-XL, and pictures, in minutes on a laptop.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Trajectories that are sampled together cannot be timed one by one, so time is measured first, once.
# Latencies of another zoo or number of steps do not count.
timed() { grep -lsF '"zoo": "fashion"' runs/latency/*.json | xargs grep -qF 'DiT-S*2+DiT-XL*18'; }
timed || python -m scripts.latency precision=auto sampler.steps=20 memory=false \
    allocation.denoisers=[DiT-S,DiT-XL] batch_size=20 shard_size=20 repetitions=3
python -m scripts.figures figure=[demo,demo_frontier,demo_grid] precision=auto run=true "$@"
# README's first picture, photographs; their FID takes longer.
exec python -m scripts.figures zoo=imagenette64 figure=demo_grid figure.demo_grid.runs.guidance=2.5 precision=auto \
    run=true batch_size=8 shard_size=24
