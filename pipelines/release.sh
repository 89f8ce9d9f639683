#!/usr/bin/env bash
# Judges the run that travels with a release, and exits as `fmn-guard gate` does: 0 pass, 2 refused, 3 fail,
# 4 inconclusive. Reports go to the folder OUTPUT, fmn-guard-report by default.
#
#   pipelines/release.sh RUN POLICY [MANIFEST]
#
# A run of another MANIFEST, suite or base is refused; the base checkpoint is needed for that.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n 's/^# *\(pipelines.*\)/usage: \1/p' "$0" >&2
  exit 2
fi
run=$1 policy=$2 manifest=${3:-} output=${OUTPUT:-fmn-guard-report}

mkdir -p "$output"
git ls-files -z | xargs -0 fmn-guard no-pickle || exit 2
if [ -n "$manifest" ]; then
  fmn-guard apply "$manifest" --policy "$policy" --out "$run" --dry-run > /dev/null
fi
fmn-guard report "$run" --embed-samples none \
  -o "$output/report.html" -o "$output/report.junit.xml" -o "$output/report.sarif"
fmn-guard gate "$run" --policy "$policy"
