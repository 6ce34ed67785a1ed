# SPDX-License-Identifier: GPL-3.0-or-later
import shutil
import tempfile

import pytest

import mounting


@pytest.fixture(scope="session")
def bed():
    folder = tempfile.mkdtemp(prefix="emlfs-bed-", dir="/tmp")
    bed = mounting.Bed(folder)
    bed.start()
    yield bed
    bed.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def dovecot(bed):
    return bed.server("dovecot")


@pytest.fixture(params=["dovecot", "cyrus", "courier"])
def server(bed, request):
    return bed.server(request.param)


@pytest.fixture
def mount(request):
    """mount(user, **account): mounts; unmounted and cleaned up after the test."""
    made = []

    def make(user, options=(), start=True, **account):
        folder = tempfile.mkdtemp(prefix="emlfs-test-", dir="/tmp")
        one = mounting.Mount(user, folder, options, **account)
        made.append(one)
        return one.start() if start else one

    yield make
    failed = getattr(request.node, "failed", False)
    for one in made:
        if failed:
            print("emlfs said:", one.errors.read_text() if one.errors.exists() else "")
        one.discard()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed
