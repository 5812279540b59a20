#!/usr/bin/env bash
# Puts a static binary of rolegate into an image and writes that as an OCI archive.
#
#   assemble.sh --binary FILE --variant default|slim --name NAME --output FILE
#
# Both variants: the binary, CA roots, licences, bill of materials. `default` has iptables (nft and legacy) besides, without
# a shell. The same binary and the same packages (debian.sh) give the same archive, byte for byte: its times are those of
# the commit (or SOURCE_DATE_EPOCH). Debian 12, buildah, python3, cargo; no registry, no daemon, and no root where the
# user has subordinate ids (/etc/subuid).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
fail() { echo "image: $*" >&2; exit 1; }

binary='' variant='' name='' output=''
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=$2 ;;
    --variant) variant=$2 ;;
    --name) name=$2 ;;
    --output) output=$2 ;;
    *) fail "unknown argument $1" ;;
  esac
  shift 2 || fail "a value is missing"
done
[ -f "$binary" ] || fail "no binary: --binary '$binary'"
[ -n "$name" ] && [ -n "$output" ] || fail "--name and --output are needed"
case $variant in default | slim) ;; *) fail "--variant is default or slim, not '$variant'" ;; esac
for tool in buildah python3 readelf tar; do
  command -v "$tool" >/dev/null || fail "$tool is missing (Debian: buildah, python3, binutils, tar)"
done

case $(LC_ALL=C readelf --file-header "$binary" | sed -n 's/^ *Machine: *//p') in
  *X86-64) arch=amd64 triplet=x86_64-linux-gnu ;;
  AArch64) arch=arm64 triplet=aarch64-linux-gnu ;;
  *) fail "$binary is for neither amd64 nor arm64" ;;
esac
if LC_ALL=C readelf --program-headers "$binary" | grep -q INTERP; then
  fail "$binary is not static: build it with --target x86_64-unknown-linux-musl or aarch64-unknown-linux-musl"
fi

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
git=(git -C "$repository")
revision=${ROLEGATE_REVISION:-$("${git[@]}" describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null || echo unknown)}
epoch=${SOURCE_DATE_EPOCH:-$("${git[@]}" log -1 --format=%ct 2>/dev/null || echo 0)}

debian=${ROLEGATE_CACHE:-$repository/.cache}/debian/$arch
"$here/debian.sh" "$arch" "$debian"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022
mkdir "$root"

# --- Files -----------------------------------------------------------------------------------------------
# take PATH..: these files of the packages, where they are there.
take() { (cd "$debian/root" && cp --parents --no-dereference --preserve=mode "$@" "$root"); }

install -D -m 755 "$binary" "$root/usr/local/bin/rolegate"
install -D -m 644 "$repository/LICENSE" "$root/usr/share/doc/rolegate/LICENSE"
mkdir -p "$root"/{etc/ssl/certs,run,tmp,usr/share/sbom}
chmod 1777 "$root/tmp"
echo 'root:x:0:0:root:/:/nonexistent' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
(cd "$debian/root/usr/share/ca-certificates" && LC_ALL=C find . -name '*.crt' | LC_ALL=C sort | xargs cat) \
  >"$root/etc/ssl/certs/ca-certificates.crt"
shipped=(ca-certificates)
licences="Apache-2.0 AND MPL-2.0"

# library NAME: where it is in the packages.
library() {
  local place
  for place in "lib/$triplet" "usr/lib/$triplet"; do
    [ -e "$debian/root/$place/$1" ] && { echo "$place/$1"; return; }
  done
  fail "no package has $1"
}
# needed FILE..: the libraries that they are linked with.
needed() { (cd "$debian/root" && LC_ALL=C readelf --dynamic "$@" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u); }

if [ "$variant" = default ]; then
  licences+=" AND GPL-2.0-or-later AND LGPL-2.1-or-later"
  shipped+=(iptables libc6 libip4tc2 libip6tc2 libmnl0 libnetfilter-conntrack3 libnfnetlink0 libnftnl11 libxtables12)
  programs=(usr/sbin/xtables-nft-multi usr/sbin/xtables-legacy-multi)
  for family in iptables ip6tables; do
    for way in nft legacy; do
      for verb in '' -save -restore; do programs+=("usr/sbin/$family-$way$verb"); done
    done
  done
  # Every match and target, not only those of our rules: a table is read with other people's rules in it.
  cd "$debian/root"
  programs+=(usr/lib/"$triplet"/xtables/lib{ip6t,ipt,xt}_*.so)
  cd - >/dev/null
  take "${programs[@]}"
  # What those load, and what that loads.
  todo=("${programs[@]}") loaded=' '
  while [ ${#todo[@]} -gt 0 ]; do
    new=()
    for soname in $(needed "${todo[@]}"); do
      case $loaded in *" $soname "*) continue ;; esac
      loaded+="$soname "
      path=$(library "$soname")
      new+=("$path")
      mkdir -p "$root/$(dirname "$path")"
      # Under the name that it is asked for by, not as a link to a name with the version.
      cp --preserve=mode --dereference "$debian/root/$path" "$root/$path"
    done
    todo=("${new[@]}")
  done
  # The loader, under the path that programs name.
  loader=$(LC_ALL=C readelf --program-headers "$root/usr/sbin/xtables-nft-multi" |
    sed -n 's/.*interpreter: \(.*\)\]/\1/p')
  if [ ! -e "$root$loader" ]; then
    mkdir -p "$root$(dirname "$loader")"
    ln -s "/$(library "$(basename "$loader")")" "$root$loader"
  fi
  {
    echo "Debian's, unchanged. Their source is in these source packages of Debian:"
    awk -v shipped=" ${shipped[*]} " 'index(shipped, " " $1 " ") { print $4, $5 }' "$debian/packages" | LC_ALL=C sort -u
  } >"$work/sources"
  install -D -m 644 "$work/sources" "$root/usr/share/doc/iptables/SOURCES"
fi

for package in "${shipped[@]}"; do take "usr/share/doc/$package/copyright"; done
# The texts that those refer to.
cat "$root"/usr/share/doc/*/copyright | grep -o '/usr/share/common-licenses/[A-Za-z0-9.-]*[A-Za-z0-9]' | sort -u |
  while read -r text; do take "${text#/}"; done
take usr/share/common-licenses/MPL-2.0

"$here/sbom.py" --binary "$binary" --version "$version" --packages "$debian/packages" --shipped "${shipped[*]}" \
  --repository "$repository" --bill "$root/usr/share/sbom/rolegate.cdx.json" \
  --notices "$root/usr/share/doc/rolegate/crates"

# --- Image -----------------------------------------------------------------------------------------------
buildah=(buildah --storage-driver vfs --root "$work/storage" --runroot "$work/runroot")
if [ "$(id -u)" != 0 ]; then buildah=(buildah unshare "${buildah[@]}"); fi
quiet() { "$@" >/dev/null 2>"$work/error" || { cat "$work/error" >&2; fail "$1 failed"; }; }

container=$("${buildah[@]}" from scratch)
quiet "${buildah[@]}" copy --chown 0:0 "$container" "$root" /
quiet "${buildah[@]}" config --arch "$arch" --os linux --entrypoint '["/usr/local/bin/rolegate"]' --cmd '' \
  --workingdir / --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  --label org.opencontainers.image.title=rolegate \
  --label "org.opencontainers.image.description=Answers the EC2 instance metadata service with each pod's own role" \
  --label org.opencontainers.image.source=https://github.com/rolegate/rolegate \
  --label org.opencontainers.image.documentation=https://github.com/rolegate/rolegate/tree/main/docs \
  --label "org.opencontainers.image.version=$version" \
  --label "org.opencontainers.image.revision=$revision" \
  --label "org.opencontainers.image.created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" \
  --label "org.opencontainers.image.licenses=$licences" \
  "$container"
quiet "${buildah[@]}" commit --format oci --disable-compression=false --identity-label=false --timestamp "$epoch" \
  "$container" "oci:$work/oci:$name"

mkdir -p "$(dirname "$output")"
cp "$root/usr/share/sbom/rolegate.cdx.json" "${output%.oci.tar}.cdx.json"
tar --create --file "$output.new" --directory "$work/oci" --sort=name --mtime="@$epoch" --owner=0 --group=0 \
  --numeric-owner --mode=u=rwX,go=rX --format=gnu blobs index.json oci-layout
mv "$output.new" "$output"
