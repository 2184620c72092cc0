#!/usr/bin/env bash
# Generates Go stubs from the contracts into gen/. BUF names the buf to use.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here" # the plugins are tools of this module
"${BUF:-buf}" generate ../../.. --template buf.gen.yaml --include-imports --path ../../../protos/mlxmesh/generation
