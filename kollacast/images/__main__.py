"""``python -m kollacast.images``: what an operator does with image files, and with what they hold.

Every mistake ends in one line on standard error: with exit status 2 for a command line, else 1.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, BinaryIO, NoReturn

from twisted.python.usage import UsageError

from kollacast.command import values
from kollacast.command.logs import shorten_crashes
from kollacast.command.service import describe
from kollacast.command.streams import console, fill_closed_streams
from kollacast.files.atomic_file import prove_writable
from kollacast.files.digest import Digester, ExpectedDigest
from kollacast.files.room import DEFAULT_RESERVE
from kollacast.images.archive import read_storage
from kollacast.images.catalog import Catalog, Image
from kollacast.images.check import check_registry
from kollacast.images.compression import METHODS
from kollacast.images.digested import digested
from kollacast.images.gather import (
    Copy,
    from_docker_archives,
    from_layouts,
    from_registries,
    in_namespace,
    pack_copies,
)
from kollacast.images.layout import BadImage
from kollacast.images.pack import pack_storage
from kollacast.images.references import has_no_namespace, is_namespace
from kollacast.images.unpack import unpack_file
from kollacast.images.versions import Record, parse_record, prove_root, read_record
from kollacast.operator.outcome import Status

_PROGRAM = "kollacast-images"
#: Bytes that are read and digested in one go.
_DIGEST_BYTES = 1 << 20
#: What an image can be expected by: what ``sha256sum`` says, and what each piece is proved by.
_EXPECTED = ("sha256", "tree")


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviations, and says what is wrong with a command line in one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Interrupted(BaseException):
    """A signal, by its number, asks for the end; what is half done is removed on the way out."""


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    console.program = _PROGRAM
    shorten_crashes()
    _open_closed_streams()
    _take_signals()
    try:
        options = _parser().parse_args(words)
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
        sys.stdout.flush()
    except _Interrupted as interrupt:
        console.write_line("interrupted")
        (number,) = interrupt.args
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    except UsageError as error:
        console.write_line(str(error))
        return int(Status.USAGE)
    except BrokenPipeError:
        # Nobody reads on, as behind `| head`; nor at the exit, where Python would try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return int(Status.FAILED)
    except OSError as error:
        console.write_line(describe(error))
        return int(Status.FAILED)
    return int(Status.OK)


def _take_signals() -> None:
    """Have the first SIGINT or SIGTERM end the work, and no other one what removes its remains."""
    is_ending = False

    def interrupt(number: int, _frame: object) -> None:
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            raise _Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _open_closed_streams() -> None:
    """Let no file that is opened take the place of a standard stream, and what is printed there."""
    if fill_closed_streams():
        # Python has none for those that were closed when it began.
        sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
        sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m kollacast.images",
        description="Packs images into a file that kollacast brings to every host, and more.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    pack = commands.add_parser("pack", help="make an image file")
    pack.add_argument("--output", metavar="FILE", required=True, help="the file to make")
    pack.add_argument(
        "--compression",
        choices=METHODS,
        default="gzip",
        help="default gzip; layers are compressed already, so none costs little and is fastest",
    )
    sources = pack.add_subparsers(required=True, metavar="SOURCE", title="what to pack")
    storage = sources.add_parser("storage", help="the storage of a registry, which may run")
    storage.add_argument("root", metavar="DIR", help="the folder with docker/registry/v2 in it")
    storage.set_defaults(run=_pack_storage)
    references = sources.add_parser("images", help="images out of registries, by skopeo")
    references.add_argument(
        "--tls-verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the registries must have certificates to be trusted",
    )
    references.add_argument(
        "references", metavar="REF", nargs="+", help="as in quay.io/openstack.kolla/nova-api:2024.1"
    )
    references.set_defaults(
        run=_pack_copies, copies=lambda o, _: from_registries(o.references, o.tls_verify)
    )
    archives = sources.add_parser(
        "docker-archive", help="what `docker save` has written, also compressed"
    )
    archives.add_argument(
        "files", metavar="FILE", nargs="+", help="compressed by gzip, zstd or not"
    )
    archives.set_defaults(
        run=_pack_copies,
        copies=lambda o, folder: from_docker_archives(o.files, folder, console.write_line),
    )
    layouts = sources.add_parser("oci", help="OCI layouts, as folders or archives")
    layouts.add_argument(
        "layouts",
        metavar="PATH[:TAG]",
        nargs="+",
        help="a layout, or one image of it: PATH:TAG, PATH:NAME:TAG",
    )
    layouts.set_defaults(
        run=_pack_copies,
        copies=lambda o, folder: from_layouts(o.layouts, folder, console.write_line),
    )

    for source in (references, archives, layouts):
        source.add_argument(
            "--namespace",
            metavar="NAME",
            type=_namespace,
            help="what to put before the names that have no namespace, as in openstack.kolla",
        )

    listing = commands.add_parser("list", help="say what an image file holds")
    listing.add_argument("file", metavar="FILE", help="- for standard input")
    listing.add_argument("--json", action="store_true", help="in JSON, for programs")
    listing.set_defaults(run=_list)

    digest = commands.add_parser(
        "digest", help="say what proves an image file, as --expect takes it"
    )
    digest.add_argument("file", metavar="FILE", help="- for standard input")
    digest.set_defaults(run=_digest)

    unpack = commands.add_parser(
        "unpack", help="unpack an image file of this host as a client does with --registry-root"
    )
    unpack.add_argument("file", metavar="FILE", help="- for standard input")
    unpack.add_argument(
        "--root", metavar="DIR", required=True, help="the registry root; DIR/current is the image"
    )
    unpack.add_argument(
        "--reserve",
        metavar="PERCENT",
        type=partial(values.per_cent, "--reserve"),
        default=100 * DEFAULT_RESERVE,
        help="of the file system that stay free; default 5",
    )
    unpack.set_defaults(run=_unpack)

    status = commands.add_parser("status", help="say which image a registry root has")
    status.add_argument("--root", metavar="DIR", required=True, help="the registry root")
    status.add_argument("--json", action="store_true", help="in JSON, for programs and `check`")
    status.set_defaults(run=_status)

    check = commands.add_parser(
        "check", help="prove that a registry serves what a registry root has"
    )
    check.add_argument(
        "--registry",
        metavar="HOST:PORT",
        required=True,
        type=partial(values.host_and_port, "--registry"),
    )
    expected = check.add_mutually_exclusive_group(required=True)
    expected.add_argument("--root", metavar="DIR", help="the registry root of this host")
    expected.add_argument(
        "--status",
        metavar="FILE",
        help="what `status --json` has said of another host's; - for standard input",
    )
    check.add_argument(
        "--timeout",
        metavar="TIME",
        type=partial(values.duration_s, "--timeout", least_s=0),
        default=30.0,
        help="how long the registry may take to answer, as in 90, 30s or 5m; default 30",
    )
    check.set_defaults(run=_check)
    return parser


def _pack_storage(options: argparse.Namespace) -> None:
    _prove_output(options.output)
    _packed(options.output, pack_storage(options.root, options.output, options.compression))


def _pack_copies(options: argparse.Namespace) -> None:
    _prove_output(options.output)
    names: list[str] = []

    def find(folder: str) -> list[Copy]:
        return in_namespace(options.copies(options, folder), options.namespace)

    def copied(name: str) -> None:
        names.append(name)
        console.write_line(f"copied {name}")

    _packed(options.output, pack_copies(find, options.output, options.compression, copied))
    bare = [name for name in names if has_no_namespace(name)]
    if bare:
        more = f" and {len(bare) - 1} more" if bare[1:] else ""
        console.write_line(f"without a namespace: {bare[0]}{more}; --namespace NAME gives one")


def _packed(path: str, catalog: Catalog) -> None:
    size = os.stat(path).st_size
    images = catalog.images()
    for line in catalog.remarks():
        console.write_line(line)
    console.write_line(f"{path}: {_count(len(images), 'image')}{_tag_of(images)}, {size} bytes")


def _list(options: argparse.Namespace) -> None:
    digester = Digester(*_EXPECTED)
    with _opened(options.file) as file:
        whole = digested(file, digester)
        catalog = read_storage(whole)
        while whole.read(_DIGEST_BYTES):
            pass
    digests = [str(ExpectedDigest(*digest)) for digest in digester.values().items()]
    for line in catalog.remarks():
        console.write_line(line)
    images = catalog.images()
    total = sum(catalog.sizes.values())
    if options.json:
        found = {
            "repositories": sorted({image.repository for image in images}),
            "images": [asdict(image) for image in images],
            "blobs": len(catalog.sizes),
            "bytes": total,
            "digests": digests,
        }
        print(json.dumps(found, indent=2))
        return
    _print_images(images)
    blobs = _count(len(catalog.sizes), "blob")
    print(f"{_count(len(images), 'image')}{_tag_of(images)}, {blobs}, {total} bytes")
    print(*digests, sep="\n")


def _digest(options: argparse.Namespace) -> None:
    digester = Digester(*_EXPECTED)
    with _opened(options.file) as file:
        whole = digested(file, digester)
        while whole.read(_DIGEST_BYTES):
            pass
    for name, value in digester.values().items():
        print(ExpectedDigest(name, value))


def _unpack(options: argparse.Namespace) -> None:
    with values.refusing(f"--root {options.root}: cannot be written"):
        prove_root(options.root)
    with _opened(options.file) as file:
        is_new = unpack_file(file, options.root, console.write_line, options.reserve / 100)
    if not is_new:
        console.write_line(f"{options.root}: has this image already")


def _status(options: argparse.Namespace) -> None:
    record = read_record(options.root)
    if options.json:
        # For a program that asks before the first image comes, too.
        nothing: dict[str, Any] = {"sha256": None, "digest": None, "bytes": None, "images": []}
        print(json.dumps(nothing if record is None else record.as_json(), indent=2))
    elif record is not None:
        _print_images(record.images)
        print(f"{record.digest}, {record.bytes} bytes, since {record.received_at}")
    else:
        os.stat(options.root)  # a path that is not there has been mistyped
        print("no image")


def _check(options: argparse.Namespace) -> None:
    if options.status is not None:
        with _opened(options.status) as file:
            text = file.read().decode(errors="replace")
        record: Record | None = parse_record(text, _name_of(options.status))
    else:
        record = read_record(options.root)
    if record is None:
        raise OSError(errno.ENOENT, "has no image", options.root)
    served = check_registry(options.registry, record.images, options.timeout)
    _print_images(record.images)
    manifests, blobs = _count(served.manifests, "manifest"), _count(served.blobs, "blob")
    print(f"{_count(len(record.images), 'image')}: {manifests} and {blobs} are served")


def _print_images(images: Sequence[Image]) -> None:
    width = max((len(image.name) for image in images), default=0)
    for image in images:
        print(f"{image.name:{width}}  {image.digest}  {image.bytes:>12}")


def _tag_of(images: Sequence[Image]) -> str:
    """The tag, for a line, where all images have the same one."""
    tags = {image.tag for image in images}
    return f" of the tag {tags.pop()}" if len(tags) == 1 else ""


def _namespace(word: str) -> str:
    if not is_namespace(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no namespace, as in openstack.kolla")
    return word


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The file, or standard input for "-"; what is wrong with it is told under its name."""
    with sys.stdin.buffer if path == "-" else open(path, "rb") as file:
        try:
            yield file
        except BadImage as error:
            raise OSError(error.errno, error.strerror, _name_of(path)) from None


def _name_of(path: str) -> str:
    return "standard input" if path == "-" else path


def _prove_output(path: str) -> None:
    with values.refusing(f"--output {path}: cannot be written"):
        prove_writable(path)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
