"""A real Slurm of one node, with everything of it in a temporary folder: munged, slurmctld, slurmd."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scontrol", "scancel", "squeue")
CPUS = 2
REQUEUE_S = 5  # a job that is queued again waits so long (as long as its credential is good; 120 s by default)
LOOK_S = 0.1
KILL_S = 20  # from SIGTERM to SIGKILL


def why_not() -> str | None:
    """Why no Slurm can be started here, in one phrase; None where it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a real Slurm needs root"
    missing = [name for name in NEEDED if _found(name) is None]
    return f"a real Slurm needs Debian's slurm-wlm and munge: no {', '.join(missing)}" if missing else None


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """One node of two processors and two "GPUs" that are only counted. Its commands need `environment`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = socket.gethostname().split(".")[0]
        self.environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        for name in [n for n in self.environment if n.startswith(("SLURM_", "SBATCH_", "SRUN_")) and n != "SLURM_CONF"]:
            del self.environment[name]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """The three daemons; returns when the node takes jobs."""
        (self.root / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.root / "munge.key").chmod(0o600)
        for name in ("state", "spool"):
            (self.root / name).mkdir()
        devices = [self.root / f"gpu{number}" for number in range(CPUS)]
        for device in devices:
            device.touch()
        (self.root / "gres.conf").write_text(f"Name=gpu File={self.root}/gpu[0-{CPUS - 1}]\n")
        (self.root / "slurm.conf").write_text(self._configuration())
        munge = ("key-file=munge.key", "socket=munge.socket", "pid-file=munge.pid", "log-file=munge.log",
                 "seed-file=munge.seed")  # fmt: skip
        paths = (f"--{option.replace('=', f'={self.root}/')}" for option in munge)
        self._start("munged", "--foreground", "--force", *paths)
        self.wait_for((self.root / "munge.socket").exists, 10, "munged")
        self._start("slurmctld", "-D", "-f", str(self.root / "slurm.conf"))
        self.start_node()
        self.wait_for(lambda: self._node_state() in ("IDLE", "MIXED"), 30, "the node")

    def start_node(self) -> None:
        """The node's daemon."""
        self._start("slurmd", "-D", "-f", str(self.root / "slurm.conf"), "-N", self.host)

    def kill_node(self, with_jobs: bool) -> None:
        """kill -9 of the node's daemon; `with_jobs` of everything that runs there too, as if the power went."""
        self._processes["slurmd"].kill()
        self._processes["slurmd"].wait()
        if with_jobs:
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Every job, then every daemon."""
        subprocess.run(["scancel", "--user=root"], env=self.environment, check=False, capture_output=True)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in reversed(self._processes.values()):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def ask(self, *words: str, text: str | None = None) -> str:
        """What a command of Slurm's answers."""
        place = {"env": self.environment, "cwd": self.root}
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, **place)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job, by name."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, state: str, seconds: float) -> dict[str, str]:
        """The job's facts once it is in `state`."""
        self.wait_for(lambda: self.facts(job)["JobState"] == state, seconds, f"{state} of job {job}")
        return self.facts(job)

    def wait_for(self, happened: Callable[[], object], seconds: float, what: str) -> None:
        """Look until `happened`; fails with the ends of all logs after so many seconds of looking."""
        for _ in range(round(seconds / LOOK_S)):
            if happened():
                return
            time.sleep(LOOK_S)
        raise AssertionError(f"{what}: not within {seconds:g} s\n{self.logs()}")

    def logs(self) -> str:
        """The ends of the logs, and the queue."""
        files = sorted([*self.root.glob("*.log"), *self.root.glob("*.out")])
        texts = [f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in files]
        asked = ["scontrol", "show", "job"]
        jobs = subprocess.run(asked, capture_output=True, text=True, env=self.environment, check=False)
        return "\n".join([*texts, jobs.stdout])

    def processes(self) -> list[int]:
        """Everything that jobs of this cluster run: what has its configuration in the environment, and slurmstepd."""
        found = []
        mark = f"SLURM_CONF={self.root}/slurm.conf".encode()
        ours = {os.getpid(), *(process.pid for process in self._processes.values())}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment, name = (folder / "environ").read_bytes(), (folder / "comm").read_text().strip()
            except OSError:
                continue
            jobs = b"\0SLURM_JOB_ID=" in environment or name.startswith("slurmstepd")
            if mark in environment.split(b"\0") and jobs and int(folder.name) not in ours:
                found.append(int(folder.name))
        return found

    def _node_state(self) -> str:
        words = self.ask("scontrol", "--oneliner", "show", "node", self.host).split()
        return next(word.split("=")[1] for word in words if word.startswith("State="))

    def _start(self, name: str, *words: str) -> None:
        path = _found(name)
        assert path is not None
        with (self.root / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [path, *words], stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def _configuration(self) -> str:
        controller, node = _free_ports(2)
        settings = {
            "ClusterName": "moco", "SlurmctldHost": f"{self.host}(127.0.0.1)",
            "SlurmUser": "root", "SlurmdUser": "root", "SlurmctldPort": controller, "SlurmdPort": node,
            "AuthType": "auth/munge", "CredType": "cred/munge",
            "AuthInfo": f"socket={self.root}/munge.socket,cred_expire={REQUEUE_S}",
            "StateSaveLocation": self.root / "state", "SlurmdSpoolDir": self.root / "spool",
            "SlurmctldPidFile": self.root / "slurmctld.pid", "SlurmdPidFile": self.root / "slurmd.pid",
            "SlurmctldLogFile": self.root / "slurmctld.log", "SlurmdLogFile": self.root / "slurmd.log",
            "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "MpiDefault": "none",
            "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_CPU",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2",
            "JobRequeue": 1, "KillWait": KILL_S, "ReturnToService": 2, "MessageTimeout": 30, "BatchStartTimeout": 5,
            "AccountingStorageType": "accounting_storage/none", "JobAcctGatherType": "jobacct_gather/none",
            "SlurmdParameters": "config_overrides", "GresTypes": "gpu",
        }  # fmt: skip
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines.append(
            f"NodeName={self.host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory=4096 Gres=gpu:{CPUS} State=UNKNOWN"
        )
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO")
        return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def started() -> Iterator[Cluster]:
    """A cluster, for a while. Its folder has a short name: a socket's path has 108 letters at most."""
    root = Path(tempfile.mkdtemp(prefix="moco-slurm-", dir="/tmp"))
    root.chmod(0o755)
    cluster = Cluster(root)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)
