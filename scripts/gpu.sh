#!/usr/bin/env bash
# Check a GPU installation: bash scripts/gpu.sh [device=cpu] [FOLDER [STEP ...]]
#
# Tests, one run made in several ways, and the benches of docs/bench/h100.md. Every step has a time
# limit and a log in FOLDER (runs/gpu); one that fails does not stop the next. FOLDER/table.md is
# printed at the end, to be pasted into an issue. Exit code 1: a step failed. STEPs are those to do
# (again, killed and cpu need one); default: all. device=cpu rehearses them without a GPU, in small.
#
# PYTHON=python3 bash scripts/gpu.sh takes what that interpreter has instead of making .venv.
set -uf # no globs: settings have brackets

small=
if [ "${1:-}" = device=cpu ]; then small=yes && shift; fi
out=${1:-runs/gpu}
[ $# = 0 ] || shift
chosen=" $* "
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2

if [ -n "${PYTHON:-}" ]; then
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
    python=$PYTHON
else
    source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
    set +e
    python=python
fi
if [ -n "$small" ]; then
    export CUDA_VISIBLE_DEVICES=
    ranks=2 patience=5
else
    patience=1
    ranks=$("$python" -c 'import torch; print(torch.cuda.device_count())') || exit 2
    if [ "$ranks" = 0 ]; then
        echo "error: torch sees no GPU here; device=cpu rehearses without one" >&2
        exit 2
    fi
fi

rows=() made=() failed=0

# step NAME LIMIT WHAT COMMAND ...: at most LIMIT seconds (a laptop gets more); the last line of the
# log is the result.
step() {
    local name=$1 limit=$((patience * $2)) what=$3 began=$SECONDS code result
    shift 3
    if [[ "$chosen" != "  " && "$chosen" != *" $name "* ]]; then return; fi
    rm -rf "${out:?}/$name"
    timeout --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1 < /dev/null
    code=$?
    result=$(grep -v '^[[:space:]]*$' "$out/$name.log" | tail -n 1 | tr '|\r' '/ ' | cut -c1-180)
    case $code in
        0) ;;
        124 | 137) result="FAILED: not done after $limit s; $result" ;;
        *) result="FAILED with exit code $code: $result" ;;
    esac
    [ $code = 0 ] || failed=1
    made+=("$name")
    rows+=("| $name: $what | $result | $((SECONDS - began)) |")
    echo "${rows[-1]}"
}

# bench NAME LIMIT WHAT SETTING ...: its page is put below the table.
bench() {
    local name=$1 limit=$2 what=$3
    shift 3
    step "$name" "$limit" "$what" "$python" -m scripts.bench "$@" results="$out/$name"
}

# ---- what steps of more than one command do ----

machine() {
    local card="no GPU" commit facts='import platform, torch
versions = torch.__version__, torch.version.cuda, torch.backends.cudnn.version()
print("torch %s, CUDA %s, cuDNN %s, Python" % versions, platform.python_version())'
    if [ -n "${CUDA_VISIBLE_DEVICES-all}" ]; then
        card=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | uniq -c)
    fi
    "$python" -m pip list --disable-pip-version-check
    commit=$(git describe --always --dirty)
    echo $card, $(nproc --all) cores, $("$python" -c "$facts"), commit $commit
}

# sample FOLDER SETTING ...: the run of all these steps, into work/FOLDER.
sample() {
    local folder=$1
    shift
    "$python" -m scripts.sample $run "$@" samples="$work/$folder"
}

again() {
    sample again && "$python" -m tests.measure.difference --equal "$work/one" "$work/again"
}

on_cpu() {
    CUDA_VISIBLE_DEVICES='' sample cpu num_images=$few &&
        "$python" -m tests.measure.difference "$work/one" "$work/cpu"
}

batches() {
    sample batch-8 num_images=$few batch_size=8 shard_size=64 &&
        sample batch-64 num_images=$few batch_size=64 shard_size=64 &&
        "$python" -m tests.measure.difference "$work/batch-8" "$work/batch-64"
}

# ---- sizes ----

run="zoo=fashion allocation.denoisers=[DiT-S,DiT-XL] allocation.small=0.5 guidance.scale=1.5"
if [ -z "$small" ]; then
    run+=" sampler.steps=100 num_images=1000 batch_size=20 shard_size=20"
    few=256
    zoo="zoo=imagenet256-dit denoisers=[DiT-S,DiT-XL]"
    network="$zoo batch_size=128 variants=[bf16,bf16+compile,bf16+fp8+compile] repetitions=3"
    walk="$zoo precision=bf16 compile=true sampler.steps=100 fractions=[0,0.2,0.4,0.6,0.8,1]"
    walk+=" repetitions=3"
    peers="zoo=imagenet256-dit denoisers=[DiT-XL] batch_size=64 sampler.steps=10"
    peers+=" variants=[bf16+compile] repetitions=3"
    features="features=[[50000,10000,2048]] repetitions=1"
    whole="num_images=512"
else
    run+=" sampler.steps=4 num_images=80 batch_size=4 shard_size=4"
    few=64
    zoo="zoo=fashion denoisers=[DiT-S,DiT-XL]"
    network="$zoo batch_size=8 variants=[fp32] repetitions=1"
    walk="$zoo sampler.steps=4 repetitions=1"
    peers="zoo=fashion denoisers=[DiT-XL] batch_size=4 sampler.steps=4 variants=[fp32]"
    peers+=" repetitions=1"
    features="features=[[500,400,64]] repetitions=1"
    whole="zoo=fashion sampler.steps=4 num_images=64 batch_size=8 shard_size=64 precision=fp32"
    whole+=" compile=false"
fi

# ---- the steps ----

work=$out/work
rm -rf "$work"
export python run few work
export -f machine sample again on_cpu batches

step machine 60 "card, driver, versions" bash -fc machine
step tests 300 "what needs CUDA, and parity" \
    "$python" -m pytest -q tests/test_cuda.py tests/test_parity.py
step one 60 "a run of the fashion zoo" bash -fc "sample one"
step again 60 "the same run again" bash -fc again
step killed 90 "the same by $ranks ranks, killed and started again" \
    "$python" -m tests.measure.launch "$work/one" "$work/killed" "$ranks" $run
step cpu 120 "the same on the CPU" bash -fc on_cpu
step batches 90 "batches of 8 and of 64" bash -fc batches
bench network 200 "DiT-S and DiT-XL against matrix products, bf16 and fp8" network $network
bench walk-8 150 "stitch efficiency, 8 images" trajectory $walk batch_size=8
bench walk-64 150 "stitch efficiency, 64 images" trajectory $walk batch_size=64
bench peers 150 "beside diffusers" peers $peers
bench metrics 100 "precision and recall beside torch-fidelity" \
    peers "peers=[torch-fidelity]" "metrics=[precision and recall]" $features
step whole 200 "from noise to FID" "$python" -m tests.measure.end_to_end "$work/whole" $whole
rm -rf "$work"
for name in "$@"; do
    if [[ " ${made[*]-} " != *" $name "* ]]; then
        echo "error: there is no step $name" >&2
        exit 2
    fi
done

{
    echo "| step | result | seconds |"
    echo "| --- | --- | ---: |"
    printf '%s\n' ${rows[@]+"${rows[@]}"}
    for name in ${made[@]+"${made[@]}"}; do
        if [ -d "$out/$name" ]; then
            find "$out/$name" -name '*.md' -exec echo \; -exec cat {} \;
        elif [ "$name" = whole ]; then
            echo && sed -n '/^`python/,$p' "$out/whole.log"
        fi
    done
} > "$out/table.md"
echo && cat "$out/table.md"
exit $failed
