"""A double of kube2iam: what it does on a node and on the wire, with its flags.

What matters of it here, in the order in which it does it: it appends its rule to nat PREROUTING if it is not there
(a node's pods reach the real service until then), learns what pods there are, and listens. It answers role list and
document, passes everything else on, PUT included, and keeps a session for 15 minutes, by role alone. At its end it
leaves its rule where it is.
"""

import argparse
import json
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import botocore.session

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ROLE_KEY = "iam.amazonaws.com/role"
SESSION_TTL_S = 900
# How long it looks for a pod that it does not know.
UNKNOWN_POD_S = 2.0


def arguments():
    def boolean(text):
        return text.lower() in ("true", "1", "t")

    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, default in (
        ("--app-port", "8181"),
        ("--base-role-arn", ""),
        ("--host-interface", "docker0"),
        ("--host-ip", ""),
        ("--metadata-addr", "169.254.169.254"),
        ("--metrics-port", "8181"),
        ("--node", ""),
    ):
        parser.add_argument(name, default=default)
    for name in ("--auto-discover-base-arn", "--iptables", "--verbose"):
        parser.add_argument(name, type=boolean, nargs="?", const=True, default=False)
    return parser.parse_args()


flags = arguments()


def metadata(method, path, headers, body=None):
    connection = HTTPConnection(flags.metadata_addr, 80, timeout=5)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def own_metadata(path):
    _, _, token = metadata("PUT", "/latest/api/token", {"x-aws-ec2-metadata-token-ttl-seconds": "60"})
    status, _, body = metadata("GET", path, {"x-aws-ec2-metadata-token": token.decode()})
    if status != 200:
        raise SystemExit(f"{path}: {status}")
    return body.decode()


def add_rule():
    rule = ["PREROUTING", "-p", "tcp", "-d", flags.metadata_addr, "--dport", "80", "-j", "DNAT"]
    rule += ["--to-destination", f"{flags.host_ip}:{flags.app_port}", "-i", flags.host_interface]
    tool = ["/usr/sbin/iptables-nft", "-w", "-t", "nat"]
    if subprocess.run([*tool, "-C", *rule], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        subprocess.run([*tool, "-A", *rule], check=True)


class Pods:
    """The pods of the node with their roles, listed anew for an address that is not known."""

    def __init__(self):
        self.context = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        query = f"?fieldSelector=spec.nodeName={flags.node}" if flags.node else ""
        self.url = f"https://{host}:{port}/api/v1/pods{query}"
        self.roles = {}

    def learn(self):
        with open(f"{ACCOUNT}/token", encoding="ascii") as file:
            request = urllib.request.Request(self.url, headers={"Authorization": f"Bearer {file.read()}"})
        with urllib.request.urlopen(request, context=self.context, timeout=10) as answer:
            listed = json.load(answer)["items"]
        self.roles = {
            pod["status"]["podIP"]: pod["metadata"].get("annotations", {}).get(ROLE_KEY)
            for pod in listed
            if pod["status"].get("podIP") and not pod["spec"].get("hostNetwork")
        }

    def role(self, address):
        deadline = time.monotonic() + UNKNOWN_POD_S
        while self.roles.get(address) is None and time.monotonic() < deadline:
            self.learn()
            if self.roles.get(address) is None:
                time.sleep(0.5)
        role = self.roles.get(address)
        if role is None or role.startswith("arn:"):
            return role
        return base_arn + role


class Sessions:
    """STS, and what it gave, by role."""

    def __init__(self):
        self.lock = threading.Lock()
        self.kept = {}
        self.sts = botocore.session.Session().create_client("sts")

    def of(self, role):
        with self.lock:
            until, document = self.kept.get(role, (0.0, None))
            if time.monotonic() < until:
                return document
            given = self.sts.assume_role(
                RoleArn=role, RoleSessionName="kube2iam", DurationSeconds=2 * SESSION_TTL_S
            )["Credentials"]
            document = {
                "AccessKeyId": given["AccessKeyId"],
                "Code": "Success",
                "Expiration": given["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
                "LastUpdated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "SecretAccessKey": given["SecretAccessKey"],
                "Token": given["SessionToken"],
                "Type": "AWS-HMAC",
            }
            self.kept[role] = (time.monotonic() + SESSION_TTL_S, document)
            return document


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def any(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["healthz"]:
            self.answer(200, json.dumps({"hostIP": flags.host_ip}).encode())
        elif parts[1:4] == ["meta-data", "iam", "security-credentials"]:
            self.credentials("/".join(parts[4:]))
        else:
            length = int(self.headers.get("Content-Length") or 0)
            status, headers, body = metadata(
                self.command, self.path, dict(self.headers), self.rfile.read(length)
            )
            self.answer(status, body, headers)

    def credentials(self, asked):
        role = pods.role(self.client_address[0])
        if role is None:
            self.answer(404, b"unable to find role for IP\n")
        elif not asked:
            self.answer(200, role.removeprefix(base_arn).encode())
        elif role != (asked if asked.startswith("arn:") else base_arn + asked):
            self.answer(403, f"Invalid role {asked}\n".encode())
        else:
            self.answer(200, json.dumps(sessions.of(role)).encode())

    do_GET = do_PUT = do_POST = do_HEAD = any

    def log_message(self, format, *args):
        print(f"{self.client_address[0]} {format % args}", flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


# Ends at once, as a program without a handler of its own; the first process of a container would not.
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))

base_arn = flags.base_role_arn
if flags.auto_discover_base_arn:
    profile = json.loads(own_metadata("/latest/meta-data/iam/info"))["InstanceProfileArn"]
    base_arn = profile.split(":instance-profile/")[0] + ":role/"
if base_arn and not base_arn.endswith("/"):
    base_arn += "/"
if flags.iptables:
    add_rule()
pods = Pods()
pods.learn()
sessions = Sessions()
print(f"Listening on port {flags.app_port}", flush=True)
Server(("", int(flags.app_port)), Handler).serve_forever()
