//! Heads that two parsers read differently, and what is answered to each.

use crate::lab::{USUAL, WIDEST, Wrong, everything_v4, has_marker, only_what_is_open_reached_imds, statuses};

/// A `Host` as it should be.
const HOST: &str = "Host: 169.254.169.254\r\n";
/// A second request, which nobody may read.
const SECRET: &str = "GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
/// The head of a request for a token; its body is read.
const PUT: &str =
    "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n";

/// Name, status, request. What is right is an answer of this status to the first request alone; 0: none, the connection is
/// closed. A length beside a coding is harmless where nothing can follow the first request.
const HEADS: &[(&str, u16, &str)] = &[
    ("plain", 200, "GET / HTTP/1.1\r\n{host}\r\n"),
    // Lines.
    ("bare LF", 200, "GET /latest/meta-data/mac HTTP/1.1\nHost: 169.254.169.254\n\n"),
    ("bare LF, two requests", 200, "GET / HTTP/1.1\nHost: 169.254.169.254\n\n{secret}"),
    ("bare LF where a head could end", 200, "GET / HTTP/1.1\r\n{host}X-A: b\n\n{secret}"),
    ("bare CR", 400, "GET / HTTP/1.1\rHost: 169.254.169.254\r\r"),
    ("CR in a value", 400, "GET / HTTP/1.1\r\n{host}X-A: a\rb\r\n\r\n"),
    ("empty lines first", 200, "\r\n\r\nGET / HTTP/1.1\r\n{host}\r\n"),
    ("space first", 400, " GET / HTTP/1.1\r\n{host}\r\n"),
    ("obs-fold", 400, "GET / HTTP/1.1\r\n{host}X-A: b\r\n c\r\n\r\n"),
    ("obs-fold with a tab", 400, "GET / HTTP/1.1\r\n{host}X-A: b\r\n\tc\r\n\r\n"),
    ("obs-fold of Host", 400, "GET / HTTP/1.1\r\nHost:\r\n 169.254.169.254\r\n\r\n"),
    (
        "obs-fold of the coding",
        400,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    ("obs-fold of the first line", 400, "GET / HTTP/1.1\r\n Host: 169.254.169.254\r\n\r\n"),
    ("space before colon", 400, "GET / HTTP/1.1\r\nHost : 169.254.169.254\r\n\r\n"),
    (
        "space before the coding's colon",
        400,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{secret}",
    ),
    ("space in a name", 400, "GET / HTTP/1.1\r\n{host}X A: b\r\n\r\n"),
    ("no colon", 400, "GET / HTTP/1.1\r\n{host}X-A\r\n\r\n"),
    ("no name", 400, "GET / HTTP/1.1\r\n{host}: b\r\n\r\n"),
    ("NUL in a name", 400, "GET / HTTP/1.1\r\n{host}X-\0A: b\r\n\r\n"),
    ("NUL in a value", 400, "GET / HTTP/1.1\r\n{host}X-A: \0\r\n\r\n"),
    ("NUL in Host", 400, "GET / HTTP/1.1\r\nHost: 169.254.169.254\0evil.example\r\n\r\n"),
    ("NUL in the target", 400, "GET /latest/user-data\0 HTTP/1.1\r\n{host}\r\n"),
    ("NUL in the method", 400, "GET\0 / HTTP/1.1\r\n{host}\r\n"),
    ("tab for space", 400, "GET\t/latest/user-data\tHTTP/1.1\r\n{host}\r\n"),
    ("two spaces", 400, "GET  /latest/user-data HTTP/1.1\r\n{host}\r\n"),
    ("space in the target", 400, "GET /latest/user-data x HTTP/1.1\r\n{host}\r\n"),
    ("space after the version", 400, "GET / HTTP/1.1 \r\n{host}\r\n"),
    ("TLS", 400, "\x16\x03\x01\0\x05hello\r\n\r\n"),
    // Versions.
    ("HTTP/0.9", 400, "GET /latest/user-data\r\n\r\n"),
    ("HTTP/0.9, bare LF", 400, "GET /latest/user-data\n\n"),
    ("HTTP/0.9 by name", 400, "GET /latest/user-data HTTP/0.9\r\n\r\n"),
    ("HTTP/1.0", 404, "GET /latest/user-data HTTP/1.0\r\n\r\n"),
    (
        "HTTP/1.0, kept",
        200,
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /latest/user-data HTTP/1.0\r\n\r\n",
    ),
    ("HTTP/1.0, chunked", 400, "GET / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{secret}"),
    ("HTTP/1.0, two Hosts", 403, "GET / HTTP/1.0\r\n{host}{host}\r\n"),
    ("HTTP/1.2", 400, "GET / HTTP/1.2\r\n{host}\r\n"),
    ("HTTP/2.0", 400, "GET /latest/user-data HTTP/2.0\r\n{host}\r\n"),
    ("lower-case version", 400, "GET / http/1.1\r\n{host}\r\n"),
    ("another protocol", 400, "GET / RTSP/1.0\r\n{host}\r\n"),
    ("h2 preface", 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("h2 preface and settings", 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    (
        "h2c",
        200,
        "GET / HTTP/1.1\r\n{host}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    ),
    (
        "h2c, then h2",
        200,
        "GET / HTTP/1.1\r\n{host}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ),
    (
        "h2c with a body",
        200,
        "GET / HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n12345",
    ),
    ("websocket", 200, "GET / HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    (
        "websocket, then a request",
        200,
        "GET / HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n{secret}",
    ),
    ("upgrade to TLS", 200, "GET / HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n"),
    // Methods and forms of the target.
    ("asterisk", 404, "GET * HTTP/1.1\r\n{host}\r\n"),
    ("OPTIONS asterisk", 404, "OPTIONS * HTTP/1.1\r\n{host}\r\n"),
    ("authority-form", 404, "GET 169.254.169.254:80 HTTP/1.1\r\n{host}\r\n"),
    ("authority-form of another", 404, "GET evil.example:80 HTTP/1.1\r\n{host}\r\n"),
    ("CONNECT", 404, "CONNECT 169.254.169.254:80 HTTP/1.1\r\n{host}\r\n"),
    ("CONNECT another", 404, "CONNECT evil.example:443 HTTP/1.1\r\n{host}\r\n"),
    ("CONNECT IPv6", 404, "CONNECT [fd00:ec2::254]:80 HTTP/1.1\r\n{host}\r\n"),
    ("CONNECT, then a request", 404, "CONNECT 169.254.169.254:80 HTTP/1.1\r\n{host}\r\n{secret}"),
    ("CONNECT of a path", 405, "CONNECT /latest/user-data HTTP/1.1\r\n{host}\r\n"),
    ("no slash", 400, "GET latest/user-data HTTP/1.1\r\n{host}\r\n"),
    ("no target", 400, "GET HTTP/1.1\r\n{host}\r\n"),
    ("TRACE", 405, "TRACE / HTTP/1.1\r\n{host}\r\n"),
    ("DELETE", 405, "DELETE / HTTP/1.1\r\n{host}\r\n"),
    ("PATCH", 405, "PATCH / HTTP/1.1\r\n{host}\r\n"),
    ("PROPFIND", 405, "PROPFIND / HTTP/1.1\r\n{host}\r\n"),
    ("lower-case method", 405, "get / HTTP/1.1\r\n{host}\r\n"),
    ("made-up method", 405, "LATEST / HTTP/1.1\r\n{host}\r\n"),
    ("method of one byte", 405, "G / HTTP/1.1\r\n{host}\r\n"),
    ("method with an address", 400, "GET/latest / HTTP/1.1\r\n{host}\r\n"),
    // Host.
    ("no Host", 403, "GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", 403, "GET / HTTP/1.1\r\n{host}Host: evil.example\r\n\r\n"),
    ("two Hosts, the foreign one first", 403, "GET / HTTP/1.1\r\nHost: evil.example\r\n{host}\r\n"),
    ("two equal Hosts", 403, "GET / HTTP/1.1\r\n{host}{host}\r\n"),
    ("two Hosts, one empty", 403, "GET / HTTP/1.1\r\n{host}Host:\r\n\r\n"),
    ("two Hosts in two cases", 403, "GET / HTTP/1.1\r\n{host}hOST: 169.254.169.254\r\n\r\n"),
    (
        "absolute-form, foreign Host",
        403,
        "GET http://169.254.169.254/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ),
    ("absolute-form, no Host", 403, "GET http://169.254.169.254/ HTTP/1.1\r\n\r\n"),
    ("absolute-form, HTTP/1.0, no Host", 200, "GET http://169.254.169.254/ HTTP/1.0\r\n\r\n"),
    ("absolute-form, foreign", 403, "GET http://evil.example/ HTTP/1.1\r\n{host}\r\n"),
    // Lengths.
    ("length of a GET", 200, "GET / HTTP/1.1\r\n{host}Content-Length: 5\r\n\r\n12345"),
    ("length beyond the body", 200, "GET / HTTP/1.1\r\n{host}Content-Length: 500\r\n\r\n12345"),
    ("body that is a request", 200, "GET / HTTP/1.1\r\n{host}Content-Length: 62\r\n\r\n{secret}12345"),
    ("length of nothing and a request", 200, "GET / HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n{secret}"),
    ("two lengths", 400, "GET / HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: 5\r\n\r\n12345"),
    (
        "two equal lengths",
        200,
        "GET / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345{secret}",
    ),
    ("list of lengths", 400, "GET / HTTP/1.1\r\n{host}Content-Length: 5, 5\r\n\r\n12345{secret}"),
    ("length that is hexadecimal", 400, "GET / HTTP/1.1\r\n{host}Content-Length: 0x5\r\n\r\n12345"),
    ("length with a plus", 400, "GET / HTTP/1.1\r\n{host}Content-Length: +5\r\n\r\n12345"),
    ("length with a minus", 400, "GET / HTTP/1.1\r\n{host}Content-Length: -5\r\n\r\n12345"),
    (
        "length beyond 64 bits",
        400,
        "GET / HTTP/1.1\r\n{host}Content-Length: 18446744073709551616\r\n\r\n12345",
    ),
    ("length with an exponent", 400, "GET / HTTP/1.1\r\n{host}Content-Length: 5e0\r\n\r\n12345"),
    ("length of no digits", 400, "GET / HTTP/1.1\r\n{host}Content-Length:\r\n\r\n12345"),
    (
        "length and chunked",
        200,
        "GET / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked and length",
        200,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 62\r\n\r\n0\r\n\r\n{secret}",
    ),
    (
        "length named by Connection",
        200,
        "GET / HTTP/1.1\r\n{host}Content-Length: 5\r\nConnection: close, Content-Length\r\n\r\n12345{secret}",
    ),
    // Codings.
    ("chunked GET", 200, "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{secret}"),
    (
        "coding in upper case",
        200,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n{secret}",
    ),
    ("coding not last", 400, "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    (
        "coding not last, two headers",
        400,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "coding twice",
        200,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{secret}",
    ),
    (
        "coding before chunked",
        200,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{secret}",
    ),
    ("identity", 400, "GET / HTTP/1.1\r\n{host}Transfer-Encoding: identity\r\n\r\n{secret}"),
    ("unknown coding", 400, "GET / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("no coding", 400, "GET / HTTP/1.1\r\n{host}Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    ("coding in quotes", 400, "GET / HTTP/1.1\r\n{host}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    (
        "coding after a vertical tab",
        400,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    ("coding with a parameter", 400, "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n"),
    (
        "coding named by Connection",
        200,
        "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n\r\n0\r\n\r\n{secret}",
    ),
    ("chunk extension", 200, "{put}Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n{secret}"),
    (
        "chunk extension with a bare LF",
        200,
        "{put}Transfer-Encoding: chunked\r\n\r\n2;\n{}\r\n0\r\n\r\n{secret}",
    ),
    (
        "chunk size of 65 bits",
        200,
        "{put}Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n{secret}",
    ),
    ("chunk size with a minus", 200, "{put}Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n{secret}"),
    ("chunk size with 0x", 200, "{put}Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n{secret}"),
    ("chunk that is a request", 200, "{put}Transfer-Encoding: chunked\r\n\r\n39\r\n{secret}\r\n0\r\n\r\n"),
    ("chunk without its end", 200, "{put}Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n{secret}"),
    (
        "trailer that is a Host",
        200,
        "{put}Transfer-Encoding: chunked\r\nTrailer: Host\r\n\r\n0\r\nHost: evil.example\r\n\r\n{secret}",
    ),
    (
        "trailer that is a TTL",
        400,
        "PUT /latest/api/token HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n{secret}",
    ),
    // Pipelining.
    ("pipelined", 200, "GET / HTTP/1.1\r\n{host}\r\n{secret}"),
    ("pipelined, kept", 200, "GET / HTTP/1.1\r\n{host}Connection: keep-alive\r\n\r\n{secret}"),
    ("pipelined, three", 200, "GET / HTTP/1.1\r\n{host}\r\n{secret}{secret}"),
    ("pipelined after a refusal", 404, "GET /nothing HTTP/1.1\r\n{host}\r\n{secret}"),
    ("pipelined after no HTTP", 400, "GET  / HTTP/1.1\r\n{host}\r\n{secret}"),
    // Headers that proxies drop, or act upon.
    ("Host named by Connection", 200, "GET / HTTP/1.1\r\n{host}Connection: close, Host\r\n\r\n"),
    (
        "token named by Connection",
        401,
        "GET / HTTP/1.1\r\n{host}X-aws-ec2-metadata-token: bad\r\nConnection: X-aws-ec2-metadata-token\r\n\r\n",
    ),
    ("TTL named by Connection", 200, "{put}Connection: X-aws-ec2-metadata-token-ttl-seconds\r\n\r\n"),
    (
        "forwarding named by Connection",
        403,
        "{put}X-Forwarded-For: 10.0.0.1\r\nConnection: X-Forwarded-For\r\n\r\n",
    ),
    ("expectation", 200, "GET / HTTP/1.1\r\n{host}Expect: 100-continue\r\n\r\n"),
    (
        "expectation of a body",
        200,
        "GET / HTTP/1.1\r\n{host}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n{secret}",
    ),
    ("expectation that is none", 200, "GET / HTTP/1.1\r\n{host}Expect: 200-ok\r\n\r\n"),
    ("range", 200, "GET / HTTP/1.1\r\n{host}Range: bytes=0-3\r\n\r\n"),
    ("ranges", 200, "GET / HTTP/1.1\r\n{host}Range: bytes=0-,0-,0-,0-\r\n\r\n"),
];

/// A head says one thing, to the agent and to whoever else reads it, or nothing.
#[test]
fn head_that_parsers_read_differently_is_answered_once_and_gives_nothing_away() {
    for shared in [&USUAL, &WIDEST] {
        let Some(lab) = shared.get() else { return };
        let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
        for (row, status, head) in HEADS {
            let request = head.replace("{host}", HOST).replace("{secret}", SECRET).replace("{put}", PUT);
            let answers = everything_v4(&pod, request.as_bytes()).unwrap();
            let answered = statuses(&answers);
            let once = answered == [*status] || *status == 0 && answered.is_empty();
            let text = String::from_utf8_lossy(&answers);
            wrong.unless(once, (row, "wants", status), &text);
            wrong.unless(!has_marker(&answers), (row, "something of the node's"), &text);
            wrong.unless_answered(200, (row, "the next request"), &pod.imds().get("/"));
        }
        only_what_is_open_reached_imds(shared, &lab, &mut wrong);
        wrong.none();
    }
}
