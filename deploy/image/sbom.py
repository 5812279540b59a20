#!/usr/bin/env python3
"""Prints the bill of materials of an image: CycloneDX 1.5, in JSON.

Crates are those that the binary itself names (`cargo auditable` writes them into it), packages those that the image was
made of. No time and no serial number: the same image has the same bill.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import sys
import zlib

SECTION = ".dep-v0"


def section(binary: bytes, wanted: str) -> bytes | None:
    """One section of a 64-bit little-endian ELF file."""
    table, = struct.unpack_from("<Q", binary, 0x28)
    size, count, names = struct.unpack_from("<HHH", binary, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", binary, table + size * n) for n in range(count)]
    texts = headers[names][4]
    for name, _, _, _, offset, length in headers:
        start = texts + name
        if binary[start : binary.index(b"\0", start)].decode() == wanted:
            return binary[offset : offset + length]
    return None


def licences(repository: pathlib.Path) -> dict[tuple[str, str], str]:
    """The licence of each crate, by name and version, where cargo is here to say it."""
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1"]
    try:
        told = subprocess.run(command, cwd=repository, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {(one["name"], one["version"]): one["license"] or "" for one in json.loads(told)["packages"]}


def crates(binary: bytes, repository: pathlib.Path) -> list[dict]:
    packed = section(binary, SECTION)
    if packed is None:
        print(f"image: the binary does not name its crates (no {SECTION}): nor does the bill", file=sys.stderr)
        return []
    known = licences(repository)
    found = []
    for one in json.loads(zlib.decompress(packed))["packages"]:
        # What only build scripts use is not in the binary; and the agent itself is the bill's subject.
        if one.get("kind", "runtime") != "runtime" or one.get("root"):
            continue
        name, version = one["name"], one["version"]
        component = {"type": "library", "name": name, "version": version, "purl": f"pkg:cargo/{name}@{version}"}
        if licence := known.get((name, version)):
            component["licenses"] = [{"expression": licence.replace("/", " OR ")}]
        found.append(component)
    return found


def packages(listed: str, shipped: set[str]) -> list[dict]:
    found = []
    for name, version, architecture, source, source_version in map(str.split, listed.splitlines()):
        if name in shipped:
            escaped = version.replace("+", "%2B").replace("~", "~").replace(":", "%3A")
            purl = f"pkg:deb/debian/{name}@{escaped}?arch={architecture}"
            upstream = [{"name": "debian:source", "value": f"{source} {source_version}"}]
            found.append({"type": "library", "name": name, "version": version, "purl": purl, "properties": upstream})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--packages", type=pathlib.Path, required=True, help="as debian.sh writes it")
    parser.add_argument("--shipped", required=True, help="which of them are in the image")
    parser.add_argument("--repository", type=pathlib.Path, required=True)
    args = parser.parse_args()
    components = crates(args.binary.read_bytes(), args.repository)
    components += packages(args.packages.read_text(), set(args.shipped.split()))
    components.sort(key=lambda one: one["purl"])
    subject = {"type": "application", "name": "rolegate", "version": args.version}
    subject |= {"purl": f"pkg:cargo/rolegate@{args.version}", "licenses": [{"license": {"id": "Apache-2.0"}}]}
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": subject}}
    json.dump(bill | {"components": components}, sys.stdout, indent=1)
    print()


main()
