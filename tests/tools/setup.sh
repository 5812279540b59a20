#!/usr/bin/env bash
# Installs what the suites and the demo need beside Rust, once; a second run finds everything and is quick.
#
#   setup.sh [demo]     demo: only what the demo needs
#
# Debian packages are installed where this is root on a machine with apt; elsewhere the missing ones are named.
# The rest goes to a cache: $ROLEGATE_CACHE, or .cache in the repository.
set -euo pipefail

tools=$(cd "$(dirname "$0")" && pwd)
cache=${ROLEGATE_CACHE:-$tools/../../.cache}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

say() { printf 'setup: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# One at a time: suites may be started side by side.
exec 9>"$cache/setup.lock"
have flock && flock 9

# --- Debian packages -------------------------------------------------------------------------------------
missing=()
# command:package, the command telling whether the package is needed.
wanted=(ip:iproute2 iptables:iptables nft:nftables conntrack:conntrack nsenter:util-linux
  curl:curl cc:gcc python3:python3)
[ "${1:-}" = demo ] || wanted+=(node:nodejs npm:npm faketime:faketime)
# Instructions of a request are counted with it.
[ "${1:-}" = demo ] || wanted+=(valgrind:valgrind)
# Prometheus for its rules and a real scrape; buildah and musl's compiler for the image.
[ "${1:-}" = demo ] || wanted+=(promtool:prometheus buildah:buildah musl-gcc:musl-tools)
# For the benches: a server to compare with, and calls to the kernel counted.
[ "${1:-}" = demo ] || wanted+=(nginx:nginx strace:strace)
# A real cluster needs these, and only Go builds the rest of it.
if [ "${1:-}" != demo ] && have go; then
  wanted+=(etcd:etcd-server containerd:containerd runc:runc busybox:busybox-static)
  [ -x /usr/lib/cni/ptp ] || missing+=(containernetworking-plugins)
fi

for pair in "${wanted[@]}"; do
  have "${pair%%:*}" || missing+=("${pair##*:}")
done
if have python3 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then missing+=(python3-venv); fi
have python3 || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # No services of theirs: the suites start their own.
    printf '#!/bin/sh\nexit 101\n' >"$cache/policy-rc.d"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
      install -m 755 "$cache/policy-rc.d" /usr/sbin/policy-rc.d
      trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 \
      || { tail -20 "$cache/apt.log"; say "apt-get failed"; exit 1; }
  else
    say "missing, and not installed because this is not root with apt: ${missing[*]}"
    say "tests that need them are skipped by name"
  fi
fi

# --- Into the cache --------------------------------------------------------------------------------------
# fresh NAME FILE..: whether NAME was made from these very files.
stamp() { cat "$@" | sha256sum | cut -d' ' -f1; }
fresh() { local name=$1; shift; [ "$(cat "$cache/$name.stamp" 2>/dev/null)" = "$(stamp "$@")" ]; }
made() { local name=$1; shift; stamp "$@" >"$cache/$name.stamp"; }

requirements=$tools/python/requirements.txt
if ! fresh venv "$requirements" && have python3; then
  say "boto3, awscli and moto into $cache/venv (about 20 s)"
  rm -rf "$cache/venv"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install -q --disable-pip-version-check --no-deps -r "$requirements"
  made venv "$requirements"
fi
[ "${1:-}" = demo ] && exit 0

node=$tools/node
if ! fresh node "$node/package-lock.json" "$node/client.mjs" && have npm; then
  say "@aws-sdk/client-sts into $cache/node"
  rm -rf "$cache/node"
  mkdir -p "$cache/node"
  cp "$node/package.json" "$node/package-lock.json" "$node/.npmrc" "$node/client.mjs" "$cache/node/"
  (cd "$cache/node" && npm ci --silent --ignore-scripts)
  made node "$node/package-lock.json" "$node/client.mjs"
fi

# go_program NAME DIRECTORY PACKAGE [LDFLAGS]
go_program() {
  have go || return 0
  fresh "$1" "$2"/go.sum "$2"/*.go && return 0
  say "$1 into $cache/go (a minute, Helm four)"
  mkdir -p "$cache/go"
  if (cd "$2" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 go build -trimpath -ldflags "-s -w ${4:-}" \
    -o "$cache/go/$1" "$3"); then
    made "$1" "$2"/go.sum "$2"/*.go
  else
    say "go cannot build $1: its tests are skipped by name"
  fi
}
go_program aws-client "$tools/go" .
go_program ec2-metadata-mock "$tools/ec2-metadata-mock" github.com/aws/amazon-ec2-metadata-mock/cmd
# Helm takes its own version, and the Kubernetes version that it renders for, from the linker.
helm_version=$(sed -n 's|^require helm.sh/helm/v3 ||p' "$tools/helm/go.mod")
kube_minor=$(sed -n 's|.*k8s.io/client-go v0\.\([0-9]*\)\..*|\1|p' "$tools/helm/go.mod")
go_program helm "$tools/helm" helm.sh/helm/v3/cmd/helm "-X helm.sh/helm/v3/internal/version.version=$helm_version \
  -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$kube_minor"

# Prometheus that finds what to scrape through Kubernetes: Debian's cannot. Of its plugins only that one is built, as its
# README has it, with what `make plugins` would make: the others need the SDKs of a dozen clouds.
build_prometheus() {
  local module=github.com/prometheus/prometheus source=$cache/go/prometheus-source
  local -x GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0
  rm -rf "$source" && mkdir -p "$cache/go" \
    && (cd "$1" && go mod download "$module" && cp -r "$(go list -m -f '{{.Dir}}' "$module")" "$source") \
    && chmod -R u+w "$source" && cp "$1/plugins.go" "$source/plugins/plugins.go" \
    && (cd "$source" && go build -trimpath -ldflags "-s -w" -o "$cache/go/prometheus" ./cmd/prometheus) \
    && rm -rf "$source"
}
prometheus=$tools/prometheus
if have go && ! fresh prometheus "$prometheus"/go.sum "$prometheus"/*.go; then
  say "prometheus into $cache/go (four minutes)"
  if build_prometheus "$prometheus"; then
    made prometheus "$prometheus"/go.sum "$prometheus"/*.go
  else
    say "go cannot build prometheus: its tests are skipped by name"
  fi
fi
