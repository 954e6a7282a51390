# Sourced by demo.sh, test.sh and gpu.sh: goes to the repository root and activates .venv, which is made
# and filled first if it is missing or if a file of $requirements has changed since.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for file in ${requirements:-requirements.txt}; do
    wanted=$(sha256sum "$file" | cut -d' ' -f1)
    installed=.venv/${file%.txt}.sha256
    if [ "$(cat "$installed" 2>/dev/null || true)" != "$wanted" ]; then
        echo "installing $file into .venv (once; requirements.txt takes minutes, several GB with CUDA builds)"
        "${PYTHON:-python3}" -m venv .venv
        .venv/bin/python -m pip install --disable-pip-version-check --quiet -r "$file"
        # Written last, so that an interrupted installation is repeated.
        echo "$wanted" > "$installed"
    fi
done
source .venv/bin/activate
