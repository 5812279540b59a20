#!/usr/bin/env bash
# Builds kube-apiserver into the cache, once (about three minutes on two cores). Without Go it says so: the
# tests that need it are then skipped by name.
set -euo pipefail

tools=$(cd "$(dirname "$0")" && pwd)
cache=${ROLEGATE_CACHE:-$tools/../../.cache}
mkdir -p "$cache/kube"
cache=$(cd "$cache" && pwd)

if ! command -v go >/dev/null 2>&1; then
  echo "kube: no Go here, so no kube-apiserver: tests against a real one are skipped by name"
  exit 0
fi

cd "$tools/kube"
stamp=$(cat go.mod go.sum kube.env | sha256sum | cut -d' ' -f1)
if [ "$(cat "$cache/kube.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$cache/kube/kube-apiserver" ]; then
  exit 0
fi
. ./kube.env
echo "kube: building kube-apiserver $KUBE_VERSION into $cache/kube (about three minutes)"
minor=${KUBE_VERSION#v1.}
package=k8s.io/component-base/version
GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 nice go build -trimpath \
  -ldflags "-s -w -X $package.gitVersion=$KUBE_VERSION -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}" \
  -o "$cache/kube/" k8s.io/kubernetes/cmd/kube-apiserver
echo "$stamp" >"$cache/kube.stamp"
