#!/usr/bin/env bash
# Fetches from Debian, once, what the image has beside the binary, and unpacks it into DIRECTORY.
#
#   debian.sh amd64|arm64 DIRECTORY [PACKAGE..]
#
# Afterwards DIRECTORY has root/ (the packages' files) and packages (a line each: name, version, architecture, source and
# its version). They come from the apt sources of this machine and are checked by apt as always; nothing is installed,
# and apt's own state is not touched. To take newer versions remove DIRECTORY.
set -euo pipefail

arch=$1 directory=$2
shift 2

# ca-certificates: the CA roots. base-files: the texts of licences. The rest: iptables and what it loads.
packages=("$@")
[ $# -gt 0 ] || packages=(base-files ca-certificates iptables libc6 libip4tc2 libip6tc2 libmnl0 libnetfilter-conntrack3 libnfnetlink0
  libnftnl11 libxtables12)

for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || { echo "image: $tool is missing: the image is made on Debian" >&2; exit 1; }
done
grep -qs '^VERSION_ID="12"' /etc/os-release || echo "image: made for Debian 12; this is another" >&2

wanted="$arch ${packages[*]}"
mkdir -p "$directory"
exec 9>"$directory/lock"
flock 9
[ "$(cat "$directory/complete" 2>/dev/null)" = "$wanted" ] && exit 0

echo "image: fetching ${#packages[@]} packages of Debian for $arch (about 15 s)" >&2
rm -rf "$directory"/{apt,debs,root,complete}
mkdir -p "$directory"/apt/{state,cache}/{lists,archives}/partial "$directory"/{debs,root}
directory=$(cd "$directory" && pwd)
apt=(apt-get -qq -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State=$directory/apt/state"
  -o "Dir::State::status=/dev/null" -o "Dir::Cache=$directory/apt/cache" -o APT::Sandbox::User=root -o Acquire::Retries=3)
"${apt[@]}" update >&2
(cd "$directory/debs" && "${apt[@]}" download "${packages[@]}" >&2)
for deb in "$directory"/debs/*.deb; do
  dpkg-deb --extract "$deb" "$directory/root"
  # shellcheck disable=SC2016 # dpkg's own variables
  dpkg-deb --show --showformat='${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\n' "$deb"
done | LC_ALL=C sort >"$directory/packages"
rm -rf "$directory"/{apt,debs}
echo "$wanted" >"$directory/complete"
