"""Hostile parts of HTTP: hosts, origins, tokens, paths, raw bytes and bodies."""

from __future__ import annotations

TOKEN = "a-token-of-tests"

HOSTS = (
    "", " ", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "localhost@evil.example", "[",
    "[::1", "127.0.0.1#evil", "127.0.0.1/evil", "127.0.0.1?x", "user:pw@127.0.0.1", "evil.com@127.0.0.1",
    "127.0.0.1:abc", "127.0.0.1:", "127.0.0.1:123456", "[::1]x", "127.0.0.1,evil.com", "127.1", "2130706433",
    "0x7f.1", "0.0.0.0", "127.0.0.1\t", "xn--localhost", "local\u017fost", "127。0。0。1", "*", "null", "127.0.0.1%00",
    "10.0.0.1", "::1",
)  # fmt: skip

ORIGINS = (
    "https://evil.example", "http://127.0.0.1:9", "null", "http://[", "file://", "http://localhost.evil.example",
)  # fmt: skip

SITES = ("cross-site", "same-site")

BAD_TOKENS = (
    "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f" {TOKEN}x", TOKEN.replace("-", "_"), "\xe9", "None",
    "null", TOKEN + "\x00", "*", "%2e", "a" * 10_000,
)  # fmt: skip

PATHS = (
    "/api/results/../../etc/passwd", "/api/results/x/html", "/api/results/%00/html", "/api/results/x/exe",
    "/api/jobs/x", "/server/page/../../app.py", "/server/page/..%2f..%2fapp.py", "/server/page/%2e%2e/app.py",
    "/server/page//etc/passwd", "/server/page/main.js%00", "/views/page/../../errors.py", "/cli/page/x.js",
    "/openapi.yaml", "/docs", "/.git/config", "//evil.example/", "/api/vocabulary?q=" + "a" * 300,
    "/api/vocabulary?q=a&most=0", "/api/vocabulary?q=a&most=99999", "/api/vocabulary?q=a&model=nosuch",
    "/api/vocabulary", "/" + "a" * 20_000, "/%ff%fe", "/api/about/x",
)  # fmt: skip

HEAD = b"POST /api/attribute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

RAW = (
    b"", b"\r\n\r\n", b"\0" * 1000, b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"A" * 100_000, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"CONNECT evil.example:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 1e3\r\n\r\n", HEAD + b"Content-Length: 99999999999\r\n\r\n",
    HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", HEAD + b"Content-Length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX\0Y: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n X: folded\r\n\r\n", b"G\xc3\x89T / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
)  # fmt: skip

BODIES = (
    b"", b"null", b"[]", b"3", b'"x"', b"{", b"[" * 50_000, b'{"a":' * 30_000, b"\xff", b'{"text": NaN}',
    b'{"text": 1e999}', b'{"text": "The", "position": ' + b"9" * 5000 + b"}", b'{"text": "a\\ud800"}',
    b'{"text": "a", "text": "b"}', b"\0", b'{"text": "' + b"a" * 150_000 + b'"}', b'{"text": "a"} x',
    b'{"text": "The", "a": ' + b"[" * 900 + b"]" * 900 + b"}",
)  # fmt: skip
