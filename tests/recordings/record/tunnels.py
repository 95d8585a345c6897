"""A recording of Linux' own VXLAN, by tcpdump on all devices of a network namespace.

Two pairs of hosts have the same addresses, each pair in a VXLAN of its own over one wire. The devices of the first VXLAN are in
the namespaces of the wire, so its packets are captured twice: on the device and on the wire. Those of the second are in
namespaces of their own, so its packets are captured on the wire only.
"""

import contextlib
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile

from packets import FIN, RST, frames
from servers import quiet, running, wait_until

PORT_HTTP, PORT_VXLAN = 18080, 4789
ANSWERS = {"one": "192.0.2.1", "two": "192.0.2.2"}
COOKED_2_BYTES, ETHERTYPE_IPV4 = 20, 0x0800


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def within(namespace, *command):
    return ["ip", "netns", "exec", namespace, *command]


@contextlib.contextmanager
def network():
    """Two namespaces with a wire, and the namespaces of client and server of each VXLAN, by its name."""
    wire = ["porthole-left", "porthole-right"]
    apart = ["porthole-left-two", "porthole-right-two"]
    with contextlib.ExitStack() as stack:
        for name in wire + apart:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            subprocess.run(within(name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"), check=True)
        ip("link", "add", "wire", "netns", wire[0], "type", "veth", "peer", "name", "wire", "netns", wire[1])
        for number, name in enumerate(wire, 1):
            ip("-n", name, "address", "add", f"172.31.0.{number}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        for vni, places in ((5, wire), (6, apart)):
            for number, (at, name) in enumerate(zip(wire, places), 1):
                ip("-n", at, "link", "add", f"vxlan{vni}", "type", "vxlan", "id", str(vni), "dstport", str(PORT_VXLAN),
                   "local", f"172.31.0.{number}", "remote", f"172.31.0.{3 - number}", "dev", "wire")
                if at != name:
                    ip("-n", at, "link", "set", f"vxlan{vni}", "netns", name)
                ip("-n", name, "address", "add", f"10.1.0.{number}/24", "dev", f"vxlan{vni}")
                ip("-n", name, "link", "set", f"vxlan{vni}", "up")
        yield {"one": wire, "two": apart}


def inner(frame):
    """The IP packet of a cooked frame, out of its VXLAN; none if there is none."""
    ethertype, packet = struct.unpack_from(">H", frame)[0], frame[COOKED_2_BYTES:]
    while ethertype == ETHERTYPE_IPV4:
        transport = 4 * (packet[0] & 15)
        if packet[9] != socket.IPPROTO_UDP or struct.unpack_from(">H", packet, transport + 2)[0] != PORT_VXLAN:
            return packet
        ethernet = packet[transport + 16:]
        ethertype, packet = struct.unpack_from(">H", ethernet, 12)[0], ethernet[14:]
    return None


def is_complete(text, ends):
    """Whether so many segments have come that end a direction."""
    found = 0
    for _, frame in frames(text):
        packet = inner(frame)
        if packet and packet[9] == socket.IPPROTO_TCP:
            found += bool(packet[4 * (packet[0] & 15) + 13] & (FIN | RST))
    return found >= ends


@contextlib.contextmanager
def servers(name, client, server, folder):
    (folder / f"{name}.txt").write_text(name)
    with running(*within(server, "python3", "-m", "http.server", "--bind", "10.1.0.2", "--directory", folder, str(PORT_HTTP))), \
            running(*within(server, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--listen-address=10.1.0.2",
                            "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=", "--local=/test/",
                            f"--host-record={name}.test,{ANSWERS[name]}")):
        wait_until(lambda: quiet(*fetch(client, "none")).returncode == 0, "the web server answers")
        wait_until(lambda: quiet(*resolve(client, "none")).returncode == 0, "the name server answers")
        yield


def fetch(client, name, port=0):
    ports = ["--local-port", str(port)] if port else []
    return within(client, "curl", "-s", *ports, f"http://10.1.0.2:{PORT_HTTP}/{name}.txt")


def resolve(client, name, port=0):
    return within(client, "dig", "-b", f"10.1.0.1#{port}", "@10.1.0.2", "+tries=1", "+time=2", f"{name}.test", "A")


def vxlan(folder):
    """Makes vxlan.pcap."""
    with network() as pairs, tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        scratch = pathlib.Path(scratch)
        for name, (client, server) in pairs.items():
            stack.enter_context(servers(name, client, server, scratch))
        # Connections of before must not come into the capture.
        wait_until(lambda: not any(subprocess.run(within(end, "ss", "-Htn"), capture_output=True, check=True).stdout
                                   for pair in pairs.values() for end in pair), "connections are over")
        capture = scratch / "capture.pcap"
        command = within(pairs["one"][0], "tcpdump", "-Z", "root", "-i", "any", "--immediate-mode", "-U", "-s", "0", "-w", capture,
                         "-y", "LINUX_SLL2", f"udp port {PORT_VXLAN} or tcp port {PORT_HTTP} or udp port 53")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tcpdump:
            try:
                while "listening on" not in tcpdump.stderr.readline():
                    if tcpdump.poll() is not None:
                        raise SystemExit(f"tcpdump ended with {tcpdump.returncode}")
                for name, (client, _) in pairs.items():
                    # The client's ports are the same in both.
                    subprocess.run(fetch(client, name, 40000), check=True, stdout=subprocess.DEVNULL)
                    subprocess.run(resolve(client, name, 40001), check=True, stdout=subprocess.DEVNULL)
                # Both ends' of the connection that is captured twice, and of the other.
                wait_until(lambda: is_complete(capture.read_bytes(), 6), "everything is captured", 30)
            finally:
                tcpdump.send_signal(signal.SIGINT)
        text = capture.read_bytes()
        (folder / "vxlan.pcap").write_bytes(text)
        print(f"vxlan.pcap: {len(text)} bytes")
