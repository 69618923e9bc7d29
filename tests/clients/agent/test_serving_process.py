"""The process that serves, as the agent sees it: its figures, whoever else may ask."""

import asyncio
import http.client
import json
import ssl

import numpy as np
import pytest

from fedlearn.clients.agent.identity import make_key_and_csr
from fedlearn.clients.agent.serving import ServingProcess
from fedlearn.server import identity
from tests.clients.agent.boards import free_port
from tests.clients.device import releases

W = np.eye(6, 3, dtype=np.float32) * 9


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority's folder, with the server's certificate and a client's in it."""
    folder = tmp_path_factory.mktemp("pki") / "pki"
    identity.make(folder, ["localhost"], 90)
    request = make_key_and_csr(folder / "client")
    (folder / "client" / "client.pem").write_bytes(identity.sign(folder, 0, request))
    return folder


def asked(port, certificates):
    """Have a client with a certificate ask a model thirty times."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    own = certificates / "client"
    context.load_cert_chain(own / "client.pem", own / "key.pem")
    connection = http.client.HTTPSConnection("localhost", port, context=context)
    entry = {"name": "x", "datatype": "UINT8", "shape": [1, 6], "data": [9] * 6}
    for _ in range(30):
        body = json.dumps({"inputs": [entry]})
        connection.request("POST", "/v2/models/m/infer", body)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


def test_figures_come_where_clients_need_certificates(tmp_path, certificates):
    package = releases.write_wide(tmp_path / "a", 1, W)
    port = free_port()
    words = ["--port", port, "--name", "m"]
    for option, file in (
        ("cert", "server.pem"),
        ("key", "server.key"),
        ("ca", "ca.pem"),
    ):
        words += [f"--{option}", certificates / file]

    async def go():
        process = ServingProcess(tmp_path, [str(word) for word in words], print)
        process.want("a", releases.name_of(package))
        kinds = []
        try:
            while "ready" not in kinds:
                kinds += [event.kind for event in await process.look()]
                await asyncio.sleep(0.1)
            await asyncio.to_thread(asked, port, certificates)
            while True:
                for event in await process.look():
                    if event.figures.requests >= 30:
                        return kinds, event.figures
                await asyncio.sleep(0.1)
        finally:
            await process.stop()

    kinds, figures = asyncio.run(asyncio.wait_for(go(), 100))
    assert kinds == ["ready"] and figures.errors == 0
