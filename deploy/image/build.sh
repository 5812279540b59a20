#!/usr/bin/env bash
# Builds the static release binary and both images of one architecture, where anything has changed:
#
#   build.sh [--if-possible] amd64|arm64
#
# leaves rolegate-ARCH.oci.tar, rolegate-slim-ARCH.oci.tar and their bills of materials (*.cdx.json) in target/image. With
# --if-possible a machine that lacks something is told so, and that is no error.
#
# No path of this machine is in the binary, and no time but the commit's.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=${ROLEGATE_CACHE:-$repository/.cache}
cd "$repository"

missing=1
if [ "${1:-}" = --if-possible ]; then missing=0; shift; fi
arch=$1
lacks() { echo "image: $*" >&2; exit "$missing"; }

case $arch in
  amd64) target=x86_64-unknown-linux-musl compiler=musl-gcc package=musl-tools ;;
  arm64) target=aarch64-unknown-linux-musl compiler=aarch64-linux-gnu-gcc package=gcc-aarch64-linux-gnu ;;
  *) lacks "no recipe for '$arch'" ;;
esac

# --- What is needed --------------------------------------------------------------------------------------
for pair in "$compiler:$package" buildah:buildah python3:python3 readelf:binutils apt-get:apt dpkg-deb:dpkg; do
  command -v "${pair%%:*}" >/dev/null || lacks "${pair%%:*} is missing (Debian package ${pair##*:}): no image"
done
if [ "$(id -u)" != 0 ] && ! buildah unshare true 2>/dev/null; then
  lacks "buildah needs root, or subordinate ids for this user (/etc/subuid, Debian package uidmap): no image"
fi
sysroot=$(rustc --print sysroot)
if [ ! -d "$sysroot/lib/rustlib/$target" ]; then
  command -v rustup >/dev/null ||
    lacks "Rust's standard library for $target is missing, and no rustup is here to add it: no image"
  rustup target add "$target" >&2 || lacks "rustup cannot add $target: no image"
fi
auditable=$cache/bin/cargo-auditable
[ -x "$auditable" ] || lacks "$auditable is missing: run 'make image'"

# --- The binary ------------------------------------------------------------------------------------------
revision=$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null || echo unknown)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
output=${CARGO_TARGET_DIR:-target}
export ROLEGATE_REVISION=$revision SOURCE_DATE_EPOCH=$epoch
ROLEGATE_RUSTC=$(rustc --version | cut -d' ' -f2)
export ROLEGATE_RUSTC

cargo_home=${CARGO_HOME:-$HOME/.cargo}
places=("$sysroot=/rust" "$cargo_home=/cargo" "$repository=/rolegate" "$(realpath -m "$output")=/target")
# No panic passes through C, and nothing else unwinds.
rust_flags='' c_flags=' -fno-asynchronous-unwind-tables'
for place in "${places[@]}"; do
  rust_flags+=" --remap-path-prefix=$place"
  c_flags+=" -ffile-prefix-map=$place"
done
variable=${target//-/_}
if [ "$arch" = arm64 ]; then
  # The compiler is glibc's: it gets musl's headers, and links with what Rust brings for musl.
  "$here/debian.sh" arm64 "$cache/debian/arm64-musl" musl-dev
  headers=$cache/debian/arm64-musl/root/usr/include/aarch64-linux-musl
  c_flags+=" -nostdinc -isystem $headers -isystem $("$compiler" -print-file-name=include)"
  c_flags+=" -ffile-prefix-map=$cache=/cache -U_FORTIFY_SOURCE -mno-outline-atomics"
fi
# Linked by the plain compiler with Rust's own musl: musl-gcc would make it load musl at run time.
if [ "$arch" = amd64 ]; then linker=cc; else linker=$compiler; fi
export "CC_$variable=$compiler" "CFLAGS_$variable=$c_flags"
export "CARGO_TARGET_${variable^^}_LINKER=$linker" "CARGO_TARGET_${variable^^}_RUSTFLAGS=$rust_flags"
# Others' flags would be in the binary, and take the place of those.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CFLAGS
PATH="$cache/bin:$PATH" CARGO_INCREMENTAL=0 cargo auditable build --release --locked -p rolegate --bin rolegate \
  --target "$target"
binary=$output/$target/release/rolegate

# --- The images ------------------------------------------------------------------------------------------
images=$output/image
mkdir -p "$images"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
"$here/debian.sh" "$arch" "$cache/debian/$arch"
made_of=$(cat "$binary" "$cache/debian/$arch/packages" LICENSE "$here"/* | sha256sum | cut -d' ' -f1)
for variant in default slim; do
  suffix=''
  [ "$variant" = default ] || suffix=-$variant
  archive=$images/rolegate$suffix-$arch.oci.tar
  stamp="$made_of $revision $epoch"
  if [ -f "$archive" ] && [ "$(cat "$archive.stamp" 2>/dev/null)" = "$stamp" ]; then continue; fi
  "$here/assemble.sh" --binary "$binary" --variant "$variant" --output "$archive" \
    --name "localhost/rolegate:$version$suffix"
  echo "$stamp" >"$archive.stamp"
  echo "image: $archive ($(($(stat -c %s "$archive") / 1000)) kB)" >&2
done
