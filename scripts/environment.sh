# Sourced by demo.sh and test.sh: goes to the repository root and activates .venv, which is made and
# filled first if it is missing or if requirements.txt has changed since.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$(sha256sum requirements.txt | cut -d' ' -f1)
if [ "$(cat .venv/requirements.sha256 2>/dev/null || true)" != "$wanted" ]; then
    echo "installing requirements.txt into .venv (once; some minutes, several GB with CUDA builds)"
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
    # Written last, so that an interrupted installation is repeated.
    echo "$wanted" > .venv/requirements.sha256
fi
source .venv/bin/activate
