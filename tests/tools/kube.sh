#!/usr/bin/env bash
# Builds the programs of a Kubernetes cluster into the cache, once (about six minutes on two cores). Without Go it
# says so: the tests that need them are then skipped by name.
set -euo pipefail

programs=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet)

tools=$(cd "$(dirname "$0")" && pwd)
cache=${ROLEGATE_CACHE:-$tools/../../.cache}
mkdir -p "$cache/kube"
cache=$(cd "$cache" && pwd)

if ! command -v go >/dev/null 2>&1; then
  echo "kube: no Go here, so no Kubernetes: tests against a real one are skipped by name"
  exit 0
fi

cd "$tools/kube"
stamp=$(cat go.mod go.sum kube.env tools.go | sha256sum | cut -d' ' -f1)
missing=$(for program in "${programs[@]}"; do [ -x "$cache/kube/$program" ] || echo "$program"; done)
if [ -z "$missing" ] && [ "$(cat "$cache/kube.stamp" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
. ./kube.env
echo "kube: building Kubernetes $KUBE_VERSION into $cache/kube (about six minutes)"
minor=${KUBE_VERSION#v1.}
package=k8s.io/component-base/version
GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 nice go build -trimpath \
  -ldflags "-s -w -X $package.gitVersion=$KUBE_VERSION -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}" \
  -o "$cache/kube/" "${programs[@]/#/k8s.io/kubernetes/cmd/}"
echo "$stamp" >"$cache/kube.stamp"
echo "kube: built in $SECONDS s"
