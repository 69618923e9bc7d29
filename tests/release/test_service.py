"""The registry over HTTPS: what is taken is whole and sound, and strangers get nothing."""

import io
import json
import socket
import ssl
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from fedlearn.errors import PackageError
from fedlearn.package import content, signature
from fedlearn.package.parts import Delta, delta_file
from fedlearn.release import access, tar
from fedlearn.release.registry import Registry
from fedlearn.release.service import UPLOADS_FOLDER
from fedlearn.server import identity
from fedlearn.server.release import make_pair
from tests.package import small


class Served:
    """A server in a process of its own."""

    def __init__(self, folder, *options):
        self.folder = folder
        identity.make(folder / "pki", ["localhost"], 90)
        self.key = make_pair(folder / "keys")
        token_file = folder / "tokens"
        self.tokens = {
            "ci": access.new_token(token_file, "ci", access.WRITE),
            "board": access.new_token(token_file, "board", access.READ),
        }
        command = [sys.executable, "-m", "fedlearn", "registry", "serve"]
        command += [
            "--registry",
            str(folder / "registry"),
            "--token-file",
            str(token_file),
        ]
        command += ["--cert", str(folder / "pki/server.pem")]
        command += ["--key", str(folder / "pki/server.key")]
        command += ["--accept", str(folder / "keys/release.pem")]
        command += ["--host", "127.0.0.1", "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        line = self.output.readline()
        self.port = int(line.rsplit(":", 1)[1])
        self.context = ssl.create_default_context(cafile=str(folder / "pki/ca.pem"))

    def ask(self, path, data=None, who="board", method=None, headers=()):
        """Return status, headers and bytes of an answer."""
        request = urllib.request.Request(
            f"https://localhost:{self.port}{path}", data, method=method
        )
        if who:
            token = self.tokens.get(who, who)
            request.add_header("Authorization", f"Bearer {token}")
        for name, value in headers:
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, context=self.context) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def upload(self, data, who="ci"):
        status, _, body = self.ask("/v1/packages", data, who, "PUT")
        return status, json.loads(body)

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.output.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = Served(tmp_path_factory.mktemp("served"), "--most-mb", "0.2")
    yield server
    server.close()


def signed(folder, key, files=None, **changes):
    """Write a signed package, and return it as a tar file."""
    files = files or small.files()
    package = content.write(folder, small.manifest(files, **changes), files)
    mark = signature.sign(package, key.sign, key.public_pem)
    content.write_signatures(folder, [mark])
    return tar.packed(
        {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
    )


def test_a_package_goes_up_and_comes_down_the_same(served, tmp_path):
    data = signed(tmp_path / "p", served.key, name="net", counter=5)
    status, facts = served.upload(data)
    assert (status, facts["counter"], facts["aliases"]) == (201, 5, ["candidate"])
    assert facts["who"] == "ci"
    # Once more is no harm.
    assert served.upload(data) == (200, facts)
    status, _, body = served.ask("/v1/models")
    assert {"name": "net", "newest": 5, "aliases": {"candidate": 5}} in json.loads(
        body
    )["models"]
    assert json.loads(served.ask("/v1/models/net")[2])["versions"] == [facts]
    for which in ("5", "candidate", "newest"):
        listed = json.loads(served.ask(f"/v1/models/net/{which}")[2])
        assert listed["signatures"] == ["model.sig"]
        assert served.ask(f"/v1/models/net/{which}/package.tar")[2] == data
        for entry in listed["files"]:
            path = f"/v1/models/net/{which}/files/{entry['path']}"
            assert served.ask(path)[2] == (tmp_path / "p" / entry["path"]).read_bytes()
    # And the registry in its folder has it too.
    with Registry(served.folder / "registry") as registry:
        package = registry.export(registry.versions("net")[0], tmp_path / "q")
    assert small.sha256(tmp_path / "p") == small.sha256(tmp_path / "q")
    assert package.sha256 == facts["sha256"]


def test_plain_tar_and_curl_are_enough(served, tmp_path):
    signed(tmp_path / "p", served.key, name="by-tar")
    plain = subprocess.run(
        ["tar", "c", "-C", str(tmp_path / "p"), "."], check=True, capture_output=True
    ).stdout
    assert served.upload(plain)[0] == 201


def test_a_transfer_that_broke_off_goes_on(served, tmp_path):
    served.upload(signed(tmp_path / "p", served.key, name="ranges"))
    path = "/v1/models/ranges/newest/files/weights.bin"
    status, headers, whole = served.ask(path)
    assert (status, headers["Accept-Ranges"]) == (200, "bytes")
    status, headers, rest = served.ask(path, headers=[("Range", "bytes=30-")])
    assert (status, headers["Content-Range"]) == (206, "bytes 30-83/84")
    assert rest == whole[30:]
    assert served.ask(path, headers=[("Range", "bytes=84-")])[0] == 416
    match = [("If-None-Match", headers["ETag"])]
    assert served.ask(path, headers=match)[0] == 304


@pytest.mark.parametrize(
    ("path", "who", "method", "status", "name"),
    [
        ("/v1/models", "", "GET", 401, "token"),
        ("/v1/models", "x" * 43, "GET", 401, "token"),
        ("/v1/packages", "", "PUT", 401, "token"),
        ("/v1/packages", "board", "PUT", 403, "right"),
        ("/v1/models/nobody", "board", "GET", 404, "unknown"),
        (
            "/v1/models/nobody/1/files/..%2f..%2fregistry.db",
            "board",
            "GET",
            404,
            "unknown",
        ),
        ("/nowhere", "board", "GET", 404, "unknown"),
        ("/docs", "board", "GET", 404, "unknown"),
        ("/v1/models", "board", "DELETE", 405, "request"),
    ],
)
def test_strangers_and_wrong_paths(served, path, who, method, status, name):
    data = b"" if method == "PUT" else None
    code, _, body = served.ask(path, data, who, method)
    assert code == status
    assert json.loads(body)["error"]["name"] == name


def test_only_files_of_a_version_are_given_out(served, tmp_path):
    served.upload(signed(tmp_path / "p", served.key, name="inside"))
    for path in ("../registry.db", "..%2f..%2fregistry.db", "%2fetc%2fpasswd", "x"):
        code, _, body = served.ask(f"/v1/models/inside/newest/files/{path}")
        assert code == 404, body


def archive(**members):
    """Return a tar file of members: name → bytes, or a TarInfo with its bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        for name, data in members.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(data)
            target.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def linked(kind, target):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as out:
        entry = tarfile.TarInfo("weights.bin")
        entry.type = kind
        entry.linkname = target
        out.addfile(entry)
    return stream.getvalue()


def nested(kind, count=3000):
    """Return a tar file whose headers are about the next header each."""
    head = tarfile.TarInfo("x")
    head.type = kind
    head.size = 5
    one = head.tobuf(tarfile.USTAR_FORMAT) + b"name\0".ljust(512, b"\0")
    return one * count + archive(**{"manifest.json": b"{}"})


def test_a_tar_file_of_nested_headers_is_refused(tmp_path):
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        with pytest.raises(PackageError, match=r"refused \(tar\)"):
            tar.unpack(io.BytesIO(nested(kind)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def sized(kind, size):
    """Return a tar file whose first header says that this many bytes follow."""
    entry = tarfile.TarInfo("weights.bin")
    entry.type = kind
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT) + archive(**{"manifest.json": b"{}"})


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME]
)
def test_a_header_as_large_as_the_upload_is_never_read(kind, tmp_path):
    stream = io.BytesIO(sized(kind, 100_000) + bytes(200_000))
    with pytest.raises(PackageError, match=r"refused \(limits\): .*100,000 bytes"):
        tar.unpack(stream, tmp_path)
    assert stream.tell() == tarfile.BLOCKSIZE


def test_the_headers_of_times_and_owners_are_passed_over(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("./weights.bin")
        entry.size, entry.mtime, entry.uname = 3, 1.5, "ü" * 50
        archive.addfile(entry, io.BytesIO(b"abc"))
    stream.seek(0)
    tar.unpack(stream, tmp_path)
    assert (tmp_path / "weights.bin").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "tar"),
        (sized(tarfile.REGTYPE, -5), "tar"),
        (sized(tarfile.REGTYPE, 1 << 40), "tar"),
        (sized(tarfile.GNUTYPE_SPARSE, 5), "link"),
        (b"no tar" * 200, "tar"),
        (archive(**{"manifest.json": b"{}"}), "manifest"),
        (archive(**{"..__manifest.json": b"{}"}), "path"),
        (archive(**{"__etc__cron.d__x": b"{}"}), "path"),
        (archive(**{"deltas__x.fl": b"{}"}), "path"),
        (archive(**{"model.py": b"{}"}), "path"),
        (archive(**{"golden.npz": b"{}"}), "missing"),
        (linked(tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (linked(tarfile.LNKTYPE, "manifest.json"), "link"),
        (linked(tarfile.FIFOTYPE, ""), "link"),
        (linked(tarfile.CHRTYPE, ""), "link"),
    ],
)
def test_what_is_no_package_leaves_nothing(served, data, name):
    status, body = served.upload(data)
    assert (status, body["error"]["name"]) == (422, name)
    assert str(served.folder) not in body["error"]["text"]
    assert list((served.folder / "registry" / UPLOADS_FOLDER).iterdir()) == []


def test_what_a_device_would_refuse_is_refused(served, tmp_path):
    other = make_pair(tmp_path / "other")
    cases = {
        "key": signed(tmp_path / "a", other, name="refused"),
        "expired": signed(
            tmp_path / "b", served.key, name="refused", expires="2001-01-01T00:00:00Z"
        ),
    }
    files = small.files()
    small_package = content.write(
        tmp_path / "c", small.manifest(files, name="refused"), files
    )
    cases["unsigned"] = tar.packed(
        {**files, "manifest.json": small_package.manifest.to_bytes()}
    )
    damaged = bytearray(signed(tmp_path / "d", served.key, name="refused"))
    place = damaged.find(small.W.tobytes())
    damaged[place + 3] ^= 1
    cases["hash"] = bytes(damaged)
    for name, data in cases.items():
        status, body = served.upload(data)
        assert (status, body["error"]["name"]) == (422, name)
    assert served.ask("/v1/models/refused")[0] == 404


def test_another_signature_is_a_conflict(served, tmp_path):
    data = signed(tmp_path / "p", served.key, name="twice")
    served.upload(data)
    package = content.read(tmp_path / "p")
    other = make_pair(tmp_path / "other")
    mark = signature.sign(package, other.sign, other.public_pem)
    ours = (tmp_path / "p/model.sig").read_bytes()
    # The accepted key's signature is there, and a stranger's stands in the first place.
    content.write_signatures(tmp_path / "p", [mark, ours])
    paths = (path for path in (tmp_path / "p").iterdir() if path.is_file())
    status, body = served.upload(
        tar.packed({path.name: path.read_bytes() for path in paths})
    )
    assert (status, body["error"]["name"]) == (409, "conflict")
    assert served.ask("/v1/models/twice/newest/package.tar")[2] == data


def test_the_schema_is_not_given_to_strangers(served):
    assert served.ask("/openapi.json", who="")[0] == 404


def test_a_lower_counter_is_a_conflict(served, tmp_path):
    assert (
        served.upload(signed(tmp_path / "a", served.key, name="count", counter=7))[0]
        == 201
    )
    status, body = served.upload(
        signed(tmp_path / "b", served.key, name="count", counter=6)
    )
    assert (status, body["error"]["name"]) == (409, "conflict")
    assert "a release's counter is above that, not 6" in body["error"]["text"]


def test_a_package_that_is_too_long_is_refused_with_and_without_a_length(served):
    status, body = served.upload(b"x" * 300_000)
    assert (status, body["error"]["name"]) == (413, "limits")
    # In chunks, of which nobody knows how many come.
    chunks = iter([b"x" * 100_000] * 3)
    status, body = served.upload(chunks)
    assert (status, body["error"]["name"]) == (413, "limits")


def test_a_connection_that_ends_inside_of_a_package_leaves_nothing(served, tmp_path):
    data = signed(tmp_path / "p", served.key, name="broken")
    with (
        socket.create_connection(("127.0.0.1", served.port)) as plain,
        served.context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        head = "PUT /v1/packages HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: Bearer {served.tokens['ci']}\r\n"
        head += f"Content-Length: {len(data)}\r\n\r\n"
        secure.sendall(head.encode() + data[: len(data) // 2])
    assert served.ask("/v1/models/broken")[0] == 404
    # The server goes on, and takes the whole one.
    assert served.upload(data)[0] == 201
    assert list((served.folder / "registry" / UPLOADS_FOLDER).iterdir()) == []


def test_without_tls_nothing_is_answered(served):
    with socket.create_connection(("127.0.0.1", served.port)) as plain:
        plain.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(1000).startswith(b"HTTP/1.1 200")


def test_differences_travel_with_the_package(served, tmp_path):
    base = "5a" * 32
    payload = b"difference"
    delta = Delta(base, delta_file(base), content.listed(payload).sha256, len(payload))
    files = {**small.files(), delta.file: payload}
    manifest = small.manifest(name="deltas", deltas=(delta,))
    package = content.write(tmp_path / "p", manifest, files)
    mark = signature.sign(package, served.key.sign, served.key.public_pem)
    members = {**files, "manifest.json": manifest.to_bytes(), "model.sig": mark}
    assert served.upload(tar.packed(members))[0] == 201
    path = f"/v1/models/deltas/newest/files/{delta.file}"
    assert served.ask(path)[2] == payload
    del members[delta.file]
    lacking = replace(manifest, counter=9)
    members["manifest.json"] = lacking.to_bytes()
    assert served.upload(tar.packed(members))[1]["error"]["name"] == "missing"


def test_a_sparse_file_of_terabytes_is_the_bytes_that_came(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as out:
        entry = tarfile.TarInfo("weights.bin")
        entry.pax_headers = {
            "GNU.sparse.map": "0,1",
            "GNU.sparse.size": str(1 << 40),
            "GNU.sparse.numblocks": "1",
        }
        entry.size = 1
        out.addfile(entry, io.BytesIO(b"x"))
    tar.unpack(io.BytesIO(stream.getvalue()), tmp_path)
    assert (tmp_path / "weights.bin").read_bytes() == b"x"
