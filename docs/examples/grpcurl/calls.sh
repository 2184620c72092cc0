#!/usr/bin/env bash
# Every kind of public call from a shell: ./calls.sh "Once upon a time"
# (The prompt goes into JSON as it is, so leave out quotes and backslashes.)
set -euo pipefail
address=${MLXMESH_ADDRESS:-localhost:50051}
model=${MLXMESH_EXAMPLE_MODEL:-pocket}
prompt=${1:-Once upon a time}
generation=mlxmesh.generation.v1.GenerationService
models=mlxmesh.model.v1.ModelService

call() { # SERVICE/METHOD, then the request as JSON
  echo "--- $1"
  grpcurl -plaintext -max-time 60 -d "$2" "$address" "$1"
}

echo "--- contracts"
grpcurl -plaintext "$address" list
grpcurl -plaintext "$address" describe mlxmesh.generation.v1.GenerateRequest

call $models/ListModels '{}'
call $generation/CountTokens "{\"model\": \"$model\", \"prompt\": \"$prompt\"}"
call $generation/Generate "{\"model\": \"$model\", \"prompt\": \"$prompt\", \"max_tokens\": 20}"
call $generation/Complete "{\"generation\": {\"model\": \"$model\", \"max_tokens\": 20,
  \"sampling\": {\"temperature\": 0.7, \"seed\": 1},
  \"chat\": {\"messages\": [{\"role\": \"ROLE_USER\", \"content\": \"$prompt\"}]}}}"
