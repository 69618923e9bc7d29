"""What a fleet's rollouts are about: the package that was handed in last, with its signatures."""

from dataclasses import replace

import pytest

from fedlearn.errors import PackageError
from fedlearn.exchange.releases import WantedRelease
from fedlearn.package import content, signature
from fedlearn.release.shelf import PackageShelf
from fedlearn.server.release import make_pair
from tests.package import small


def signed(package, *keys):
    marks = [signature.sign(package, key.sign, key.public_pem) for key in keys]
    content.write_signatures(package.folder, marks)
    return marks


def test_a_package_that_was_signed_again_is_offered_as_it_is_now(tmp_path):
    package = small.written(tmp_path / "package")
    keys = [make_pair(tmp_path / name) for name in ("old", "new")]
    shelf = PackageShelf(tmp_path / "fleet")
    both = signed(package, *keys)
    wanted = WantedRelease(1, shelf.add(package.folder, None))
    assert shelf.offer(wanted).signatures == tuple(both)
    alone = signed(package, keys[1])
    shelf.add(package.folder, keys[1].public_pem)
    assert shelf.offer(wanted).signatures == tuple(alone)


def test_a_package_that_has_expired_is_not_rolled_out(tmp_path):
    files = small.files()
    description = replace(small.manifest(files), expires="2001-01-01T00:00:00Z")
    package = content.write(tmp_path / "package", description, files)
    signed(package, make_pair(tmp_path / "keys"))
    with pytest.raises(PackageError, match=r"refused \(expired\)"):
        PackageShelf(tmp_path / "fleet").add(package.folder, None)
