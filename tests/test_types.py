"""Types that pyright knows: of every public name, and in the code of a user who checks strictly."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyright")


def pyright(where, *options):
    """What it finds as a user's project sees the installed library: in an empty folder, with this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "pyright", "--outputjson", *options]
    return json.loads(subprocess.run(command, cwd=where, capture_output=True, text=True, env=os.environ | {"PATH": path}).stdout)


def test_strict_user_code(tmp_path):
    """With nothing ignored but what pandas leaves unknown. Seen to fail with an argument of `estimate` that has no annotation."""
    shutil.copy(Path(__file__).with_name("strict_user_code.py"), tmp_path)
    found = pyright(tmp_path, "strict_user_code.py")
    assert found["summary"]["filesAnalyzed"] == 1
    assert [f"{one['range']['start']['line'] + 1}: {one['message']}" for one in found["generalDiagnostics"]] == []


def test_every_public_type_is_declared(tmp_path):
    """Also of attributes that `__init__` sets, which checkers infer each in its own way. Seen to fail without the type of `Stream.resident`."""
    found = pyright(tmp_path, "--verifytypes", "jaxllc", "--ignoreexternal")["typeCompleteness"]
    unknown = [symbol["name"] for symbol in found["symbols"] if symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]]
    assert unknown == []
    assert found["exportedSymbolCounts"]["withKnownType"] > 1000
