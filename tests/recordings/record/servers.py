"""Servers of the recordings: on the loopback interface, each with a directory of its own, ended when it is no longer needed."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time


def wait_until(condition, what, seconds=120):
    """Waits until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"after {seconds} s still not so: {what}")
        time.sleep(0.05)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def quiet(*command, **options):
    """Runs a command whose output and outcome do not matter."""
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 120, **options}
    return subprocess.run(command, check=False, **options)


def version(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def wait_until_it_listens(server, port):
    """Waits until a server listens on its port; an error when it ends before."""
    program = server.args[0]
    wait_until(lambda: listens(port) or server.poll() is not None, f"{program} listens on port {port}")
    if server.poll() is not None:
        raise SystemExit(f"{program} ended with {server.returncode} before it listened on port {port}")


@contextlib.contextmanager
def running(*command, port=None, **options):
    """A server, from when it listens on its port until the end of the block."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    server = subprocess.Popen(command, **options)
    try:
        if port is not None:
            wait_until_it_listens(server, port)
        yield server
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def directory(user="root"):
    """A directory of a user."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="record"))
    try:
        shutil.chown(path, user)
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def mariadb(port):
    """A MariaDB server; gives its directory, in which `s` is the socket of its administrator `root`."""
    with directory("mysql") as data:
        quiet("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--auth-root-authentication-method=normal")
        with running("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={data}/s", f"--port={port}",
                     "--bind-address=127.0.0.1", f"--pid-file={data}/pid", "--local-infile=1", "--innodb-buffer-pool-size=32M",
                     port=port):
            yield data


def postgresql_programs():
    """The folder of PostgreSQL's programs."""
    if "PG_BIN" in os.environ:
        return pathlib.Path(os.environ["PG_BIN"])
    return max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@contextlib.contextmanager
def postgresql(port, user, authentication, password="pw"):
    """A PostgreSQL server; gives its directory."""
    programs = postgresql_programs()
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    with directory("postgres") as data:
        (data / "password").write_text(f"{password}\n")
        quiet(*as_postgres, programs / "initdb", "-D", data / "db", "-U", user, "-A", authentication, "--locale=C",
              f"--pwfile={data}/password", cwd=data)
        with running(*as_postgres, programs / "postgres", "-D", data / "db", "-p", str(port), "-k", data,
                     "-c", "listen_addresses=127.0.0.1", port=port, cwd=data):
            yield data
