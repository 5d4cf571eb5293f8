#!/usr/bin/env bash
# Reads a million damaged files with every parser of what others write: none may panic, or make more than a file holds.
# Sends as many damaged messages to all calls of a coordinator, with its job's token and without: it may not panic, its memory
# stays bounded, and its job goes on.
#
#   scripts/fuzz.sh [FILES]
#
# FILES: how many for each parser, and messages (not given: 1000000). `scripts/test.sh` takes some thousands in the same tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
files=${1:-1000000}

# A parser, the package and the test target with its fuzz test, and how many fixtures that damages.
parsers=(
  "pickle and PyTorch|octrain-formats|--test pytorch|4"
  "Paddle|octrain-formats|--test paddle|7"
  "ONNX|octrain-formats|--test onnx|1"
  # Beside them the translation of ONNX files to graphs.
  "manifest, graph and safetensors|octrain|--lib|3"
  "calls of a coordinator|octrain-coordinator|--test fuzz|1"
)

for parser in "${parsers[@]}"; do
  IFS='|' read -r name package target fixtures <<< "$parser"
  rounds=$(( (files + fixtures - 1) / fixtures ))
  start=$SECONDS
  # shellcheck disable=SC2086
  OCTRAIN_FUZZ_ROUNDS=$rounds cargo test --quiet --locked --package "$package" $target -- \
    whatever_bytes_are_changed_nothing_panics_and_memory_stays_bounded \
    whatever_a_file_says_translating_it_does_not_panic \
    whatever_is_sent_to_a_coordinator_nothing_panics_and_its_job_goes_on
  echo "$name: $(( rounds * fixtures )) damaged files or messages, $(( SECONDS - start )) s"
done
