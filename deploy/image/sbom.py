#!/usr/bin/env python3
"""Writes what an image is made of: the bill of materials (CycloneDX 1.5, JSON) and the licences of the binary's crates.

Crates are those that the binary itself names (`cargo auditable` writes them into it), packages those that the image was
made of. No time and no serial number: the same image has the same bill.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import sys
import urllib.parse
import zlib

SECTION = ".dep-v0"
# As ELF numbers machines.
TARGETS = {0x3E: "x86_64-unknown-linux-musl", 0xB7: "aarch64-unknown-linux-musl"}
LICENCE_FILES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def section(binary: bytes, wanted: str) -> bytes | None:
    """One section of a 64-bit little-endian ELF file."""
    (table,) = struct.unpack_from("<Q", binary, 0x28)
    size, count, names = struct.unpack_from("<HHH", binary, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", binary, table + size * n) for n in range(count)]
    texts = headers[names][4]
    for name, _, _, _, offset, length in headers:
        start = texts + name
        if binary[start : binary.index(b"\0", start)].decode() == wanted:
            return binary[offset : offset + length]
    return None


def cargo(repository: pathlib.Path, *args: str) -> str:
    command = ["cargo", *args, "--quiet", "--locked"]
    return subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, check=True, text=True).stdout


def crates(binary: bytes, repository: pathlib.Path) -> list[dict]:
    """What cargo knows of each crate in the binary, the agent itself left out: it is what the bill is of.

    The binary names more than is in it: what macros and other members of the workspace use.
    """
    packed = section(binary, SECTION)
    if packed is None:
        print(f"image: the binary does not name its crates (no {SECTION}): nor does the bill", file=sys.stderr)
        return []
    named = {(one["name"], one["version"]) for one in json.loads(zlib.decompress(packed))["packages"]}
    (machine,) = struct.unpack_from("<H", binary, 0x12)
    target = TARGETS[machine]
    tree = ["tree", "--package=rolegate", f"--target={target}", "--edges=normal,no-proc-macro", "--prefix=none"]
    words = [line.split() for line in cargo(repository, *tree, "--format={p}").splitlines()]
    linked = {(name, version.removeprefix("v")) for name, version, *_ in words if name != "rolegate"}
    if not linked <= named:
        sys.exit(f"image: the binary is of another source: it lacks {sorted(linked - named)}")
    told = json.loads(cargo(repository, "metadata", "--format-version=1", f"--filter-platform={target}"))
    known = {(one["name"], one["version"]): one for one in told["packages"]}
    return [known[one] for one in sorted(linked)]


def component(crate: dict) -> dict:
    """A line of the bill."""
    name, version = crate["name"], crate["version"]
    licences = [{"expression": crate["license"].replace("/", " OR ")}] if crate["license"] else []
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
        "licenses": licences,
    }


def packages(listed: str, shipped: set[str]) -> list[dict]:
    """Those lines of debian.sh's list that are in the image."""
    found = []
    for name, version, architecture, source, source_version in map(str.split, listed.splitlines()):
        if name in shipped:
            purl = f"pkg:deb/debian/{name}@{urllib.parse.quote(version, safe='')}?arch={architecture}"
            upstream = [{"name": "debian:source", "value": f"{source} {source_version}"}]
            found.append({"type": "library", "name": name, "version": version, "purl": purl, "properties": upstream})
    return found


def notices(linked: list[dict]) -> str:
    """The texts that come with the crates, each once, after the names of those that it comes with."""
    texts: dict[str, list[str]] = {}
    lines = ["The crates in /usr/local/bin/rolegate, the licences that they name, and the texts that they bring.\n"]
    for crate in linked:
        title = f"{crate['name']} {crate['version']}"
        lines.append(f"{title}: {crate['license']}")
        directory = pathlib.Path(crate["manifest_path"]).parent
        for path in sorted(directory.iterdir()):
            if path.is_file() and path.name.upper().startswith(LICENCE_FILES):
                text = "\n".join(map(str.rstrip, path.read_text(errors="replace").strip().splitlines()))
                texts.setdefault(text, []).append(title)
    for text, titles in texts.items():
        lines += ["", "=" * 80, ", ".join(dict.fromkeys(titles)), "=" * 80, "", text]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--packages", type=pathlib.Path, required=True, help="as debian.sh writes it")
    parser.add_argument("--shipped", required=True, help="which of them are in the image")
    parser.add_argument("--repository", type=pathlib.Path, required=True)
    parser.add_argument("--bill", type=pathlib.Path, required=True, help="written")
    parser.add_argument("--notices", type=pathlib.Path, required=True, help="written")
    args = parser.parse_args()
    linked = crates(args.binary.read_bytes(), args.repository)
    components = [component(crate) for crate in linked]
    components += packages(args.packages.read_text(), set(args.shipped.split()))
    components.sort(key=lambda one: one["purl"])
    subject = {"type": "application", "name": "rolegate", "version": args.version}
    subject |= {"purl": f"pkg:cargo/rolegate@{args.version}", "licenses": [{"license": {"id": "Apache-2.0"}}]}
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": subject}}
    args.bill.write_text(json.dumps(bill | {"components": components}, indent=1) + "\n")
    args.notices.write_text(notices(linked))


main()
