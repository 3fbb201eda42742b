"""A real S3 server on the loopback, for tests."""

import gc
import uuid
import warnings

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket(monkeypatch):
    """The URL of an empty bucket."""
    moto_server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"runs-{uuid.uuid4().hex}"  # one server's memory is that of all in a process
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    server.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # s3fs leaves its sessions open
        s3fs.S3FileSystem.clear_instance_cache()
        gc.collect()
