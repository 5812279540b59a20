#!/usr/bin/env bash
# Runs fuzz targets for so many seconds each: run.sh CARGO_FUZZ SECONDS [TARGET...]. What they fail for is left in
# artifacts/, what they learn in target/corpus/; the committed corpus/ is only read.
set -euo pipefail
cd "$(dirname "$0")"

cargo_fuzz=$1 seconds=$2
targets=("${@:3}")
if [ ${#targets[@]} = 0 ]; then
  mapfile -t targets < <("$cargo_fuzz" fuzz list --fuzz-dir .)
fi

# No sanitizer: the agent forbids unsafe code, and any stable compiler will do.
"$cargo_fuzz" fuzz build --fuzz-dir . --target-dir target --sanitizer none --codegen-units 16
programs=target/$(rustc -vV | sed -n 's/^host: //p')/release

failed=0
for target in "${targets[@]}"; do
  artifacts=artifacts/$target
  mkdir -p "target/corpus/$target" "$artifacts"
  flags=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
  if [ -f "dictionaries/$target" ]; then
    flags+=(-dict="dictionaries/$target")
  fi
  echo "=== $target: $seconds s"
  if ! "$programs/$target" "${flags[@]}" -artifact_prefix="$artifacts/" "target/corpus/$target" "corpus/$target"; then
    failed=1
    input=$artifacts/$(ls -t "$artifacts" | head -1)
    echo "FUZZ: $target failed for tests/fuzz/$input" >&2
    echo "FUZZ: once more: cd tests/fuzz && $programs/$target $input" >&2
    echo "FUZZ: to keep it: copy it to tests/fuzz/corpus/$target/ under a name that says what it is; then" >&2
    echo "FUZZ: \`cargo test -p rolegate-tests --test corpora\` fails until it is mended" >&2
  fi
done
exit $failed
