"""Steps the clock of the guest in which it runs, beside an exporter, an agent and a web server of its own, and looks whether
a count is lost, falls or is not exact. Arguments: the directory of the built parts, and one for the report and the logs."""

import fcntl, http.server, json, os, subprocess, sys, threading, time, urllib.request

DIST, OUTPUT = sys.argv[1], sys.argv[2]
REGISTRY, STATE, SOCKET, CONFIGURATION = "/run/registry", "/run/exporter", "/run/agent.sock", "/run/porthole.toml"
EXPORTER, SERVER = "127.0.0.1:9001", ("127.0.0.1", 8080)
HOUR, DAY, YEAR = 3600, 86400, 365 * 86400
# Forward and back, by more than every time that the exporter keeps something; the last one is to before its first start.
STEPS = [HOUR, -2 * HOUR, 10 * DAY, -20 * DAY, 2 * YEAR, -50 * YEAR]
RECORD = f"{REGISTRY}/acme@shop"


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def wait(what, question, seconds=120):
    """By a clock that nobody sets."""
    end = time.monotonic() + seconds
    answer = question()
    while not answer:
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not in time; last scrape: {counts()}")
        time.sleep(0.2)
        answer = question()
    print(f"{time.monotonic():.1f} {what}", flush=True)
    return answer


def start(*command):
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def exporter():
    return start(f"{DIST}/bin/porthole-exporter", "--config", CONFIGURATION)


def counts():
    """The sandbox's count of the one route, and the application's total."""
    try:
        with urllib.request.urlopen(f"http://{EXPORTER}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return None
    def of(name, *labels):
        found = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)
    return (
        of("http_server_request_duration_seconds_count", 'http_route="/shop"'),
        of("porthole_app_requests_total", 'side="server"', 'service_name="shop"'),
    )


last = (0, 0)
# Until the agent is followed again, an exporter that was started again has totals and no series of the live sandbox.
follows = True


def scrape():
    global last, follows
    now = counts()
    if now is not None and not follows:
        follows = now[0] > 0
        now = now if follows else (last[0], now[1])
    if now is not None:
        if now[0] < last[0] or now[1] < last[1]:
            raise SystemExit(f"counts went from {last} to {now}")
        last = now
    return now


def record(state):
    content = {
        "version": 2, "sandbox_id": "shop", "containerd_namespace": "acme", "tenant": "acme", "service_name": "shop",
        "containers": {}, "runtime": "test", "channel": f"unix://{SOCKET}", "state": state, "created_unix_ms": int(time.time() * 1000),
    }
    with open(f"{REGISTRY}/.new", "w") as file:
        json.dump(content, file)
    os.rename(f"{REGISTRY}/.new", f"{RECORD}.json")


def request(times):
    for _ in range(times):
        urllib.request.urlopen(f"http://{SERVER[0]}:{SERVER[1]}/shop", timeout=30).read()


def step(seconds):
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


log = os.open(f"{OUTPUT}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for descriptor in [1, 2]:
    os.dup2(log, descriptor)
os.makedirs(REGISTRY, mode=0o700)
with open(CONFIGURATION, "w") as file:
    file.write(f'''
[registry]
directory = "{REGISTRY}"
[exporter]
listen = "{EXPORTER}"
state_directory = "{STATE}"
ended_keep_at_least_seconds = 300
''')
server = http.server.ThreadingHTTPServer(SERVER, Shop)
threading.Thread(target=server.serve_forever, daemon=True).start()
agent = start(f"{DIST}/sidecar/rootfs/porthole-agent", "--listen", f"unix://{SOCKET}", "--hooks", "auto")
wait("the agent listens", lambda: os.path.exists(SOCKET))
lock = open(f"{RECORD}.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
record("watching")
program = exporter()
wait("the exporter answers", scrape)
wait("the agent is followed", lambda: (request(1), scrape()[0] > 0)[1])
def at_rest():
    before = scrape()
    time.sleep(2)
    now = scrape()
    return before and now and before[0] == now[0]


wait("the count is at rest", at_rest)
shop = last[0]
steps = []
for seconds in STEPS:
    step(seconds)
    scrape()
    request(10)
    shop += 10
    wait(f"ten more after a step of {seconds} s", lambda: scrape() and last[0] == shop)
    steps.append([seconds, last[0]])
# An exporter that is started again reads what an earlier one wrote before the last steps.
total = last[1]
program.terminate()
program.wait()
program = exporter()
follows = False
wait("the count of before", lambda: scrape() and follows and last[0] == shop)
# What has ended is exposed for five minutes, and its application for a day.
record("ended")
os.remove(f"{RECORD}.json")
os.remove(f"{RECORD}.lock")
lock.close()
agent.terminate()
agent.wait()
for seconds in [YEAR, -2 * YEAR]:
    step(seconds)
    request(1)
    end = time.monotonic() + 8
    while time.monotonic() < end:
        scrape()
if last[1] < total:
    raise SystemExit(f"the application has {last[1]} of {total}")
program.terminate()
program.wait()
with open(f"{OUTPUT}/report", "w") as file:
    json.dump({"steps": steps, "shop": shop, "application": last[1]}, file)
