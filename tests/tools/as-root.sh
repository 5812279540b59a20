#!/usr/bin/env bash
# Runs a command with what network namespaces need: as it is for root, else as root of a user namespace with a
# /run of its own. Says what to do where the kernel allows neither.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
  exec "$@"
fi
if ! unshare --user --map-root-user --mount --net true 2>/dev/null; then
  echo "This needs network namespaces: run it as root, or allow user namespaces" >&2
  echo "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)." >&2
  exit 77
fi
exec unshare --user --map-root-user --mount --net -- \
  sh -c 'mount -t tmpfs tmpfs /run && export PATH="$PATH:/usr/sbin:/sbin" && exec "$@"' sh "$@"
